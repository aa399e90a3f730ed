"""The command that a fault strikes, in its own process: `python -m clickprompt.benchmark.faults.victim SPEC`.

It does what `clickprompt finetune`, `pretrain` and `evaluate` do, with a witness in the workers, and ends
with the process that started it (benchmark/faults/campaign.py).
"""

import os
import signal
import sys
import threading
from typing import Any

from clickprompt.config import RuntimeConfig, load_config
from clickprompt.errors import ClickPromptError
from clickprompt.io import storage
from clickprompt.io.progress import say

_ROWS, _ROW_GROUP = 1600, 8


def main(spec: dict[str, Any]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if spec["do"] == "inputs":
        _write_inputs(spec["folder"])
        return
    config = load_config(spec["config"])
    if spec["do"] == "evaluate":
        from clickprompt.runtime.score.evaluate import evaluate

        evaluate([spec["run"]], "test", config=config)
        return
    from clickprompt.benchmark.faults.strikes import Strike, Witness
    from clickprompt.runtime.train.train import run_training

    strikes = tuple(Strike(**strike) for strike in spec["strikes"])
    run_training(
        config,
        spec["stage"],
        spec["run"],
        around=Witness(spec["folder"], storage.join(spec["run"], "checkpoints"), strikes),
    )


def _end_with_parent() -> None:
    """Wait for the end of stdin: the parent holds its other end as long as it lives."""
    os.read(0, 1)  # not sys.stdin, whose lock the interpreter wants at its end
    os.kill(os.getpid(), signal.SIGKILL)


def _write_inputs(folder: str) -> None:
    """Prepare a synthetic log with small row groups as `folder`/data."""
    from clickprompt.runtime.cluster.connect import connect
    from clickprompt.runtime.prepare.prepare import prepare
    from clickprompt.runtime.prepare.synth import synth

    log, runtime = storage.join(folder, "log"), RuntimeConfig()
    with connect(runtime):
        synth("goodreads", log, _ROWS, rows_per_file=_ROWS, row_group_rows=_ROWS)
        prepare(
            storage.join(log, "schema.yaml"),
            None,
            storage.join(folder, "data"),
            row_group_rows=_ROW_GROUP,
            runtime=runtime,
        )


if __name__ == "__main__":
    try:
        main(storage.read_json(sys.argv[1]))
    except ClickPromptError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)

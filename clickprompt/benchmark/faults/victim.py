"""The command that a fault strikes, in its own process: `python -m clickprompt.benchmark.faults.victim SPEC`.

It does what `clickprompt finetune`, `pretrain`, `evaluate` and `serve` do, with a witness in the workers, and
ends with the process that started it (benchmark/faults/campaign.py).
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from clickprompt.config import RuntimeConfig, load_config
from clickprompt.errors import ClickPromptError
from clickprompt.io import storage
from clickprompt.io.progress import say

_ROWS, _ROW_GROUP = 1600, 8
_PAUSE = 0.1  # seconds


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
    if spec["do"] == "serve":
        _serve(spec, config.runtime)
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


def _serve(spec: dict[str, Any], runtime: RuntimeConfig) -> None:
    """Serve on a free port, which `folder`/port.json has once the server answers."""
    from clickprompt.runtime.score.serve import serve_run
    from clickprompt.runtime.score.serve_options import ServeOptions

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ServeOptions(spec["run"], spec["data"], spec["replicas"], token="none")  # noqa: S106 - no secret

    def listening(url: str) -> None:
        threading.Thread(target=_note_replicas, args=(spec["folder"],), daemon=True).start()
        storage.write_json(storage.join(spec["folder"], "port.json"), port)

    serve_run(options, host="127.0.0.1", port=port, runtime=runtime, listening=listening)


def _note_replicas(folder: str) -> None:
    """Write a line {"running", "time"} into `folder`/replicas.jsonl whenever the number of models that answer
    changes, until the server stops.
    """
    from ray import serve

    before = None
    with (
        open(os.path.join(folder, "replicas.jsonl"), "ab", buffering=0) as notes,
        contextlib.suppress(Exception),
    ):
        while True:
            states = serve.status().applications["clickprompt"].deployments["Model"].replica_states
            running = {str(getattr(state, "value", state)): number for state, number in states.items()}.get(
                "RUNNING", 0
            )
            if running != before:
                notes.write((json.dumps({"running": running, "time": time.time()}) + "\n").encode())
                before = running
            time.sleep(_PAUSE)


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

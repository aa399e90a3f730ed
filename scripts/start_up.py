"""Measure how long one waits: to a training's first step, and for the scores of three rows.

    git worktree add BEFORE COMMIT
    python scripts/start_up.py --before BEFORE --data DATASET --plm FOLDER --rows THREE_ROWS.csv --work FOLDER

Three arms take turns: the commands of the checkout BEFORE, those of this one, and those of this one on Ray
(`runtime.use_ray=always`). With --on-ray there are two, the checkouts' commands on Ray. Prints JSON: per
figure and arm the seconds of each turn, and their median.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
_MAIN = "from clickprompt.cli.main import main; main()"
_STEP = re.compile(r"\d+/\d+\b.*\b(loss|validating) ")
_COMMON = ["--config", "demo", "--set", "runtime.num_workers=1", "--set", "runtime.engine=torch"]


def main() -> None:
    parser = argparse.ArgumentParser(description="time to the first step, and of scoring three rows")
    parser.add_argument("--before", required=True, help="checkout to compare with")
    parser.add_argument("--data", required=True, help="prepared and tokenized dataset")
    parser.add_argument("--plm", required=True, help="the PLM's folder")
    parser.add_argument("--rows", required=True, help="file with a few raw rows")
    parser.add_argument("--work", required=True, help="folder for runs; emptied first")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--on-ray", action="store_true", help="compare both checkouts on Ray")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    os.makedirs(given.work)
    ray = ["--set", "runtime.use_ray=always"]
    arms = {"before": (Path(given.before), []), "now": (HERE, []), "now, on Ray": (HERE, ray)}
    if given.on_ray:
        arms = {"before, on Ray": (Path(given.before), ray), "now, on Ray": (HERE, ray)}
    shared = [*_COMMON, "--set", f"data.path={given.data}", "--set", f"plm.path={given.plm}"]
    scored = {}
    for kind, plm in (("CTR model", "false"), ("with PLM", "true")):
        run = os.path.join(given.work, kind.replace(" ", "-"))
        options = ["--set", f"finetune.with_plm={plm}", "--set", "finetune.max_steps=2", "--run", run]
        _run(Path(given.before), ["finetune", *shared, *options])  # which both can read
        scored[kind] = run
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(given.turns):
        for arm, (checkout, extra) in arms.items():
            place = os.path.join(given.work, f"{arm.replace(', ', '-').replace(' ', '-')}-{turn}")
            for stage, options in (
                ("pretrain", ["--set", "pretrain.max_steps=5"]),
                ("finetune", ["--set", "finetune.with_plm=false", "--set", "finetune.max_steps=100"]),
            ):
                command = [stage, *shared, *options, *extra, "--run", f"{place}-{stage}"]
                _note(found, f"{stage}: first step", arm, _run(checkout, command)[0])
            for kind, run in scored.items():
                old = not (checkout / "clickprompt" / "cli" / "renamed.py").exists()
                out = "--to" if old else "--out"
                command = ["predict", "--run", run, "--rows", given.rows, out, f"{place}-{kind}", *extra]
                _note(found, f"predict, {kind}", arm, _run(checkout, command)[1])
    figures = {
        key: {arm: {"turns": turns, "median": statistics.median(turns)} for arm, turns in arms.items()}
        for key, arms in found.items()
    }
    print(json.dumps(figures, indent=1))


def _note(found: dict[str, dict[str, list[float]]], key: str, arm: str, seconds: float) -> None:
    found.setdefault(key, {}).setdefault(arm, []).append(round(seconds, 2))
    print(f"{key}, {arm}: {seconds:.1f} s", file=sys.stderr, flush=True)


def _run(checkout: Path, words: list[str]) -> tuple[float, float]:
    """Return the seconds until a line tells of a step (NaN if none does), and until the end."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    start, first = time.monotonic(), float("nan")
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN, *words],
        env=environment,
        cwd=checkout,  # Python looks there first
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if first != first and _STEP.search(line):
            first = time.monotonic() - start
    if process.wait():
        raise SystemExit(f"{' '.join(words)} failed:\n{''.join(lines)}")
    return first, time.monotonic() - start


if __name__ == "__main__":
    main()

"""Kill a worker of one pretraining over and over (`clickprompt benchmark faults --set soak_minutes=120`).

One command lives throughout, with its Ray; its memory and that of all processes below it is noted before each
kill. At the end the command is asked to stop, and every row must have entered the model as planned.

- `<run>/soak/kills.jsonl`, a line a kill: {"time", "step" (reached), "pss" and "anonymous" (bytes, of all
  processes), "by" (process title → its anonymous bytes), "seconds" (until a new worker group took a step)}
"""

import json
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from clickprompt.benchmark.faults.audit import audit, read_attempts
from clickprompt.benchmark.faults.commands import Command, losses
from clickprompt.benchmark.faults.runs import Runs
from clickprompt.benchmark.faults.settings import FaultsConfig
from clickprompt.benchmark.measure import Figures, figure
from clickprompt.benchmark.processes import Process, end, title
from clickprompt.errors import InputError, RunError
from clickprompt.io.progress import say
from clickprompt.runtime.observe.memory import memory_of
from clickprompt.training.checkpoint import load_state, newest_complete

__all__ = ["growth", "soak"]

_ARM = "pretrain"
_WORKER = "ray::RayTrainWorker"  # process title
_FASTEST = 20  # steps a second, more than there can be
_CHUNK = 24  # batches; each chunk that is left is a task that Ray Data plans
_SPARE_S = 600.0  # seconds that starting and stopping may take
_MIB = 2**20


def soak(faults: FaultsConfig, runs: Runs) -> tuple[Figures, list[str]]:
    """Return figures and remarks. Raises RunError if the run ends too early or a row is lost or repeated,
    InputError if there is a soak in the folder.
    """
    folder = os.path.join(runs.folder, "soak")
    if os.path.exists(folder):
        raise InputError(f"{folder}: holds a soak; delete it, or give another folder: --set run=…")
    epochs = int(60 * faults.soak_minutes * _FASTEST / runs.order(_ARM).steps_per_epoch) + 1
    changes = {"pretrain.epochs": epochs, "data.chunk_batches": _CHUNK, "runtime.max_failures": 1_000_000}
    longest = 60 * faults.soak_minutes + faults.soak_every + _SPARE_S
    with runs.train(folder, _ARM, 2, changes=changes, longest=longest) as command:
        kills = _killed_over_and_over(command, folder, faults, np.random.default_rng(runs.seed))
        command.signal(signal.SIGTERM)
        command.ended([128 + signal.SIGTERM])
    run = os.path.join(folder, "run")
    steps = load_state(newest_complete(os.path.join(run, "checkpoints"))).step
    if len(losses(run)) != steps:
        raise RunError(f"{run}: has {len(losses(run))} losses, its checkpoint {steps} steps")
    found = audit(
        read_attempts(os.path.join(folder, "consumed")),
        runs.dataset,
        runs.order(_ARM, {**changes, "pretrain.max_steps": steps}),
    )
    if not found.clean:
        raise RunError(
            f"{folder}: {found.lost} rows lost, {found.repeated} repeated, {found.displaced} steps displaced"
        )
    return _figures(kills, steps, found.lost, found.repeated), [f"every kill: {folder}/kills.jsonl"]


def _killed_over_and_over(
    command: Command, folder: str, faults: FaultsConfig, rng: np.random.Generator
) -> list[dict[str, Any]]:
    notes = os.path.join(folder, "consumed")
    group = command.wait_for(lambda: _newest_at_work(notes, ""))
    until = time.monotonic() + 60 * faults.soak_minutes
    kills: list[dict[str, Any]] = []
    while (due := time.monotonic() + faults.soak_every) < until:
        command.wait_for(lambda due=due: time.monotonic() >= due or None)
        processes = command.processes()
        workers = [process for process in processes if title(process).startswith(_WORKER)]
        if not workers:
            raise RunError("no process of a worker was found to kill")
        kill = {"time": time.time(), "step": _reached(notes, group), **_memory(processes)}
        end([workers[int(rng.integers(len(workers)))]])
        before = group
        group = command.wait_for(lambda before=before: _newest_at_work(notes, before))
        kill["seconds"] = round(time.time() - kill["time"], 1)
        kills.append(kill)
        with open(os.path.join(folder, "kills.jsonl"), "a") as stream:
            stream.write(json.dumps(kill) + "\n")
        say(
            f"faults: soak, kill {len(kills)} at step {kill['step']}: {kill['anonymous'] / _MIB:.0f} MiB "
            f"anonymous; a step again after {kill['seconds']:.1f} s"
        )
    if not kills:
        raise RunError("the soak was over before a kill; give more soak_minutes or a smaller soak_every")
    return kills


def _newest_at_work(notes: str, after: str) -> str | None:
    """Return the name of the newest worker group if it has taken a step and is newer than `after`."""
    names = sorted(os.listdir(notes)) if os.path.isdir(notes) else []
    if not names or (group := names[-1].partition("-")[0]) <= after:
        return None
    own = [name for name in names if name.startswith(group)]
    return group if any(len(_lines(os.path.join(notes, name))) > 1 for name in own) else None


def _reached(notes: str, group: str) -> int:
    lines = [_lines(os.path.join(notes, name)) for name in os.listdir(notes) if name.startswith(group)]
    return max(json.loads(own[-1]).get("step", 0) for own in lines if own)


def _lines(path: str) -> list[str]:
    with open(path) as stream:
        return stream.readlines()


def _memory(processes: Sequence[Process]) -> dict[str, Any]:
    by: Counter[str] = Counter()
    pss = 0
    for process in processes:
        name, sizes = title(process), memory_of(process[0])
        by[os.path.basename(name)] += sizes.get("Anonymous", 0)
        pss += sizes.get("Pss", 0)
    return {"pss": pss, "anonymous": by.total(), "by": dict(by.most_common())}


def growth(values: Sequence[float]) -> float:
    """Return by how much the median of the last third is above that of the first third, relative."""
    third = max(len(values) // 3, 1)
    first, last = statistics.median(values[:third]), statistics.median(values[-third:])
    return last / first - 1


def _figures(kills: list[dict[str, Any]], steps: int, lost: int, repeated: int) -> Figures:
    pss, anonymous = ([kill[key] / _MIB for kill in kills] for key in ("pss", "anonymous"))
    compared = "of the last third's median above the first third's, relative"
    return {
        "kills": figure([len(kills)], "kills"),
        "steps": figure([steps], "steps of the final model"),
        "lost_rows": figure([lost], "rows, of all epochs"),
        "repeated_rows": figure([repeated], "rows, of all epochs"),
        "recovery": figure([kill["seconds"] for kill in kills], "s from a kill to a step again"),
        "pss": figure(pss, "MiB of all processes before a kill, shared pages once"),
        "pss_growth": figure([growth(pss)], compared),
        "anonymous": figure(anonymous, "MiB of all processes before a kill"),
        "anonymous_growth": figure([growth(anonymous)], compared),
    }

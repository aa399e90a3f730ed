"""Make several runs at once on Ray, each where there is room for it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.exceptions import RayError

from clickprompt.config import Config, RuntimeConfig, replaced
from clickprompt.errors import ClickPromptError, StoppedError
from clickprompt.io.progress import Task
from clickprompt.runtime.cluster.connect import connect
from clickprompt.runtime.reproduce.piece import Piece
from clickprompt.runtime.train.stopping import stop_signals
from clickprompt.runtime.train.train import run_training

__all__ = ["make_at_once"]


def make_at_once(
    pieces: Sequence[Piece], at_once: int, runtime: RuntimeConfig, uri: Callable[[str], str]
) -> dict[str, str]:
    """Train the runs, up to `at_once` at a time; one that starts from another follows it. Return those that
    failed, and why.

    A run of one worker computes in a task of its own with that worker's CPUs and GPUs; the workers of larger
    ones are placed by Ray Train.

    Raises StoppedError if a signal asked to stop: the tasks end, and their runs continue from their newest
    checkpoints.
    """
    failed: dict[str, str] = {}
    waiting, over = list(pieces), set[str]()
    names = {piece.name for piece in pieces}
    running: dict[Any, Piece] = {}
    # Ray takes over SIGTERM when it starts, so this asks for the signals after it
    with connect(_room(runtime, at_once)), stop_signals() as signals, Task("runs", len(pieces)) as task:
        while waiting or running:
            ready = [piece for piece in waiting if piece.start not in names - over]
            for piece in ready[: at_once - len(running)]:
                waiting.remove(piece)
                if piece.start in failed:
                    failed[piece.name] = failed[piece.start]
                    over.add(piece.name)
                else:
                    running[_start(piece, uri(piece.name))] = piece
            done, _ = ray.wait(list(running), timeout=1) if running else ([], [])
            for reference in done:
                piece = running.pop(reference)
                over.add(piece.name)
                if error := _outcome(reference):
                    failed[piece.name] = error
            task.update(len(over), ", ".join(piece.what for piece in list(running.values())[:2]))
            if signals:
                raise StoppedError("stopped; the same command continues", signals[0])
    return failed


def _start(piece: Piece, folder: str) -> Any:
    runtime = piece.config.runtime
    if runtime.num_workers != 1:
        return _train.options(num_cpus=0).remote(piece.config, piece.stage, folder)
    # The task is the worker
    alone = replaced(
        piece.config,
        {"runtime.use_ray": "never", "runtime.address": "local", "runtime.evaluation_actors": 1},
    )
    place = {"num_cpus": runtime.cpus_per_worker, "num_gpus": runtime.gpus_per_worker}
    return _train.options(**place).remote(alone, piece.stage, folder)


@ray.remote(max_retries=3)
def _train(config: Config, stage: str, folder: str) -> str | None:
    """Train, and return why that failed."""
    # Not in the main thread: there a training run would take over the signals, which are Ray's here
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(run_training, config, stage, folder).result()
        except ClickPromptError as error:
            return " ".join(str(error).split())
    return None


def _outcome(reference: Any) -> str | None:
    try:
        return ray.get(reference)
    except RayError as error:
        return " ".join(str(error).split())[:400]


def _room(runtime: RuntimeConfig, at_once: int) -> RuntimeConfig:
    """Return what an embedded Ray must declare for so many runs."""
    needed = int(at_once * (runtime.min_workers * runtime.cpus_per_worker + 1)) + 1
    return runtime.model_copy(update={"logical_cpus": runtime.logical_cpus or needed})

"""Follow a training from the driver: progress, a caller's watch, the wish to stop, and how it ended."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from clickprompt.errors import ClickPromptError, RunError, StoppedError
from clickprompt.io.progress import Task, say
from clickprompt.runtime.train.training_run import TrainingRun

__all__ = ["Watch", "failed", "watched"]

Watch = Callable[[dict[str, Any]], bool]
"""called twice a second with what is known of the latest step ({} before the first); True stops the run"""


def watched(
    training: TrainingRun,
    fit: Callable[[], dict[str, Any]],
    read: Callable[[bool], dict[str, Any] | None],
    signals: list[int],
    watch: Watch | None,
    phase: str,
) -> dict[str, Any]:
    """Run `fit` in a thread, show meanwhile what `read` knows, and return the training's outcome.

    In the main thread, Ray Train would handle Ctrl-C itself and end the workers at once.

    read: takes whether to stop; returns the latest metrics, or None if no worker has begun.
    signals: those that came so far, of `stop_signals`.
    phase: what is done until a worker tells of its own.

    Raises StoppedError if the training was asked to stop, and what `fit` raises.
    """
    fitted: Future[dict[str, Any]] = Future()
    said: set[str] = set()
    began = False  # whether a step was done since the workers last started

    def run() -> None:
        try:
            fitted.set_result(fit())
        except BaseException as error:
            fitted.set_exception(error)

    name, order = os.path.basename(training.run.rstrip("/")), training.order
    with Task(name, order.total_steps, rows=order.global_batch_size) as task:
        task.phase(phase)
        threading.Thread(target=run, daemon=True, name="training").start()
        while not wait([fitted], timeout=0.5).done:
            metrics, validated = _told(read(bool(signals)), said), None
            if metrics is not None:
                if "phase" in metrics and began:
                    say(f"{name}: the workers begin again from the newest checkpoint; Ray's logs say why")
                began = "step" in metrics or (began and "phase" not in metrics)
                phase = metrics.get("phase", "waiting for the first batch")
                validated = metrics.pop("validating", None)
                metrics = None if "phase" in metrics else metrics  # the worker doesn't listen yet
            validating = f"{validated[0]:,} / {validated[1]:,}" if validated else ""
            if not metrics:
                task.phase("validating" if validating else phase, validating)
            if watch is not None and not signals and watch(metrics or {}):
                signals.append(signal.SIGTERM)
            if signals and metrics is None:
                raise StoppedError(
                    f"{training.run}: stopped before it had begun; the same command continues", signals[0]
                )
            if metrics:
                valid = f" · valid AUC {metrics['valid_auc']:.4f}" if "valid_auc" in metrics else ""
                figures = f"loss {metrics['loss']:.4f}{valid}"
                task.update(metrics["step"], f"validating {validating}" if validating else figures)
        outcome = fitted.result()
        _told(read(bool(signals)), said)
        if "interrupted" in outcome:
            raise StoppedError(
                f"{training.run}: stopped at {outcome['step']} of {training.order.total_steps}; the same "
                "command continues",
                signals[0],
            )
        return outcome


def failed(training: TrainingRun, reason: BaseException | str) -> ClickPromptError:
    """Return the error to show for what ended a training: itself if it is for people, else its last line."""
    if isinstance(reason, ClickPromptError):
        return reason
    last = " ".join(str(reason).strip().splitlines()[-1:]) or type(reason).__name__
    return RunError(
        f"{training.run}: training failed: {last}; the same command continues from the newest checkpoint in "
        f"{training.checkpoints}"
    )


def _told(metrics: dict[str, Any] | None, said: set[str]) -> dict[str, Any] | None:
    """Say a worker's notes, each once, and return its metrics without them."""
    if metrics is None:
        return None
    for note in metrics.get("notes", ()):
        if note not in said:
            say(note)
            said.add(note)
    return {name: value for name, value in metrics.items() if name != "notes"}

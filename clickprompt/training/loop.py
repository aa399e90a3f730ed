"""The training loop: read downward.

The same loop runs in one plain process and in every worker of a Ray Train group; a `Context` says where its
results go and what is asked of it meanwhile.
"""

import tempfile
import time
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch

from clickprompt.config import StageConfig
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.order import Order
from clickprompt.training.checkpoint import CheckpointWriter, TrainState
from clickprompt.training.engine import Engine
from clickprompt.training.step import StepResult, train_step

__all__ = ["Context", "Validation", "train"]


class Validation(Protocol):
    """How the loop chooses: score the validation split, keep the best AUC, stop when it no longer rises.

    Scoring may go on beside the training: what it finds is used `every` steps later, or at the end, whenever
    it was there. So which step is the best and where training stops depends on steps alone.
    """

    every: int
    patience: int

    def begin(self, step: int) -> None:
        """Have the weights as they are, after `step`, scored; called by every worker."""
        ...

    def result(self) -> dict[str, float]:
        """Wait for {"valid_auc", "valid_log_loss"} of the weights given last; the same on every worker."""
        ...


class Context:
    """What surrounds the loop: where results go, what is asked of it, how it validates and saves.

    This one wants nothing and keeps nothing; runtime/train/worker.py has the one of a Ray Train worker. Every
    worker calls every method.
    """

    validation: Validation | None = None
    writer: CheckpointWriter = CheckpointWriter()
    keep_every: int | None = None
    """a checkpoint is also made after steps that are a multiple of it"""
    scratch: str | None = None
    """local folder below which checkpoints are put together"""

    def wishes(self) -> tuple[bool, bool]:
        """Say, in every step, whether to checkpoint after it, and whether to end with that.

        One worker's wish is every worker's.
        """
        return False, False

    def probe(self) -> float | None:
        """A loss that goes into checkpoints (training/probe.py)."""
        return None

    def on_step(self, metrics: dict[str, Any]) -> None:
        """Take what a step did.

        {"step", "loss", "targets", "rows", "tokens" (of all workers), "lr_factor", "gradient_norm", "seconds"
        (this worker's, since its last step or checkpoint), "wait_seconds" (of these, until there was data)},
        "skipped" where `skip_loss_spikes` is on, and "validations" where the results of earlier ones were
        used: [{"valid_step", "valid_auc", "valid_log_loss"}].
        """

    def on_checkpoint(self, folder: str, state: TrainState) -> None:
        """`folder` holds this worker's part of a sealed checkpoint; copy or move it before returning."""


def train(
    engine: Engine,
    collator: Collator,
    order: Order,
    batches: Iterable[tuple[int, dict[str, np.ndarray]]],
    *,
    stage: StageConfig,
    seed: int,
    state: TrainState,
    context: Context,
) -> TrainState:
    """Run from `state.step` to the end of the plan, or until validation or a wish says stop.

    Returns the state reached, which is `state`.

    `batches` yields this worker's (global step, columns) in order from `state.step` on.

    Raises NonFiniteError before a step is applied whose loss or gradient is no finite number.
    """
    cadence = _Cadence(stage, context.keep_every)
    validation = context.validation
    engine.model.train()
    began = time.perf_counter()
    for step, columns in batches:
        waited = time.perf_counter() - began
        _seed_dropout(seed, step, engine.rank)
        micro_batches = collator.micro_batches(columns, stage.micro_batch_size, order.epoch_of(step))
        assert len(micro_batches) == stage.micro_batches(engine.world_size)

        result = train_step(
            engine,
            [batch.to(engine.device) for batch in micro_batches],
            columns,
            step=step,
            total_steps=order.total_steps,
            stage=stage,
            state=state,
            wishes=lambda: (*context.wishes(), cadence.is_time()),
        )
        checkpoint, stop, time_is_up = result.wishes
        state.step = step + 1
        state.skipped_steps += not result.applied
        finished = state.step == order.total_steps

        used: list[dict[str, Any]] = []
        if validation and (finished or state.step % validation.every == 0):
            used = _validate(validation, state, finished)
        seconds = time.perf_counter() - began
        context.on_step(_metrics(state.step, result, stage, waited, used, seconds))
        stop = stop or state.stopped
        if finished or stop or checkpoint or time_is_up or cadence.is_step(state.step):
            _checkpoint(engine, state, context)
            cadence.restart()
        if stop:
            break
        began = time.perf_counter()
    return state


def _seed_dropout(seed: int, step: int, rank: int) -> None:
    """Dropout is a function of (seed, step, rank): a resumed run draws what the undisturbed one draws."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def _metrics(
    step: int,
    result: StepResult,
    stage: StageConfig,
    waited: float,
    validations: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """A step as `Context.on_step` gets it."""
    metrics: dict[str, Any] = {
        "step": step,
        "loss": result.loss,
        "targets": result.targets,
        "lr_factor": result.lr_factor,
        "gradient_norm": result.gradient_norm,
        "rows": result.rows,
        "tokens": result.tokens,
        "wait_seconds": round(waited, 6),
    }
    if stage.skip_loss_spikes is not None:
        metrics["skipped"] = result.spike
    if validations:
        metrics["validations"] = validations
    metrics["seconds"] = round(seconds, 6)
    return metrics


class _Cadence:
    """When a checkpoint is due: every so many steps, or minutes; minutes are this worker's own, so what they
    say is a wish.
    """

    def __init__(self, stage: StageConfig, keep_every: int | None):
        self._minutes = stage.checkpoint_minutes
        self._steps = [keep_every] if keep_every else []
        if self._minutes is None:
            self._steps.append(stage.checkpoint_every)
        self.restart()

    def restart(self) -> None:
        self._since = time.monotonic()

    def is_time(self) -> bool:
        return self._minutes is not None and time.monotonic() - self._since >= 60 * self._minutes

    def is_step(self, step: int) -> bool:
        return any(step % every == 0 for every in self._steps)


def _validate(validation: Validation, state: TrainState, finished: bool) -> list[dict[str, Any]]:
    """Use what the validation before has found; then begin these weights' own, unless that was the end."""
    used = [] if state.validating is None else [_use(validation, state)]
    state.stopped = not finished and state.stale_validations >= validation.patience
    if not state.stopped:
        validation.begin(state.step)
        state.validating = state.step
    if finished:
        used.append(_use(validation, state))
    return used


def _use(validation: Validation, state: TrainState) -> dict[str, Any]:
    """Wait for a validation's scores, and keep the best."""
    scores = validation.result()
    step = state.validating
    state.validating = None
    if state.best_auc is None or scores["valid_auc"] > state.best_auc:
        state.best_auc = scores["valid_auc"]
        state.best_step = step
        state.stale_validations = 0
    else:
        state.stale_validations += 1
    return {"valid_step": step, **scores}


def _checkpoint(engine: Engine, state: TrainState, context: Context) -> None:
    """Put this worker's part together, seal it, and hand it over."""
    state.probe_loss = context.probe()
    with tempfile.TemporaryDirectory(prefix="clickprompt-", dir=context.scratch) as folder:
        context.writer.save(engine, folder)
        context.writer.seal(folder, state, rank=engine.rank, num_workers=engine.world_size)
        context.on_checkpoint(folder, state)

"""The training loop: read downward.

The same loop runs in one plain process and in every worker of a Ray Train group; a `Context` says where its
results go.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch

from clickprompt.config import StageConfig
from clickprompt.data.batch import Batch
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.order import Order
from clickprompt.objectives import Objective
from clickprompt.training.checkpoint import TrainState, seal
from clickprompt.training.engine import Engine, all_reduce_sum
from clickprompt.training.guards import is_spike, refuse_non_finite
from clickprompt.training.optimizers import schedule_factor, set_learning_rates

__all__ = ["Context", "Validation", "train"]


class Context(Protocol):
    """Where the loop's results go; every worker calls every method."""

    def on_step(self, metrics: dict[str, Any]) -> None:
        """After each step: {"step", "loss", "targets", "rows", "tokens" (of all workers), "lr_factor",
        "gradient_norm", "seconds" (this worker's, since its last step or checkpoint), "wait_seconds" (of
        these, until there was data)}, "skipped" where `skip_loss_spikes` is on, and "validations" where the
        results of earlier ones were used: [{"valid_step", "valid_auc", "valid_log_loss"}].
        """
        ...

    def on_checkpoint(self, folder: str, state: TrainState) -> None:
        """`folder` holds this worker's part of a sealed checkpoint; copy or move it before returning."""
        ...


class Validation(Protocol):
    """How the loop chooses: have the validation split scored, keep the best AUC, stop when it no longer
    rises.

    Scoring may go on beside the training: what it finds is used `every` steps later, or at the end, whenever
    it was there. So which step is the best and where training stops depends on steps alone.
    """

    every: int
    patience: int

    def begin(self, step: int) -> None:
        """Have the weights as they are, after `step`, scored; called by every worker."""
        ...

    def result(self) -> dict[str, float]:
        """Of the weights that were given last {"valid_auc", "valid_log_loss"}, waited for; the same on every
        worker.
        """
        ...


def train(
    engine: Engine,
    objective: Objective,
    collator: Collator,
    order: Order,
    batches: Iterable[tuple[int, dict[str, np.ndarray]]],
    *,
    stage: StageConfig,
    seed: int,
    state: TrainState,
    context: Context,
    validation: Validation | None = None,
    wishes: Callable[[], tuple[bool, bool]] = lambda: (False, False),
    keep_every: int | None = None,
    scratch: str | None = None,
    probe: Callable[[], float] | None = None,
) -> TrainState:
    """Run from `state.step` to the end of the plan (or until validation or a wish says stop); the state
    reached.

    `batches` yields this worker's (global step, columns) in order from `state.step` on.
    wishes: asked for in every step: (a checkpoint after it, and with it the end). One worker's wish is every
    worker's.
    keep_every: a checkpoint is also made after steps that are a multiple of it.
    scratch: a local folder below which checkpoints are put together.
    probe: a loss that goes into checkpoints.

    Raises NonFiniteError before a step is applied whose loss or gradient is none.
    """
    cadence = _Cadence(stage, keep_every)
    num_micro_batches = stage.micro_batches(engine.world_size)
    engine.model.train()
    began = time.perf_counter()
    for step, columns in batches:
        waited = time.perf_counter() - began
        # Dropout is a function of (seed, step, rank), so a resumed run draws what the undisturbed one draws
        torch.manual_seed(
            int(np.random.SeedSequence([seed, step, engine.rank]).generate_state(1, np.uint64)[0] >> 1)
        )
        micro_batches = collator.micro_batches(columns, stage.micro_batch_size, order.epoch_of(step))
        assert len(micro_batches) == num_micro_batches
        micro_batches = [batch.to(engine.device) for batch in micro_batches]

        counts = torch.stack([_counts(objective, batch) for batch in micro_batches]).sum(0)
        targets, rows, tokens = all_reduce_sum(counts).tolist()
        factor = schedule_factor(step, order.total_steps, stage)
        set_learning_rates(engine.optimizer, factor)
        engine.begin(micro_batches, step)
        loss_sum = torch.zeros((), dtype=torch.float64, device=engine.device)
        for index, batch in enumerate(micro_batches):
            loss_sum += engine.accumulate(batch, max(targets, 1.0), last=index == num_micro_batches - 1)
        wished = torch.tensor([*wishes(), cadence.is_time()], dtype=torch.float64, device=engine.device)
        totals = all_reduce_sum(torch.cat([loss_sum.reshape(1), wished]))
        # One wait for the device, before the update: what it says must not reach the weights if it isn't a
        # number
        loss_total, *wished, norm = torch.cat([totals, engine.gradient_norm().to(totals).reshape(1)]).tolist()
        loss = loss_total / max(targets, 1.0)
        overflow = engine.may_overflow and not math.isfinite(norm)
        if not overflow:
            refuse_non_finite(step + 1, loss, norm, columns)
        metrics: dict[str, Any] = {
            "step": step + 1,
            "loss": loss,
            "targets": int(targets),
            "lr_factor": factor,
            "gradient_norm": norm,
        }
        metrics |= {"rows": int(rows), "tokens": int(tokens), "wait_seconds": round(waited, 6)}
        if stage.skip_loss_spikes is not None:
            metrics["skipped"] = not overflow and is_spike(norm, state, stage.skip_loss_spikes)
        if overflow or metrics.get("skipped"):
            engine.skip()
            state.skipped_steps += 1
        else:
            engine.step()

        state.step = step + 1
        checkpoint, stop, time_is_up = (wish > 0 for wish in wished)
        finished = state.step == order.total_steps
        if (
            validation
            and (finished or state.step % validation.every == 0)
            and (used := _validate(validation, state, finished))
        ):
            metrics["validations"] = used
        metrics["seconds"] = round(time.perf_counter() - began, 6)
        context.on_step(metrics)
        if finished or state.stopped or checkpoint or stop or time_is_up or cadence.is_step(state.step):
            _checkpoint(engine, state, context, scratch, probe)
            cadence.restart()
        if state.stopped or stop:
            break
        began = time.perf_counter()
    return state


def _counts(objective: Objective, batch: Batch) -> torch.Tensor:
    """[targets, rows, tokens] of a micro-batch, padding apart."""
    lengths = (
        torch.zeros_like(batch.row_weight) if batch.attention_mask is None else batch.attention_mask.sum(1)
    )
    tokens = (lengths * batch.row_weight).sum()
    return torch.stack(
        [objective.count_targets(batch).double(), batch.row_weight.sum().double(), tokens.double()]
    )


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
    """What the validation before has found, used; then these weights' own begins, unless that was the end."""
    used = [] if state.validating is None else [_use(validation, state)]
    state.stopped = not finished and state.stale_validations >= validation.patience
    if not state.stopped:
        validation.begin(state.step)
        state.validating = state.step
    if finished:
        used.append(_use(validation, state))
    return used


def _use(validation: Validation, state: TrainState) -> dict[str, Any]:
    scores = validation.result()
    step, state.validating = state.validating, None
    if state.best_auc is None or scores["valid_auc"] > state.best_auc:
        state.best_auc, state.best_step, state.stale_validations = scores["valid_auc"], step, 0
    else:
        state.stale_validations += 1
    return {"valid_step": step, **scores}


def _checkpoint(
    engine: Engine,
    state: TrainState,
    context: Context,
    scratch: str | None,
    probe: Callable[[], float] | None,
) -> None:
    state.probe_loss = probe() if probe else None
    with tempfile.TemporaryDirectory(prefix="clickprompt-", dir=scratch) as folder:
        engine.save(folder)
        seal(folder, state, rank=engine.rank, num_workers=engine.world_size)
        context.on_checkpoint(folder, state)

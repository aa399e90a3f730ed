"""The training loop: read downward.

The same loop runs in one plain process and in every worker of a Ray Train group; a `Context` says where its results go.
"""

import tempfile
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch

from clickprompt.config import StageConfig
from clickprompt.data.collate import Collator
from clickprompt.data.order import Order
from clickprompt.objectives import Objective
from clickprompt.training.checkpoint import TrainState, seal
from clickprompt.training.engine import Engine, all_reduce_sum
from clickprompt.training.optimizers import schedule_factor, set_learning_rates

__all__ = ["Context", "Validation", "train"]


class Context(Protocol):
    """Where the loop's results go; every worker calls every method."""

    def on_step(self, metrics: dict[str, Any]) -> None:
        """After each step: {"step", "loss", "targets", "lr_factor"} and, where one was made, "valid_auc", "valid_log_loss"."""
        ...

    def on_best(self, state: TrainState) -> None:
        """The weights have just become the best so far."""
        ...

    def on_checkpoint(self, folder: str, state: TrainState, metrics: dict[str, Any]) -> None:
        """`folder` holds this worker's part of a sealed checkpoint; keep it before returning."""
        ...


class Validation(Protocol):
    """How the loop chooses: score the validation split, keep the best AUC, stop when it no longer rises."""

    every: int
    patience: int

    def __call__(self) -> dict[str, float]: ...


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
) -> TrainState:
    """Run from `state.step` to the end of the plan (or until validation says stop); the state reached.

    `batches` yields this worker's (global step, columns) in order from `state.step` on.
    """
    num_micro_batches = stage.micro_batches(engine.world_size)
    engine.model.train()
    for step, columns in batches:
        # Dropout is a function of (seed, step, rank), so a resumed run draws what the undisturbed one draws
        torch.manual_seed(int(np.random.SeedSequence([seed, step, engine.rank]).generate_state(1, np.uint64)[0] >> 1))
        micro_batches = collator.micro_batches(columns, stage.micro_batch_size, order.epoch_of(step))
        assert len(micro_batches) == num_micro_batches
        micro_batches = [batch.to(engine.device) for batch in micro_batches]

        targets = all_reduce_sum(torch.stack([objective.count_targets(batch).double() for batch in micro_batches]).sum()).item()
        factor = schedule_factor(step, order.total_steps, stage)
        set_learning_rates(engine.optimizer, factor)
        loss_sum = torch.zeros((), dtype=torch.float64, device=engine.device)
        for index, batch in enumerate(micro_batches):
            loss_sum += engine.accumulate(batch, max(targets, 1.0), last=index == num_micro_batches - 1)
        engine.step()
        loss = all_reduce_sum(loss_sum).item() / max(targets, 1.0)

        state.step = step + 1
        metrics: dict[str, Any] = {"step": state.step, "loss": loss, "targets": int(targets), "lr_factor": factor}
        finished = state.step == order.total_steps
        if validation and (finished or state.step % validation.every == 0):
            metrics |= _validate(validation, state, context)
        context.on_step(metrics)
        if finished or state.stopped or state.step % stage.checkpoint_every == 0:
            _checkpoint(engine, state, metrics, context)
        if state.stopped:
            break
    return state


def _validate(validation: Validation, state: TrainState, context: Context) -> dict[str, float]:
    scores = validation()
    if state.best_auc is None or scores["valid_auc"] > state.best_auc:
        state.best_auc, state.best_step, state.stale_validations = scores["valid_auc"], state.step, 0
        context.on_best(state)
    else:
        state.stale_validations += 1
        state.stopped = state.stale_validations >= validation.patience
    return scores


def _checkpoint(engine: Engine, state: TrainState, metrics: dict[str, Any], context: Context) -> None:
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        engine.save(folder)
        seal(folder, state, rank=engine.rank, num_workers=engine.world_size)
        context.on_checkpoint(folder, state, metrics)

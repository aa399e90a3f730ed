"""The training loop.

The same loop runs in one plain process and in every worker of a Ray Train group. A `Context` takes its
results and passes requests to it.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from clickprompt.config import StageConfig
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.order import Order
from clickprompt.training.checkpoint import CheckpointWriter, TrainState
from clickprompt.training.engine import Engine
from clickprompt.training.step import StepResult, train_step
from clickprompt.training.step_input import StepInput, step_input, step_inputs

__all__ = ["Context", "Validation", "train"]

_NOTHING = (False, False, False)  # asked for: a checkpoint, an end, a checkpoint because it is time


class Validation(Protocol):
    """Scoring of the validation split, by which the loop keeps the best weights and stops early.

    Scoring may go on beside the training. Its result is used exactly `every` steps later, or at the end,
    however early it was ready. So the best step and the last one don't depend on timing.
    """

    every: int
    patience: int
    stop_on: Literal["auc", "log_loss"]
    """the figure that decides which weights are best"""

    def begin(self, step: int) -> None:
        """Begin to score the weights as they are after `step`; called by every worker."""
        ...

    def result(self) -> dict[str, float]:
        """Wait for {"valid_auc", "valid_log_loss"} of the last weights; the same on every worker."""
        ...


class Context:
    """The loop's surroundings: where results go, what is asked of the loop, how it validates and saves.

    This base class asks for nothing and keeps nothing; runtime/train/worker_context.py has the one of a Ray
    Train worker. Every worker calls every method.
    """

    validation: Validation | None = None
    writer: CheckpointWriter = CheckpointWriter()
    keep_every: int | None = None
    """number of steps; a checkpoint is also made after every multiple of it"""
    scratch: str | None = None
    """local folder below which checkpoints are assembled"""
    ahead: bool = False
    """whether a thread fetches and collates the next step's rows while a step is computed"""
    late: bool = False
    """whether a step's numbers are read when the next one is on its way, so that the device never waits for
    the host; for engines that guard themselves, without `skip_loss_spikes`"""

    def wishes(self) -> tuple[bool, bool]:
        """Return, in every step, whether to write a checkpoint after it, and whether to end there; if `late`,
        after the step that follows it.

        One worker's wish counts for all workers.
        """
        return False, False

    def probe(self) -> float | None:
        """Return a loss to store in the checkpoint (training/probe.py)."""
        return None

    def on_step(self, metrics: dict[str, Any]) -> None:
        """Take a step's metrics:

        - "step", "loss", "lr_factor", "gradient_norm", and "targets", "rows", "tokens" of all workers;
        - "seconds": this worker's, since its last step or checkpoint; "wait_seconds": the part of these spent
          waiting for data;
        - "<term>_loss" for each term of an objective that has several (objectives.py);
        - "pairs" or "groups": how many a ranking loss had in the global batch;
        - "skipped" if `skip_loss_spikes` is on;
        - "validations" if results of earlier ones were used in this step:
          [{"valid_step", "valid_auc", "valid_log_loss"}].
        """

    def on_checkpoint(self, folder: str, state: TrainState) -> None:
        """Copy or move `folder`, this worker's part of a sealed checkpoint, before returning."""


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
    """Train from `state.step` to the end of the plan, or until validation or a wish stops it.

    Returns `state`, updated.

    batches: yields this worker's (global step, columns) in order from `state.step` on. With `context.ahead`
        it is asked in a thread, and for one batch more than was trained on.

    Raises NonFiniteError if a step's loss or gradient isn't finite. Neither this step nor a later one is
    applied or saved then.
    """
    cadence = _Cadence(stage, context.keep_every)
    validation = context.validation
    engine.model.train()
    began = time.perf_counter()

    def prepare(step: int, columns: dict[str, np.ndarray]) -> StepInput:
        micro_batches = collator.micro_batches(
            columns,
            stage.micro_batch_size,
            order.epoch_of(step),
            step,
            equal=stage.micro_batches_equal_in,
        )
        assert len(micro_batches) == stage.micro_batches(engine.world_size)
        return step_input(step, columns, micro_batches, engine.objective, engine.device)

    late = context.late and engine.guards_itself and stage.skip_loss_spikes is None

    def settle(step: _Begun, used: Sequence[dict[str, Any]] = ()) -> tuple[bool, ...]:
        """Report a step, and return what it was asked for."""
        nonlocal began
        result = step.result()
        state.skipped_steps += not result.applied
        now = time.perf_counter()
        metrics = _metrics(step.number, result, stage, step.waited, used, now - began)
        if engine.objective.joint is not None:
            metrics[engine.objective.joint.counted] = result.joint_targets
        context.on_step(metrics)
        began = now
        return result.wishes

    def ends_here(step: _Begun, asked: tuple[bool, ...]) -> bool:
        """Validate, report and save after this step, as far as that is due; return whether training ends."""
        nonlocal began
        finished = step.number == order.total_steps
        step.result()  # what follows is only for weights that are as they should be
        used: list[dict[str, Any]] = []
        if validation and (finished or step.number % validation.every == 0):
            used = _validate(validation, state, finished)
        checkpoint, stop, time_is_up = (any(both) for both in zip(asked, settle(step, used), strict=True))
        stop = stop or state.stopped
        if finished or stop or checkpoint or time_is_up or cadence.is_step(step.number):
            _checkpoint(engine, state, context)
            cadence.restart()
        began = time.perf_counter()
        return stop

    before: _Begun | None = None
    with contextlib.closing(step_inputs(batches, prepare, ahead=context.ahead)) as inputs:
        for given in inputs:
            _seed_dropout(seed, given.step, engine.rank)
            result = train_step(
                engine,
                given,
                total_steps=order.total_steps,
                stage=stage,
                state=state,
                wishes=lambda: (*context.wishes(), cadence.is_time()),
                wait=not late,
            )
            step = _Begun(given.step + 1, result, given.waited)
            # By now, the numbers of the step before are there, or nearly
            asked = settle(before) if before else _NOTHING
            state.step = step.number
            due = step.number == order.total_steps or cadence.is_step(step.number)
            due = due or (validation is not None and step.number % validation.every == 0)
            if late and not due and not any(asked):
                before = step
                continue
            before = None
            if ends_here(step, asked):
                break
        if before:
            settle(before)
    return state


@dataclass(frozen=True)
class _Begun:
    number: int
    """from 1"""
    result: Callable[[], StepResult]
    waited: float
    """seconds for its rows"""


def _seed_dropout(seed: int, step: int, rank: int) -> None:
    """Make dropout a function of (seed, step, rank): a resumed run draws what an undisturbed one draws."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def _metrics(
    step: int,
    result: StepResult,
    stage: StageConfig,
    waited: float,
    validations: Sequence[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Return the step's metrics as `Context.on_step` gets them."""
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
    if len(result.terms) > 1:
        metrics |= {f"{name}_loss": loss for name, loss in result.terms.items()}
    if stage.skip_loss_spikes is not None:
        metrics["skipped"] = result.spike
    if validations:
        metrics["validations"] = list(validations)
    metrics["seconds"] = round(seconds, 6)
    return metrics


class _Cadence:
    """When a checkpoint is due: after a number of steps or minutes.

    The minutes are measured by this worker's own clock, so they only make a wish.
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
    """Use the previous validation's result; then begin one of these weights, unless training stops here."""
    used = [] if state.validating is None else [_use(validation, state)]
    state.stopped = not finished and state.stale_validations >= validation.patience
    if not state.stopped:
        validation.begin(state.step)
        state.validating = state.step
    if finished:
        used.append(_use(validation, state))
    return used


def _use(validation: Validation, state: TrainState) -> dict[str, Any]:
    """Wait for the current validation's scores, and record them if they are the best."""
    scores = validation.result()
    step = state.validating
    state.validating = None
    if _is_best(scores, state, validation):
        state.best_auc = scores["valid_auc"]
        if validation.stop_on == "log_loss":
            state.best_log_loss = scores["valid_log_loss"]
        state.best_step = step
        state.stale_validations = 0
    else:
        state.stale_validations += 1
    return {"valid_step": step, **scores}


def _is_best(scores: dict[str, float], state: TrainState, validation: Validation) -> bool:
    if validation.stop_on == "log_loss":
        return state.best_log_loss is None or scores["valid_log_loss"] < state.best_log_loss
    return state.best_auc is None or scores["valid_auc"] > state.best_auc


def _checkpoint(engine: Engine, state: TrainState, context: Context) -> None:
    """Assemble this worker's part of a checkpoint, seal it, and hand it over."""
    state.probe_loss = context.probe()
    with tempfile.TemporaryDirectory(prefix="clickprompt-", dir=context.scratch) as folder:
        context.writer.save(engine, folder)
        context.writer.seal(folder, state, rank=engine.rank, num_workers=engine.world_size)
        context.on_checkpoint(folder, state)

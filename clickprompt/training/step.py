"""One training step as in the paper: loss of the global batch (§3.5), gradients, update."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clickprompt.config import StageConfig
from clickprompt.training.checkpoint import TrainState
from clickprompt.training.engine import Engine, all_reduce_sum
from clickprompt.training.guards import is_spike, refuse_non_finite
from clickprompt.training.optimizers import schedule_factor, set_learning_rates
from clickprompt.training.step_input import StepInput, to_device
from clickprompt.training.two_pass import first_pass, is_needed

__all__ = ["BegunStep", "StepResult", "train_step"]


@dataclass(frozen=True)
class StepResult:
    """What a step did; every number is the same on every worker."""

    loss: float
    """mean over the targets of the global batch; of several terms the weighted sum"""
    terms: dict[str, float]
    """the loss of each term, before it is weighted"""
    targets: float
    """of the first term; a whole number unless rows have weights"""
    joint_targets: int | None
    """of the term over the whole global batch, if there is one"""
    rows: int
    tokens: int
    lr_factor: float
    """factor on every group's learning rate"""
    gradient_norm: float
    """before clipping"""
    spike: bool
    """whether the step was dropped as a spike (`skip_loss_spikes`)"""
    applied: bool
    """False if the gradient was dropped: because of a spike, or because fp16's loss scale was too large"""
    wishes: tuple[bool, ...]
    """for each wish, whether at least one worker had it"""


class BegunStep:
    """A step that every worker has computed, or that its device has yet to."""

    def __init__(self, engine: Engine, given: StepInput, factor: float, numbers: Tensor):
        """numbers: [2 · terms + 3 + wishes] float64 on the device, of all workers: targets of each term,
        rows, tokens; loss sums of each term; gradient norm; wishes.
        """
        self._terms = engine.objective.terms
        self._joint = engine.objective.joint
        self._given = given
        self._factor = factor
        # From a GPU into pinned memory
        self._numbers = numbers.to("cpu", non_blocking=True)
        self._there = torch.cuda.Event() if numbers.is_cuda else None
        if self._there is not None:
            self._there.record()

    def result(
        self, *, may_overflow: bool = False, is_spike: Callable[[float], bool] | None = None
    ) -> StepResult:
        """Wait for the numbers, and return what the step did, or is to do.

        Raises NonFiniteError if the loss or its gradient isn't finite; with `may_overflow` only if the loss
        isn't.
        """
        if self._there is not None:
            self._there.synchronize()
        numbers = self._numbers.tolist()
        names = list(self._terms)
        targets, numbers = numbers[: len(names)], numbers[len(names) :]
        (rows, tokens), numbers = numbers[:2], numbers[2:]
        losses, (norm, *wished) = numbers[: len(names)], numbers[len(names) :]
        terms = {
            name: total / (count or 1.0) for name, total, count in zip(names, losses, targets, strict=True)
        }
        loss = sum(weight * terms[name] for name, weight in self._terms.items())
        overflow = may_overflow and not math.isfinite(norm)
        if not overflow:
            refuse_non_finite(self._given.step + 1, loss, norm, self._given.columns)
        spike = is_spike is not None and not overflow and is_spike(norm)
        return StepResult(
            loss=loss,
            terms=terms,
            targets=int(targets[0]) if targets[0].is_integer() else targets[0],
            joint_targets=None if self._joint is None else int(targets[names.index(self._joint.name)]),
            rows=int(rows),
            tokens=int(tokens),
            lr_factor=self._factor,
            gradient_norm=norm,
            spike=spike,
            applied=not (overflow or spike),
            wishes=tuple(count > 0 for count in wished),
        )


def train_step(
    engine: Engine,
    given: StepInput,
    *,
    total_steps: int,
    stage: StageConfig,
    state: TrainState,
    wishes: Callable[[], Sequence[bool]],
    wait: bool = True,
) -> Callable[[], StepResult]:
    """Compute the global batch's loss and gradient on all workers, and apply the gradient.

    given: this worker's share; its step and `total_steps` determine the learning rates.
    wishes: called for this worker's wishes once its gradients are there. They are summed over the workers
        together with the loss, so they cost no message of their own.
    wait: decide here whether the gradient is applied; otherwise, which takes an engine that `guards_itself`,
        the engine does, and nothing here waits for the device.

    Returns a function that gives the step's result. Raises NonFiniteError if the loss or its gradient isn't
    finite: here, or with wait=False from that function. Neither this gradient is applied then nor, with
    wait=False, a later step's.
    """
    step, micro_batches = given.step, given.micro_batches
    counts = all_reduce_sum(given.counts.clone())
    names = list(engine.objective.terms)
    joint = names.index(engine.objective.joint.name) if engine.objective.joint else None
    factor = schedule_factor(step, total_steps, stage)
    set_learning_rates(engine.optimizer, step, total_steps, stage)

    engine.begin(micro_batches, step)
    first = first_pass(engine, micro_batches) if is_needed(engine, micro_batches) else None
    if first is not None:
        micro_batches = first.micro_batches
        counts[joint] = first.targets
    # Where nothing counts, the sum of losses is 0
    divisors = counts[:-2].where(counts[:-2] > 0, 1.0)
    loss_sums = torch.zeros(len(divisors), dtype=torch.float64, device=engine.device)
    for index, batch in enumerate(micro_batches):
        loss_sums += engine.accumulate(batch, divisors, last=index == len(micro_batches) - 1)

    if first is not None:  # the second pass has its gradient only; one worker adds the loss
        loss_sums[joint] = first.loss_sum if engine.rank == 0 else 0.0

    own = to_device(torch.tensor(wishes(), dtype=torch.float64), engine.device)
    totals = all_reduce_sum(torch.cat([loss_sums, own]))
    losses, wished = totals.split([len(loss_sums), len(own)])
    norm = engine.gradient_norm().to(totals).reshape(1)
    begun = BegunStep(engine, given, factor, torch.cat([counts, losses, norm, wished]))
    if not wait:
        engine.step_if_finite(torch.cat([losses, norm]))
        return begun.result

    # The step's only wait for the device. It comes before the update, so that NaN never reaches the weights
    limit = stage.skip_loss_spikes
    result = begun.result(
        may_overflow=engine.may_overflow,
        is_spike=None if limit is None else lambda norm: is_spike(norm, state, limit),
    )
    if result.applied:
        engine.step()
    else:
        engine.skip()
    return lambda: result

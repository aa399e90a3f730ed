"""What a step reads: its rows collated, counted and on the device."""

import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from clickprompt.data.batch import Batch
from clickprompt.objectives import Objective

__all__ = ["StepInput", "step_input", "step_inputs", "to_device"]


@dataclass(frozen=True)
class StepInput:
    """One worker's share of a global batch."""

    step: int
    """from 0"""
    columns: dict[str, np.ndarray]
    """the rows as they came"""
    micro_batches: list[Batch]
    """on the device"""
    counts: Tensor
    """[terms + 2] float64 on the device: this worker's targets of each term, rows, tokens; without padding"""
    waited: float = 0.0
    """seconds for which the step had to wait for it"""


def step_input(
    step: int,
    columns: dict[str, np.ndarray],
    micro_batches: list[Batch],
    objective: Objective,
    device: torch.device,
) -> StepInput:
    """Count what is in the micro-batches, which are on the CPU, and copy them to the device.

    Counted here, nobody has to wait for the device to learn the numbers. For a GPU the copies are made from
    pinned memory: from other memory a copy waits for the device.
    """
    counts = torch.stack([_counts(objective, batch) for batch in micro_batches]).sum(0)
    if device.type == "cuda":
        micro_batches = [batch.pinned() for batch in micro_batches]
    return StepInput(step, columns, [batch.to(device) for batch in micro_batches], to_device(counts, device))


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU without waiting for the device."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers


def step_inputs(
    batches: Iterable[tuple[int, dict[str, np.ndarray]]],
    prepare: Callable[[int, dict[str, np.ndarray]], StepInput],
    *,
    ahead: bool,
) -> Generator[StepInput]:
    """Yield what `prepare` makes of each batch.

    ahead: a thread fetches and prepares the next one while the caller has one. An error in it is raised where
        its step would have been yielded. Closing the generator waits for what the thread has begun.
    """
    items = iter(batches)
    if not ahead:
        while True:
            began = time.perf_counter()
            batch = next(items, None)
            waited = time.perf_counter() - began
            if batch is None:
                return
            yield replace(prepare(*batch), waited=waited)

    def following() -> StepInput | None:
        batch = next(items, None)
        return None if batch is None else prepare(*batch)

    with ThreadPoolExecutor(1, thread_name_prefix="collate") as thread:
        coming = thread.submit(following)
        while True:
            began = time.perf_counter()
            given = coming.result()
            waited = time.perf_counter() - began
            if given is None:
                return
            coming = thread.submit(following)
            yield replace(given, waited=waited)


def _counts(objective: Objective, batch: Batch) -> Tensor:
    real = batch.row_weight.double()
    tokens = real.new_zeros(())
    for mask in (batch.attention_mask, batch.item_attention_mask):
        if mask is not None:
            tokens = tokens + mask.sum(1).double() @ real
    return torch.cat([objective.count_targets(batch).double(), torch.stack([real.sum(), tokens])])

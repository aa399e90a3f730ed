"""Measure milliseconds per batch (Table 8, Appendix C.2)."""

import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch

__all__ = ["time_per_batch"]


def time_per_batch(
    callables: Mapping[str, Callable[[], object]], repeats: int = 30, warmup: int = 3
) -> dict[str, dict[str, float]]:
    """Measure the wall time of one call of each, in milliseconds (Table 8).

    Repeats are interleaved (A B C A B C …), so that a machine that slows down or speeds up does so for all of
    them alike. CUDA work is waited for.

    Returns {name: {"median", "p99", "min", "max"}} over `repeats` calls, after `warmup` calls that don't
    count.
    """
    assert repeats >= 1, repeats
    times: dict[str, list[float]] = {name: [] for name in callables}
    for repeat in range(warmup + repeats):
        for name, call in callables.items():
            elapsed = _milliseconds(call)
            if repeat >= warmup:
                times[name].append(elapsed)
    return {name: _summary(sorted(values)) for name, values in times.items()}


def _summary(values: list[float]) -> dict[str, float]:
    p99 = values[math.ceil(0.99 * len(values)) - 1]  # nearest rank: a time that was measured
    return {"median": statistics.median(values), "p99": p99, "min": values[0], "max": values[-1]}


def _milliseconds(call: Callable[[], object]) -> float:
    _wait_for_device()
    start = time.perf_counter()
    call()
    _wait_for_device()
    return (time.perf_counter() - start) * 1000


def _wait_for_device() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()

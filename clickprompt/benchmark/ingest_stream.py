"""Measure the training stream (stream.py): what an epoch brings to the workers, how fast and in how much
memory, and how long a step waits.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import ray

from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.order import Order
from clickprompt.errors import RunError
from clickprompt.io.progress import Task
from clickprompt.runtime.observe.memory import Usage, usage_below
from clickprompt.runtime.train.stream import iterate_batches, worker_streams

__all__ = ["Batches", "Drained", "Waited", "drain", "require_every_row_once", "wait_for_batches"]

Batches = Iterator[tuple[int, dict[str, np.ndarray]]]
"""(global step, columns of the worker's share), as `iterate_batches` yields them"""

_SAMPLE_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Drained:
    """An epoch, consumed by workers that do nothing but count."""

    seen: np.ndarray
    """[largest row id + 2] uint8: how often each row came; the last entry: rows beyond the largest id"""
    seconds: float
    """from the stream's start to its end"""
    first_batch: list[float]
    """seconds from the stream's start, for each worker"""
    before: Usage
    """usage of all processes, with the workers up and no stream"""
    samples: list[tuple[int, Usage]]
    """(rows that had come, usage of all processes) about twice a second"""


@dataclass(frozen=True)
class Waited:
    """Times of one worker."""

    first_batch: float
    """seconds from the stream's start"""
    waits: list[float]
    """seconds for which the loop stood still, for each batch"""
    steps: list[float]
    """seconds from asking for a batch to asking for the next: the wait and the step"""


def drain(dataset: Dataset, order: Order, runtime: RuntimeConfig) -> Drained:
    """Stream the whole plan of `order` to `runtime.max_workers` actors. Needs a connected Ray; raises
    RunError if it breaks.
    """
    largest = max(int(ids.max()) for ids in _row_ids(dataset) if len(ids))
    workers = _workers(runtime, _Drainer)
    ray.get([worker.expect.remote(largest + 2) for worker in workers])
    before = usage_below(os.getpid())
    samples: list[tuple[int, Usage]] = []
    with Task("reading an epoch", order.num_rows) as task:
        started = time.time()  # wall-clock time, because the workers compare theirs with it
        streams = worker_streams(dataset, order, len(workers), 0)
        running = [
            worker.drain.remote(stream, order, len(workers))
            for worker, stream in zip(workers, streams, strict=True)
        ]
        for rows in _progress(workers, running):
            samples.append((rows, usage_below(os.getpid())))
            task.update(rows)
        times: list[tuple[float, float]] = ray.get(running)
    seen = np.stack(ray.get([worker.result.remote() for worker in workers])).sum(axis=0, dtype=np.uint8)
    return Drained(
        seen, max(end for _, end in times) - started, [first - started for first, _ in times], before, samples
    )


def require_every_row_once(dataset: Dataset, seen: np.ndarray) -> None:
    """Raises RunError unless the training split's rows were `seen` (as in `Drained`) once each, and no
    others.
    """
    rest = seen.copy()
    lost, repeated = 0, 0
    for ids in _row_ids(dataset):
        lost += int(np.count_nonzero(seen[ids] == 0))
        repeated += int(np.count_nonzero(seen[ids] > 1))
        rest[ids] = 0
    foreign = int(np.count_nonzero(rest))
    if lost or repeated or foreign:
        raise RunError(
            f"{dataset.uri}: of {dataset.counts['train']:,} training rows the stream lost {lost:,}, "
            f"gave {repeated:,} more than once, and {foreign:,} that aren't among them; prepare the "
            "dataset again, and if that doesn't help, report this"
        )


def wait_for_batches(
    dataset: Dataset,
    order: Order,
    runtime: RuntimeConfig,
    *,
    start_step: int,
    num_steps: int,
    make_step: Callable[[], Callable[[Batches], None]],
) -> list[Waited]:
    """Stream from `start_step` to actors that train, and stop after `num_steps`.

    Each actor calls `make_step` before the stream starts, and calls the result with its batches.
    """
    workers = _workers(runtime, _Trainer)
    ray.get([worker.build.remote(make_step) for worker in workers])
    with Task("training on the stream", num_steps) as task:
        started = time.time()
        streams = worker_streams(dataset, order, len(workers), start_step)
        running = [
            worker.train.remote(stream, order, len(workers), start_step, num_steps)
            for worker, stream in zip(workers, streams, strict=True)
        ]
        for steps in _progress(workers, running):
            task.update(steps // len(workers))
        records: list[list[tuple[float, float]]] = ray.get(running)
    return [_waited(record, started) for record in records]


def _waited(record: list[tuple[float, float]], started: float) -> Waited:
    """Compute the waits. `record`: when each batch was asked for and when it was there; last, when the loop
    was done.
    """
    pairs = list(pairwise(record))
    return Waited(
        record[0][1] - started,
        [had - asked for (asked, had), _ in pairs],
        [after - asked for (asked, _), (after, _) in pairs],
    )


def _row_ids(dataset: Dataset) -> Iterator[np.ndarray]:
    """Yield the training split's row ids, read from the files, one shard at a time."""
    return (table.column("row_id").to_numpy() for table in dataset.shard_tables("train", ["row_id"]))


def _workers(runtime: RuntimeConfig, kind: Any) -> list[Any]:
    # Two calls at a time: `done` is called while the other one runs
    options = {"num_cpus": runtime.cpus_per_worker, "max_concurrency": 2}
    return [kind.options(**options).remote() for _ in range(runtime.max_workers)]


def _progress(workers: list[Any], running: list[Any]) -> Iterator[int]:
    """Yield what the workers have done so far, together, from time to time until they are done. Raises what
    one of them raised.
    """
    pending = running
    while pending:
        ready, pending = ray.wait(running, num_returns=len(running), timeout=_SAMPLE_EVERY)
        ray.get(ready)
        yield sum(ray.get([worker.done.remote() for worker in workers]))


@ray.remote
class _Drainer:
    """Counts the rows that a worker is given."""

    def __init__(self) -> None:
        self._done = 0
        self._seen = np.empty(0, dtype=np.uint8)

    def expect(self, size: int) -> None:
        # Not np.zeros: memory that is first touched while the epoch runs would count as its growth
        self._seen = np.full(size, 0, dtype=np.uint8)

    def drain(self, stream: Any, order: Order, num_workers: int) -> tuple[float, float]:
        """Return when the first batch came, and when there were no more."""
        first = 0.0
        for _, columns in iterate_batches(stream, order, num_workers, 0):
            first = first or time.time()
            ids = columns["row_id"][columns["weight"] > 0]
            np.add.at(self._seen, np.minimum(ids, len(self._seen) - 1), 1)
            self._done += len(ids)
        return first, time.time()

    def done(self) -> int:
        return self._done

    def result(self) -> np.ndarray:
        return self._seen


@ray.remote
class _Trainer:
    """Trains, and notes when it asked for a batch and when it had it."""

    def __init__(self) -> None:
        self._record: list[tuple[float, float]] = []
        self._step: Callable[[Batches], None] | None = None

    def build(self, make_step: Callable[[], Callable[[Batches], None]]) -> None:
        self._step = make_step()

    def train(
        self, stream: Any, order: Order, num_workers: int, start_step: int, num_steps: int
    ) -> list[tuple[float, float]]:
        assert self._step is not None
        self._step(self._timed(iterate_batches(stream, order, num_workers, start_step), num_steps))
        return self._record

    def done(self) -> int:
        return len(self._record)

    def _timed(self, batches: Batches, num_steps: int) -> Batches:
        for _ in range(num_steps):
            asked = time.time()
            batch = next(batches)
            self._record.append((asked, time.time()))
            yield batch
        end = time.time()
        self._record.append((end, end))

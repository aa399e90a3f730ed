"""Run several training loops in turns, a few steps at a time (benchmark/overhead.py).

All loops are alive at the same time. So anything else that the machine does affects all of them alike, and
their steps can be compared.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import ray
import torch

from clickprompt.errors import RunError
from clickprompt.runtime.train.evaluation_pool import evaluation_pool
from clickprompt.runtime.train.on_ray import build_trainer
from clickprompt.runtime.train.training_run import Batches, TrainingRun
from clickprompt.training.checkpoint import CheckpointWriter

__all__ = ["Loop", "Mark", "Pace", "Turn", "loops_in_turn"]

_Item = TypeVar("_Item")


class Mark(NamedTuple):
    """Timing of one training step."""

    wait: float
    """seconds that the loop waited for the batch"""
    seconds: float
    """seconds from asking for the batch to asking for the next one"""
    cpu: float
    """CPU seconds of this process in that time"""


Turn = list[Mark]

_START_TIMEOUT = 300  # seconds until all workers of a loop have asked for their first batch


@dataclass(frozen=True)
class Pace:
    """Pass a loop's batches on when it is the loop's turn; sent to the loop's workers."""

    turns: Any
    name: str
    steps: int
    """number of steps in a turn"""
    num_threads: int
    """threads of each worker"""

    def __call__(
        self, batches: Batches, writer: CheckpointWriter, rank: int
    ) -> tuple[Batches, CheckpointWriter]:
        """Wrap the batches, as the `Around` of a loop on Ray Train."""
        return self.paced(batches, rank), writer

    def paced(self, batches: Iterable[_Item], rank: int) -> Iterator[_Item]:
        torch.set_num_threads(self.num_threads)
        rest = iter(batches)
        for number in range(2**31):
            ray.get(self.turns.begin.remote(self.name, rank, number))
            marks: Turn = []
            for step in range(self.steps):
                asked, worked = time.perf_counter(), time.process_time()
                batch = next(rest, None)
                had = time.perf_counter()
                if batch is None:
                    return
                yield batch
                if step == self.steps - 1 and torch.cuda.is_initialized():
                    torch.cuda.synchronize()  # this turn's work mustn't be counted in the next turn
                marks.append(Mark(had - asked, time.perf_counter() - asked, time.process_time() - worked))
            self.turns.end.remote(self.name, rank, number, marks)


@dataclass(frozen=True)
class Loop:
    """A clickprompt loop (`training`, on Ray Train), or a function that trains by itself in each process."""

    num_workers: int
    training: TrainingRun | None = None
    bare: Callable[[int, Callable[[Iterable[Any], int], Iterator[Any]]], Any] | None = None
    """called with the rank and the loop's Pace"""
    num_threads: int = 1
    """threads of each worker"""
    num_gpus: float = 0
    """GPUs of each of `bare`'s workers"""


def loops_in_turn(
    loops: dict[str, Loop], *, turns: int, steps: int, once_more: str | None = None
) -> tuple[dict[str, list[list[Turn]]], dict[str, float], dict[str, Any]]:
    """Run the loops in turns.

    Returns for each loop: what every worker measured, turn by turn; the seconds from its start to the request
    for its first batch; what it returned.

    The loop `once_more` has another turn at the end. Every loop needs batches for its turns. One on Ray Train
    needs at least one step more, because it ends with its last step, and the end isn't to be measured. Needs
    a connected Ray. Raises RunError if a loop ends before its turns do.
    """
    table = _Turns.options(max_concurrency=1000).remote(
        {name: loop.num_workers for name, loop in loops.items()}
    )
    measured: dict[str, list[list[Turn]]] = {name: [] for name in loops}
    running: dict[str, Future[Any]] = {}
    startup = {}
    # One after the other, because loops that start at the same time would slow each other down
    for name, loop in loops.items():
        started = time.perf_counter()
        running[name] = _start(name, loop, table, steps)
        _wait(table.ready.remote(name), running, _START_TIMEOUT)
        startup[name] = time.perf_counter() - started
    for _ in range(turns):
        for name in loops:
            measured[name].append(_wait(table.run.remote(name), running))
    if once_more is not None:
        measured[once_more].append(_wait(table.run.remote(once_more), running))
    ray.get(table.release.remote())
    return measured, startup, {name: future.result() for name, future in running.items()}


def _start(name: str, loop: Loop, table: Any, steps: int) -> Future[Any]:
    pace = Pace(table, name, steps, loop.num_threads)
    future: Future[Any] = Future()

    def run() -> None:
        try:
            if loop.training is not None:
                with evaluation_pool(loop.training) as scorers:
                    future.set_result(build_trainer(loop.training, scorers=scorers, around=pace).fit())
            else:
                # Without CPUs, which the data streams may need: these workers run only while the others wait
                actors = [_Bare.options(num_gpus=loop.num_gpus).remote() for _ in range(loop.num_workers)]
                future.set_result(
                    ray.get([actor.run.remote(loop.bare, rank, pace) for rank, actor in enumerate(actors)])
                )
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _wait(reference: Any, running: dict[str, Future[Any]], timeout: float | None = None) -> Any:
    """Return the result of `reference`. Raises RunError if one of the loops has ended instead."""
    started = time.monotonic()
    while not ray.wait([reference], timeout=0.2)[0]:
        for name, future in running.items():
            if future.done():
                reason = str(future.exception() or "its plan is too short").strip().splitlines()[-1]
                raise RunError(f"benchmark: {name} ended before its turns did: {reason}")
        if timeout is not None and time.monotonic() - started > timeout:
            raise RunError(
                f"benchmark: no first step within {timeout} s; is the machine too small or too busy?"
            )
    return ray.get(reference)


@ray.remote(num_cpus=0)
class _Bare:
    def run(self, function: Callable[[int, Any], Any], rank: int, pace: Pace) -> Any:
        return function(rank, pace.paced)


@ray.remote(num_cpus=0)
class _Turns:
    """An actor that knows whose turn it is and what was measured in it."""

    def __init__(self, workers: dict[str, int]) -> None:
        self._workers = workers
        self._granted = dict.fromkeys(workers, 0)
        self._asked: dict[str, set[int]] = {name: set() for name in workers}
        self._marks: dict[tuple[str, int], dict[int, Turn]] = {}
        self._changed = asyncio.Condition()

    async def begin(self, name: str, rank: int, number: int) -> None:
        async with self._changed:
            self._asked[name].add(rank)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._granted[name] > number)

    async def end(self, name: str, rank: int, number: int, marks: Turn) -> None:
        async with self._changed:
            self._marks.setdefault((name, number), {})[rank] = marks
            self._changed.notify_all()

    async def ready(self, name: str) -> None:
        """Wait until every worker of the loop has asked for its first turn."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._asked[name]) == self._workers[name])

    async def run(self, name: str) -> list[Turn]:
        """Run one turn of the loop, and return what each worker measured."""
        async with self._changed:
            number = self._granted[name]
            self._granted[name] += 1
            self._changed.notify_all()
            await self._changed.wait_for(
                lambda: len(self._marks.get((name, number), {})) == self._workers[name]
            )
            return [self._marks[name, number][rank] for rank in range(self._workers[name])]

    async def release(self) -> None:
        """End all turns: from now on no loop waits."""
        async with self._changed:
            self._granted = dict.fromkeys(self._workers, 2**31)
            self._changed.notify_all()

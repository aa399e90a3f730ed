"""Run a function on many files or columns, in this process or by tasks on Ray, with the same results."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np

from clickprompt.config import RuntimeConfig
from clickprompt.io.progress import Task
from clickprompt.runtime.by_size import here, terminated_in_order

__all__ = ["FanOut", "InProcess", "fan_out", "totals"]

_T = TypeVar("_T")


class FanOut(Protocol):
    """Who runs the functions. A call is a tuple of arguments."""

    def share(self, value: _T) -> _T:
        """Return what to give as an argument for a large value that many calls have in common."""
        ...

    def each(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], doing: str) -> list[Any]:
        """Return the results of all calls in their order, and show progress."""
        ...

    def in_turn(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield the results in the order of the calls, so that not all of them are in memory at once."""
        ...


class InProcess:
    """One call after the other in this process: it holds the rows of one file, as a task does."""

    def share(self, value: _T) -> _T:
        return value

    def each(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], doing: str) -> list[Any]:
        calls, results = list(calls), []
        with Task(doing, len(calls)) as task:
            task.update(0)
            for result in self.in_turn(function, calls):
                results.append(result)
                task.update(len(results))
        return results

    def in_turn(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        return (function(*call) for call in calls)


@contextlib.contextmanager
def fan_out(runtime: RuntimeConfig, amount: int, most: int, of_what: str) -> Iterator[FanOut]:
    """Yield who works: this process up to `most` of an amount of work (`by_size.here`), or Ray's CPUs."""
    if here(runtime, amount, most, of_what):
        with terminated_in_order():
            yield InProcess()
        return
    # Ray takes seconds to import
    from clickprompt.runtime.cluster.connect import connect
    from clickprompt.runtime.prepare.fan_out_on_ray import on_ray

    with connect(runtime), on_ray() as work:
        yield work


def totals(
    work: FanOut, function: Callable[..., list[np.ndarray]], calls: Iterable[tuple[Any, ...]]
) -> list[np.ndarray]:
    """Sum the counts that the calls return; each sum is as long as the longest of its counts."""
    sums: list[np.ndarray] = []
    for counts in work.in_turn(function, calls):
        for index, count in enumerate(counts):
            if index == len(sums):
                sums.append(np.zeros(0, dtype=np.int64))
            if len(count) > len(sums[index]):
                sums[index] = np.pad(sums[index], (0, len(count) - len(sums[index])))
            sums[index][: len(count)] += count
    return sums

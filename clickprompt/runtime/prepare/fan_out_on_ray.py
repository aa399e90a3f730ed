"""Run many tasks of one kind on Ray, a few at a time, and return their results in order."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray

from clickprompt.io.progress import Task

__all__ = ["OnRay", "on_ray"]


class OnRay:
    """One task a call, on all of Ray's CPUs."""

    def __init__(self) -> None:
        self._window = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._remote: dict[Callable[..., Any], Any] = {}
        self._in_flight: set[Any] = set()

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def each(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], doing: str) -> list[Any]:
        calls = list(calls)
        index_of: dict[Any, int] = {}
        results: dict[int, Any] = {}

        def collect(until: int) -> None:
            while len(self._in_flight) > until:
                [done], _ = ray.wait(list(self._in_flight))
                results[index_of.pop(done)] = self._result(done)
                task.update(len(results))

        with Task(doing, len(calls)) as task:
            task.update(0)
            for index, call in enumerate(calls):
                index_of[self._start(function, call)] = index
                collect(until=self._window - 1)
            collect(until=0)
        return [results[index] for index in range(len(calls))]

    def in_turn(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        waiting: deque[Any] = deque()
        for call in calls:
            waiting.append(self._start(function, call))
            if len(waiting) == self._window:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def wait(self) -> None:
        """Wait until the tasks in flight have ended."""
        if self._in_flight:
            ray.wait(list(self._in_flight), num_returns=len(self._in_flight))
        self._in_flight.clear()

    def _start(self, function: Callable[..., Any], call: tuple[Any, ...]) -> Any:
        if function not in self._remote:
            self._remote[function] = ray.remote(function)
        task = self._remote[function].remote(*call)
        self._in_flight.add(task)
        return task

    def _result(self, task: Any) -> Any:
        self._in_flight.remove(task)
        return ray.get(task)


@contextlib.contextmanager
def on_ray() -> Iterator[OnRay]:
    """Yield what starts tasks on the connected Ray. A failure leaves once the few tasks in flight have ended:
    those that still run would write into a folder that is being deleted.

    They aren't ended by ray.cancel, because it can take the driver down with it (ray 2.60, "Tried to complete
    task that was not pending").
    """
    work = OnRay()
    try:
        yield work
    finally:
        work.wait()

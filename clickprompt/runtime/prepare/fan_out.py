"""Run many tasks of one kind on Ray, a few at a time, and return their results in order."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import ray

from clickprompt.io.progress import Task

__all__ = ["each", "totals"]


def each(submit: Callable[[Any], Any], items: Iterable[Any], doing: str) -> list[Any]:
    """Return the results of the tasks that `submit` starts, one for each item, in the items' order.

    A failure is raised once the few tasks in flight have ended. They aren't ended by ray.cancel, because it
    can take the driver down with it (ray 2.60, "Tried to complete task that was not pending").
    """
    items = list(items)
    in_flight: dict[Any, int] = {}
    results: dict[int, Any] = {}
    window = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def collect(until: int) -> None:
        while len(in_flight) > until:
            [done], _ = ray.wait(list(in_flight))
            results[in_flight.pop(done)] = ray.get(done)
            task.update(len(results))

    with Task(doing, len(items)) as task:
        task.update(0)
        try:
            for index, item in enumerate(items):
                in_flight[submit(item)] = index
                collect(until=window - 1)
            collect(until=0)
        except BaseException:
            # Tasks that still run would write into a folder that is being deleted
            if in_flight:
                ray.wait(list(in_flight), num_returns=len(in_flight))
            raise
    return [results[index] for index in range(len(items))]


def totals(counting: list[Any]) -> list[np.ndarray]:
    """Sum the tasks' counts, one task at a time; each sum is as long as the longest of its counts."""
    sums: list[np.ndarray] = []
    for task in counting:
        for index, count in enumerate(ray.get(task)):
            if index == len(sums):
                sums.append(np.zeros(0, dtype=np.int64))
            if len(count) > len(sums[index]):
                sums[index] = np.pad(sums[index], (0, len(count) - len(sums[index])))
            sums[index][: len(count)] += count
    return sums

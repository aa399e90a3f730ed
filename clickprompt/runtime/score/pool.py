"""The evaluation pool: actors that hold a trained model and score with it."""

from collections.abc import Iterable, Iterator
from typing import Any

import ray
from ray.util import ActorPool

from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.runtime.cluster.placement import group_selector
from clickprompt.runtime.score.scorer import Scorer

__all__ = ["ActorScorers", "start_scorers"]


def start_scorers(runtime: RuntimeConfig, dataset: Dataset, *, num_cpus: float) -> list[Any]:
    """Start `runtime.evaluation_actors` actors with `num_cpus` CPUs each.

    An actor that is killed is started again and repeats its row group.
    """
    return _start(runtime, Scorer, (dataset,), num_cpus)


class ActorScorers:
    """The pool as `Scorers` (scorers.py): actors of `kind` on one CPU each, made with `arguments`, and with
    the device and precision of scoring.
    """

    def __init__(self, runtime: RuntimeConfig, kind: type, arguments: tuple[Any, ...]) -> None:
        self._actors = _start(runtime, kind, arguments, num_cpus=1)

    def call(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self._actors[0], method).remote(*arguments))

    def each(self, method: str, calls: Iterable[tuple[Any, ...]], *, in_order: bool) -> Iterator[Any]:
        # Each actor is listed twice, so it has its next call already when it finishes one
        pool = ActorPool([*self._actors, *self._actors])
        spread = pool.map if in_order else pool.map_unordered
        results: Any = spread(lambda actor, call: getattr(actor, method).remote(*call), list(calls))
        yield from results


def _start(runtime: RuntimeConfig, kind: type, arguments: tuple[Any, ...], num_cpus: float) -> list[Any]:
    options: dict[str, Any] = {
        "num_cpus": num_cpus,
        "num_gpus": runtime.evaluation_gpus,
        "max_restarts": -1,
        "max_task_retries": 3,
    }
    if not runtime.evaluation_gpus:  # those with GPUs go where GPUs are
        options["label_selector"] = group_selector(runtime, "data")
    actor: Any = ray.remote(kind)
    made = (*arguments, runtime.scoring_device, runtime.scoring_precision)
    return [actor.options(**options).remote(*made) for _ in range(runtime.evaluation_actors)]

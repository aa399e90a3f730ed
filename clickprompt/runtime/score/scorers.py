"""Give work to a scorer in this process, or to a pool of them on Ray; what they write is the same."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch

from clickprompt.config import RuntimeConfig
from clickprompt.errors import ConfigError
from clickprompt.runtime.by_size import here, terminated_in_order

__all__ = ["Scorers", "scorers"]


class Scorers(Protocol):
    """Who scores. A call is a tuple of arguments for a method of the scorer."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what one scorer answers."""
        ...

    def each(self, method: str, calls: Iterable[tuple[Any, ...]], *, in_order: bool) -> Iterator[Any]:
        """Yield the results of all calls, in their order or as they come."""
        ...


class InProcess:
    """One scorer in this process."""

    def __init__(self, scorer: Any) -> None:
        self._scorer = scorer

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._scorer, method)(*arguments)

    def each(self, method: str, calls: Iterable[tuple[Any, ...]], *, in_order: bool) -> Iterator[Any]:
        return (self.call(method, *call) for call in calls)


@contextlib.contextmanager
def scorers(
    runtime: RuntimeConfig,
    kind: type,
    arguments: tuple[Any, ...],
    *,
    amount: int,
    most: int,
    of_what: str,
) -> Iterator[Scorers]:
    """Yield scorers of a `kind`, made with `arguments`, a device and a precision: one in this process up to
    `most` of an amount of work (`by_size.here`), otherwise runtime.evaluation_actors of them on Ray.

    Raises ConfigError if this process is to score on a GPU and sees none.
    """
    if not here(runtime, amount, most, of_what):
        # Ray takes seconds to import
        from clickprompt.runtime.cluster.connect import connect
        from clickprompt.runtime.score.pool import ActorScorers

        with connect(runtime):
            yield ActorScorers(runtime, kind, arguments)
        return
    device = runtime.scoring_device
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"runtime.gpus_per_evaluation_actor={runtime.evaluation_gpus:g}: this machine has no GPU that "
            "torch can use; set runtime.gpus_per_evaluation_actor=0"
        )
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as on Ray, see runtime/cluster/connect.py
    threads = torch.get_num_threads()
    torch.set_flush_denormal(False)  # a training in this process flushes them; scores must not depend on it
    try:
        with terminated_in_order():
            yield InProcess(kind(*arguments, device, runtime.scoring_precision))  # it computes on one thread
    finally:
        torch.set_num_threads(threads)

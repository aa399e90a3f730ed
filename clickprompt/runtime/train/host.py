"""What a training worker needs from whatever runs it: Ray Train, or the command's own process."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch

from clickprompt.runtime.train.training_run import Batches, TrainingRun

__all__ = ["Host", "Metrics", "Part", "Scoring", "Status", "Store"]

Part = tuple[int, np.ndarray, np.ndarray, np.ndarray | None]
"""(row group, its labels, its logits, its rows' weights [N] if they have some): [N], or with further labels
[N, 1 + T], the click's first
"""


class Status(Protocol):
    """Where rank 0 tells how far it is, and hears whether to stop."""

    def tell(self, known: Callable[[], dict[str, Any]]) -> None:
        """Pass on what `known` returns. May be called in every step and from several threads."""
        ...

    def wants_stop(self) -> bool: ...


class Store(Protocol):
    """The place of a run's checkpoints."""

    def hand_over(
        self,
        metrics: dict[str, Any],
        folder: str | None,
        name: str,
        upload: Callable[[Callable[[], Any]], Any],
    ) -> None:
        """Have `upload` called beside the training, and give it what copies the local `folder` to
        `<run>/checkpoints/<name>`.

        Every worker calls this; `folder` is None for one that has no files.
        """
        ...


class Scoring(Protocol):
    """Whoever scores the validation split."""

    beside: bool
    """whether the training goes on meanwhile"""

    def parts(self, export: str, step: int, scored: Callable[[int], None]) -> Iterator[Part]:
        """Score the row groups of the validation split with an export, in any order.

        step: the one whose weights these are, for errors.
        scored: called, from any thread, with the number of rows that were scored since the last call.
        """
        ...


class Metrics(Protocol):
    """Where the run's figures are served."""

    def on_step(self, metrics: dict[str, Any], planned_steps: int, lag: float | None) -> None: ...

    def on_checkpoint(self, seconds: float) -> None: ...


class Host(Protocol):
    """The surroundings of one worker."""

    rank: int
    num_workers: int
    local_workers: int
    """those on the same machine"""
    device: torch.device
    status: Status
    store: Store
    scoring: Scoring | None
    """None in pretraining"""

    def batches(self, start_step: int) -> Batches:
        """Yield this worker's batches from `start_step` on."""
        ...

    def leaving(self) -> bool:
        """Return whether the worker's machine is about to leave, as wasn't known at the last call."""
        ...

    def metrics(self, training: TrainingRun) -> Metrics | None: ...

"""One checked training run, as driver, controller and workers pass it around. This module is cheap to
import.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from clickprompt.config import (
    Config,
    FinetuneConfig,
    Layout,
    LMKind,
    ObjectiveName,
    PretrainConfig,
    tasks_of,
)
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.given_vectors import open_vectors
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order
from clickprompt.data.text.lengths import TextLengths
from clickprompt.data.text.text_vectors import TextVectors
from clickprompt.io import storage
from clickprompt.training.checkpoint import CheckpointWriter, TrainState, load_state, newest_complete

__all__ = ["Around", "Batches", "TrainingRun"]

Batches = Iterator[tuple[int, dict[str, np.ndarray]]]
"""(global step, this worker's columns), in order"""

Around = Callable[[Batches, CheckpointWriter, int], tuple[Batches, CheckpointWriter]]
"""what a sweep or benchmark wraps around a worker's loop: (batches, checkpoint writer, rank) → both"""


@dataclass(frozen=True)
class TrainingRun:
    """A training run that `preflight.check_training` has checked. Paths are absolute."""

    config: Config
    stage: PretrainConfig | FinetuneConfig
    run: str
    dataset: Dataset
    order: Order
    init: str | None  # an export to start from
    earlier: Dataset | None  # what `init` was trained on, if not `dataset`: rows are matched by value
    lm_kind: LMKind | None  # None: no PLM
    truncation: TextLengths | None  # what plm.max_length leaves out
    text_vectors: TextVectors | None = None  # with ctr.text_embeddings

    @property
    def objective(self) -> ObjectiveName:
        return self.stage.objective

    @property
    def checkpoints(self) -> str:
        return storage.join(self.run, "checkpoints")

    @property
    def needs_text(self) -> bool:
        return self.objective in ("pretrain", "with_plm")

    @property
    def text_size(self) -> int | None:
        """Return the size of the text vectors that the CTR tower reads, if any."""
        return None if self.text_vectors is None else self.text_vectors.size

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of the labels besides the click that the run learns; a pretraining learns none."""
        learns = isinstance(self.stage, FinetuneConfig)
        return tasks_of(self.config, self.dataset.labels) if learns else ()

    @property
    def layout(self) -> Layout:
        """Return the kinds of columns of the dataset, with those labels that the run learns."""
        return replace(layout_of(self.dataset), labels=self.tasks)

    @property
    def vectors(self) -> dict[int, np.ndarray]:
        """Return field → the given vectors of its values that the tower reads, mapped from their files."""
        return {} if self.config.ctr.vectors == "none" else open_vectors(self.dataset)

    @property
    def reads_masks(self) -> bool:
        """Whether the PLM restores masked tokens."""
        return self.objective == "pretrain" and self.config.baseline != "ctrl"

    def is_over(self, state: TrainState) -> bool:
        """Whether no step is left: all are done, or validation has stopped the run."""
        return state.stopped or state.step >= self.order.total_steps

    def start_step(self) -> int:
        """Step at which a worker group that starts now continues."""
        return load_state(newest_complete(self.checkpoints)).step

"""One checked training run as its driver, controller and workers pass it around; importing this is cheap."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from clickprompt.config import Config, FinetuneConfig, LMKind, ObjectiveName, PretrainConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.order import Order
from clickprompt.data.text.lengths import TextLengths
from clickprompt.io import storage
from clickprompt.training.checkpoint import load_state, newest_complete

__all__ = ["Around", "Job"]

Around = Callable[[Iterator[Any], int], Iterator[Any]]
"""what stands between the stream and a worker's loop: its batches and its rank → its batches"""


@dataclass(frozen=True)
class Job:
    """What `preflight.check_training` found in order. Paths are absolute."""

    config: Config
    stage: PretrainConfig | FinetuneConfig
    objective: ObjectiveName
    run: str
    dataset: Dataset
    order: Order
    init: str | None  # an export to start from
    earlier: (
        Dataset | None
    )  # what it was trained on, where that isn't `dataset`: embeddings are matched by value
    lm_kind: LMKind | None  # None: no PLM
    truncation: TextLengths | None  # what plm.max_length leaves out

    @property
    def checkpoints(self) -> str:
        return storage.join(self.run, "checkpoints")

    @property
    def needs_text(self) -> bool:
        return self.objective != "without_plm"

    def start_step(self) -> int:
        """Where a worker group that starts now continues."""
        return load_state(newest_complete(self.checkpoints)).step

"""Write the figures of the steps as TensorBoard events; an error here never makes a run fail."""

import contextlib
import os
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from clickprompt.io import storage

__all__ = ["TensorBoard"]


class TensorBoard:
    """`<run>/tensorboard` of a local run.

    The writer doesn't recover once the disk has refused a write, so from then on there are no more events.
    """

    def __init__(self, run: str, step: int):
        self._events: SummaryWriter | None = None
        if storage.is_local(run):
            with contextlib.suppress(OSError):
                self._events = SummaryWriter(
                    os.path.join(storage.resolve(run)[1], "tensorboard"), purge_step=step
                )

    def draw(self, metrics: dict[str, Any]) -> None:
        if self._events is None:
            return
        try:
            for name in metrics.keys() - {"step", "targets", "rows", "tokens", "validations"}:
                self._events.add_scalar(name, metrics[name], metrics["step"])
            for scores in metrics.get("validations", ()):
                for name in scores.keys() - {"valid_step"}:
                    self._events.add_scalar(name, scores[name], scores["valid_step"])
        except OSError:
            self._events = None

    def close(self) -> None:
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()

"""runtime.precision: what the forward pass computes in. Weights, gradients and optimizer state are fp32
always.
"""

from typing import Any

import torch
from torch import Tensor, nn

from clickprompt.config import Precision
from clickprompt.data.batch import Batch
from clickprompt.models.clickprompt import ClickPrompt

__all__ = ["LossScale", "at_precision"]

_DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def at_precision(objective: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """The objective, computing its losses in `precision`."""
    return objective if precision == "fp32" else Autocast(objective, precision, device)


class Autocast(nn.Module):
    """An objective that trains under torch.autocast, and scores in fp32 as whoever reads the export will.

    Inside the module, because DeepSpeed switches off an autocast around its engine. Its own `torch_autocast`
    would send gradients in the lower precision, and with fp16 clips them before they are unscaled (0.19.8:
    the norm is of the scaled gradients).
    """

    def __init__(self, objective: Any, precision: Precision, device: torch.device):
        super().__init__()
        self.objective = objective
        self._options: dict[str, Any] = {"device_type": device.type, "dtype": _DTYPES[precision]}

    @property
    def model(self) -> ClickPrompt:
        return self.objective.model

    def count_targets(self, batch: Batch) -> Tensor:
        return self.objective.count_targets(batch)

    def forward(self, batch: Batch, **options: Any) -> Tensor:
        with torch.autocast(**self._options, enabled=self.model.training):
            return self.objective(batch, **options)


class LossScale:
    """fp16's factor on the loss, so that small gradients don't vanish: halved when gradients overflow,
    doubled after 2000 good steps.
    """

    def __init__(self) -> None:
        self.factor = 2.0**16
        self.good_steps = 0

    def update(self, *, overflow: bool) -> None:
        self.good_steps = 0 if overflow else self.good_steps + 1
        if overflow:
            self.factor /= 2
        elif self.good_steps % 2000 == 0:
            self.factor *= 2

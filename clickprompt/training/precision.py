"""The precision of the forward pass (runtime.precision).

Weights, gradients and optimizer state are always fp32.
"""

from typing import Any

import torch
from torch import Tensor, nn

from clickprompt.config import Precision
from clickprompt.data.batch import Batch
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.objectives import JointTerm

__all__ = ["LossScale", "at_precision"]

_DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def at_precision(objective: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """Return the objective, made to compute its losses in `precision`."""
    return objective if precision == "fp32" else Autocast(objective, precision, device)


class Autocast(nn.Module):
    """An objective that trains under torch.autocast, and scores in fp32 as readers of the export will.

    The autocast is inside the module because DeepSpeed switches off one around its engine. DeepSpeed's own
    `torch_autocast` would send gradients in the lower precision, and with fp16 it clips them before they are
    unscaled (0.19.8: the norm is that of the scaled gradients).
    """

    def __init__(self, objective: Any, precision: Precision, device: torch.device):
        super().__init__()
        self.objective = objective
        self._options: dict[str, Any] = {"device_type": device.type, "dtype": _DTYPES[precision]}

    @property
    def model(self) -> ClickPrompt:
        return self.objective.model

    @property
    def terms(self) -> dict[str, float]:
        return self.objective.terms

    @property
    def joint(self) -> JointTerm | None:
        return self.objective.joint

    def count_targets(self, batch: Batch) -> Tensor:
        return self.objective.count_targets(batch)

    def forward(self, batch: Batch, **options: Any) -> Tensor:
        with torch.autocast(**self._options, enabled=self.model.training):
            return self.objective(batch, **options)


class LossScale:
    """fp16's factor on the loss, which keeps small gradients from vanishing.

    It is halved when gradients overflow, and doubled after 2000 good steps.
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

"""The precision of scoring (runtime.scoring_precision).

Only the PLM is lowered, whose matrix products are what scoring costs. The CTR tower, the click head and the
logits stay in fp32: bf16 has 8 bits for a logit, so rows that differ would get the same score, which costs
AUC.
"""

import contextlib
from collections.abc import Iterator

import torch

from clickprompt.config import ScoringPrecision
from clickprompt.models.clickprompt import ClickPrompt

__all__ = ["lower", "matmuls_at"]


def lower(model: ClickPrompt, precision: ScoringPrecision, device: torch.device) -> None:
    """Have the model's PLM compute its forward passes in bf16, if that is asked for."""
    if precision == "bf16" and model.plm is not None:
        model.plm.forward = torch.autocast(device.type, torch.bfloat16)(model.plm.forward)


@contextlib.contextmanager
def matmuls_at(precision: ScoringPrecision) -> Iterator[None]:
    """Let fp32 matrix products on a GPU round their factors to TF32, if that is asked for."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if precision == "tf32" else before
    try:
        yield
    finally:
        matmul.fp32_precision = before

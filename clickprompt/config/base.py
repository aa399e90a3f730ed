"""The base class of all sections of the configuration, and types that several sections use."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "PRETRAINING",
    "Frozen",
    "IdObjective",
    "LMKind",
    "ObjectiveName",
    "Pooling",
    "Precision",
    "ScoringPrecision",
]

ObjectiveName = Literal["pretrain", "pretrain_ids", "with_plm", "without_plm"]
"""The losses: prompt-augmented language modelling (§3.5.1), pretraining on ids alone, Eq. 9, Eq. 10."""

PRETRAINING: tuple[ObjectiveName, ...] = ("pretrain", "pretrain_ids")
"""The objectives that leave a model without a click logit."""

IdObjective = Literal["none", "replaced", "masked"]
"""What pretraining asks of the CTR tower's ids: nothing, to detect replaced ones, to restore hidden ones."""

LMKind = Literal["masked", "causal", "denoising"]
"""What a PLM family pretrains on: PA-MLM for encoders, PA-CLM for decoders, denoising for encoder-decoders.
"""

Pooling = Literal["cls", "mean", "last"]
"""Which hidden states of the text Eq. 8 reads: the first, all (their mean), or the last."""

Precision = Literal["fp32", "bf16", "fp16"]
"""Number format of a forward pass; the lower ones through torch.autocast."""

ScoringPrecision = Literal["fp32", "tf32", "bf16"]
"""Number format of the PLM's matrix products when scoring (scoring/precision.py)."""


class Frozen(BaseModel):
    """A section of the configuration: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

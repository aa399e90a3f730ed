"""What all sections of the configuration are, and names that several of them use."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Frozen", "LMKind", "ObjectiveName", "Pooling", "Precision"]

ObjectiveName = Literal["pretrain", "with_plm", "without_plm"]
"""prompt-augmented language modelling (§3.5.1), Eq. 9, Eq. 10"""

LMKind = Literal["masked", "causal", "denoising"]
"""What pretraining is for a PLM family: PA-MLM for encoders, PA-CLM for decoders, denoising for
encoder-decoders
"""

Pooling = Literal["cls", "mean", "last"]
"""What Eq. 8 reads of the text's hidden states: the first, all, or the last"""

Precision = Literal["fp32", "bf16", "fp16"]
"""What a forward pass computes in; the lower ones by torch.autocast"""


class Frozen(BaseModel):
    """A section: it can't be changed, and knows its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

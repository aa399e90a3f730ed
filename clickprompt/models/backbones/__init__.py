"""Feature interaction layers (FI_Layer of Eq. 5), by name.

A backbone is built from (num_fields, CTRConfig), has `interaction_dim` (Q) and maps
field_embeddings [B, F, d] to the interaction vector q [B, Q]: what the tower's last linear layer reads.
"""

from typing import Any

from clickprompt.errors import ConfigError
from clickprompt.models.backbones.autoint import AutoInt
from clickprompt.models.backbones.dcnv2 import DCNv2
from clickprompt.models.backbones.dnn import DNN

__all__ = ["BACKBONES", "get_backbone"]

BACKBONES: dict[str, type[Any]] = {"autoint": AutoInt, "dcnv2": DCNv2, "dnn": DNN}


def get_backbone(name: str) -> type[Any]:
    """The backbone's class. Raises ConfigError for an unknown name."""
    if name not in BACKBONES:
        raise ConfigError(f"ctr.backbone={name!r}: no such backbone; known: {', '.join(sorted(BACKBONES))}")
    return BACKBONES[name]

"""The one table of what differs between Hugging Face model families.

A family is added as a row here; plm.py and plm_fusion.py know none by name.
Shape legend: B rows, K prompts, H hidden size, A attention heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from clickprompt.errors import ConfigError

__all__ = ["PLM_FAMILIES", "PLMFamily", "get_family"]


@dataclass(frozen=True)
class PLMFamily:
    """Where an architecture keeps what prompt fusion and the LM head need."""

    auto_class: Any
    """transformers' class that loads the backbone together with its LM head"""
    backbone: str
    """path of the model without its head"""
    lm_head: str
    """path of the LM head; it has `decoder` (tied to the input embeddings) and `bias`"""
    layers: str
    """path of the layers, below the backbone"""
    self_attention: str
    """path of the module that calls the attention function, below a layer"""
    key_value: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
    """(layer, prompts [B, K, H]) → that layer's keys and values of the prompts, as if its input hidden states: each [B, A, K, H/A]"""
    max_tokens: Callable[[Any], int]
    """config → longest text that the position table holds"""


def _bert_key_value(layer: nn.Module, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Post-LN: a layer's input goes into the key and value projections as it is."""
    attention: Any = layer.get_submodule("attention.self")
    shape = (*prompts.shape[:2], -1, attention.attention_head_size)
    return attention.key(prompts).view(shape).transpose(1, 2), attention.value(prompts).view(shape).transpose(1, 2)


PLM_FAMILIES: dict[str, PLMFamily] = {
    "bert": PLMFamily(
        auto_class=AutoModelForMaskedLM,
        backbone="bert",
        lm_head="cls.predictions",
        layers="encoder.layer",
        self_attention="attention.self",
        key_value=_bert_key_value,
        max_tokens=lambda config: config.max_position_embeddings,
    ),
    "roberta": PLMFamily(
        auto_class=AutoModelForMaskedLM,
        backbone="roberta",
        lm_head="lm_head",
        layers="encoder.layer",
        self_attention="attention.self",
        key_value=_bert_key_value,
        # Positions count from pad_token_id + 1.
        max_tokens=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    ),
}


def get_family(model_type: str | None, path: str) -> PLMFamily:
    """The row for a config.json's `model_type`. Raises ConfigError for a family that isn't supported."""
    if model_type not in PLM_FAMILIES:
        known = ", ".join(sorted(PLM_FAMILIES))
        raise ConfigError(f"plm.path={path}: model_type={model_type!r} in its config.json isn't supported; known: {known}")
    return PLM_FAMILIES[model_type]

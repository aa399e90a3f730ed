"""Prompt fusion (Eq. 7) inside transformers' attention interface.

Prompts never run through a layer as positions: Eq. 7 drops the layer's outputs at the prompts, so all that remains of them is what
the text positions attend to, the layer's own keys and values of the prompts. These are prepended where the attention function is called.

Shape legend: B rows, A heads, Z tokens, L layers, K prompts, H hidden size.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

__all__ = ["ATTENTION", "PromptFusion"]

ATTENTION = {"sdpa": "clickprompt_sdpa", "eager": "clickprompt_eager"}
"""plm.attn_implementation → the name registered with transformers"""


@dataclass(frozen=True)
class PromptFusion:
    """One forward pass's prompts, and which of them each self-attention gets.

    It travels to the attention function as a keyword argument of the forward pass. So no module holds state between calls, and
    a layer recomputed in backward (non-reentrant checkpointing keeps its arguments) sees the prompts of its own forward pass.
    """

    soft_prompts: Tensor  # [B, L, K, H]
    layer_of: Mapping[nn.Module, tuple[int, nn.Module]]  # self-attention → (prompt index, its layer)
    key_value: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]  # PLMFamily.key_value

    def prepend(self, module: nn.Module, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """key, value [B, A, Z, H/A] → [B, A, K + Z, H/A]; additive mask [B, 1, Z, Z] → [B, 1, Z, K + Z], prompts visible to all."""
        index, layer = self.layer_of[module]
        prompt_key, prompt_value = self.key_value(layer, self.soft_prompts[:, index])
        if mask is not None:
            mask = F.pad(mask, (prompt_key.shape[2], 0))
        return torch.cat([prompt_key, key], dim=2), torch.cat([prompt_value, value], dim=2), mask


def _with_prompts(attend: Callable[..., Any]) -> Callable[..., Any]:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        prompt_fusion: PromptFusion | None = None,
        **kwargs: Any,
    ) -> Any:
        if prompt_fusion is not None and module in prompt_fusion.layer_of:
            key, value, attention_mask = prompt_fusion.prepend(module, key, value, attention_mask)
        return attend(module, query, key, value, attention_mask, **kwargs)

    return attention


def _eager(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Each modeling file of transformers has an eager attention of its own."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


AttentionInterface.register(ATTENTION["sdpa"], _with_prompts(sdpa_attention_forward))
AttentionInterface.register(ATTENTION["eager"], _with_prompts(_eager))
# Additive masks for both: a boolean one would be *added* by eager attention, and can't be padded with zeros.
AttentionMaskInterface.register(ATTENTION["sdpa"], eager_mask)
AttentionMaskInterface.register(ATTENTION["eager"], eager_mask)

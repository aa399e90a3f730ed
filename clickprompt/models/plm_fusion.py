"""Prompt fusion (Eq. 7) inside transformers' attention interface.

Prompts never run through a layer as positions. Eq. 7 drops a layer's outputs at the prompts, so the prompts
matter only as what the text positions attend to: the layer's own keys and values of the prompts. These are
prepended where the attention function is called.

The same place lets the last layer be computed at some positions only (`plm.last_layer`): the layer is called
with their states, and its attention gets the keys and values of the whole text here.

Shape legend: B rows, A heads, Z tokens, T chosen ones, H hidden size, L layers, K prompts per layer, W width
of a prompt, C width of all keys (or values) of a layer.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import eager_mask

from clickprompt.models.plm_dropout import sdpa_attention
from clickprompt.models.plm_families import PLMFamily

__all__ = ["ATTENTION", "PromptFusion", "at_positions", "put_back", "take_positions"]

ATTENTION = {"sdpa": "clickprompt_sdpa", "eager": "clickprompt_eager", "flash": "flash_attention_2"}
"""plm.attn_implementation → the name registered with transformers"""


@dataclass(frozen=True)
class PromptFusion:
    """The prompts of one forward pass, and which of them each self-attention gets.

    The object travels to the attention function as a keyword argument of the forward pass. So no module holds
    state between calls, and a layer that is recomputed in backward sees the prompts of its own forward pass
    (non-reentrant checkpointing keeps its arguments).
    """

    prompts: tuple[Tensor, ...] | None  # of each layer, [B, K, W]
    layer_of: Mapping[nn.Module, tuple[int, nn.Module]]  # self-attention → (prompt index, its layer)
    family: PLMFamily
    backbone: nn.Module
    raw: bool  # whether prompts are keys and values already: W = 2C
    reached: set[int] = field(default_factory=set)  # prompt indices that an attention function has asked for
    # If it is a dict, eager attention stores the prompts' weights [B, A, Z, K] in it, by layer
    weights: dict[int, Tensor] | None = None
    positions: Tensor | None = None  # [B, T] int64: where the last layer is computed; None: everywhere
    # In the last layer only: its input at all positions, [B, Z, H], and what turns their keys, [1, Z, C/A]
    whole: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    masks: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # each mask, and it with the prompts

    def attended(
        self, module: nn.Module, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return keys, values and mask of all that the queries attend to: the text, with the prompts before
        it.
        """
        if self.whole is not None:
            key, value = self._project(module, self.layer_of[module][1], self.whole, self.rotary)
        if self.prompts is not None:
            key, value = self._prepend(module, key, value)
            mask = None if mask is None else self.with_prompts(mask)
        if mask is not None and self.whole is not None:
            mask = self._of_positions(mask)
        return key, value, mask

    def _of_positions(self, mask: Tensor) -> Tensor:
        """Return the rows of the chosen positions' queries: [B, 1, Z, K + Z] → [B, 1, T or 1, K + Z]."""
        assert self.positions is not None
        if self.family.sees_all:
            return mask[:, :, :1]
        return mask.gather(2, self.positions[:, None, :, None].expand(-1, -1, -1, mask.shape[3]))

    def _prepend(self, module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Prepend the prompts: key, value [B, A, Z, C/A] → [B, A, K + Z, C/A]."""
        assert self.prompts is not None
        index, layer = self.layer_of[module]
        self.reached.add(index)
        prompt_key, prompt_value = self._key_value(module, layer, self.prompts[index])
        return (
            torch.cat([prompt_key.to(key.dtype), key], dim=2),
            torch.cat([prompt_value.to(value.dtype), value], dim=2),
        )

    def with_prompts(self, mask: Tensor) -> Tensor:
        """Extend a mask so that every position sees the prompts, or a bias by position (T5) by 0 for them.

        It is additive, [B, 1, Z, Z] → [B, 1, Z, K + Z], or flash attention's, [B, Z] → [B, K + Z]. All layers
        get the one that the first of them makes; a model has a mask for each kind of attention.
        """
        assert self.prompts is not None
        for known, extended in self.masks:
            if known is mask:
                return extended
        extended = F.pad(mask, (self.prompts[0].shape[1], 0), value=0 if mask.ndim == 4 else 1)
        self.masks.append((mask, extended))
        return extended

    def _key_value(self, module: Any, layer: nn.Module, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Map prompts [B, K, W] to keys and values, both [B, A, K, C/A]."""
        if self.raw:
            heads = (*prompts.shape[:2], -1, getattr(module, self.family.head_dim))
            key, value = (half.reshape(heads).transpose(1, 2) for half in prompts.chunk(2, dim=-1))
            return key, value
        return self._project(module, layer, prompts)

    def _project(
        self,
        module: Any,
        layer: nn.Module,
        states: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Map hidden states [B, K, H] to the layer's own keys and values of them, both [B, A, K, C/A].

        rotary: cosines and sines of their positions; without them they are at position 0.
        """
        heads = (*states.shape[:2], -1, getattr(module, self.family.head_dim))
        if self.family.input_norm is not None:
            states = layer.get_submodule(self.family.input_norm)(states)
        key, value = self.family.key_value(module, states)
        key, value = key.reshape(heads), value.reshape(heads)
        if self.family.key_norm is not None:
            key = module.get_submodule(self.family.key_norm)(key)
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        if rotary is not None:
            rotate = _of_file(module, "apply_rotary_pos_emb")
            _, key = rotate(key[:, :0], key, *rotary)  # there are no queries here
            return key, value
        return key * self.family.rotary_scale(self.backbone, layer), value


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
        if prompt_fusion is None or module not in prompt_fusion.layer_of:
            return attend(module, query, key, value, attention_mask, **kwargs)
        key, value, attention_mask = prompt_fusion.attended(module, key, value, attention_mask)
        if prompt_fusion.prompts is not None and prompt_fusion.family.position_bias:
            kwargs["position_bias"] = prompt_fusion.with_prompts(kwargs["position_bias"])
        output, weights = attend(module, query, key, value, attention_mask, **kwargs)
        if prompt_fusion.weights is not None:
            assert prompt_fusion.prompts is not None
            layer, _ = prompt_fusion.layer_of[module]
            num_prompts = prompt_fusion.prompts[0].shape[1]
            prompt_fusion.weights[layer] = weights[..., :num_prompts]
        return output, weights

    return attention


def take_positions(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Forward pre-hook of the last layer: replace its input [B, Z, H] by that of the fusion's positions,
    [B, T, H], and what else it is told of each position.

    It runs before a checkpointed layer's forward, which is recomputed with the arguments that it returns.
    """
    fusion: PromptFusion | None = kwargs.get("prompt_fusion")
    if fusion is None or fusion.positions is None:
        return None
    hidden, *others = args
    rotary = kwargs.get("position_embeddings")
    kwargs = {**kwargs, "prompt_fusion": replace(fusion, whole=hidden, rotary=rotary)}
    if rotary is not None:
        kwargs["position_embeddings"] = tuple(
            at_positions(one.expand(len(hidden), -1, -1), fusion.positions) for one in rotary
        )
    if kwargs.get("encoder_attention_mask") is not None:
        # Every position of a decoder sees the same of the encoder's text: any row of the mask will do
        kwargs["encoder_attention_mask"] = kwargs["encoder_attention_mask"][:, :, :1]
    return (at_positions(hidden, fusion.positions), *others), kwargs


def at_positions(states: Tensor, positions: Tensor) -> Tensor:
    """Map states [B, Z, H], positions [B, T] → [B, T, H]."""
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))


def put_back(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> Tensor | None:
    """Forward hook of the last layer, for families whose width is kept: put its output [B, T, H] where its
    positions are, among zeros [B, Z, H].
    """
    fusion: PromptFusion | None = kwargs.get("prompt_fusion")
    if fusion is None or fusion.positions is None:
        return None
    assert fusion.whole is not None
    index = fusion.positions[..., None].expand(-1, -1, output.shape[-1])
    return output.new_zeros(fusion.whole.shape).scatter(1, index, output)


def _of_file(module: nn.Module, function: str) -> Callable[..., Any]:
    """Return a function of the module's own modeling file in transformers; each file has its own."""
    return getattr(sys.modules[type(module).__module__], function)


def _eager(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _of_file(module, "eager_attention_forward")(module, *args, **kwargs)


def _additive_mask(**options: Any) -> Tensor:
    """Build the additive mask [B, 1, Z, Z] of one kind of attention; every forward pass calls it once a kind.

    It is built even if nothing is masked: to know that, transformers would wait for the device. And causal
    models need it in any case: with mask None, sdpa's `is_causal` aligns the first query with the first key,
    which is a prompt. It isn't boolean, because eager attention would *add* that.
    """
    device = options["device"].type
    # Else every layer would cast it. On the meta device there is no autocast, and it can't be asked
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        options["dtype"] = torch.get_autocast_dtype(device)
    return eager_mask(**{**options, "allow_is_bidirectional_skip": False})


AttentionInterface.register(ATTENTION["sdpa"], _with_prompts(sdpa_attention))
AttentionInterface.register(ATTENTION["eager"], _with_prompts(_eager))
# Registered under its original name, because transformers chooses the kernel by that; without prompts it
# works as before. A causal flash kernel aligns the last query with the last key, so every position sees
# prepended keys.
AttentionInterface.register(ATTENTION["flash"], _with_prompts(flash_attention_forward))
AttentionMaskInterface.register(ATTENTION["sdpa"], _additive_mask)
AttentionMaskInterface.register(ATTENTION["eager"], _additive_mask)

"""The table of what differs between Hugging Face model families.

A new family is a new row here; plm.py and plm_fusion.py know no family by name.
Shape legend: B rows, K prompts, H hidden size, C width of all keys (or values) of a layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from clickprompt.config import LMKind
from clickprompt.errors import ConfigError

__all__ = ["PLM_FAMILIES", "PLMFamily", "get_family", "has_adapter"]


@dataclass(frozen=True)
class PLMFamily:
    """Where an architecture keeps what prompt fusion and the LM head need."""

    lm_kind: LMKind
    """kind of pretraining; it decides the auto class, what the PLM reads and the default pooling"""
    backbone: str
    """path of the model without its LM head; empty: it is loaded without one, and its LM head multiplies by
    its embeddings
    """
    layers: tuple[str, ...]
    """paths of the stacks of layers, below the backbone, in the order of the prompts"""
    self_attention: str
    """path of the module that calls the attention function, below a layer"""
    head_dim: str
    """attribute of the self-attention that has the size of a head"""
    key_value: Callable[[Any, Tensor], tuple[Tensor, Tensor]]
    """(self-attention, states [B, K, H]) → the layer's own keys and values of those states, both [B, K, C]"""
    lm_transform: Callable[[Any], nn.Module]
    """whole model → what its LM head does before it multiplies by the vocabulary matrix"""
    input_norm: str | None = None
    """path of the norm on a layer's input, below a layer (pre-LN); it also normalises prompts"""
    key_norm: str | None = None
    """path of the norm on each head's keys, below the self-attention"""
    rotary_scale: Callable[[Any, Any], float] = lambda backbone, layer: 1.0
    """(backbone, layer) → the rotary embedding's factor on a key at position 0, where it rotates nothing; for
    YaRN it isn't 1
    """
    final_norms: tuple[str, ...] = ()
    """paths of the norms on the last layer's output of each stack, below the backbone"""
    lm_bias: str | None = None
    """path of a bias on the logits that isn't the output layer's own"""
    max_tokens: Callable[[Any], int] = lambda config: config.max_position_embeddings
    """config → longest text that the position table holds"""
    depth: tuple[str, ...] = ("num_hidden_layers",)
    """config keys with the number of layers of each stack"""
    rotary: bool = False
    """whether keys and queries depend on their positions"""
    keeps_width: bool = False
    """whether what comes behind the layers needs states at as many positions as the text has"""
    position_bias: bool = False
    """whether attention scores have a bias by the distance of query and key (0 for prompts)"""
    gated: bool = False
    """whether the MLP multiplies two maps of its input (SwiGLU, GeGLU)"""
    config_changes: Mapping[str, Any] = field(default_factory=dict)
    """config values that training here needs"""
    adapted: tuple[str, ...] = ("query", "value")
    """names of the linear maps that get adapters by default (`plm.lora`): those of queries and values"""
    transposed: bool = False
    """whether the matrices of linear maps are [in, out], not [out, in]"""

    @property
    def sees_all(self) -> bool:
        """Whether every position of a text sees the same positions: all, without a window."""
        return self.lm_kind == "masked" and not self.rotary

    @property
    def auto_class(self) -> Any:
        """transformers' class that loads the backbone together with its LM head."""
        if not self.backbone:
            return AutoModel
        return {
            "masked": AutoModelForMaskedLM,
            "causal": AutoModelForCausalLM,
            "denoising": AutoModelForSeq2SeqLM,
        }[self.lm_kind]


def has_adapter(linear: nn.Module) -> bool:
    """Whether a linear map has become peft's; its `weight` would leave the adapter out."""
    return hasattr(linear, "base_layer")


def _separate(key: str, value: str) -> Callable[[Any, Tensor], tuple[Tensor, Tensor]]:
    """Return the keys and values of an attention with separate projections for the two."""
    return lambda attention, states: (getattr(attention, key)(states), getattr(attention, value)(states))


def _last_two_thirds(joint: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values from queries, keys and values, [B, K, 3C]: an adapter works on all of them."""
    _, key, value = joint.chunk(3, dim=-1)
    return key, value


def _modernbert_key_value(attention: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values where one matrix [3H, H] gives queries, keys and values."""
    size = states.shape[-1]
    if has_adapter(attention.Wqkv):
        return _last_two_thirds(attention.Wqkv(states))
    bias = None if attention.Wqkv.bias is None else attention.Wqkv.bias[size:]
    key, value = F.linear(states, attention.Wqkv.weight[size:], bias).chunk(2, dim=-1)
    return key, value


def _gpt2_key_value(attention: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values where that matrix is transposed, [H, 3H]."""
    size = states.shape[-1]
    if has_adapter(attention.c_attn):
        return _last_two_thirds(attention.c_attn(states))
    key, value = (states @ attention.c_attn.weight[:, size:] + attention.c_attn.bias[size:]).chunk(2, dim=-1)
    return key, value


class _RobertaTransform(nn.Module):
    """The transform of RoBERTa's head, which keeps it in one module with its output layer."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.dense, self.layer_norm = head.dense, head.layer_norm

    def forward(self, hidden: Tensor) -> Tensor:
        return self.layer_norm(F.gelu(self.dense(hidden)))


class _T5Transform(nn.Module):
    """T5's scale before the vocabulary matrix, which is that of the input embeddings."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.scale = hidden_size**-0.5

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.scale


_BERT = PLMFamily(
    lm_kind="masked",
    backbone="bert",
    layers=("encoder.layer",),
    self_attention="attention.self",
    head_dim="attention_head_size",
    key_value=_separate("key", "value"),
    lm_transform=lambda model: model.cls.predictions.transform,
)
_LLAMA = {
    "lm_kind": "causal",
    "backbone": "model",
    "layers": ("layers",),
    "self_attention": "self_attn",
    "head_dim": "head_dim",
    "key_value": _separate("k_proj", "v_proj"),
    "input_norm": "input_layernorm",
    "final_norms": ("norm",),
    "rotary_scale": lambda backbone, layer: backbone.rotary_emb.attention_scaling,
    "lm_transform": lambda model: nn.Identity(),
    "rotary": True,
    "gated": True,
    "config_changes": {"use_cache": False},
    "adapted": ("q_proj", "v_proj"),
}

PLM_FAMILIES: dict[str, PLMFamily] = {
    "bert": _BERT,
    "roberta": PLMFamily(
        lm_kind="masked",
        backbone="roberta",
        layers=("encoder.layer",),
        self_attention="attention.self",
        head_dim="attention_head_size",
        key_value=_separate("key", "value"),
        lm_transform=lambda model: _RobertaTransform(model.lm_head),
        # Positions count from pad_token_id + 1
        max_tokens=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    ),
    "distilbert": PLMFamily(
        lm_kind="masked",
        backbone="distilbert",
        layers=("transformer.layer",),
        self_attention="attention",
        head_dim="attention_head_size",
        key_value=_separate("k_lin", "v_lin"),
        lm_transform=lambda model: nn.Sequential(
            model.vocab_transform, model.activation, model.vocab_layer_norm
        ),
        adapted=("q_lin", "v_lin"),
    ),
    "electra": PLMFamily(
        lm_kind="masked",
        backbone="electra",
        layers=("encoder.layer",),
        self_attention="attention.self",
        head_dim="attention_head_size",
        key_value=_separate("key", "value"),
        lm_transform=lambda model: model.generator_predictions,
    ),
    "modernbert": PLMFamily(
        lm_kind="masked",
        backbone="model",
        layers=("layers",),
        self_attention="attn",
        head_dim="head_dim",
        key_value=_modernbert_key_value,
        input_norm="attn_norm",
        final_norms=("final_norm",),
        rotary_scale=lambda backbone, layer: getattr(
            backbone.rotary_emb, f"{layer.attention_type}_attention_scaling"
        ),
        lm_transform=lambda model: model.head,
        rotary=True,
        gated=True,
        adapted=("Wqkv",),
    ),
    "gpt2": PLMFamily(
        lm_kind="causal",
        backbone="transformer",
        layers=("h",),
        self_attention="attn",
        head_dim="head_dim",
        key_value=_gpt2_key_value,
        input_norm="ln_1",
        final_norms=("ln_f",),
        keeps_width=True,
        lm_transform=lambda model: nn.Identity(),
        config_changes={"use_cache": False},
        adapted=("c_attn",),
        transposed=True,
    ),
    "llama": PLMFamily(**_LLAMA),
    "qwen2": PLMFamily(**_LLAMA),
    "qwen3": PLMFamily(**_LLAMA, key_norm="k_norm"),
    "bart": PLMFamily(
        lm_kind="denoising",
        backbone="model",
        layers=("encoder.layers", "decoder.layers"),
        self_attention="self_attn",  # not encoder_attn: no prompts in cross-attention
        head_dim="head_dim",
        key_value=_separate("k_proj", "v_proj"),
        lm_transform=lambda model: nn.Identity(),
        lm_bias="final_logits_bias",
        depth=("encoder_layers", "decoder_layers"),
        # A skipped layer would leave parameters without a gradient
        config_changes={"use_cache": False, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},
        adapted=("q_proj", "v_proj"),
    ),
    "t5": PLMFamily(
        lm_kind="denoising",
        backbone="",  # T5ForConditionalGeneration keeps its stacks beside the LM head
        layers=("encoder.block", "decoder.block"),
        self_attention="layer.0.SelfAttention",
        head_dim="key_value_proj_dim",
        key_value=_separate("k", "v"),
        input_norm="layer.0.layer_norm",
        final_norms=("encoder.final_layer_norm", "decoder.final_layer_norm"),
        position_bias=True,
        lm_transform=lambda model: _T5Transform(model.config.d_model),
        # No position table limits it; this is the length that it was pretrained at
        max_tokens=lambda config: getattr(config, "n_positions", 512),
        depth=("num_layers", "num_decoder_layers"),
        config_changes={"use_cache": False},
        adapted=("q", "v"),
    ),
}


def get_family(model_type: object, path: str) -> PLMFamily:
    """Return the row for a config.json's `model_type`. Raises ConfigError for an unsupported family."""
    if not isinstance(model_type, str) or model_type not in PLM_FAMILIES:
        known = ", ".join(sorted(PLM_FAMILIES))
        raise ConfigError(
            f"plm.path={path}: model_type={model_type!r} in its config.json isn't supported; known: {known}"
        )
    return PLM_FAMILIES[model_type]

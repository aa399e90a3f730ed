"""Settings of the models: the CTR tower, the PLM, the prompts between them.

Sources of the defaults: the paper's §4.1.4 and Appendix B.1.
"""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from clickprompt.config.base import Frozen, Pooling

__all__ = ["CTRConfig", "FGCNNConfig", "PLMConfig", "PromptConfig"]


class FGCNNConfig(Frozen):
    """FGCNN's convolutions, first to last (Appendix B.1); each list has one value per convolution."""

    channels: tuple[PositiveInt, ...] = Field(
        default=(6, 8, 10, 12), min_length=1, description="maps that it makes"
    )
    kernel_heights: tuple[PositiveInt, ...] = Field(
        default=(7, 7, 7, 7), description="fields that it reads at a time"
    )
    pooling_sizes: tuple[PositiveInt, ...] = Field(
        default=(2, 2, 2, 2), description="rows of which the largest stays"
    )
    recombined_channels: tuple[PositiveInt, ...] = Field(
        default=(3, 3, 3, 3), description="new fields per pooled row"
    )
    batch_norm: bool = Field(
        default=True, description="its statistics are of a worker's micro-batch, not of the global batch"
    )
    share_embedding: bool = Field(
        default=False,
        description="convolve the embeddings themselves; default: a second table of the same size",
    )

    @model_validator(mode="after")
    def _one_value_per_convolution(self) -> "FGCNNConfig":
        for name in ("kernel_heights", "pooling_sizes", "recombined_channels"):
            if len(getattr(self, name)) != len(self.channels):
                raise ValueError(
                    f"channels has {len(self.channels)} values, {name} {len(getattr(self, name))}; give as "
                    "many"
                )
        return self


class CTRConfig(Frozen):
    """The CTR tower. A key that names backbones concerns only those."""

    backbone: str = Field(
        default="dcnv2", description="autoint, dcn, dcnv2, deepfm, dnn, fgcnn, fignn, fm, ipnn or xdeepfm"
    )
    embedding_dim: int = Field(default=32, ge=1, description="numbers of a feature value")
    hidden_dim: int = Field(default=256, ge=1, description="width of the deep part")
    num_layers: int = Field(
        default=3,
        ge=1,
        description="depth of the deep part, DCN's cross (Appendix B.1 has both alike), AutoInt's "
        "attention, FiGNN's graph",
    )
    hidden_dims: tuple[PositiveInt, ...] | None = Field(
        default=None,
        min_length=1,
        description="widths of the deep part layer by layer, where they are not num_layers times hidden_dim",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="of the deep part and of AutoInt's attention; FM and FiGNN have neither",
    )
    structure: Literal["parallel", "stacked"] = Field(
        default="parallel", description="DCN, DCNv2: cross beside or below the deep part"
    )
    attention_dim: int = Field(default=32, ge=1, description="AutoInt: total over the heads")
    num_heads: int = Field(default=1, ge=1, description="AutoInt: heads of its attention")
    with_dnn: bool = Field(
        default=False, description="AutoInt: a deep part beside the attention, as in the authors' code"
    )
    reuse_layer: bool = Field(
        default=False, description="FiGNN: one graph layer for every step, as in the authors' code"
    )
    cin_dims: tuple[PositiveInt, ...] = Field(
        default=(25, 25, 25), min_length=1, description="xDeepFM: rows of each CIN layer"
    )
    fgcnn: FGCNNConfig = FGCNNConfig()

    @property
    def deep_dims(self) -> tuple[int, ...]:
        """Widths of the deep part's hidden layers."""
        return self.hidden_dims or (self.hidden_dim,) * self.num_layers

    @model_validator(mode="after")
    def _heads_divide(self) -> "CTRConfig":
        if self.attention_dim % self.num_heads:
            raise ValueError(
                f"attention_dim={self.attention_dim} is not a multiple of num_heads={self.num_heads}; make "
                "it one"
            )
        return self


class PLMConfig(Frozen):
    """The pretrained language model."""

    path: str | None = Field(
        default=None, description="hub name or local folder with config, tokenizer and safetensors weights"
    )
    num_layers: int | None = Field(default=None, ge=1, description="keep only the first so many layers")
    random_init: bool = Field(
        default=False, description="architecture only, weights drawn anew: for tests and scaling work"
    )
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the PLM's weights")
    attn_implementation: Literal["sdpa", "eager", "flash"] = Field(
        default="sdpa", description="flash: needs the flash-attn package"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="less memory, more time: activations are computed again"
    )
    pooling: Pooling | None = Field(
        default=None,
        description="of Eq. 8; default: cls for encoders, last for decoders and encoder-decoders",
    )
    max_length: int | None = Field(
        default=None,
        ge=8,
        description="tokens of a text; from a longer one whole fields are left out, the longest first, the "
        "last field last",
    )


class PromptConfig(Frozen):
    """The soft prompts of Eq. 6."""

    num_prompts: int = Field(default=5, ge=0, description="K, per layer; 0: no prompts")
    prompt_depth: Literal["layerwise", "input"] = Field(
        default="layerwise",
        description="new prompts for every layer, or before the first layer only, then carried through as "
        "positions (Figure 3)",
    )
    prompt_injection: Literal["hidden", "key_value"] = Field(
        default="hidden",
        description="hidden states that each layer projects (Eq. 7), or raw keys and values as in the "
        "authors' code",
    )

    @model_validator(mode="after")
    def _carried_prompts_are_hidden(self) -> "PromptConfig":
        if self.prompt_depth == "input" and self.prompt_injection == "key_value":
            raise ValueError(
                "prompt_injection=key_value needs prompt_depth=layerwise: prompts carried through the "
                "layers are hidden states"
            )
        return self

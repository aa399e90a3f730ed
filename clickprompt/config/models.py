"""Settings of the models: the CTR tower, the PLM, and the prompts between them.

The defaults come from the paper's §4.1.4 and Appendix B.1.
"""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from clickprompt.config.base import Frozen, Pooling
from clickprompt.config.history import MOST_HISTORY

__all__ = ["CTRConfig", "FGCNNConfig", "LoRAConfig", "PLMConfig", "PromptConfig"]


class FGCNNConfig(Frozen):
    """FGCNN's convolutions, first to last (Appendix B.1). Each list has one value per convolution."""

    channels: tuple[PositiveInt, ...] = Field(
        default=(6, 8, 10, 12), min_length=1, description="feature maps of each convolution"
    )
    kernel_heights: tuple[PositiveInt, ...] = Field(
        default=(7, 7, 7, 7), description="number of fields each convolution reads at a time"
    )
    pooling_sizes: tuple[PositiveInt, ...] = Field(
        default=(2, 2, 2, 2), description="number of rows from which pooling keeps the largest"
    )
    recombined_channels: tuple[PositiveInt, ...] = Field(
        default=(3, 3, 3, 3), description="number of new fields per pooled row"
    )
    batch_norm: bool = Field(
        default=True,
        description="batch normalisation; its statistics come from a worker's micro-batch, not from "
        "the global batch",
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
                    f"channels has {len(self.channels)} values, {name} {len(getattr(self, name))}; "
                    "give as many"
                )
        return self


class CTRConfig(Frozen):
    """The CTR tower. A key whose description names backbones applies only to those."""

    backbone: str = Field(
        default="dcnv2",
        description="architecture: autoint, dcn, dcnv2, deepfm, dnn, fgcnn, fignn, fm, ipnn or xdeepfm",
    )
    embedding_dim: int = Field(default=32, ge=1, description="size of a feature value's embedding")
    hidden_dim: int = Field(default=256, ge=1, description="width of the deep part")
    num_layers: int = Field(
        default=3,
        ge=1,
        description="depth of the deep part, DCN's cross (equal in Appendix B.1), AutoInt's attention "
        "and FiGNN's graph",
    )
    hidden_dims: tuple[PositiveInt, ...] | None = Field(
        default=None,
        min_length=1,
        description="widths of the deep part, layer by layer, if they are not num_layers times hidden_dim",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="dropout of the deep part and of AutoInt's attention; FM and FiGNN have neither",
    )
    embedding_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="dropout of the entries of the embeddings that the backbone reads; not of linear terms",
    )
    text_embeddings: Literal["none", "added"] = Field(
        default="none",
        description="added: a value's embedding is the id's plus a linear map, one per field, of the value's "
        "text as the frozen PLM (plm.path) embeds it; for finetuning without the PLM",
    )
    vectors: Literal["none", "added"] = Field(
        default="added",
        description="what becomes of vectors that the log gives a field's values, if it does (`vectors` in a "
        "schema): added: a value's embedding is the id's plus a linear map of its vector",
    )
    history: Literal["none", "mean", "din", "transformer"] = Field(
        default="mean",
        description="what becomes of a user's earlier items, if the dataset has them (`prepare --history`): "
        "one embedding more, their mean, DIN's attention by the row's own item, or a transformer's state",
    )
    pooling: Literal["mean", "sum", "max"] = Field(
        default="mean",
        description="how the embeddings of a field's values become the field's, where rows have several "
        "(`take: each`): their mean, their sum, or the largest of each entry",
    )
    numeric: Literal["buckets", "periodic", "soft_buckets"] = Field(
        default="buckets",
        description="embeddings of numeric fields that the log says are `learned`: their buckets', or one of "
        "the number itself, from waves (PLR) or a softmax over meta-embeddings (AutoDis)",
    )
    numeric_size: int = Field(
        default=32, ge=1, description="periodic: number of frequencies; soft_buckets: of meta-embeddings"
    )
    numeric_sigma: float = Field(
        default=0.1,
        gt=0,
        description="periodic: standard deviation of the first frequencies, in waves per standard deviation "
        "of the number; worth a search",
    )
    tasks: Literal["none", "shared_bottom", "mmoe"] = Field(
        default="shared_bottom",
        description="what becomes of the log's further labels (`labels:`), if it has some, in finetuning: "
        "none; a head each on the vector that also makes the prompts; or, as the click itself, a gate over "
        "experts and a tower each (MMoE)",
    )
    experts: int = Field(default=4, ge=1, description="mmoe: number of experts that all tasks share")
    expert_dim: int = Field(
        default=64, ge=1, description="mmoe: size of an expert's output, and of the towers' hidden layer"
    )
    structure: Literal["parallel", "stacked"] = Field(
        default="parallel", description="DCN, DCNv2: cross network beside the deep part or below it"
    )
    attention_dim: int = Field(
        default=32, ge=1, description="AutoInt: total width of the attention over its heads"
    )
    num_heads: int = Field(default=1, ge=1, description="AutoInt: number of attention heads")
    with_dnn: bool = Field(
        default=False, description="AutoInt: add a deep part beside the attention, as in the authors' code"
    )
    reuse_layer: bool = Field(
        default=False, description="FiGNN: use one graph layer for every step, as in the authors' code"
    )
    cin_dims: tuple[PositiveInt, ...] = Field(
        default=(25, 25, 25), min_length=1, description="xDeepFM: number of rows in each CIN layer"
    )
    fgcnn: FGCNNConfig = FGCNNConfig()

    @property
    def deep_dims(self) -> tuple[int, ...]:
        """Return the widths of the deep part's hidden layers."""
        return self.hidden_dims or (self.hidden_dim,) * self.num_layers

    @model_validator(mode="after")
    def _heads_divide(self) -> "CTRConfig":
        if self.attention_dim % self.num_heads:
            raise ValueError(
                f"attention_dim={self.attention_dim} is not a multiple of num_heads={self.num_heads}; "
                "make it one"
            )
        return self


class LoRAConfig(Frozen):
    """Low-rank adapters (Hu et al. 2022): W x becomes W x + alpha / rank · B A x, and of the PLM only A and B
    are trained.
    """

    rank: int = Field(
        default=0,
        ge=0,
        description="size of A's output and B's input; 0: no adapters, all of the PLM is trained",
    )
    alpha: float = Field(default=16.0, gt=0, description="scale of the adapters, over rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout of what A reads")
    targets: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="names of the layers' linear maps that get adapters, such as [query, value]; default: "
        "those of queries and values (GPT-2 and ModernBERT have one map for queries, keys and values)",
    )

    @property
    def scale(self) -> float:
        """Return alpha / rank."""
        return self.alpha / self.rank


class PLMConfig(Frozen):
    """The pretrained language model."""

    path: str | None = Field(
        default=None,
        description="hub name or local folder with configuration, tokenizer and safetensors weights",
    )
    num_layers: int | None = Field(
        default=None, ge=1, description="number of layers to keep, from the first; default: all"
    )
    random_init: bool = Field(
        default=False,
        description="use only the architecture and draw the weights at random: for tests and scaling work",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="number format of the PLM's weights"
    )
    master_weights: bool = Field(
        default=False,
        description="with dtype=bfloat16: AdamW steps float32 copies of the weights, so that steps smaller "
        "than a bf16 weight's precision aren't lost; plain torch only",
    )
    optimizer_bits: Literal[8, 32] = Field(
        default=32,
        description="bits of each of AdamW's two moments of the PLM's matrices, embeddings apart; 8: by "
        "bitsandbytes; plain torch only",
    )
    attn_implementation: Literal["sdpa", "eager", "flash"] = Field(
        default="sdpa", description="attention kernel; flash needs the flash-attn package"
    )
    last_layer: Literal["full", "targets"] = Field(
        default="full",
        description="positions at which the last layer is computed; targets: those whose states are used, "
        "which are the targets of pretraining, the first or last token with pooling cls or last, and the "
        "click's [MASK] with click_text (equal up to rounding; not with flash attention)",
    )
    lora: LoRAConfig = LoRAConfig()
    gradient_checkpointing: int = Field(
        default=0,
        ge=0,
        description="compute activations again in the backward pass, for less memory and more time: 0 or "
        "false: none; 1 or true: those of all layers; n: those of each n-th layer, from the first",
    )
    pooling: Pooling | None = Field(
        default=None,
        description="pooling of Eq. 8; default: cls for encoders, last for decoders and encoder-decoders",
    )
    max_length: int | None = Field(
        default=None,
        ge=8,
        description="most tokens of a text; a longer one loses whole fields, the longest first, the "
        "last field last",
    )
    history_items: int = Field(
        default=0,
        ge=0,
        le=MOST_HISTORY,
        description="number of the newest items of a row's history that its text names (Title history is "
        "Heat. Up.), if the dataset has histories (`prepare --history`); a text longer than max_length loses "
        "the oldest of them before any field",
    )
    history_field: str | None = Field(
        default=None,
        description="field that names the items of history_items, such as Title: one of the table that is "
        "joined by the item; default: the item's own field",
    )
    click_text: bool = Field(
        default=False,
        description="the text ends with the click as one more field (Clicked is yes.), which pretraining "
        "masks at mask_rate, in the training rows of finetune.label_share; finetuning's PLM logit is the LM "
        "head's for yes less that for no at its [MASK], in place of Eq. 8's; masked language models only",
    )

    @model_validator(mode="after")
    def _copies_of_bf16(self) -> "PLMConfig":
        if self.master_weights and self.dtype == "float32":
            raise ValueError(
                "master_weights=true copies bf16 weights, and dtype is float32; set dtype=bfloat16 or leave "
                "it out"
            )
        return self

    @model_validator(mode="after")
    def _names_of_items(self) -> "PLMConfig":
        if self.history_field is not None and not self.history_items:
            raise ValueError(
                f"history_field={self.history_field} names the items of a history, and history_items is 0; "
                "set how many the text is to name"
            )
        return self

    @model_validator(mode="after")
    def _one_reading(self) -> "PLMConfig":
        if self.click_text and self.pooling is not None:
            raise ValueError(
                f"pooling={self.pooling} is the click head's, and with click_text=true the LM head reads the "
                "click's [MASK] instead; leave one of them out"
            )
        return self


class PromptConfig(Frozen):
    """The soft prompts of Eq. 6."""

    num_prompts: int = Field(default=5, ge=0, description="K, the number of prompts per layer; 0: no prompts")
    prompt_depth: Literal["layerwise", "input"] = Field(
        default="layerwise",
        description="layerwise: new prompts for every layer; input: only before the first layer, then "
        "carried through as positions (Figure 3)",
    )
    prompt_injection: Literal["hidden", "key_value"] = Field(
        default="hidden",
        description="hidden: hidden states that each layer projects (Eq. 7); key_value: raw keys and "
        "values, as in the authors' code",
    )

    @model_validator(mode="after")
    def _carried_prompts_are_hidden(self) -> "PromptConfig":
        if self.prompt_depth == "input" and self.prompt_injection == "key_value":
            raise ValueError(
                "prompt_injection=key_value needs prompt_depth=layerwise: prompts carried through the "
                "layers are hidden states"
            )
        return self

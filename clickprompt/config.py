"""All settings, in one place: frozen models, YAML presets, dotted `--set` overrides.

Nothing here imports torch or ray, so a mistake in a configuration is reported in well under a second.
Sources of the defaults: the paper's §4.1.4 and Appendix B.1.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from clickprompt.errors import ConfigError, InputError
from clickprompt.io import storage

__all__ = [
    "FAULT_KINDS",
    "SPLITS",
    "CTRConfig",
    "Config",
    "DataConfig",
    "FGCNNConfig",
    "FaultKind",
    "FaultsConfig",
    "FinetuneConfig",
    "FinetuneLearningRates",
    "LMKind",
    "LearningRates",
    "MaskingConfig",
    "ObjectiveName",
    "PLMConfig",
    "PipelineConfig",
    "Pooling",
    "Precision",
    "PretrainConfig",
    "PromptConfig",
    "RuntimeConfig",
    "SearchRange",
    "StageConfig",
    "TuneConfig",
    "check_key",
    "dump_config",
    "load_config",
    "preset_names",
    "replaced",
    "require_split",
    "value_of",
]


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

FaultKind = Literal["worker", "node", "driver", "evaluation", "checkpoint", "upload", "storage", "resize"]
"""What is killed (or refuses, or changes) in a fault of the campaign: benchmark/faults/campaign.py"""

FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class DataConfig(_Frozen):
    """Which prepared dataset a run reads, and how its epoch order is cut (data/prepared/order.py)."""

    path: str | None = Field(
        default=None, description="folder written by `clickprompt prepare` (path or URI)"
    )
    version: int | None = Field(
        default=None,
        ge=1,
        description="of the dataset; default: the newest, and the same ever after in a run",
    )
    rows: Literal["all", "new"] = Field(
        default="all",
        description="what is trained on; new: only the training rows that this version has more than the "
        "one before",
    )
    chunk_batches: int = Field(
        default=64, ge=1, description="global batches that one read task shuffles together"
    )
    id_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="rate at which a training id is replaced by the unknown id 0"
    )


class FGCNNConfig(_Frozen):
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


class CTRConfig(_Frozen):
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


class PLMConfig(_Frozen):
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


class PromptConfig(_Frozen):
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


class MaskingConfig(_Frozen):
    """Token masking (§3.5.1): `mask_rate` of the tokens; of those 8:1:1 [MASK], random token, unchanged."""

    mask_rate: float = Field(
        default=0.15, gt=0, lt=1, description="share of tokens (or values) that are targets"
    )
    mask_scope: Literal["tokens", "values", "field"] = Field(
        default="tokens",
        description="what is drawn at mask_rate: any token (the paper's), tokens of values only, or whole "
        "values",
    )


class LearningRates(_Frozen):
    """One rate per parameter group; `plm: 0` freezes the PLM and puts it in eval mode."""

    ctr: float = Field(default=5e-5, gt=0, description="embeddings and CTR tower")
    projector: float = Field(default=5e-5, gt=0, description="prompt projector")
    plm: float = Field(default=5e-5, ge=0, description="PLM; 0: frozen")
    heads: float = Field(
        default=5e-5, gt=0, description="LM head's own parameters in pretraining; click head in finetuning"
    )


class FinetuneLearningRates(LearningRates):
    """Finetuning's own defaults (§4.1.4)."""

    ctr: float = Field(default=1e-3, gt=0, description="embeddings and CTR tower")
    projector: float = Field(default=1e-3, gt=0, description="prompt projector")
    heads: float = Field(default=1e-3, gt=0, description="click head")


class StageConfig(_Frozen):
    """What pretraining and finetuning share."""

    epochs: int = Field(default=1, ge=1, description="times that each row is seen")
    max_steps: int | None = Field(
        default=None, ge=1, description="end after so many steps even if epochs are left"
    )
    global_batch_size: int = Field(default=1024, ge=1, description="rows per optimizer step over all workers")
    micro_batch_size: int = Field(
        default=64, ge=1, description="rows per forward and backward pass of one worker"
    )
    lr: LearningRates = LearningRates()
    weight_decay: float = Field(default=0.01, ge=0, description="not on biases and norms")
    decay_embeddings: bool = Field(default=True, description="apply weight_decay to the CTR embeddings too")
    embedding_optimizer: Literal["dense", "lazy"] = Field(
        default="dense",
        description="of the CTR embeddings: AdamW on the whole tables, or on the rows of the step, the "
        "others when next used "
        "(equal up to rounding; for tables of which a global batch touches a small part)",
    )
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="share of the steps in which the rates rise from 0"
    )
    schedule: Literal["linear", "constant"] = Field(
        default="linear", description="after the warmup: linear decay to 0, or none"
    )
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="gradients of a larger norm are scaled down to it"
    )
    checkpoint_every: int = Field(default=200, ge=1, description="steps between resume checkpoints")
    checkpoint_minutes: float | None = Field(
        default=None, gt=0, description="minutes between them, instead of steps"
    )
    skip_loss_spikes: float | None = Field(
        default=None,
        gt=1,
        description="drop a step whose gradient norm is more than so many times its running mean "
        "(training/guards.py)",
    )

    def micro_batches(self, num_workers: int) -> int:
        """Micro-batches per worker and step. Raises ConfigError when the global batch can't be cut so."""
        unit = self.micro_batch_size * num_workers
        if self.global_batch_size % unit:
            below = self.global_batch_size // unit * unit
            choices = f"{below} or {below + unit}" if below else f"{unit}"
            raise ConfigError(
                f"global_batch_size={self.global_batch_size} is not a multiple of micro_batch_size × "
                "workers = "
                f"{self.micro_batch_size} × {num_workers}; use {choices}"
            )
        return self.global_batch_size // unit


class PretrainConfig(StageConfig):
    """PA-MLM (§3.5.1)."""

    init: str | None = Field(
        default=None,
        description="a pretraining run (or its export) to start from: of this dataset, of an earlier "
        "version, or of another one with the "
        "same fields, whose embeddings are then matched by value",
    )
    epochs: int = Field(default=20, ge=1, description="times that each row is seen")


class FinetuneConfig(StageConfig):
    """Eq. 9 (`with_plm`) or Eq. 10; with no `init`, the model starts from scratch."""

    with_plm: bool = Field(default=True, description="false: the CTR model alone")
    with_prompts: bool = Field(
        default=True,
        description="false: the two towers' logits are summed, nothing else joins them (Table 5, w/o Prompt)",
    )
    init: str | None = Field(
        default=None, description="a run (or its export) to start from, of a dataset as in pretrain.init"
    )
    epochs: int = Field(default=3, ge=1, description="times that each row is seen")
    global_batch_size: int = Field(default=256, ge=1, description="rows per optimizer step over all workers")
    lr: FinetuneLearningRates = FinetuneLearningRates()  # pyright: ignore[reportIncompatibleVariableOverride]
    validate_every: int = Field(
        default=200,
        ge=1,
        description="steps between validations, made while training goes on; what one finds is used at the "
        "next. The best one's weights "
        "are exported",
    )
    eval_batch_size: int = Field(default=512, ge=1, description="rows per forward pass when scoring")
    patience: int = Field(
        default=3,
        ge=1,
        description="stop after so many validations without a better AUC, so validate_every steps after the "
        "last of them",
    )


class EvaluateConfig(_Frozen):
    """What `clickprompt evaluate` looks at beside the split as a whole."""

    user: str | None = Field(
        default=None,
        description="the field that says whose a row is; default: the log's user, else the first",
    )
    item: str | None = Field(
        default=None,
        description="the field that says which item it is of; default: the log's item, else the one with "
        "most values",
    )
    tail_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="of users and of items, the rarest in training, are long-tail (Table 6)",
    )


class SearchRange(_Frozen):
    """A searched key's values from `low` to `high`, both among them."""

    low: float
    high: float
    log: bool = Field(
        default=False, description="drawn evenly on the logarithmic scale, as learning rates should be"
    )
    int: bool = Field(default=False, description="whole numbers only")

    @model_validator(mode="after")
    def _from_low_to_high(self) -> "SearchRange":
        if self.low >= self.high:
            raise ValueError(
                f"low={self.low:g} is not below high={self.high:g}; give a range, or a list of values"
            )
        if self.log and self.low <= 0:
            raise ValueError(
                f"low={self.low:g}: a logarithmic range starts above 0; raise low or leave log out"
            )
        if self.int and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(
                f"low={self.low:g}, high={self.high:g}: a range of whole numbers ends in whole numbers"
            )
        return self


class TuneConfig(_Frozen):
    """A sweep (`clickprompt tune`): which points of which space are tried, and how."""

    space: dict[str, SearchRange | list[Any]] = Field(
        default={},
        description="dotted key → [values], or {low, high, log, int} where search is random or tpe",
    )
    search: Literal["grid", "random", "tpe"] = Field(
        default="grid",
        description="every combination; num_samples drawn at random; drawn by Optuna's TPE from what is "
        "known by then",
    )
    num_samples: int = Field(default=16, ge=1, description="points, where search is random or tpe")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(),
        description="finetune every point once with each, and compare the means; the pretraining has "
        "`seed`. Default: `seed`",
    )
    pretrain: bool = Field(
        default=True,
        description="pretrain for each point; false: finetune from scratch. Not with finetune.init either",
    )
    scheduler: Literal["none", "asha"] = Field(
        default="none", description="asha: end what is worse than others were after as many validations"
    )
    grace_period: int = Field(default=1, ge=1, description="asha: validations before the first comparison")
    reduction_factor: float = Field(
        default=4,
        gt=1,
        description="asha: the best 1/so many go on, and are compared after so many times as many",
    )
    max_concurrent_trials: int = Field(default=1, ge=1, description="pretrainings and finetunings at a time")
    max_points: int = Field(default=64, ge=1, description="a larger space is refused without --yes")

    @field_validator("space", mode="before")
    @classmethod
    def _dotted(cls, space: Any) -> Any:
        if not isinstance(space, dict):
            return space
        keys = dict(_search_keys(space))
        for key, values in keys.items():
            if not isinstance(values, list | dict | SearchRange):
                raise ValueError(f"{key}={values!r} is no list; give the values to try, or {{low, high}}")
        return keys

    @model_validator(mode="after")
    def _values_and_ranges(self) -> "TuneConfig":
        for key, values in self.space.items():
            if not values:
                raise ValueError(f"space.{key} is empty; give at least one value")
            if isinstance(values, SearchRange) and self.search == "grid":
                raise ValueError(
                    f"space.{key} is a range, which has no grid; give a list of values, or search=random or "
                    "tpe"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: one comes twice; give each once")
        return self


def _search_keys(space: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys, whether the space was written with dots or as sections (as `--set
    tune.space.prompt.num_prompts=[1]` does).
    """
    for key, values in space.items():
        if isinstance(values, dict) and not values.keys() & SearchRange.model_fields.keys():
            yield from _search_keys(values, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", values


class PipelineConfig(_Frozen):
    """What `clickprompt pipeline` does before the first training: which log and which PLM it runs on."""

    source: str = Field(default="movielens-100k", description="as `clickprompt prepare` takes it")
    raw: str | None = Field(
        default=None, description="folder with the source's raw files; default: fetched into `downloads`"
    )
    fetch_plm: str | None = Field(
        default=None, description="a PLM that `clickprompt fetch` knows, used as plm.path"
    )
    downloads: str = Field(default="data", description="folder of what is fetched")
    with_plm_steps: int | None = Field(
        default=None, ge=1, description="end the finetuning with the PLM, the costly one, after so many steps"
    )
    notice: str | None = Field(default=None, description="printed before the run and under its table")


class FaultsConfig(_Frozen):
    """`clickprompt benchmark faults`."""

    run: str = Field(
        default="runs/faults",
        description="local folder of the campaign; the same command again goes on with what is missing",
    )
    number: int = Field(default=32, ge=1, description="of faults")
    kinds: tuple[FaultKind, ...] = Field(
        default=FAULT_KINDS, min_length=1, description="which of them, by turns"
    )
    refuse_seconds: float = Field(default=30.0, gt=0, description="how long storage refuses")


class RuntimeConfig(_Frozen):
    """Where and on how many processes a run goes."""

    address: str = Field(
        default="local",
        description="'local' = an embedded Ray of this command's own; 'auto' or host:port = a cluster",
    )
    num_workers: int | tuple[int, int] = Field(
        default=1,
        description="of a training; [min, max]: as many as the cluster has room for, and more or fewer when "
        "that changes",
    )
    node_groups: Literal["auto", "require", "ignore"] = Field(
        default="auto",
        description="training workers on nodes labelled clickprompt.io/group=training, data tasks and "
        "evaluation on CPUs on nodes labelled "
        "=data: auto: where there are such nodes; require: also where they are yet to be started",
    )
    autoscaling: bool = Field(
        default=False,
        description="the cluster adds nodes when they are asked for: a run without room on those that are "
        "there waits for them "
        "(15 minutes) instead of being refused",
    )
    cpus_per_worker: float = Field(
        default=1,
        gt=0,
        description="Ray's logical CPUs, and a worker's threads; on one machine, 1 is no limit",
    )
    gpus_per_worker: float = Field(default=0, ge=0, description="0: training on CPUs")
    logical_cpus: int | None = Field(
        default=None, ge=1, description="CPUs an embedded Ray declares; default: what the run needs"
    )
    engine: Literal["torch", "deepspeed"] = Field(
        default="torch", description="plain DistributedDataParallel, or ZeRO"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(default=2, description="what DeepSpeed divides among the workers")
    precision: Precision = Field(
        default="fp32",
        description="of forward and backward passes; bf16: for GPUs, and CPUs that compute in it "
        "(AVX512-BF16, AMX); fp16: GPUs only",
    )
    offload: Literal["none", "cpu", "nvme"] = Field(
        default="none",
        description="DeepSpeed on GPUs: optimizer state in CPU memory (ZeRO 1-3), parameters too (ZeRO 3), "
        "or these on disk (nvme)",
    )
    offload_path: str | None = Field(
        default=None, description="a folder on a local disk of every worker, for offload=nvme"
    )
    evaluation_actors: int = Field(
        default=1, ge=1, description="that score, in `evaluate` and while a finetuning goes on"
    )
    gpus_per_evaluation_actor: float | None = Field(
        default=None,
        ge=0,
        description="default: gpus_per_worker. While a finetuning goes on they come on top of its workers'; "
        "0: on CPUs",
    )
    evaluation_timeout: float = Field(
        default=3600,
        gt=0,
        description="seconds in which the next row group of a validation must be scored, or the run ends",
    )
    max_failures: int = Field(default=3, ge=0, description="worker-group restarts before the run is given up")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="resume checkpoints that stay: the last so many"
    )
    keep_every: int | None = Field(
        default=None,
        ge=1,
        description="copies of the checkpoints after every so many steps stay in <run>/kept",
    )
    mlflow: str | None = Field(
        default=None,
        description="also send metrics to this MLflow: a server's or a database's URI; who asks says the "
        "environment",
    )
    wandb: str | None = Field(
        default=None,
        description="also send metrics to this project of Weights & Biases; who asks says the environment",
    )
    deterministic: bool = Field(
        default=False, description="torch's deterministic algorithms only, in workers; slower"
    )

    @field_validator("num_workers", mode="before")
    @classmethod
    def _one_number_or_two(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list | tuple) else [value]
        if (
            not all(type(number) is int and number >= 1 for number in numbers)
            or len(numbers) > 2
            or list(numbers) != sorted(numbers)
        ):
            raise ValueError(
                "give a number of workers from 1 up, or [min, max] for as many as there is room for"
            )
        return value if len(numbers) < 2 else tuple(numbers)

    @property
    def evaluation_gpus(self) -> float:
        return (
            self.gpus_per_worker if self.gpus_per_evaluation_actor is None else self.gpus_per_evaluation_actor
        )

    @property
    def min_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]


class Config(_Frozen):
    """A run's whole configuration."""

    seed: int = Field(default=0, ge=0, description="of weights, order, masks, dropout, hashed splits")
    data: DataConfig = DataConfig()
    ctr: CTRConfig = CTRConfig()
    plm: PLMConfig = PLMConfig()
    prompt: PromptConfig = PromptConfig()
    masking: MaskingConfig = MaskingConfig()
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tune: TuneConfig = TuneConfig()
    pipeline: PipelineConfig = PipelineConfig()
    faults: FaultsConfig = FaultsConfig()
    runtime: RuntimeConfig = RuntimeConfig()


SPLITS = ("train", "valid", "test")


def require_split(split: str) -> str:
    """The split. Raises InputError for another name."""
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; known splits: {', '.join(SPLITS)}")
    return split


def preset_names() -> list[str]:
    """Names that `--config` takes besides a file's path."""
    folder = resources.files("clickprompt") / "presets"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_config(config: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a preset or YAML file and apply dotted overrides such as ``pretrain.lr.plm=3e-5``.

    Raises ConfigError for an unknown preset, file, key (the nearest known key is named) or an impossible
    value.
    """
    values = _read(config) if config else {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {override}: expected key=value, such as --set prompt.num_prompts=3")
        _assign(values, key.strip(), _parse_value(override, text))
    return _validate(values)


def replaced(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of `config` with dotted keys changed, such as ``{"pretrain.lr.plm": 3e-5}``; validated as
    `load_config` does.
    """
    values = config.model_dump()
    for key, value in changes.items():
        _assign(values, key, value)
    return _validate(values)


def check_key(dotted: str) -> None:
    """Raises ConfigError unless `dotted` is a key that has a value; names the nearest one."""
    nested: dict[str, Any] = {}
    _assign(nested, dotted, None)
    _check_keys(nested, Config, "")


def value_of(config: Config, dotted: str) -> Any:
    """Of a known key."""
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; `load_config` reads it back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _validate(values: dict[str, Any]) -> Config:
    _check_keys(values, Config, "")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_describe(error)) from error


def _read(config: str) -> dict[str, Any]:
    if config in preset_names():
        content = (resources.files("clickprompt") / "presets" / f"{config}.yaml").read_bytes()
    elif config.endswith((".yaml", ".yml")):
        content = storage.read_bytes(config)
    else:
        raise ConfigError(
            f"--config {config}: neither a YAML file nor a preset; presets: {', '.join(preset_names())}"
        )
    try:
        values = yaml.safe_load(content.decode()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {config}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"--config {config}: the top level must be a mapping of sections, such as 'prompt:'"
        )
    return values


def _parse_value(override: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for depth, parent in enumerate(parents):
        below = values.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {dotted}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        values = below
    values[last] = value


_RENAMED = {"runtime.bf16": "runtime.precision=bf16"}
"""a key of an older version → what says the same"""


def _check_keys(values: dict[str, Any], model: type[BaseModel], prefix: str) -> None:
    """Pydantic would refuse an unknown key too, but not name the nearest known one."""
    for key, value in values.items():
        field = model.model_fields.get(str(key))
        if field is None:
            if new := _RENAMED.get(f"{prefix}{key}"):
                raise ConfigError(f"{prefix}{key} is called otherwise now: set {new}")
            known = _dotted_keys(Config)
            near = difflib.get_close_matches(f"{prefix}{key}".lower(), known, n=1, cutoff=0.0)
            raise ConfigError(f"unknown config key {prefix}{key}; the nearest known key is {near[0]}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            if not isinstance(value, dict):
                example = f"{prefix}{key}.{next(iter(field.annotation.model_fields))}"
                raise ConfigError(
                    f"{prefix}{key}={value!r}: this is a section; set one of its keys, such as {example}"
                )
            _check_keys(value, field.annotation, f"{prefix}{key}.")


def _dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _dotted_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _describe(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        message = item["msg"].removeprefix("Value error, ")
        where = ".".join(str(part) for part in item["loc"])
        value = "" if isinstance(item["input"], BaseModel | dict) else f"={item['input']!r}"
        lines.append(f"{where}{value}: {message[0].lower()}{message[1:]}")
    return "; ".join(lines)

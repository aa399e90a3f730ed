"""Settings of the stages: what is masked, how pretraining and finetuning go, what an evaluation looks at.

Sources of the defaults: the paper's §4.1.4 and Appendix B.1.
"""

from typing import Literal

from pydantic import Field

from clickprompt.config.base import Frozen, ObjectiveName
from clickprompt.errors import ConfigError

__all__ = [
    "EvaluateConfig",
    "FinetuneConfig",
    "FinetuneLearningRates",
    "LearningRates",
    "MaskingConfig",
    "PretrainConfig",
    "StageConfig",
]


class MaskingConfig(Frozen):
    """Token masking (§3.5.1): `mask_rate` of the tokens; of those 8:1:1 [MASK], random token, unchanged."""

    mask_rate: float = Field(
        default=0.15, gt=0, lt=1, description="share of tokens (or values) that are targets"
    )
    mask_scope: Literal["tokens", "values", "field"] = Field(
        default="tokens",
        description="what is drawn at mask_rate: any token (the paper's), tokens of values only, or whole "
        "values",
    )


class LearningRates(Frozen):
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


class StageConfig(Frozen):
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

    @property
    def objective(self) -> ObjectiveName:
        """What this stage minimises."""
        return "pretrain"


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

    @property
    def objective(self) -> ObjectiveName:
        """What this stage minimises."""
        return "with_plm" if self.with_plm else "without_plm"


class EvaluateConfig(Frozen):
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

"""Settings of the stages: masking, pretraining, finetuning and evaluation.

The defaults come from the paper's §4.1.4 and Appendix B.1.
"""

import math
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from clickprompt.config.base import Frozen, IdObjective, ObjectiveName
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
    """Token masking (§3.5.1): `mask_rate` of the tokens are targets; of those, 8:1:1 become [MASK], become a
    random token, or stay.
    """

    mask_rate: float = Field(
        default=0.15, gt=0, lt=1, description="share of tokens (or values) that are targets"
    )
    mask_scope: Literal["tokens", "values", "field"] = Field(
        default="tokens",
        description="what is drawn at mask_rate: any token (as in the paper), only tokens of values, "
        "or whole values",
    )
    hide_ids: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the masked values whose id is hidden from the CTR tower, too; 0: none, as in "
        "the paper, where the prompts may give every masked value away",
    )
    vocabulary: Literal["model", "dataset"] = Field(
        default="model",
        description="tokens that the softmax runs over, and from which random ones are drawn; model: the "
        "PLM's whole vocabulary (as in the paper); dataset: those that occur in the dataset's texts, which "
        "takes less time",
    )


class LearningRates(Frozen):
    """One learning rate per parameter group; `plm: 0` freezes the PLM and puts it in eval mode."""

    ctr: float = Field(default=5e-5, gt=0, description="embeddings and CTR tower")
    tables: float | None = Field(
        default=None, ge=0, description="embeddings and linear terms of the CTR tower; default: lr.ctr"
    )
    projector: float = Field(default=5e-5, gt=0, description="prompt projector")
    plm: float = Field(default=5e-5, ge=0, description="PLM; 0: frozen")
    heads: float = Field(
        default=5e-5,
        gt=0,
        description="LM head's own parameters in pretraining; click head in finetuning (with plm.click_text "
        "the LM head's)",
    )


class FinetuneLearningRates(LearningRates):
    """Finetuning's own defaults (§4.1.4)."""

    ctr: float = Field(default=1e-3, gt=0, description="embeddings and CTR tower")
    projector: float = Field(default=1e-3, gt=0, description="prompt projector")
    heads: float = Field(
        default=1e-3, gt=0, description="click head; with plm.click_text the LM head's own parameters"
    )


class StageConfig(Frozen):
    """Settings that pretraining and finetuning share."""

    epochs: int = Field(default=1, ge=1, description="number of times each row is seen")
    max_steps: int | None = Field(
        default=None, ge=1, description="number of steps after which training ends, even if epochs are left"
    )
    global_batch_size: int = Field(default=1024, ge=1, description="rows per optimizer step over all workers")
    micro_batch_size: int = Field(
        default=64, ge=1, description="rows per forward and backward pass of one worker"
    )
    micro_batches_equal_in: Literal["rows", "tokens"] = Field(
        default="rows",
        description="what a step's micro-batches have as many of; tokens: few rows of long texts or many of "
        "short ones, micro_batch_size on average, which takes less memory at the peak (the gradient is the "
        "same)",
    )
    lr: LearningRates = LearningRates()
    weight_decay: float = Field(default=0.01, ge=0, description="weight decay; biases and norms have none")
    tables_weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="weight decay of the CTR tower's embeddings and linear terms; default: weight_decay",
    )
    plm_weight_decay: float | None = Field(
        default=None, ge=0, description="weight decay of the PLM; default: weight_decay"
    )
    plm_layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="factor on the PLM's learning rate from each layer to the one below it; below the first "
        "layer are the embeddings",
    )
    embedding_optimizer: Literal["dense", "lazy", "sharded"] = Field(
        default="dense",
        description="optimizer of the CTR embeddings; dense: AdamW on whole tables; lazy: AdamW on the "
        "rows of the step, and on the others when they are next used (equal up to "
        "rounding; for tables of which a global batch touches a small part); sharded: as lazy, and each of N "
        "workers keeps 1/N of the rows",
    )
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="share of the steps in which the learning rates rise from 0"
    )
    schedule: Literal["linear", "constant"] = Field(
        default="linear", description="learning rates after the warmup: linear decay to 0, or constant"
    )
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="largest norm of the gradients; larger ones are scaled down to it"
    )
    checkpoint_every: int = Field(default=200, ge=1, description="steps between resume checkpoints")
    checkpoint_minutes: float | None = Field(
        default=None, gt=0, description="minutes between resume checkpoints, instead of steps"
    )
    skip_loss_spikes: float | None = Field(
        default=None,
        gt=1,
        description="drop a step whose gradient norm is more than so many times its running mean "
        "(training/guards.py)",
    )

    def micro_batches(self, num_workers: int) -> int:
        """Return the number of micro-batches per worker and step. Raises ConfigError if the global batch
        can't be divided so.
        """
        unit = self.micro_batch_size * num_workers
        if self.global_batch_size % unit:
            below = self.global_batch_size // unit * unit
            choices = f"{below} or {below + unit}" if below else f"{unit}"
            raise ConfigError(
                f"global_batch_size={self.global_batch_size} is not a multiple of micro_batch_size × "
                f"workers = {self.micro_batch_size} × {num_workers}; use {choices}"
            )
        return self.global_batch_size // unit


class PretrainConfig(StageConfig):
    """Pretraining: PA-MLM (§3.5.1), objectives on ids (docs/guide/training.md), or both."""

    init: str | None = Field(
        default=None,
        description="pretraining run (or its export) to start from: of this dataset, of an earlier "
        "version, or of another dataset with the same fields, whose embeddings are then "
        "matched by value",
    )
    epochs: int = Field(default=20, ge=1, description="number of times each row is seen")
    with_plm: bool = Field(
        default=True, description="pretrain CTR model and PLM together; false: the CTR model alone, on ids"
    )
    id_objective: IdObjective = Field(
        default="none",
        description="what the CTR tower learns about ids besides; replaced: which values of a row were "
        "replaced by others of their field, drawn by frequency; masked: which values were hidden",
    )
    id_rate: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of the values, among those whose text isn't masked, that id_objective replaces or "
        "hides, and that text_id_weight hides",
    )
    id_weight: float = Field(default=1.0, gt=0, description="weight of id_objective's loss beside PA-MLM's")
    text_id_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the loss of restoring a hidden id from the PLM's hidden states at the value's "
        "text; 0: none",
    )
    id_candidates: int = Field(
        default=4096,
        ge=2,
        description="largest number of values among which an id is restored; of a field that has more, so "
        "many are drawn by frequency in each step (sampled softmax)",
    )

    @model_validator(mode="after")
    def _something_is_learned(self) -> "PretrainConfig":
        if self.with_plm:
            return self
        if self.id_objective == "none":
            raise ValueError(
                "with_plm=false leaves nothing to learn with id_objective=none; set id_objective to replaced "
                "or masked"
            )
        if self.text_id_weight:
            raise ValueError(
                f"text_id_weight={self.text_id_weight} restores ids from text, and with_plm=false reads "
                "none; set it to 0"
            )
        return self

    @property
    def objective(self) -> ObjectiveName:
        """What this stage minimises."""
        return "pretrain" if self.with_plm else "pretrain_ids"

    @property
    def reads_ids(self) -> bool:
        """Whether the CTR tower's ids have an objective of their own."""
        return self.id_objective != "none" or self.text_id_weight > 0


class FinetuneConfig(StageConfig):
    """Finetuning by Eq. 9 (`with_plm`) or Eq. 10. Without `init`, the model starts from scratch."""

    with_plm: bool = Field(
        default=True, description="train with the PLM (Eq. 9); false: the CTR model alone (Eq. 10)"
    )
    with_prompts: bool = Field(
        default=True,
        description="join the towers by prompts; false: only their logits are summed (Table 5, w/o Prompt)",
    )
    init: str | None = Field(
        default=None, description="run (or its export) to start from; datasets as for pretrain.init"
    )
    label_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the training rows whose labels may be used, drawn by row; for measuring what "
        "pretraining, which needs no labels (and with plm.click_text reads the same share's), is worth where "
        "these are few",
    )
    init_parts: Literal["all", "tables", "tower"] = Field(
        default="all",
        description="what init gives the CTR tower; tables: its embedding tables only; tower: all but those; "
        "PLM, projector and heads are taken over in each case",
    )
    init_scale: float | None = Field(
        default=None,
        gt=0,
        description="standard deviation to which each field's embeddings from init are scaled "
        "(training/init_parts.py); fresh ones have 0.02; default: as they are",
    )
    init_unseen: Literal["own", "mean", "unknown"] = Field(
        default="own",
        description="embeddings from init of values that no training row had; own: as they are; "
        "mean: the mean of the field's others; unknown: that of the unknown id 0",
    )
    loss: Literal["bce", "pairwise", "listwise"] = Field(
        default="bce",
        description="what is minimised; bce: cross entropy of the click (Eq. 2); pairwise, listwise: "
        "besides, a loss of the order of clicks and other rows within each group (RankNet over pairs, "
        "ListNet over groups): rows shown together if the log says which, else of one user (evaluate.user)",
    )
    rank_weight: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="weight of the pairwise or listwise loss; bce has 1 − rank_weight, which keeps the "
        "probabilities calibrated; 1: without bce, so that only the order of the scores within a group means "
        "something",
    )
    task_weights: dict[str, float] = Field(
        default={},
        description="label → weight of its loss in the sum, such as {like: 0.3}; 1 where none is given, and "
        "for click, the log's own label",
    )
    epochs: int = Field(default=3, ge=1, description="number of times each row is seen")
    global_batch_size: int = Field(default=256, ge=1, description="rows per optimizer step over all workers")
    lr: FinetuneLearningRates = FinetuneLearningRates()  # pyright: ignore[reportIncompatibleVariableOverride]
    freeze_tables: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the steps, at the start, in which the CTR tower's embeddings and linear terms "
        "don't move",
    )
    validate_every: int = Field(
        default=200,
        ge=1,
        description="steps between validations, which run while training goes on; a result is used at "
        "the next validation; the weights of the best one are exported",
    )
    eval_batch_size: int = Field(default=512, ge=1, description="rows per forward pass when scoring")
    patience: int = Field(
        default=3,
        ge=1,
        description="stop after this many validations without a better AUC (stop_on), which shows "
        "validate_every steps after the last of them",
    )
    stop_on: Literal["auc", "log_loss"] = Field(
        default="auc",
        description="figure of the validation split that decides which weights are best, and patience",
    )
    average_validations: int = Field(
        default=1,
        ge=1,
        description="number of validations whose weights are averaged: what is scored, and may be exported, "
        "is the mean of a validation's weights and those of the ones before it; training goes on without it",
    )

    @field_validator("task_weights", mode="before")
    @classmethod
    def _above_0(cls, weights: Any) -> Any:
        for name, weight in weights.items() if isinstance(weights, dict) else ():
            if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < math.inf:
                raise ValueError(f"{name}={weight!r} is no weight; give a number above 0")
        return weights

    @model_validator(mode="after")
    def _no_mean_of_divided_tables(self) -> "FinetuneConfig":
        if self.embedding_optimizer == "sharded" and self.average_validations > 1:
            raise ValueError(
                f"average_validations={self.average_validations} with embedding_optimizer=sharded would need "
                "whole tables in one worker's memory; set it to 1, or use lazy"
            )
        return self

    @property
    def objective(self) -> ObjectiveName:
        """What this stage minimises."""
        return "with_plm" if self.with_plm else "without_plm"


class EvaluateConfig(Frozen):
    """What `clickprompt evaluate` looks at besides the split as a whole."""

    user: str | None = Field(
        default=None,
        description="field that identifies the user of a row; default: the log's user, or else the "
        "first field",
    )
    item: str | None = Field(
        default=None,
        description="field that identifies the item of a row; default: the log's item, or else the "
        "field with the most values",
    )
    tail_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="share of users and of items, the rarest in training, that count as long tail (Table 6)",
    )
    top_k: tuple[PositiveInt, ...] = Field(
        default=(1, 5, 10), min_length=1, description="lengths k of NDCG@k and hit rate@k"
    )

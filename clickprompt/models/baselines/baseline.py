"""What a baseline is: a model on ClickPrompt's stream, engines, checkpoints and evaluation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from clickprompt.config import Config, value_of
from clickprompt.errors import ConfigError
from clickprompt.models.clickprompt import ClickHead, ClickPrompt

if TYPE_CHECKING:
    from clickprompt.models.ctr import CTRModel
    from clickprompt.models.plm import PromptedPLM

__all__ = ["Baseline"]


class Baseline(ClickPrompt):
    """A model of a PLM without prompts: unless it `has_ctr`, of the PLM alone, without a CTR tower and ids.

    A subclass is built by `Subclass(plm, config, pretrain=…, ctr=…)`, in a fixed random state.
    """

    name: ClassVar[str]
    """as `baseline` has it"""
    stages: ClassVar[tuple[str, ...]]
    """the stages that it is trained in"""
    has_ctr: ClassVar[bool] = False
    """whether it pretrains a CTR tower, which finetuning then trains alone"""
    reads_masks: ClassVar[bool] = True
    """whether its pretraining restores masked tokens"""
    answers_in_words: ClassVar[bool] = False
    """whether its click logit comes from an encoder-decoder's LM head, not from a click head"""
    texts: ClassVar[int] = 1
    """texts of a row that its click head reads"""

    def __init__(
        self, plm: PromptedPLM, config: Config, *, pretrain: bool, ctr: CTRModel | None = None
    ) -> None:
        """pretrain: the model is to have no click logit; ctr: None unless it `has_ctr`."""
        assert ctr is None or self.has_ctr
        super().__init__(None, plm, 0, pooling=config.plm.pooling, click_head=False)
        if not pretrain:
            self.click_head = ClickHead(self.texts * plm.hidden_size)

    def tower_logits(
        self,
        field_ids: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *others: Tensor | None,
    ) -> tuple[None, Tensor]:
        """Return (None, plm_logits [B]): there is no CTR tower, and field_ids [B, F] aren't read; input_ids,
        attention_mask [B, Z].
        """
        assert input_ids is not None
        assert attention_mask is not None
        assert all(other is None for other in others), "a baseline reads the row's text alone"
        return None, self.plm_logits(input_ids, attention_mask)

    def plm_logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the click's logits, [B], of texts [B, Z]: by Eq. 8's MLP."""
        assert self.click_head is not None, "built without its click head"
        return self.click_head(self.pooled(input_ids, attention_mask))

    @classmethod
    def check(cls, config: Config, stage_name: str) -> None:
        """Raise ConfigError for a pretraining that the baseline lacks, or a setting that it can't follow."""
        if stage_name not in cls.stages:
            raise ConfigError(
                f"baseline={cls.name} isn't pretrained; run clickprompt finetune (in a sweep: "
                "tune.pretrain=false)"
            )
        wanted: dict[str, tuple[Any, str]] = {
            "prompt.num_prompts": (0, "has no prompts"),
            "pretrain.with_plm": (True, "pretrains with its PLM"),
            "finetune.with_plm": (False, "finetunes its CTR model alone")
            if cls.has_ctr
            else (True, "is its PLM alone"),
            "pretrain.id_objective": ("none", "has no objective on ids"),
            "pretrain.text_id_weight": (0, "has no objective on ids"),
            "plm.click_text": (False, "reads no click"),
        }
        if not cls.has_ctr:
            wanted |= {
                "data.id_dropout": (0, "reads no ids"),
                "ctr.numeric": ("buckets", "has no CTR model"),
                f"{stage_name}.embedding_optimizer": ("dense", "has no embedding tables"),
            }
        if cls.texts > 1:
            wanted["plm.history_items"] = (0, "reads a row as several texts")
        if cls.answers_in_words:
            wanted |= {
                "finetune.loss": ("bce", "learns to answer, by a loss of its own"),
                "plm.pooling": (None, "pools nothing"),
            }
        for key, (value, why) in wanted.items():
            if (found := value_of(config, key)) != value:
                shown, needed = (
                    json.dumps(one) if one is None or isinstance(one, bool) else one for one in (found, value)
                )
                raise ConfigError(f"{key}={shown}: baseline={cls.name} {why}; set {key}={needed}")

"""P5 (Geng et al. 2022, "Recommendation as Language Processing (RLP): A Unified Pretrain, Personalized
Prompt & Predict Paradigm"), for click prediction alone.

Shape legend: B rows, Z tokens of the longest row, V vocabulary, H hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from clickprompt.config import Config
from clickprompt.models.baselines.baseline import Baseline
from clickprompt.models.ctr import CTRModel
from clickprompt.models.layers import at_least_float32

if TYPE_CHECKING:
    from clickprompt.models.plm import PromptedPLM

__all__ = ["P5"]


class P5(Baseline):
    """The encoder reads the row's text, and the decoder answers yes or no by one token.

    ŷ = p(yes) / (p(yes) + p(no)) at the decoder's first position, so the logit is that of yes less that of
    no. Training: −log p(answer), by the softmax over the whole vocabulary.
    """

    name = "p5"
    stages = ("finetune",)
    answers_in_words = True

    answers: Tensor | None
    """[2], the tokens of no and yes; None if only the model's size matters (clickprompt plan)"""

    def __init__(
        self, plm: PromptedPLM, config: Config, *, pretrain: bool, ctr: CTRModel | None = None
    ) -> None:
        assert not pretrain
        super().__init__(plm, config, pretrain=True)  # without the click head
        tokens = config.p5.answers
        self.register_buffer("answers", None if tokens is None else torch.tensor(tokens), persistent=False)

    def plm_logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits of yes less those of no, [B]: input_ids, attention_mask [B, Z]."""
        assert self.plm is not None
        assert self.answers is not None, "check_training finds the answers' tokens"
        return self.plm.answer_logits(self._states(input_ids, attention_mask), self.answers)

    def answer_losses(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """Return −log p(answer) of each row, [B]: input_ids, attention_mask [B, Z], labels [B] 0 or 1."""
        assert self.plm is not None
        assert self.answers is not None, "check_training finds the answers' tokens"
        logits = at_least_float32(self.plm.lm_logits(self._states(input_ids, attention_mask)))
        return F.cross_entropy(logits, self.answers[labels.long()], reduction="none")

    def _states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the decoder's states [B, H] where it has read its start token only."""
        assert self.plm is not None
        # What it reads is shifted right by one, so of one token it reads none
        return self.plm(input_ids, attention_mask, decoder_text=input_ids[:, :1])[:, 0]

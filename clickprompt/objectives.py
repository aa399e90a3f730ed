"""The training objectives: prompt-augmented language modelling (§3.5.1) and the click loss of finetuning with
the PLM (Eq. 9) and without it (Eq. 10).

An objective's forward returns the *sum* of its losses over a micro-batch. The loop divides by the number of
targets in the whole global batch, so the gradient is the same however that batch is divided into workers and
micro-batches.
"""

from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.data.batch import Batch
from clickprompt.data.text.masking import IGNORED
from clickprompt.models.clickprompt import ClickPrompt

__all__ = ["OBJECTIVES", "ClickLoss", "Objective", "PromptAugmentedLM", "model_inputs"]


class Objective(Protocol):
    model: ClickPrompt

    def __call__(self, batch: Batch, **options: Any) -> Tensor: ...

    def count_targets(self, batch: Batch) -> Tensor: ...


class PromptAugmentedLM(nn.Module):
    """Cross entropy of the target tokens, given the text that the PLM reads and the row's soft prompts.

    The batch decides on the kind (data/collate.py). PA-MLM restores masked tokens from their context. PA-CLM
    predicts the next token from those before. In denoising the encoder reads a corrupted text and the decoder
    writes the original.
    """

    def __init__(self, model: ClickPrompt):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """Return the summed loss, a scalar; 0 (with a graph) for a batch without targets."""
        assert batch.masked_input_ids is not None, "pretraining needs text with targets"
        assert batch.attention_mask is not None
        assert batch.mlm_labels is not None
        target_mask = batch.mlm_labels != IGNORED
        logits = self.model.masked_lm_logits(
            batch.field_ids,
            batch.masked_input_ids,
            batch.attention_mask,
            target_mask,
            batch.input_ids,
            batch.vocabulary,
        )
        labels = batch.mlm_labels[target_mask]
        if batch.vocabulary is not None:  # which has every label
            labels = torch.searchsorted(batch.vocabulary, labels)
        return F.cross_entropy(logits.float(), labels, reduction="sum")

    def count_targets(self, batch: Batch) -> Tensor:
        return (cast(Tensor, batch.mlm_labels) != IGNORED).sum()


class ClickLoss(nn.Module):
    """Binary cross entropy of the click (Eq. 2) on the model's logit, that of Eq. 9 or of Eq. 10."""

    def __init__(self, model: ClickPrompt):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """Return the summed loss, a scalar; rows of weight 0 don't count."""
        logits = self.model(*model_inputs(batch)).float()
        return F.binary_cross_entropy_with_logits(
            logits, batch.labels, weight=batch.row_weight, reduction="sum"
        )

    def count_targets(self, batch: Batch) -> Tensor:
        return batch.row_weight.sum()


def model_inputs(batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return what the model's forward takes from a batch."""
    return batch.field_ids, batch.input_ids, batch.attention_mask


OBJECTIVES: dict[str, type[PromptAugmentedLM] | type[ClickLoss]] = {
    "pretrain": PromptAugmentedLM,
    "with_plm": ClickLoss,
    "without_plm": ClickLoss,
}

"""The training objectives: prompt-augmented language modelling (§3.5.1) and the click loss of finetuning with
the PLM (Eq. 9) and without it (Eq. 10); and pretraining on ids, beside the first or alone.

An objective has one or several terms. Its forward returns the *sum* of each term's losses over a micro-batch.
The loop divides it by the number of the term's targets in the whole global batch, so the gradient is the same
however that batch is divided into workers and micro-batches.

If rows have weights w (`Batch.importance`), the losses of clicks are Σ w loss / Σ w: their targets count w
each. The others are unweighted: pretraining learns from texts and ids, and a weight says how much a row's
click counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.config import CLICK, FinetuneConfig, PretrainConfig
from clickprompt.data.batch import Batch
from clickprompt.data.places import Cells
from clickprompt.data.text.masking import IGNORED
from clickprompt.models.baselines.ctrl import CTRL, contrastive_loss
from clickprompt.models.baselines.p5 import P5
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.models.id_heads import ReplacedHead, mean_by_cell, restoring_loss
from clickprompt.models.layers import at_least_float32
from clickprompt.models.ranking_loss import RANKING_TERMS

__all__ = [
    "OBJECTIVES",
    "AnswerLoss",
    "ClickLoss",
    "JointTerm",
    "Objective",
    "PretrainLoss",
    "RankLoss",
    "TaskLoss",
    "build_objective",
    "model_inputs",
]


class JointTerm(Protocol):
    """A term whose loss compares rows of the whole global batch (training/two_pass.py)."""

    @property
    def name(self) -> str: ...

    @property
    def counted(self) -> str:
        """What its targets are called in the metrics."""
        ...

    def rows(self, batch: Batch) -> Tensor:
        """Return what the loss needs to know of each row, [B, C] int64."""
        ...

    def loss(self, representations: Tensor, rows: Tensor) -> Tensor:
        """Return the summed loss, a scalar, of representations [N, D] and the rows' [N, C]."""
        ...

    def count(self, rows: Tensor) -> Tensor:
        """Count the targets among the rows."""
        ...


class Objective(Protocol):
    """With a joint term, a call with `represent=True` returns the representations [B, D] of its rows, and one
    for a batch with `joint_gradient` has Σ representation · gradient in place of that term's loss.
    """

    model: ClickPrompt
    terms: dict[str, float]
    """name of each loss → its weight in the sum that is minimised"""

    @property
    def joint(self) -> JointTerm | None: ...

    def __call__(self, batch: Batch, **options: Any) -> Tensor: ...

    def count_targets(self, batch: Batch) -> Tensor: ...


class PretrainLoss(nn.Module):
    """The losses of pretraining; which of them depends on the model's heads.

    - lm: cross entropy of the target tokens, given the text that the PLM reads and the row's soft prompts.
      With plm.click_text the row's click is one of them.
      The batch decides on the kind (data/collate.py). PA-MLM restores masked tokens from their context.
      PA-CLM predicts the next token from those before. In denoising the encoder reads a corrupted text and
      the decoder writes the original.
    - ids: from the same q as the prompts, binary cross entropy of a value being a replaced one, or cross
      entropy of the hidden ids.
    - text_ids: cross entropy of the hidden ids, given the PLM's hidden states at their values' text (the
      other direction of FLIP's alignment, Wang et al. 2024).
    """

    joint: JointTerm | None = None

    def __init__(self, model: ClickPrompt, weights: Mapping[str, float] | None = None):
        """weights: of the terms besides lm; default: 1."""
        super().__init__()
        self.model = model
        present = {"lm": model.plm, "ids": model.id_head, "text_ids": model.text_id_head}
        self.terms = {
            name: (weights or {}).get(name, 1.0) for name, part in present.items() if part is not None
        }

    def forward(self, batch: Batch) -> Tensor:
        """Return each term's summed loss, [terms]; 0 (with a graph) for a batch without targets."""
        if self.model.plm is None:
            q, _ = self.model.pretraining_states(batch.field_ids)
            return self._ids(batch, q).reshape(1)
        assert batch.reading is not None, "pretraining needs text with targets"
        reading = batch.reading
        q, states = self.model.pretraining_states(
            batch.field_ids,
            batch.masked_input_ids,
            batch.attention_mask,
            (reading.positions, reading.numbers),
            batch.input_ids,
        )
        assert states is not None
        losses = [self._lm(batch, states.index_select(0, reading.targets))]
        if self.model.id_head is not None:
            losses.append(self._ids(batch, q))
        if self.model.text_id_head is not None:
            losses.append(self._text_ids(batch, states))
        return torch.stack(losses)

    def count_targets(self, batch: Batch) -> Tensor:
        """Count each term's targets, [terms]."""
        targets = {"ids": batch.id_targets, "text_ids": batch.text_id_targets}
        if batch.mlm_labels is not None:
            targets["lm"] = batch.mlm_labels != IGNORED
        return torch.stack([cast(Tensor, targets[name]).sum() for name in self.terms])

    def _lm(self, batch: Batch, states: Tensor) -> Tensor:
        """states [M, H]: those of the targets."""
        assert batch.reading is not None
        assert self.model.plm is not None
        logits = self.model.plm.lm_logits(states, batch.vocabulary)
        labels = batch.reading.target_ids
        if batch.vocabulary is not None:  # which has every label
            labels = torch.searchsorted(batch.vocabulary, labels)
        return F.cross_entropy(at_least_float32(logits), labels, reduction="sum")

    def _ids(self, batch: Batch, q: Tensor | None) -> Tensor:
        assert q is not None
        assert batch.id_targets is not None, "pretraining on ids needs targets (data/id_corruption.py)"
        assert batch.true_ids is not None
        if isinstance(self.model.id_head, ReplacedHead):
            logits = at_least_float32(self.model.id_head(q))
            replaced = (batch.field_ids[:, : batch.true_ids.shape[1]] != batch.true_ids).to(logits.dtype)
            weight = batch.id_targets.to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, replaced, weight=weight, reduction="sum")
        assert batch.id_cells is not None
        rows, fields = _rows_and_fields(batch.id_cells, batch)
        vectors = cast(Any, self.model.id_head)(q.index_select(0, rows), fields)
        return self._restored(vectors, batch, batch.id_cells)

    def _text_ids(self, batch: Batch, states: Tensor) -> Tensor:
        """states [R, H]: all that are read."""
        assert batch.reading is not None
        assert batch.text_id_cells is not None
        cells = batch.text_id_cells
        states = states.index_select(0, batch.reading.at_cells)
        means = mean_by_cell(states, batch.reading.cells, sum(cells.per_field))
        _, fields = _rows_and_fields(cells, batch)
        return self._restored(cast(Any, self.model.text_id_head)(means, fields), batch, cells)

    def _restored(self, vectors: Tensor, batch: Batch, cells: Cells) -> Tensor:
        assert self.model.ctr is not None
        assert batch.true_ids is not None
        assert batch.target_log_q is not None
        assert batch.candidate_ids is not None
        assert batch.candidate_fields is not None
        assert batch.candidate_log_q is not None
        return restoring_loss(
            vectors,
            _rows_and_fields(cells, batch)[1],
            batch.true_ids.flatten().index_select(0, cells.numbers),
            batch.target_log_q.flatten().index_select(0, cells.numbers),
            cells.per_field,
            (
                batch.candidate_ids,
                batch.candidate_fields,
                batch.candidate_log_q,
                batch.candidates_per_field,
                batch.complete_fields,
            ),
            self.model.ctr.embedded,
        )


def _rows_and_fields(cells: Cells, batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.true_ids is not None
    num_fields = batch.true_ids.shape[1]
    return cells.numbers // num_fields, cells.numbers % num_fields


@dataclass(frozen=True)
class ContrastTerm:
    """CTRL's loss over the rows of the global batch."""

    subspaces: int
    temperature: float
    name: str = "contrast"
    counted: str = "contrasted"

    def rows(self, batch: Batch) -> Tensor:
        """Return whether a row is real, [B, 1] int64."""
        return (batch.row_weight > 0).long().unsqueeze(1)

    def loss(self, representations: Tensor, rows: Tensor) -> Tensor:
        return contrastive_loss(representations, rows[:, 0] > 0, self.subspaces, self.temperature)

    def count(self, rows: Tensor) -> Tensor:
        return rows.sum()


class ContrastLoss(nn.Module):
    """CTRL's contrastive pretraining (models/baselines/ctrl.py)."""

    def __init__(self, model: CTRL):
        super().__init__()
        self.model = model
        self.joint = ContrastTerm(model.contrast.subspaces, model.temperature)
        self.terms = {"contrast": 1.0}

    def forward(self, batch: Batch, *, represent: bool = False) -> Tensor:
        """Return the summed loss, [1], of this batch's rows alone or by `joint_gradient`; with `represent`
        the representations, [B, D].
        """
        assert batch.input_ids is not None
        assert batch.attention_mask is not None
        found = self.model.representations(batch.field_ids, batch.input_ids, batch.attention_mask)
        if represent:
            return found
        if batch.joint_gradient is None:
            return self.joint.loss(found, self.joint.rows(batch)).reshape(1)
        return (found * batch.joint_gradient).sum().reshape(1)

    def count_targets(self, batch: Batch) -> Tensor:
        """Count the batch's own rows, [1]."""
        return batch.row_weight.sum().reshape(1)


class ClickLoss(nn.Module):
    """Binary cross entropy of the click (Eq. 2) on the model's logit, that of Eq. 9 or of Eq. 10."""

    joint: JointTerm | None = None

    def __init__(self, model: ClickPrompt):
        super().__init__()
        self.model = model
        self.terms = {"click": 1.0}

    def forward(self, batch: Batch) -> Tensor:
        """Return the summed loss, [1]; rows of weight 0 don't count."""
        logits = sampled_logits(self.model, batch)
        return F.binary_cross_entropy_with_logits(
            logits, batch.labels, weight=batch.loss_weight, reduction="sum"
        ).reshape(1)

    def count_targets(self, batch: Batch) -> Tensor:
        """Count the rows, by their weights, [1]."""
        return batch.loss_weight.double().sum().reshape(1)


class TaskLoss(nn.Module):
    """Binary cross entropy of the click as in ClickLoss, and of each further label on its own logit. A row
    whose label isn't known has no part in that label's loss.
    """

    joint: JointTerm | None = None

    def __init__(self, model: ClickPrompt, weights: Mapping[str, float]):
        """weights: of the labels' losses in the sum; 1 for those that have none."""
        super().__init__()
        self.model = model
        self.terms = {name: weights.get(name, 1.0) for name in (CLICK, *model.tasks)}

    def forward(self, batch: Batch) -> Tensor:
        """Return each label's summed loss, [1 + T]; rows of weight 0 don't count."""
        labels, weight = self._targets(batch)
        logits = at_least_float32(self.model(*model_inputs(batch)))
        losses = F.binary_cross_entropy_with_logits(logits, labels, weight=weight, reduction="none")
        return losses.sum(0)

    def count_targets(self, batch: Batch) -> Tensor:
        """Count the rows that have each label, by their weights, [1 + T]."""
        return self._targets(batch)[1].double().sum(0)

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the labels and how much each counts, both [B, 1 + T]."""
        assert batch.more_labels is not None, "the collator was built without the labels"
        labels = torch.cat([batch.labels.unsqueeze(1), batch.more_labels], 1)
        weight = batch.loss_weight.unsqueeze(1) * (labels >= 0)
        return labels.clamp(min=0), weight


class AnswerLoss(nn.Module):
    """P5's cross entropy of the answer's token (models/baselines/p5.py)."""

    joint: JointTerm | None = None

    def __init__(self, model: P5):
        super().__init__()
        self.model = model
        self.terms = {"answer": 1.0}

    def forward(self, batch: Batch) -> Tensor:
        """Return the summed loss, [1]; rows of weight 0 don't count."""
        assert batch.input_ids is not None
        assert batch.attention_mask is not None
        losses = self.model.answer_losses(batch.input_ids, batch.attention_mask, batch.labels)
        return (losses * batch.loss_weight).sum().reshape(1)

    def count_targets(self, batch: Batch) -> Tensor:
        """Count the rows, by their weights, [1]."""
        return batch.loss_weight.double().sum().reshape(1)


class RankLoss(nn.Module):
    """Binary cross entropy of the click as in ClickLoss, and a loss of the order of clicks and other rows
    within each group (models/ranking_loss.py): (1 − weight) of the one and weight of the other.
    """

    def __init__(self, model: ClickPrompt, loss: str, weight: float):
        """loss: a key of RANKING_TERMS."""
        super().__init__()
        self.model = model
        self.joint = RANKING_TERMS[loss]
        self.terms = {"click": 1 - weight, loss: weight}

    def forward(self, batch: Batch, *, represent: bool = False) -> Tensor:
        """Return the summed losses, [2], the second one of this batch's own groups or by `joint_gradient`;
        with `represent` the logits, [B, 1].
        """
        logits = sampled_logits(self.model, batch)
        if represent:
            return logits.unsqueeze(1)
        click = F.binary_cross_entropy_with_logits(
            logits, batch.labels, weight=batch.row_weight, reduction="sum"
        )
        if batch.joint_gradient is None:
            ranked = self.joint.loss(logits.unsqueeze(1), self.joint.rows(batch))
        else:
            ranked = (logits.unsqueeze(1) * batch.joint_gradient).sum()
        return torch.stack([click, ranked.to(click.dtype)])

    def count_targets(self, batch: Batch) -> Tensor:
        """Count the rows, and the batch's own pairs or groups, [2]."""
        return torch.stack([batch.row_weight.sum(), self.joint.count(self.joint.rows(batch))])


def sampled_logits(model: ClickPrompt, batch: Batch) -> Tensor:
    """Return the logits [B] of clicks among the training rows, which may lack some without one."""
    logits = at_least_float32(model(*model_inputs(batch)))
    return logits - model.logit_shift if model.logit_shift else logits


def model_inputs(batch: Batch) -> tuple[Tensor, *tuple[Tensor | None, ...]]:
    """Return what the model's forward takes from a batch; with an item's text of its own, CTR-BERT's."""
    if batch.text_vectors is not None:
        return batch.field_ids, None, None, None, None, batch.text_vectors
    if batch.item_input_ids is not None:
        user = batch.field_ids, batch.input_ids, batch.attention_mask
        return *user, batch.item_input_ids, batch.item_attention_mask
    return batch.field_ids, batch.input_ids, batch.attention_mask, batch.click_positions, batch.click_answers


OBJECTIVES: dict[str, type[PretrainLoss] | type[ClickLoss]] = {
    "pretrain": PretrainLoss,
    "pretrain_ids": PretrainLoss,
    "with_plm": ClickLoss,
    "without_plm": ClickLoss,
}


def build_objective(model: ClickPrompt, stage: PretrainConfig | FinetuneConfig) -> Any:
    """Return what a stage minimises on its model, an Objective and a module."""
    if isinstance(stage, PretrainConfig):
        if isinstance(model, CTRL):
            return ContrastLoss(model)
        return PretrainLoss(model, {"ids": stage.id_weight, "text_ids": stage.text_id_weight})
    if isinstance(model, P5):
        return AnswerLoss(model)
    if stage.loss != "bce":
        return RankLoss(model, stage.loss, stage.rank_weight)
    if model.tasks:
        return TaskLoss(model, stage.task_weights)
    return ClickLoss(model)

"""Turn columns of ids, as they travel, into the Batch that a model reads (DESIGN §3.4).

Shape legend: B rows, F fields, Z tokens of the longest row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from clickprompt.config import (
    Layout,
    LMKind,
    MaskingConfig,
    history_columns,
    label_columns,
    multi_columns,
    number_columns,
)
from clickprompt.data.batch import Batch
from clickprompt.data.id_corruption import IdCorruption
from clickprompt.data.keyed_random import random_uniform
from clickprompt.data.micro_batches import equal_in_rows, equal_in_tokens
from clickprompt.data.places import Cells, Reading
from clickprompt.data.prepared.labelled import labelled_draws
from clickprompt.data.text.click_text import write_clicks
from clickprompt.data.text.masking import IGNORED, mask_tokens, next_token_labels, restoring_labels
from clickprompt.data.text.text_vectors import TextVectors
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import ConfigError

__all__ = ["Collator"]

_DROP = 5  # stream of the keyed generator, see masking.py
_NEEDS_MASK_TOKEN = {"masked": "PA-MLM", "denoising": "denoising"}


class Collator:
    """Turn columns `row_id`, `label`, those of the layout, and optionally `weight` (0 for padding, missing =
    1) and `importance` into batches.

    With a token table, batches carry text. With `masking`, they also carry what the PLM reads in pretraining
    and its targets, which depend on `lm`:

    - masked (PA-MLM): corrupted text; the targets are its corrupted tokens.
    - causal (PA-CLM): the text itself; the targets are the text's tokens, or only the values' if `mask_scope`
      is not tokens, each at the place before its own. There is no rate.
    - denoising: corrupted text; all of its tokens are targets, and `mask_scope` says what is corrupted.

    Texts longer than `max_length` tokens lose whole fields (TokenTable). `id_dropout` is the rate at which an
    id is replaced by the unknown id 0, which trains its embedding; the text keeps the value. `corruption`
    hides or replaces ids in pretraining, and adds the targets of objectives on ids. A row of weight 0 is
    padding: no field's tokens, no targets. `group` is the column of the groups that a ranking loss orders.
    If the table's texts have histories, these are read, never masked and never a target, whatever
    `mask_scope` says: the fields' masks and targets are those of texts without.
    With `text_vectors` a batch has those of its values, also where `id_dropout` has taken the id.

    If the table's texts end with the click, it is [MASK] in the text that finetuning reads. In PA-MLM it is
    one more masked field, of the `label_share` of the rows whose labels finetuning may use (drawn by `seed`);
    the others keep [MASK].
    """

    def __init__(
        self,
        layout: Layout,
        token_table: TokenTable | None = None,
        masking: MaskingConfig | None = None,
        *,
        lm: LMKind = "masked",
        max_length: int | None = None,
        seed: int = 0,
        id_dropout: float = 0.0,
        corruption: IdCorruption | None = None,
        label_share: float = 1.0,
        item_fields: np.ndarray | None = None,
        group: str | None = None,
        text_vectors: TextVectors | None = None,
    ) -> None:
        """layout: all kinds of columns that batches are to have. item_fields: [F] bool, the fields of the
        item's text (data/text/item_fields.py); the others are then the user's. None: a row is one text.

        Raises ConfigError if masking is asked for and can't be done."""
        if masking and token_table is None:
            raise ConfigError("masking needs text; give a token table with it")
        if masking and token_table and token_table.mask_id is None and lm in _NEEDS_MASK_TOKEN:
            needed_by = _NEEDS_MASK_TOKEN[lm]
            raise ConfigError(
                f"{token_table.meta['tokenizer']} has no mask token, which {needed_by} needs; use a "
                "masked language model"
            )
        self.columns = layout.columns
        self.token_table = token_table
        self.masking = masking
        self.lm: LMKind = lm
        self.max_length = max_length
        self.seed = seed
        self.id_dropout = id_dropout
        self.corruption = corruption
        self.label_share = label_share
        self.item_fields = item_fields
        self.group = group
        self.text_vectors = text_vectors
        further = multi_columns(layout.multi)
        self._further, self._further_fields = list(further), [*further.values()]
        self.history = layout.history_columns
        self._in_text = history_columns(token_table.num_items if token_table else 0)
        self._numbers, self._number_fields = number_columns(layout.numbers), [*layout.numbers]
        self._labels = label_columns(layout.labels)
        by_dataset = masking is not None and masking.vocabulary == "dataset"
        self._vocabulary = token_table.vocabulary if token_table and by_dataset else None

    def __call__(self, columns: Mapping[str, np.ndarray], epoch: int = 0, step: int = 0) -> Batch:
        """Return all rows as one batch, in the given order. `epoch` keys the masks and the dropped ids,
        `step` the candidates among which ids are restored.
        """
        [batch] = self._batches(
            columns, self._field_ids(columns), _weight(columns), epoch, step, [slice(None)]
        )
        return batch

    def micro_batches(
        self,
        columns: Mapping[str, np.ndarray],
        micro_batch_size: int,
        epoch: int = 0,
        step: int = 0,
        *,
        equal: Literal["rows", "tokens"] = "rows",
    ) -> list[Batch]:
        """Return the rows, longest text first, in ⌈B / micro_batch_size⌉ batches, each padded only to its own
        longest row; `epoch` and `step` as for a call.

        equal: what the batches have about as many of, rows or tokens (data/micro_batches.py).
        """
        field_ids, weight = self._field_ids(columns), _weight(columns)
        lengths = np.zeros(len(field_ids), dtype=np.int64)
        if self.token_table is not None:
            lengths = np.where(weight > 0, self.token_table.lengths(field_ids, self.max_length), 0)
        cut = equal_in_tokens if equal == "tokens" else equal_in_rows
        return self._batches(columns, field_ids, weight, epoch, step, cut(lengths, micro_batch_size))

    def _field_ids(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.stack(
            [
                np.asarray(columns[column], dtype=np.int64)
                for column in (*self.columns, *self._further, *self._in_text)
            ],
            axis=1,
        )

    def _batches(
        self,
        columns: Mapping[str, np.ndarray],
        field_ids: np.ndarray,
        weight: np.ndarray,
        epoch: int,
        step: int,
        parts: Sequence[slice | np.ndarray],
    ) -> list[Batch]:
        """Collate each part of the rows; all have the candidates of the step."""
        batches = [self._collate(columns, field_ids, weight, epoch, rows) for rows in parts]
        if self.corruption is None or not self.corruption.restores:
            return batches
        found = self.corruption.candidates(step)
        candidates = {
            "candidate_ids": torch.from_numpy(found.ids),
            "candidate_fields": torch.from_numpy(found.fields),
            "candidate_log_q": torch.from_numpy(found.log_q),
            "candidates_per_field": tuple(np.bincount(found.fields, minlength=len(found.complete)).tolist()),
            "complete_fields": tuple(found.complete.tolist()),
        }
        return [replace(batch, **candidates) for batch in batches]

    def _collate(
        self,
        columns: Mapping[str, np.ndarray],
        field_ids: np.ndarray,
        weight: np.ndarray,
        epoch: int,
        rows: slice | np.ndarray,
    ) -> Batch:
        row_ids = np.asarray(columns["row_id"], dtype=np.int64)[rows]
        labels = np.asarray(columns["label"], dtype=np.float32)[rows]
        value_ids, weight = field_ids[rows], weight[rows]  # [B, F + V], and the items in the text
        text_ids = value_ids[:, : len(self.columns)]
        ids = text_ids
        if self.id_dropout:
            drop = (
                random_uniform(_DROP, self.seed, epoch, row_ids[:, None], np.arange(ids.shape[1]))
                < self.id_dropout
            )
            ids = np.where(drop, 0, ids)
        text: dict[str, np.ndarray] = {}
        places: dict[str, Any] = {}
        if self.token_table is not None:
            text = self._text(self.token_table, value_ids, weight > 0, row_ids, labels, epoch)
            if self._vocabulary is not None:
                text["vocabulary"] = self._vocabulary
        value_fields = text.pop("value_fields", None)
        if self.text_vectors is not None:
            text["text_vectors"] = self.text_vectors.of(text_ids)
        if self.group is not None:
            text["groups"] = np.asarray(columns[self.group], dtype=np.int64)[rows]
        if self.corruption is not None:
            ids, targets = self._corrupted(
                self.corruption,
                ids,
                text_ids,
                row_ids,
                weight > 0,
                epoch,
                value_fields,
                text.pop("corrupted", None),
            )
            text = text | targets
            if self.corruption.objective == "masked":
                places["id_cells"] = Cells.of(targets["id_targets"])
            if self.corruption.from_text:
                places["text_id_cells"] = Cells.of(targets["text_id_targets"])
        if "mlm_labels" in text:
            places["reading"] = Reading.of(
                text["mlm_labels"],
                IGNORED,
                value_fields,
                text["text_id_targets"] if "text_id_cells" in places else None,
            )
        of_numbers = ids[:, self._number_fields] > 0  # a field that the tower doesn't see has no number
        if self._further:
            # A field that the tower doesn't see has no further values, either
            further = value_ids[:, len(self.columns) :][:, : len(self._further)]
            ids = np.concatenate([ids, np.where(ids[:, self._further_fields] == 0, 0, further)], axis=1)
        if self.history:
            items = [np.asarray(columns[name], dtype=np.int64)[rows] for name in self.history]
            ids = np.concatenate([ids, np.stack(items, axis=1)], axis=1)
        if self._numbers:
            numbers = [np.asarray(columns[name], dtype=np.int64)[rows] for name in self._numbers]
            ids = np.concatenate([ids, np.where(of_numbers, np.stack(numbers, axis=1), 0)], axis=1)
        if "importance" in columns:
            text["importance"] = np.array(np.asarray(columns["importance"], dtype=np.float32)[rows])
        if self._labels:
            more = [np.asarray(columns[name], dtype=np.float32)[rows] for name in self._labels]
            text["more_labels"] = np.stack(more, axis=1)
        return Batch(
            row_ids=torch.from_numpy(row_ids.copy()),
            field_ids=torch.from_numpy(ids.copy()),
            labels=torch.from_numpy(labels.copy()),
            row_weight=torch.from_numpy(weight.copy()),
            **{name: torch.from_numpy(value) for name, value in text.items()},
            **places,
        )

    def _corrupted(
        self,
        corruption: IdCorruption,
        seen_ids: np.ndarray,
        true_ids: np.ndarray,
        row_ids: np.ndarray,
        real: np.ndarray,
        epoch: int,
        value_fields: np.ndarray | None,
        corrupted: np.ndarray | None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return what the tower sees of the ids [B, F], and the fields of Batch for objectives on ids.

        value_fields, corrupted [B, Z]: whose value a token belongs to, or −1, and whether it is corrupted;
        both None without text, and the second one in PA-CLM.
        """
        masked = in_text = None
        if value_fields is not None:
            in_text = _cells(value_fields >= 0, value_fields, true_ids.shape[1])
            if corrupted is None:
                masked = in_text & corruption.chosen(row_ids, true_ids.shape[1], epoch)
            else:
                masked = _cells(corrupted, value_fields, true_ids.shape[1])
        found = corruption.apply(seen_ids, true_ids, row_ids, real, epoch, masked=masked, in_text=in_text)
        targets = {
            "true_ids": true_ids,
            "id_targets": found.id_targets,
            "text_id_targets": found.text_id_targets,
        }
        if corruption.restores:
            targets["target_log_q"] = corruption.log_q(true_ids)
        return found.field_ids, targets

    def _text(
        self,
        table: TokenTable,
        field_ids: np.ndarray,
        text: np.ndarray,
        row_ids: np.ndarray,
        labels: np.ndarray,
        epoch: int,
    ) -> dict[str, np.ndarray]:
        """Return the text fields of Batch, and what `_corrupted` reads of the text."""
        if self.item_fields is not None:
            assert self.masking is None, "two texts are for finetuning"
            user, item = (
                table.assemble(field_ids, text[:, None] & fields, self.max_length)
                for fields in (~self.item_fields, self.item_fields)
            )
            names = ("input_ids", "attention_mask", "item_input_ids", "item_attention_mask")
            return dict(zip(names, (*user, *item), strict=True))
        input_ids, attention_mask = table.assemble(field_ids, text, self.max_length)
        plain = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.masking is None:
            if table.click is not None:
                plain["click_positions"] = table.click_positions(attention_mask)
                plain["click_answers"] = np.array(table.click.answers)
            return plain
        scope = self.masking.mask_scope
        value_fields = None
        if scope != "tokens" or self.corruption is not None:
            value_fields = table.value_fields(field_ids, text, self.max_length)
        if self.corruption is not None and value_fields is not None:
            plain["value_fields"] = value_fields
        restored = attention_mask
        if table.history is not None:
            restored = attention_mask * ~table.history_tokens(field_ids, text, self.max_length)
        if self.lm == "causal":
            targeted = None if scope == "tokens" else value_fields
            targets = next_token_labels(input_ids, restored, table.special_ids, targeted)
            return {**plain, "masked_input_ids": input_ids, "mlm_labels": targets}
        assert table.mask_id is not None
        masked_input_ids, targets = mask_tokens(
            input_ids,
            restored * text[:, None],  # padding has no targets, also where it has the click's words
            row_ids,
            seed=self.seed,
            epoch=epoch,
            mask_rate=self.masking.mask_rate,
            mask_id=table.mask_id,
            special_ids=table.special_ids,
            vocab_size=table.vocab_size,
            scope=scope,
            value_fields=value_fields,
            vocabulary=self._vocabulary,
        )
        if self.corruption is not None:
            plain["corrupted"] = targets != IGNORED
        if self.lm == "denoising":
            targets = restoring_labels(input_ids, restored, table.special_ids)
        if table.click is not None:
            assert self.lm == "masked", "plm_loading.py refuses the click in other models' texts"
            write_clicks(
                masked_input_ids,
                targets,
                table.click_positions(attention_mask),
                np.array(table.click.answers)[labels.astype(np.int64)],
                row_ids,
                text & (labelled_draws(row_ids, self.seed) < self.label_share),
                seed=self.seed,
                epoch=epoch,
                mask_rate=self.masking.mask_rate,
            )
        return {**plain, "masked_input_ids": masked_input_ids, "mlm_labels": targets}


def _cells(tokens: np.ndarray, value_fields: np.ndarray, num_fields: int) -> np.ndarray:
    """Return [B, F] bool: the values that have one of the tokens, [B, Z] bool."""
    cells = np.zeros((len(tokens), num_fields), dtype=bool)
    rows, positions = np.nonzero(tokens & (value_fields >= 0))
    cells[rows, value_fields[rows, positions]] = True
    return cells


def _weight(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the weights, [B] float32."""
    return np.asarray(columns.get("weight", np.ones(len(columns["row_id"]))), dtype=np.float32)

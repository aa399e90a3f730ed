"""Measure masked-value recovery: how often a pretrained model restores the values of a row it has never seen,
field by field.

This is the evidence that prompts carry what the row's IDs know: the same text is read with the row's own
prompts and with those of another row. What the permuted prompts restore comes from the text; what only the
own prompts restore comes from the IDs.

The masks are fixed, whatever a run's own `masking` and `seed` say, so that runs can be compared: each field's
whole value in every row is masked at a rate of 15%, keyed by (row_id, field), and each of its tokens becomes
[MASK]. A token is recovered if the largest logit over the vocabulary is its own. A run whose softmax ran over
the dataset's tokens only (`masking.vocabulary: dataset`) chooses among those: it never learned to rule out
others.

Shape legend: B rows, F fields, Z tokens of the longest row, M masked tokens, V vocabulary.
"""

import numpy as np
import pyarrow as pa
import torch

from clickprompt.config import stored_config
from clickprompt.data.keyed_random import random_bits
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.masking import IGNORED, mask_tokens
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import DataError
from clickprompt.evaluation.recovery import SCHEMA
from clickprompt.export.checks import check_dataset, token_table
from clickprompt.export.format import ExportInfo, load_export, read_info
from clickprompt.models.clickprompt import ClickPrompt

__all__ = ["MASK_RATE", "Recovery", "check_recoverable"]

MASK_RATE = 0.15
_SEED = 0
_PARTNER = 7  # stream of the keyed generator, see data/text/masking.py


def check_recoverable(export: str, dataset: Dataset) -> ExportInfo:
    """Raises DataError if the export holds no masked language model, or the dataset has other fields or
    another tokenizer.
    """
    info = read_info(export)
    if info.objective == "pretrain_ids":
        raise DataError(
            f"{export}: pretrained on ids alone, so there is no text to restore; finetune it and evaluate "
            "that"
        )
    if info.config.get("baseline") == "ctrl":
        raise DataError(
            f"{export}: CTRL contrasts rows and restores no values; finetune it and evaluate that"
        )
    if info.objective != "pretrain" or info.plm is None:
        raise DataError(f"{export}: finetuned, so it restores no values now; evaluate the pretraining run")
    # Imported here because transformers' models take seconds to import
    from clickprompt.models.plm_families import get_family

    family = info.plm["model_type"]
    if (kind := get_family(family, export).lm_kind) != "masked":
        raise DataError(
            f"{export}: {family} was pretrained by {kind} language modelling; only masked ones fill "
            "in [MASK], finetune it first"
        )
    check_dataset(export, info, dataset)
    return info


class Recovery:
    """Count the tokens that a pretrained model recovers."""

    def __init__(
        self,
        model: ClickPrompt,
        dataset: Dataset,
        table: TokenTable,
        *,
        batch_size: int,
        max_length: int | None = None,
        device: torch.device | None = None,
        vocabulary: np.ndarray | None = None,
    ):
        """vocabulary: [V] int64, ascending, the tokens to choose from; default: all."""
        self._device = device or torch.device("cpu")
        self._model = model.eval().to(self._device)
        self._dataset = dataset
        self._table = table
        self._batch_size = batch_size
        self._max_length = max_length
        self._vocabulary = None if vocabulary is None else torch.from_numpy(vocabulary).to(self._device)
        self._seen = [
            dataset.vocabulary(field).column("train_count").to_numpy() > 0
            for field in range(len(dataset.columns))
        ]

    @classmethod
    def load(cls, export: str, dataset: Dataset, device: torch.device | None = None) -> "Recovery":
        model, info = load_export(export)
        config = stored_config(info.config)
        table = token_table(export, info, dataset)
        assert table is not None, "pretrained without a PLM"
        # A micro-batch of pretraining fitted in memory together with its gradients
        batch_size = config.pretrain.micro_batch_size
        return cls(
            model,
            dataset,
            table,
            batch_size=batch_size,
            max_length=config.plm.max_length,
            device=device,
            vocabulary=table.vocabulary if config.masking.vocabulary == "dataset" else None,
        )

    @torch.no_grad()
    def score(self, rows: pa.Table) -> pa.Table:
        """Return one line of `SCHEMA` per row and masked field, in no particular order.

        `hits_permuted` uses the prompts of another row: a permutation of `rows` (one row group, so of about
        the same time) that leaves no row in its place, unless there is only one. By chance the other row may
        have the same user or item, so that figure errs upwards.
        """
        row_ids = rows.column("row_id").to_numpy()
        ids = np.stack([rows.column(column).to_numpy() for column in self._dataset.id_columns], axis=1)
        other_ids = ids[_other_rows(row_ids)]
        lengths = self._table.lengths(ids[:, : self._table.num_columns], self._max_length)
        by_length = np.argsort(-lengths, kind="stable")
        starts = range(0, len(by_length), self._batch_size)
        batches = (by_length[start : start + self._batch_size] for start in starts)
        return pa.concat_tables(
            [SCHEMA.empty_table(), *(self._score(row_ids[b], ids[b], other_ids[b]) for b in batches)]
        )

    def _score(self, row_ids: np.ndarray, own_ids: np.ndarray, other_ids: np.ndarray) -> pa.Table:
        """own_ids, other_ids: [B, C]."""
        assert self._table.mask_id is not None
        field_ids = own_ids[:, : self._table.num_columns]
        input_ids, attention_mask = self._table.assemble(field_ids, max_length=self._max_length)
        value_fields = self._table.value_fields(field_ids, max_length=self._max_length)
        masked_input_ids, labels = mask_tokens(
            input_ids,
            attention_mask,
            row_ids,
            seed=_SEED,
            epoch=0,
            mask_rate=MASK_RATE,
            mask_id=self._table.mask_id,
            special_ids=self._table.special_ids,
            vocab_size=self._table.vocab_size,
            scope="field",
            value_fields=value_fields,
            always_mask=True,
        )
        target = labels != IGNORED
        # With 8 fields, nothing is masked in a quarter of the rows
        used = target.any(axis=1)
        if not used.any():
            return SCHEMA.empty_table()
        read = (
            [own_ids[used], other_ids[used]] if self._model.prompt_projector is not None else [own_ids[used]]
        )
        hits = self._hits(read, masked_input_ids[used], attention_mask[used], labels[used])

        cells = (
            np.nonzero(target)[0] * field_ids.shape[1] + value_fields[target]
        )  # [M], places in B × (F + V + N)
        tokens = np.bincount(cells)
        lines = np.flatnonzero(tokens)
        own, *permuted = (np.bincount(cells, weights=hit)[lines].astype(np.int32) for hit in hits)
        row, field = np.divmod(lines, field_ids.shape[1])
        ids = field_ids[row, field]
        columns = [
            row_ids[row],
            np.array(self._dataset.field_names)[field],
            field_ids[row, 0],
            np.array([self._seen[f][i] for f, i in zip(field, ids, strict=True)]),
            tokens[lines],
            own,
            *(permuted or [pa.nulls(len(lines), pa.int32())]),
        ]
        return pa.Table.from_arrays([pa.array(column) for column in columns], schema=SCHEMA)

    def _hits(
        self,
        read: list[np.ndarray],
        masked_input_ids: np.ndarray,
        attention_mask: np.ndarray,
        labels: np.ndarray,
    ) -> np.ndarray:
        """Return [ways, M] bool: `read` has the ids [B, C] that the CTR tower reads in each of the ways; the
        text [B, Z] is the same in all of them.
        """
        target = labels != IGNORED
        text = (
            torch.from_numpy(np.tile(part, (len(read), 1))).to(self._device)
            for part in (masked_input_ids, attention_mask, target)
        )
        field_ids = torch.from_numpy(np.concatenate(read)).long().to(self._device)
        logits = self._model.masked_lm_logits(field_ids, *text, vocabulary=self._vocabulary)
        chosen = logits.argmax(-1)
        if self._vocabulary is not None:
            chosen = self._vocabulary[chosen]
        return chosen.view(len(read), -1).cpu().numpy() == labels[target]


def _other_rows(row_ids: np.ndarray) -> np.ndarray:
    """Return for each row the place of another, [B], in one cycle through all of them; a function of the row
    ids alone.
    """
    cycle = np.argsort(random_bits(_PARTNER, _SEED, row_ids), kind="stable")
    other = np.empty_like(cycle)
    other[cycle] = np.roll(cycle, 1)
    return other

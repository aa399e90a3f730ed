"""Scoring raw values: the ids are looked up, and the text (Eq. 4) is made of the values themselves, also of those that have no id.

Shape legend: B rows, F fields, V distinct values of one field in a chunk.
"""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from clickprompt import storage
from clickprompt.config import Config
from clickprompt.data.batch import Batch
from clickprompt.data.collate import Collator
from clickprompt.data.dataset import Dataset
from clickprompt.data.segments import find_encoder
from clickprompt.data.sources.files import column_names, format_of, read_objects, read_texts
from clickprompt.data.sources.raw import RawPart
from clickprompt.data.text import UNKNOWN, load_tokenizer, special_ids, surrounding
from clickprompt.data.token_table import TokenTable
from clickprompt.errors import DataError
from clickprompt.evaluation.predictor import filled_up
from clickprompt.export import TOKENIZER_FOLDER, load_export
from clickprompt.objectives import model_inputs

__all__ = ["RawPredictor", "check_columns", "score_part"]

_ROWS_AT_ONCE = 1 << 14  # whose text is in memory
_LOOKED_INTO = 1000  # objects of a JSON-lines file, whose keys may be left out where there is no value


def check_columns(uri: str, columns: Sequence[str]) -> None:
    """Raises DataError naming a column that the file lacks, or the file where its format isn't known."""
    names = column_names(uri)
    if names is None and format_of(uri) == "jsonl":
        objects = (found for _, found in zip(range(_LOOKED_INTO), read_objects(RawPart(uri, 0, -1, 0, 0)), strict=False))
        names = sorted({key for _, found in objects for key in found})
    if not names:
        raise DataError(f"{uri}: no rows to score; leave the file out")
    for name in columns:
        if names.count(name) != 1:
            has = "has two columns" if name in names else "has no column"
            raise DataError(f"{uri}: {has} {name!r}, which is needed; it has {', '.join(map(str, names))[:300]}; name its columns so")


class RawPredictor:
    """A trained model and the vocabularies of its dataset."""

    def __init__(self, export: str, dataset: Dataset, device: torch.device | None = None):
        self._model, info = load_export(export)
        self._device = device or torch.device("cpu")
        self._model.to(self._device)
        config = Config.model_validate(info.config)
        self._batch_size = config.finetune.eval_batch_size
        self.columns = dataset.columns
        self._vocabularies = [dataset.vocabulary(field).column("value").combine_chunks() for field in range(len(dataset.columns))]
        self._texts: _Texts | None = None
        if self._model.plm is not None:
            with storage.local_copy(storage.join(export, TOKENIZER_FOLDER)) as folder:
                self._texts = _Texts(dataset, folder, config.plm.max_length or self._model.plm.max_tokens)

    @torch.no_grad()
    def score(self, values: pa.Table) -> np.ndarray:
        """[B] float32 logits of rows with one text column per field, null or blank where a value is missing, in the rows' order."""
        distinct, codes, ids = [], [], []
        for column, vocabulary in zip(self.columns, self._vocabularies, strict=True):
            encoded = _filled(values.column(column).combine_chunks()).dictionary_encode()
            known = pc.fill_null(pc.index_in(encoded.dictionary, value_set=vocabulary), 0).to_numpy(zero_copy_only=False)
            distinct.append(encoded.dictionary)
            codes.append(encoded.indices.to_numpy(zero_copy_only=False))
            ids.append(known.astype(np.int64)[codes[-1]])
        field_ids = np.stack(ids, axis=1)  # [B, F]
        logits = np.empty(len(values), dtype=np.float32)
        for start in range(0, len(values), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            chunk = field_ids[rows]
            columns = {"row_id": np.arange(len(chunk)), "label": np.zeros(len(chunk))}
            if self._texts is None:
                columns = filled_up(columns | dict(zip(self.columns, chunk.T, strict=True)), self._batch_size)
                batches = Collator(self.columns).micro_batches(columns, self._batch_size)
            else:
                batches = self._texts.batches(columns, distinct, [field[rows] for field in codes], self._batch_size)
                batches = [replace(batch, field_ids=torch.from_numpy(chunk[batch.row_ids.numpy()])) for batch in batches]
            for batch in batches:
                scored = self._model(*model_inputs(batch.to(self._device))).float().cpu()
                counted = batch.row_weight > 0
                logits[start + batch.row_ids[counted].numpy()] = scored[counted].numpy()
        return logits


class _Texts:
    """Batches of rows whose values needn't be in any vocabulary: a token table is made of the distinct ones of each chunk."""

    def __init__(self, dataset: Dataset, tokenizer: str, max_length: int) -> None:
        loaded = load_tokenizer(tokenizer)
        self._columns = dataset.columns
        self._max_length = max_length
        self._encoder = find_encoder(dataset, loaded)
        prefix, suffix = surrounding(loaded)
        special = special_ids(loaded)
        self._meta = {"prefix": prefix, "suffix": suffix, "special_ids": special, "all_special_ids": sorted(loaded.all_special_ids)}

    def batches(self, columns: dict[str, np.ndarray], distinct: list[pa.Array], codes: list[np.ndarray], batch_size: int) -> list[Batch]:
        """`codes`: [B] of each field, places in its `distinct` values [V]."""
        parts, sizes, own = [], [], {}
        for field, (column, values, places) in enumerate(zip(self._columns, distinct, codes, strict=True)):
            used, own[column] = np.unique(places, return_inverse=True)
            parts.append(self._encoder.segments(field, values.take(pa.array(used)).to_pylist()))
            sizes.append(len(used))
        longest = sum(int(part.lengths.max()) for part in parts) + len(self._meta["prefix"]) + len(self._meta["suffix"])
        offsets = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *(part.lengths for part in parts)]))
        tokens, spans = (np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "value_spans"))
        table = TokenTable("", {**self._meta, "field_sizes": sizes, "max_length": longest}, tokens, offsets, spans)
        return Collator(self._columns, table, max_length=self._max_length).micro_batches(columns | own, batch_size)


def score_part(predictor: RawPredictor, part: RawPart, keep: Sequence[str], uri: str) -> int:
    """Write a part's predictions to the Parquet file `uri`, whole or not at all; returns its rows.

    Columns: file, row (of the file, counting from 0), those of `keep` as text, logit (of Eq. 9 or 10), probability.
    """
    kept = [pa.field(name, pa.string()) for name in keep]
    scores = [pa.field("logit", pa.float32()), pa.field("probability", pa.float32())]
    schema = pa.schema([pa.field("file", pa.string()), pa.field("row", pa.int64()), *kept, *scores])
    rows = 0
    with storage.open_output(uri) as stream, pq.ParquetWriter(stream, schema) as writer:
        for table in read_texts(part, list(dict.fromkeys([*predictor.columns, *keep]))):
            for name in table.column_names:
                if pa.types.is_list(table.schema.field(name).type):
                    raise DataError(f"{part.place(rows)}: column {name} holds lists; write them as the texts that the vocabulary has")
            logits = predictor.score(table)
            probabilities = torch.from_numpy(logits).double().sigmoid().float().numpy()
            first = part.first_row + rows
            numbers = pa.array(np.arange(first, first + len(table)))
            files = pa.repeat(pa.scalar(part.uri), len(table))
            columns = [files, numbers, *(table.column(name) for name in keep), pa.array(logits), pa.array(probabilities)]
            writer.write_table(pa.table(columns, schema=schema))
            rows += len(table)
    return rows


def _filled(values: pa.Array) -> pa.Array:
    """As `clickprompt prepare` reads a value: without surrounding blanks, `unknown` where there is none."""
    values = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.or_kleene(values.is_null(), pc.equal(values, "")), UNKNOWN, values)

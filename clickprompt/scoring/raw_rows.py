"""Score raw rows. The dataset's own transform turns them into ids and texts
(data/transform/row_transform.py), including values that have no id.

Shape legend: B rows, F fields, V distinct values of one field in a chunk.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from clickprompt.config import PRETRAINING, Config, ScoringPrecision, history_columns, stored_config
from clickprompt.data.batch import Batch
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.sources.reading import DataFile, FilePart, known_columns, read_rows
from clickprompt.data.sources.schema import Explode
from clickprompt.data.sources.table import file_format, nulls_of
from clickprompt.data.text.history_text import ItemTexts, history_of, sampled_texts, with_tokens
from clickprompt.data.text.item_fields import item_mask
from clickprompt.data.text.model_table import click_text_of
from clickprompt.data.text.segments import SegmentEncoder, find_encoder
from clickprompt.data.text.template import UNKNOWN, load_tokenizer, special_ids, surrounding, tokenizer_json
from clickprompt.data.text.token_table import TokenTable
from clickprompt.data.transform.columns import BadValue
from clickprompt.data.transform.explode import exploded
from clickprompt.data.transform.multi import apart, in_places
from clickprompt.data.transform.row_transform import RowTransform, Transformed
from clickprompt.data.transform.spelling import as_text
from clickprompt.errors import DataError
from clickprompt.export.format import (
    TOKENIZER_FOLDER,
    ExportInfo,
    dataset_of,
    export_of,
    read_info,
)
from clickprompt.io import storage
from clickprompt.objectives import model_inputs
from clickprompt.scoring.precision import matmuls_at
from clickprompt.scoring.rows import filled_up, load_scorer

__all__ = [
    "SERVED_ROWS",
    "RawRowScorer",
    "check_columns",
    "open_scorer",
    "score_columns",
    "score_names",
    "score_part",
    "served_dataset",
]

SERVED_ROWS = 64
"""`most_rows` of a server: every forward pass is filled up to so many rows, even for one"""

_ROWS_AT_ONCE = 1 << 14  # rows whose text is in memory


def check_columns(file: DataFile, transform: RowTransform, keep: Sequence[str]) -> None:
    """Raises DataError naming a column that the file lacks, or the file if its format isn't known."""
    names = known_columns(file, file_format(transform.options))
    if not names:
        raise DataError(f"{file.uri}: no rows to score; leave the file out")
    for name in dict.fromkeys([*transform.file_columns(names), *keep]):
        if name not in names:
            shown = ", ".join(map(str, names))[:300]
            raise DataError(
                f"{file.uri}: has no column {name!r}, which is needed; it has {shown}; name its "
                "columns as the log's"
            )


def open_scorer(
    run_or_folder: str,
    data: str | None = None,
    device: torch.device | None = None,
    most_rows: int | None = None,
) -> "RawRowScorer":
    """Open a finetuned run, whose dataset is read (`data`: where it has moved to), or a folder for a server,
    which needs no dataset.

    most_rows: rows of a forward pass, if `finetune.eval_batch_size` is more.

    Raises DataError if there is no export, a file isn't what the export lists, or the model has no click
    logit.
    """
    export = export_of(run_or_folder)
    info = read_info(export)
    if info.objective in PRETRAINING:
        raise DataError(f"{export}: a pretrained model has no click logit yet; finetune it first")
    if data is None and info.serving and "transform" in info.serving:
        return RawRowScorer(export, served_dataset(export, info), device, most_rows)
    dataset = dataset_of(info.config, data)
    if dataset.fingerprint != info.dataset_fingerprint:
        raise DataError(
            f"{dataset.uri}: not the dataset {run_or_folder} was trained on; its ids would mean other values"
        )
    dataset.verify([])
    return RawRowScorer(export, dataset, device, most_rows)


def served_dataset(folder: str, info: ExportInfo) -> Dataset:
    """Return fields, vocabularies and transform of an export for a server as a dataset without rows."""
    assert info.serving is not None
    sizes = zip(info.serving["fields"], info.field_sizes, strict=True)
    fields = [
        {"name": field["name"], "column": field["column"], "file": field["vocabulary"], "size": size}
        for field, size in sizes
    ]
    template = {key: info.serving[key] for key in ("template",) if key in info.serving}
    more = {key: getattr(info, key) for key in ("history", "multi", "numbers") if getattr(info, key)}
    return Dataset(folder, {**more, "fields": fields, "transform": info.serving["transform"], **template})


class RawRowScorer:
    """A trained model and the transform of its dataset."""

    def __init__(
        self,
        export: str,
        dataset: Dataset,
        device: torch.device | None = None,
        most_rows: int | None = None,
        precision: ScoringPrecision = "fp32",
    ):
        """`dataset`: the one it was trained on, or what an export for a server holds of it
        (`served_dataset`).
        """
        self._device = device or torch.device("cpu")
        self._precision: ScoringPrecision = precision
        self._model, info = load_scorer(export, self._device, precision)
        config = stored_config(info.config)
        self._batch_size = min(config.finetune.eval_batch_size, most_rows or config.finetune.eval_batch_size)
        self._layout = replace(layout_of(dataset), labels=())  # which new rows needn't have
        self._id_columns = dataset.id_columns
        self.transform = RowTransform.of_dataset(dataset)
        self.tasks = self._model.tasks
        self.shape = (1 + len(self.tasks),) if self.tasks else ()
        """of a row's logits"""
        self._texts: _Texts | None = None
        if self._model.plm is not None:
            with storage.local_copy(storage.join(export, TOKENIZER_FOLDER)) as folder:
                separated = (info.serving or {}).get("separated")
                self._texts = _Texts(dataset, folder, config, self._model.plm.max_tokens, separated)

    def score(self, rows: pa.Table, nulls: Sequence[str] | None = None) -> tuple[np.ndarray, Transformed]:
        """Return float32 logits, [B] or of several tasks [B, 1 + T], of rows with the transform's columns, in
        their order. Raises BadValue for a value that can't be read.
        """
        transformed = self.transform(rows, nulls)
        return self.score_transformed(transformed), transformed

    @torch.no_grad()
    def score_transformed(self, rows: Transformed) -> np.ndarray:
        """Return float32 logits, [B] or of several tasks [B, 1 + T]."""
        most = {one.field: one.most for one in self._layout.multi}
        fields = range(len(self._layout.columns)) if self._texts else ()
        encoded = [_encoded(rows, field, most.get(field)) for field in fields]
        all_ids = rows.all_ids
        logits = np.empty((len(all_ids), *self.shape), dtype=np.float32)
        for start in range(0, len(logits), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            chunk = all_ids[some]
            columns = {"row_id": np.arange(len(chunk)), "label": np.zeros(len(chunk))}
            if self._texts is None:
                columns = filled_up(
                    columns | dict(zip(self._id_columns, chunk.T, strict=True)),
                    self._batch_size,
                )
                batches = Collator(self._layout).micro_batches(columns, self._batch_size)
            else:
                distinct, codes = zip(*encoded, strict=True)
                items = None if rows.history is None else rows.history[some]
                batches = self._texts.batches(
                    columns, distinct, [field[some] for field in codes], items, self._batch_size
                )
                batches = [
                    replace(batch, field_ids=torch.from_numpy(chunk[batch.row_ids.numpy()]))
                    for batch in batches
                ]
            with matmuls_at(self._precision):
                for batch in batches:
                    scored = self._model(*model_inputs(batch.to(self._device))).float().cpu()
                    counted = batch.row_weight > 0
                    logits[start + batch.row_ids[counted].numpy()] = scored[counted].numpy()
        return logits


def _encoded(rows: Transformed, field: int, most: int | None) -> tuple[pa.Array, np.ndarray]:
    """Return a field's distinct texts [V], and each row's places in them: [B], or of several values [B, M],
    which have 0, the unknown value, where there are no more.
    """
    if most is None:
        column = rows.shown(field).dictionary_encode()
        return column.dictionary, column.indices.to_numpy(zero_copy_only=False)
    values = apart(rows.texts[field])
    flat = values.flatten().dictionary_encode()
    places = in_places(values, flat.indices.to_numpy(zero_copy_only=False).astype(np.int64) + 1, most)
    return pa.concat_arrays([pa.array([UNKNOWN]), flat.dictionary]), places


class _Texts:
    """Batches of rows whose values needn't be in any vocabulary: each chunk's distinct values get a token
    table.
    """

    def __init__(
        self, dataset: Dataset, tokenizer: str, config: Config, max_tokens: int, separated: bool | None
    ) -> None:
        """max_tokens: what the PLM reads at most; separated: how segments join, if that is known already
        (data/text/segments.py).
        """
        loaded = load_tokenizer(tokenizer)
        # The batches are for their texts; the CTR tower's ids take the place of theirs
        self._layout = replace(layout_of(dataset), history=None, numbers=(), labels=())
        self._max_length = config.plm.max_length or max_tokens
        known = separated is not None
        self._encoder = (
            SegmentEncoder(dataset, tokenizer_json(loaded), separated)
            if known
            else find_encoder(dataset, loaded)
        )
        prefix, suffix = surrounding(loaded)
        special = special_ids(loaded)
        self._meta = {
            "prefix": prefix,
            "suffix": suffix,
            "special_ids": special,
            "all_special_ids": sorted(loaded.all_special_ids),
            "multi": [asdict(one) for one in dataset.multi],
        }
        self._click = click_text_of(dataset, loaded, config.plm)
        self._history = history_of(dataset, config.plm)
        if self._history is not None:
            segments = self._encoder.segments(
                self._history.field, sampled_texts(dataset, self._history.field)
            )
            self._history = with_tokens(self._history, dataset, self._encoder, segments)
            self._item_texts = ItemTexts(dataset, self._history)
        self._item_fields = item_mask(config, dataset.field_names)

    def batches(
        self,
        columns: dict[str, np.ndarray],
        distinct: Sequence[pa.Array],
        codes: list[np.ndarray],
        items: np.ndarray | None,
        batch_size: int,
    ) -> list[Batch]:
        """`codes`: [B] per field, or [B, M], places in its `distinct` values [V] (`_encoded`); items [B, N]:
        ids of the rows' histories, None without.
        """
        further = {one.field: one.columns for one in self._layout.multi}
        parts, sizes, own = [], [], {}
        for field, (column, values, places) in enumerate(
            zip(self._layout.columns, distinct, codes, strict=True)
        ):
            names = [column, *further.get(field, ())]
            of_row = places.reshape(len(places), len(names))
            # 0 says that there is no further value
            used = np.union1d(of_row, [0]) if field in further else np.unique(of_row)
            if self._history is not None and field == self._history.field:
                assert items is not None
                values, named = self._item_texts.beside(values, items)
                used = np.union1d(used, np.append(named, 0))  # which says that there is no item
                own |= dict(zip(history_columns(named.shape[1]), np.searchsorted(used, named).T, strict=True))
            own |= dict(zip(names, np.searchsorted(used, of_row).T, strict=True))
            parts.append(self._encoder.segments(field, values.take(pa.array(used)).to_pylist()))
            sizes.append(len(used))
        longest = (
            sum(
                int(part.lengths.max()) * (1 + len(further.get(field, ())))
                for field, part in enumerate(parts)
            )
            + len(self._meta["prefix"])
            + len(self._meta["suffix"])
        )
        offsets = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *(part.lengths for part in parts)]))
        tokens, spans = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "value_spans")
        )
        table = TokenTable(
            "",
            {**self._meta, "field_sizes": sizes, "max_length": longest},
            tokens,
            offsets,
            spans,
            self._click,
            # The chunk's ids are the field's own
            history=self._history and replace(self._history, of_item=None),
        )
        collator = Collator(self._layout, table, max_length=self._max_length, item_fields=self._item_fields)
        return collator.micro_batches(columns | own, batch_size)


def score_names(tasks: Sequence[str]) -> list[str]:
    """Return the names of what a row is answered: of the click, then of each further label."""
    suffixes = ["", *(f"_{task}" for task in tasks)]
    return [f"{what}{suffix}" for suffix in suffixes for what in ("logit", "probability")]


def score_columns(logits: np.ndarray) -> list[np.ndarray]:
    """Return the columns of `score_names`, [B] each: logits [B] or [B, 1 + T]."""
    probabilities = torch.from_numpy(logits).double().sigmoid().float().numpy()
    of_tasks = zip(np.atleast_2d(logits.T), np.atleast_2d(probabilities.T), strict=True)
    return [np.ascontiguousarray(column) for both in of_tasks for column in both]


def _to_explode(rule: Explode | None, table: pa.Table) -> Explode | None:
    """Return the rule for those of its columns that the table has (new rows have no clicks); None if the rows
    are exploded already, which lists tell, or for texts that all columns are there.
    """
    there = tuple(name for name in rule.columns if name in table.column_names) if rule else ()
    if rule is None or not there:
        return None
    if rule.separator is not None:
        return rule if there == rule.columns else None
    columns = [table.column(name) for name in there]
    listed = any(pa.types.is_list(column.type) for column in columns)
    listed = listed or all(column.null_count == len(table) for column in columns)
    return rule.model_copy(update={"columns": there}) if listed else None


def score_part(scorer: RawRowScorer, part: FilePart, keep: Sequence[str], uri: str) -> tuple[int, list[int]]:
    """Write a part's predictions to the Parquet file `uri`, whole or not at all. Return its rows, and how
    many of each field are known.

    Columns: file, row (in the file, counted from 0; the rows that one row is exploded into share it), those
    of `keep` as text, logit (of Eq. 9 or 10), probability; logit_<name> and probability_<name> of further
    labels.
    """
    kept = [pa.field(name, pa.string()) for name in keep]
    scores = [pa.field(name, pa.float32()) for name in score_names(scorer.tasks)]
    schema = pa.schema([pa.field("file", pa.string()), pa.field("row", pa.int64()), *kept, *scores])
    known = np.zeros(len(scorer.transform.rules), dtype=np.int64)
    scored = 0
    with storage.open_output(uri) as stream, pq.ParquetWriter(stream, schema) as writer:
        first = 0
        transform, how = scorer.transform, file_format(scorer.transform.options)
        columns = list(dict.fromkeys([*transform.file_columns(known_columns(part.file, how)), *keep]))
        for table in read_rows(part, columns, how):
            rows, origin = table, np.arange(len(table))
            try:
                if (rule := _to_explode(transform.explode, table)) is not None:
                    rows, origin = exploded(table, rule, labelled=False)
                logits, transformed = scorer.score(rows, nulls_of(part))
                texts = [as_text(rows.column(name).combine_chunks()) for name in keep]
            except BadValue as error:
                raise DataError(f"{part.place(first + int(origin[error.index]))}: {error}") from error
            files = pa.repeat(pa.scalar(part.uri), len(rows))
            written = [
                files,
                pa.array(part.first_row + first + origin),
                *texts,
                *(pa.array(column) for column in score_columns(logits)),
            ]
            writer.write_table(pa.table(written, schema=schema))
            known += transformed.known()
            scored += len(rows)
            first += len(table)
    return scored, known.tolist()

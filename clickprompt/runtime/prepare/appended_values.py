"""Vocabularies, ids and histories of rows that are appended to a prepared dataset: what the dataset has stays
as it is, and what the new rows bring follows (append.py).
"""

# pyarrow.compute creates its functions when it is imported, so pyright doesn't see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.config import Multi
from clickprompt.data.prepared import staging
from clickprompt.data.prepared.dataset import SPLITS, Dataset
from clickprompt.data.prepared.partitions import IdPart, ids_of
from clickprompt.data.prepared.staging import log_column
from clickprompt.data.sources.raw import Source, log_column_of
from clickprompt.runtime.prepare.coded_log import CodedLog
from clickprompt.runtime.prepare.column_tasks import (
    CountedRows,
    KeptValues,
    ids_file,
    rows_per_value,
    values_of,
    write_ids,
)
from clickprompt.runtime.prepare.fan_out import FanOut
from clickprompt.runtime.prepare.histories import Histories, buckets_for, write_before
from clickprompt.runtime.prepare.multi_values import codes_of_log, count_values, kept_values, write_value_ids
from clickprompt.runtime.prepare.vocabulary import FieldValues, Ids, chosen_codes

__all__ = ["extended_vocabulary", "histories_continued"]


def extended_vocabulary(
    work: FanOut,
    dataset: Dataset,
    source: Source,
    tables: Mapping[str, pa.Table],
    counted: CountedRows,
    stage: str,
) -> tuple[list[FieldValues], Ids]:
    """Give ids to the codes of the new rows: the old values keep theirs, and new ones follow."""
    of_fields = []
    for number, name in enumerate(source.fields):
        key = log_column_of(name, tables)
        of_fields.append(_Field(dataset, source, number, key, tables.get(key), counted, stage))
    ids: Ids = {column.name: {} for column in counted.columns}
    fields = []
    made = work.each(_extended, [(of_field,) for of_field in of_fields], "counting values")
    for of_field, (field, parts) in zip(of_fields, made, strict=True):
        further = of_field.multi.columns if of_field.multi else []
        columns = [dataset.columns[of_field.number], *further]
        ids[of_field.key] |= dict(zip(columns, parts, strict=True))
        fields.append(field)
    return fields, ids


@dataclass(frozen=True)
class _Field:
    """One field of the dataset and the new rows' codes of its log column."""

    dataset: Dataset
    source: Source
    number: int
    key: str
    """the log column"""
    table: pa.Table | None
    """the one that the column joins, if any"""
    counted: CountedRows
    stage: str

    @property
    def name(self) -> str:
        return self.dataset.field_names[self.number]

    @property
    def least(self) -> int:
        """Return how many training rows a new value needs."""
        return self.source.min_count(self.name)

    @property
    def multi(self) -> Multi | None:
        return next((one for one in self.dataset.multi if one.field == self.number), None)


def _extended(field: _Field) -> tuple[FieldValues, list[list[IdPart]]]:
    """Give ids to the codes of the field's log column, new values in the order of the codes. Also return the
    files with the ids, of each place among a row's values. Unlike a task of `prepare` it holds all of the
    field's values.
    """
    old, entry = field.dataset.vocabulary(field.number), field.dataset.manifest["fields"][field.number]
    kept, parts = _single(field, old) if field.multi is None else _several(field, field.multi.most, old)
    with_missing = entry["features"] >= entry["size"] or bool(kept.missing.any())
    facts = {"features": kept.values + with_missing}
    if field.least > 1:
        facts["min_count"] = field.least
    return FieldValues(field.name, [kept], facts), parts


def _single(field: _Field, old: pa.Table) -> tuple[KeptValues, list[list[IdPart]]]:
    counted, table, stage = field.counted, field.table, field.stage
    if table is None:
        coded = counted.column(field.key)
        pieces = [values_of(coded, partition, stage) for partition in range(coded.partitions)]
        column, rows = pa.concat_arrays(pieces), counted.of_column(field.key)
    else:
        column = table.column(field.name).combine_chunks()
        rows = counted.of_column(field.key, len(table))
    chosen = chosen_codes(field.source, rows, table)
    found, value, per_value = rows_per_value(column, chosen, rows)
    train, missing = per_value[0, :-1], per_value[:, -1]
    known = old.column("value").slice(1).combine_chunks()
    ids = _known(found, known)
    new = ids == 0
    if field.least > 1:
        new &= train >= field.least
    ids[new] = len(old) + np.arange(int(new.sum()))
    ids = np.append(ids, 0).astype(np.int32)
    values = pa.concat_arrays([known, found.filter(pa.array(new))])
    train_count = np.bincount(ids, weights=per_value[0], minlength=len(values) + 1).astype(np.int64)
    train_count[: len(old)] += old.column("train_count").to_numpy()
    # A code that no row has may be in the histories that a log brings
    of_codes = _known(column, known).astype(np.int32)
    of_codes[chosen] = ids[value]
    kept = KeptValues(
        *write_ids(values, train_count[1:], of_codes, stage, field.number),
        first_code=0,
        values=len(values),
        unknown=int(train_count[0]),
        null=bool(missing.any()),
        missing=missing,
        unseen=np.zeros_like(missing),
    )
    return kept, [[IdPart(ids_file(stage, field.number), 0, 0)]]


def _known(values: pa.Array, known: pa.Array) -> np.ndarray:
    """Return the ids of values among the known ones, 0 for others."""
    return pc.index_in(values, value_set=known).fill_null(-1).to_numpy() + 1


def _several(field: _Field, most: int, old: pa.Table) -> tuple[KeptValues, list[list[IdPart]]]:
    """Do the same for a field of which rows have several values."""
    counted, table, stage, number = field.counted, field.table, field.stage, field.number
    if table is None:
        starts = counted.column(field.key).starts[:-1]
        codes = [codes_of_log(field.key, place, counted, stage) for place in range(len(starts))]
    else:
        starts, rows = (0,), counted.of_column(field.key, len(table))
        column = table.column(field.name).combine_chunks()
        codes = [(column, chosen_codes(field.source, rows, table), rows)]
    counts = count_values(codes, field.least, stage, number, old.slice(1))
    facts = [
        write_value_ids(of_part, most, stage, number, place, start)
        for place, (of_part, start) in enumerate(zip(codes, starts, strict=True))
    ]
    of_places = [list(parts) for parts in zip(*(one.ids for one in facts), strict=True)]
    kept = kept_values(counts, facts, stage, number)
    return replace(kept, unknown=kept.unknown + old.column("train_count")[0].as_py()), of_places


def histories_continued(
    work: FanOut,
    dataset: Dataset,
    tables: Mapping[str, pa.Table],
    log: CodedLog,
    ids: Ids,
    stage: str,
) -> Histories | None:
    """Give the new rows the histories that all rows together would have given them; None if the dataset has
    none. An earlier row's value that had no id has none in a history, either.
    """
    history, names = dataset.history, dataset.field_names
    if history is None:
        return None
    numbers = [history.field, *history.fields]
    fields = tuple((log_column_of(names[one], tables), dataset.columns[one]) for one in numbers)
    histories = Histories((), tuple(log.files), history, fields, numbered=True)
    events = dataset.manifest["history"]["events"]
    if events == "column":  # the log brings them
        return replace(histories, numbered=False)
    user = names.index(dataset.manifest["roles"]["user"])
    columns = {dataset.columns[user]: log_column_of(names[user], tables)}
    columns |= {column: key for key, column in fields}
    buckets = buckets_for(log.rows + sum(dataset.counts.values()), history)
    calls = (
        (dataset, log.files, columns, ids, histories, events, bucket, buckets, stage)
        for bucket in range(buckets)
    )
    parts = work.each(_of_users, calls, "finding what users did before")
    return replace(histories, parts=tuple(parts))


def _of_users(
    dataset: Dataset,
    files: list[str],
    columns: dict[str, str],
    ids: Ids,
    histories: Histories,
    events: str,
    bucket: int,
    buckets: int,
    stage: str,
) -> str:
    """Write the histories of the new rows of one bucket's users; return where.

    columns: field column → log column, of the user and of what histories have.
    """
    given = ["timestamp", "row_id", "label", *(["group"] if dataset.grouped else [])]
    names = [*columns, *given]
    keys = [*dict.fromkeys(map(log_column, columns.values()))]
    found: list[list[Any]] = []
    for file in files:
        codes = dict(zip(keys, staging.read_columns(file, *keys), strict=True))
        of_file = [ids_of(codes[log_column(key)], ids[key][column]) for column, key in columns.items()]
        of_file += staging.read_columns(file, *given)
        mine = of_file[0] % buckets == bucket
        found.append([column[mine] for column in of_file])
    users = np.unique(np.concatenate([of_file[0] for of_file in found]))
    for split in SPLITS:
        for table in dataset.shard_tables(split, names):
            earlier = [table.column(name).to_numpy() for name in names]
            mine = np.isin(earlier[0], users)
            found.append([column[mine] for column in earlier])
    to = f"{stage}/histories/{bucket:06d}.arrow"
    write_before(found, names, histories.by_field, histories, events, to, nobody=0, none=0, files=len(files))
    return to

"""Vocabularies, ids and histories of rows that are appended to a prepared dataset: what the dataset has stays
as it is, and what the new rows bring follows (append.py).
"""

# pyarrow.compute creates its functions when it is imported, so pyright doesn't see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    calls = []
    for number, name in enumerate(source.fields):
        key = log_column_of(name, tables)
        calls.append((dataset, source, number, key, tables.get(key), counted, stage))
    ids: Ids = {column.name: {} for column in counted.columns}
    fields = []
    for call, (field, parts) in zip(calls, work.each(_extended, calls, "counting values"), strict=True):
        number, key = call[2:4]
        several = [one.columns for one in dataset.multi if one.field == number]
        columns = [dataset.columns[number], *(several[0] if several else [])]
        ids[key] |= dict(zip(columns, parts, strict=True))
        fields.append(field)
    return fields, ids


def _extended(
    dataset: Dataset,
    source: Source,
    number: int,
    key: str,
    table: pa.Table | None,
    counted: CountedRows,
    stage: str,
) -> tuple[FieldValues, list[list[IdPart]]]:
    """Give ids to the codes of the log column `key` for one field, new values in the order of the codes. Also
    return the files with the ids, of each place among a row's values. Unlike a task of `prepare` it holds all
    of the field's values.

    table: the one that `key` joins, if any.
    """
    name = dataset.field_names[number]
    least, old, entry = source.min_count(name), dataset.vocabulary(number), dataset.manifest["fields"][number]
    most = next((one.most for one in dataset.multi if one.field == number), None)
    if most is not None:
        kept, parts = _several(dataset, source, number, key, table, counted, stage, least, most)
        kept = replace(kept, unknown=kept.unknown + old.column("train_count")[0].as_py())
    else:
        kept, parts = _single(source, number, name, key, table, counted, stage, least, old)
    with_missing = entry["features"] >= entry["size"] or bool(kept.missing.any())
    facts = {"features": kept.values + with_missing} | ({"min_count": least} if least > 1 else {})
    return FieldValues(name, [kept], facts), parts


def _single(
    source: Source,
    number: int,
    name: str,
    key: str,
    table: pa.Table | None,
    counted: CountedRows,
    stage: str,
    least: int,
    old: pa.Table,
) -> tuple[KeptValues, list[list[IdPart]]]:
    if table is None:
        coded = counted.column(key)
        pieces = [values_of(coded, partition, stage) for partition in range(coded.partitions)]
        column, rows = pa.concat_arrays(pieces), counted.of_column(key)
    else:
        column, rows = table.column(name).combine_chunks(), counted.of_column(key, len(table))
    chosen = chosen_codes(source, rows, table)
    found, value, per_value = rows_per_value(column, chosen, rows)
    train, missing = per_value[0, :-1], per_value[:, -1]
    known = old.column("value").slice(1).combine_chunks()
    ids = _known(found, known)
    new = ids == 0
    if least > 1:
        new &= train >= least
    ids[new] = len(old) + np.arange(int(new.sum()))
    ids = np.append(ids, 0).astype(np.int32)
    values = pa.concat_arrays([known, found.filter(pa.array(new))])
    train_count = np.bincount(ids, weights=per_value[0], minlength=len(values) + 1).astype(np.int64)
    train_count[: len(old)] += old.column("train_count").to_numpy()
    # A code that no row has may be in the histories that a log brings
    of_codes = _known(column, known).astype(np.int32)
    of_codes[chosen] = ids[value]
    kept = KeptValues(
        *write_ids(values, train_count[1:], of_codes, stage, number),
        first_code=0,
        values=len(values),
        unknown=int(train_count[0]),
        null=bool(missing.any()),
        missing=missing,
        unseen=np.zeros_like(missing),
    )
    return kept, [[IdPart(ids_file(stage, number), 0, 0)]]


def _known(values: pa.Array, known: pa.Array) -> np.ndarray:
    """Return the ids of values among the known ones, 0 for others."""
    return pc.index_in(values, value_set=known).fill_null(-1).to_numpy() + 1


def _several(
    dataset: Dataset,
    source: Source,
    number: int,
    key: str,
    table: pa.Table | None,
    counted: CountedRows,
    stage: str,
    least: int,
    most: int,
) -> tuple[KeptValues, list[list[IdPart]]]:
    """Do the same for a field of which rows have several values."""
    if table is None:
        starts = counted.column(key).starts[:-1]
        codes = [codes_of_log(key, place, counted, stage) for place in range(len(starts))]
    else:
        starts, rows = (0,), counted.of_column(key, len(table))
        column = table.column(dataset.field_names[number]).combine_chunks()
        codes = [(column, chosen_codes(source, rows, table), rows)]
    counts = count_values(codes, least, stage, number, dataset.vocabulary(number).slice(1))
    facts = [
        write_value_ids(of_part, most, stage, number, place, start)
        for place, (of_part, start) in enumerate(zip(codes, starts, strict=True))
    ]
    of_places = [list(parts) for parts in zip(*(one.ids for one in facts), strict=True)]
    return kept_values(counts, facts, stage, number), of_places


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

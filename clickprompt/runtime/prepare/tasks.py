"""The tasks of `prepare`: each handles one file of the log, one column's values or one shard.

prepare.py has them run (fan_out.py). A task that runs a second time, because its worker died, writes the same
again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.config import label_columns, number_columns
from clickprompt.data.keyed_random import random_bits, random_uniform
from clickprompt.data.prepared import staging
from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.data.prepared.partitions import Coded, IdPart, ids_of
from clickprompt.data.prepared.schemas import shard_schema
from clickprompt.data.prepared.staging import log_column
from clickprompt.data.sources.raw import Findings, LogRows, RawPart, Source
from clickprompt.data.transform.history_ids import HISTORY
from clickprompt.data.transform.row_transform import with_nulls
from clickprompt.data.transform.standard import Scale, standardised
from clickprompt.errors import DataError
from clickprompt.runtime.prepare.column_tasks import codes_in_file
from clickprompt.runtime.prepare.histories import Histories, own_codes, own_histories, with_history
from clickprompt.runtime.prepare.parquet_files import write_parquet

__all__ = ["BINS", "SPAN", "Ordering", "Parsed", "Stats"]

BINS = 1 << 16
SPAN = 1 << 61  # room for one split's sort keys in an int64
# Streams that make these hashes independent of each other and of other uses of the keyed generator with the
# same seed
_ORDER, _SPLIT, _USERS, _NEGATIVES = 1, 8, 9, 15
_OF_ROWS = ("group", "importance")  # columns that some logs have
_LONGEST_VALUE = 1 << 16  # bytes; anything longer is a mistake in the file, not a feature value

Stats = tuple[int, int, int, int, int]
"""of a coded file: rows, clicks, smallest and largest split key, last row_id"""

Counts = tuple[np.ndarray, np.ndarray]
"""the codes that occur, and the rows of each"""

Ordering = tuple[list[tuple[int, int]], int, int]
"""(split_key, row_id) where valid and test begin; the smallest split_key; the seed"""


@dataclass(frozen=True)
class Parsed:
    """A parsed file: its place, its part of the log, and the row_id of the part's first row."""

    uri: str
    part: RawPart
    first_row_id: int


def read_part(source: Source, part: RawPart, prefix: str) -> tuple[int, int, list[str], Findings]:
    """Read a part; return the numbers of rows read and kept by the label rule, the kept rows' files, and
    findings.
    """
    rows, kept, files, findings = 0, 0, [], Findings()
    for piece in source.read_part(part):
        findings.merge(piece.findings)
        labelled = as_table(piece, rows).filter(piece.label.is_valid())
        rows += len(piece)
        kept += len(labelled)
        if len(labelled):
            files.append(f"{prefix}-{len(files):04d}.arrow")
            encoded = staging.as_dictionaries(labelled, [log_column(name) for name in piece.values])
            _refuse_huge_values(part, encoded, list(piece.values))
            if source.history_column:
                encoded = own_histories(encoded, source.item, source.history_column.length)
            staging.write_rows(files[-1], encoded)
    return rows, kept, files, findings


def as_table(rows: LogRows, first: int) -> pa.Table:
    """Return the rows as they are staged, numbered from `first`."""
    numbers = pa.array(np.arange(first, first + len(rows), dtype=np.int64))
    values = {log_column(name): with_nulls(column) for name, column in rows.values.items()}
    given = {name: column for name in _OF_ROWS if (column := getattr(rows, name)) is not None}
    history = {} if rows.history is None else {HISTORY: rows.history}
    more = {**given, **rows.numbers, **rows.labels, **values, **history}
    return pa.table({"row_id": numbers, "label": rows.label, "timestamp": rows.timestamp, **more})


def _refuse_huge_values(part: RawPart, rows: pa.Table, names: list[str]) -> None:
    for name in names:
        values = rows.column(log_column(name)).chunk(0)
        sizes = np.diff(
            np.frombuffer(values.dictionary.buffers()[1], dtype=np.int32, count=len(values.dictionary) + 1)
        )
        if sizes.max(initial=0) > _LONGEST_VALUE:
            index = int(
                np.argmax(
                    np.append(sizes, 0)[values.indices.fill_null(len(sizes)).to_numpy()] > _LONGEST_VALUE
                )
            )
            place = part.place(rows.column("row_id")[index].as_py())
            size = sizes[values.indices[index].as_py()]
            raise DataError(
                f"{place}: {name} has a value of {size:,} bytes; at most {_LONGEST_VALUE:,}; shorten it or "
                "leave the row out"
            )


def encode_file(
    source: Source,
    number: int,
    file: Parsed,
    columns: Sequence[Coded],
    options: dict[str, Any],
    stage: str,
    to: str,
) -> tuple[Stats | None, int]:
    """Write a file's rows as codes; return its statistics, and how many rows have a key that is in no table.

    number: the file's.
    """
    rows = staging.read_rows(file.uri)
    maps = {column.name: codes_in_file(column, rows, number, stage) for column in columns}
    codes = staging.codes_of(rows, maps)
    matched = np.logical_and.reduce([column >= 0 for column in codes.values()])
    unmatched = int(len(matched) - matched.sum())
    if source.joins == "all" and unmatched:
        index = int(np.argmin(matched))
        name = next(name for name in codes if codes[name][index] < 0)
        place = file.part.place(rows.column("row_id")[index].as_py())
        value = rows.column(log_column(name))[index].as_py()
        raise DataError(
            f"{place}: {name} {value!r} is not in the source's {name} table; get the raw files again"
        )
    if source.joins == "left":  # an unmatched row gets the code after the table's last, which has no values
        ends = {column.name: np.int32(len(column)) for column in columns}
        codes = {name: np.where(code < 0, ends[name], code) for name, code in codes.items()}
        matched[:] = True
    row_id = rows.column("row_id").to_numpy() + file.first_row_id
    hashed = row_id
    if source.grouped:  # a request isn't torn; rows of none are by themselves
        group = rows.column("group").to_numpy()
        hashed = np.where(group == -1, row_id, group)
    key = (
        _hash(_SPLIT, options["seed"], hashed)
        if options["split"] == "hash"
        else rows.column("timestamp").to_numpy()
    )
    given = {name: rows.column(name) for name in ("label", "timestamp")}
    table = pa.table({"row_id": row_id, **given, "split_key": key})
    for name in (*_OF_ROWS, *number_columns(source.learned), *label_columns(source.labels)):
        if name in rows.column_names:
            table = table.append_column(name, rows.column(name))
    for name, code in codes.items():
        table = table.append_column(log_column(name), pa.array(code))
    if source.history_column:
        for name, code in own_codes(rows, maps[source.item]).items():
            table = table.append_column(name, pa.array(code))
    return _write_coded(to, table.filter(pa.array(matched))), unmatched


def _write_coded(uri: str, table: pa.Table) -> Stats | None:
    """Write the table; return its statistics, or None if it has no rows and nothing was written."""
    if not len(table):
        return None
    staging.write_rows(uri, table)
    key = table.column("split_key").to_numpy()
    clicks = int(table.column("label").to_numpy().sum(dtype=np.int64))
    return len(table), clicks, int(key.min()), int(key.max()), int(table.column("row_id")[-1].as_py())


def of_sampled_users(file: str, user: str, share: float, seed: int) -> Stats | None:
    rows = staging.read_rows(file)
    return _write_coded(
        file,
        rows.filter(pa.array(random_uniform(_USERS, seed, rows.column(log_column(user)).to_numpy()) < share)),
    )


def of_sampled_negatives(file: str, ordering: Ordering, share: float) -> Stats | None:
    """Keep a share of the training rows without a click, and all other rows."""
    rows = staging.read_rows(file)
    key, row_id, label = (rows.column(name).to_numpy() for name in ("split_key", "row_id", "label"))
    kept = (split_numbers(key, row_id, ordering) > 0) | (label > 0)
    kept |= random_uniform(_NEGATIVES, ordering[2], row_id) < share
    return _write_coded(file, rows.filter(pa.array(kept)))


def repeats(source: Source, files: list[str], bucket: int, buckets: int) -> np.ndarray:
    """Return the row_ids to drop among the users of one bucket."""
    columns = []
    for file in files:
        found = staging.read_columns(
            file, log_column(source.user), log_column(source.item), "timestamp", "row_id"
        )
        columns.append([column[found[0] % buckets == bucket] for column in found])
    user, item, timestamp, row_id = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.lexsort((row_id, timestamp, item, user))
    again = (user[order][:-1] == user[order][1:]) & (item[order][:-1] == item[order][1:])
    return row_id[order][:-1][again]


def without(file: str, dropped: np.ndarray) -> Stats | None:
    rows = staging.read_rows(file)
    return _write_coded(file, rows.filter(pa.array(~np.isin(rows.column("row_id").to_numpy(), dropped))))


def counts(file: str, user: str, item: str, keep: list[np.ndarray] | None) -> list[Counts]:
    """Count the rows per code of the user and item columns, among rows where both are kept; a file has few of
    all codes.
    """
    columns = staging.read_columns(file, log_column(user), log_column(item))
    if keep is not None:
        both = keep[0][columns[0]] & keep[1][columns[1]]
        columns = [column[both] for column in columns]
    return [np.unique(column, return_counts=True) for column in columns]


def within(file: str, user: str, item: str, keep: list[np.ndarray]) -> Stats | None:
    rows = staging.read_rows(file)
    users, items = (rows.column(log_column(name)).to_numpy() for name in (user, item))
    return _write_coded(file, rows.filter(pa.array(keep[0][users] & keep[1][items])))


def _hash(stream: int, seed: int, row_ids: np.ndarray) -> np.ndarray:
    """Return a hash per row, int64 below SPAN."""
    return (random_bits(stream, seed, row_ids) % np.uint64(SPAN)).astype(np.int64)


def histogram(file: str, column: str, low: int, width: int, key: int | None) -> list[np.ndarray]:
    """Count rows per bin of `width` from `low` on; with `key`, only rows of that split_key."""
    values, keys = staging.read_columns(file, column, "split_key")
    if key is not None:
        values = values[keys == key]
    return [bin_counts(values, low, width)]


def bin_counts(values: np.ndarray, low: int, width: int) -> np.ndarray:
    bins = (values - low) // width
    return np.bincount(bins[(values >= low) & (bins < BINS)], minlength=BINS)


def split_numbers(key: np.ndarray, row_id: np.ndarray, ordering: Ordering) -> np.ndarray:
    """Return each row's split, int64: 0 train, 1 valid, 2 test."""
    split = np.zeros(len(key), dtype=np.int64)
    for start_key, start_row in ordering[0]:
        split += (key > start_key) | ((key == start_key) & (row_id >= start_row))
    return split


def _order(columns: Sequence[np.ndarray], ordering: Ordering) -> np.ndarray:
    """Return each row's sort key as one int64: (split, hash of the row) for training rows, (split, split_key)
    for the others.

    columns: split_key, row_id.
    """
    (key, row_id), (_, first_key, seed) = columns, ordering
    split = split_numbers(key, row_id, ordering)
    return split * SPAN + np.where(split == 0, _hash(_ORDER, seed, row_id), key - first_key)


def count_rows(file: str, columns: Sequence[Coded], ordering: Ordering, to: str) -> str:
    """Write a coded file's rows of each pair of code and split that occurs; return where.

    Only pairs that occur are written, because a file has few of a large column's codes.
    """
    key, row_id, *codes = staging.read_columns(
        file, "split_key", "row_id", *(log_column(column.name) for column in columns)
    )
    split = split_numbers(key, row_id, ordering)
    batches = []
    for column, of_rows in zip(columns, codes, strict=True):
        pairs, rows = np.unique(of_rows.astype(np.int64) * len(SPLITS) + split, return_counts=True)
        bounds = np.searchsorted(pairs, np.array(column.starts[1:-1], dtype=np.int64) * len(SPLITS))
        batches += zip(np.split(pairs, bounds), np.split(rows, bounds), strict=True)
    staging.write_columns(to, ["pair", "rows"], batches)
    return to


def order_histograms(file: str, ordering: Ordering, lows: list[int], widths: list[int]) -> list[np.ndarray]:
    order = _order(staging.read_columns(file, "split_key", "row_id"), ordering)
    return [bin_counts(order, low, width) for low, width in zip(lows, widths, strict=True)]


def cut(
    file: str,
    number: int,
    ordering: Ordering,
    boundaries: list[int],
    histories: Histories | None,
    to: str,
) -> str:
    """Rewrite the file's rows with one record batch per shard; shard i begins at boundaries[i].

    number: the file's.
    """
    rows = staging.read_rows(file)
    if histories is not None:
        rows = with_history(rows, number, histories)
    order = _order([rows.column(name).to_numpy() for name in ("split_key", "row_id")], ordering)
    sorting = np.argsort(order, kind="stable")
    [batch] = (
        rows.drop_columns(["split_key"])
        .append_column("order", pa.array(order))
        .take(pa.array(sorting))
        .combine_chunks()
        .to_batches()
    )
    ends = [*np.searchsorted(order[sorting], boundaries[1:]).tolist(), len(batch)]
    pieces = [batch.slice(start, stop - start) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]
    staging.write_batches(to, batch.schema, pieces)
    return to


def write_shard(
    pieces: list[str],
    index: int,
    file: str,
    uri: str,
    ids: dict[str, dict[str, Sequence[IdPart]]],
    columns: list[str],
    row_group_rows: int,
    histories: Histories | None = None,
    scales: Mapping[int, Scale] | None = None,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Assemble, encode and write one shard. Returns its manifest entry and what the driver merges.

    scales: of the fields with learned numbers; labels: the names of further ones.
    """
    block = pa.Table.from_batches([staging.read_batch(piece, index) for piece in pieces]).combine_chunks()
    block = block.take(
        pa.array(np.lexsort((block.column("row_id").to_numpy(), block.column("order").to_numpy())))
    )
    encoded = {
        column: ids_of(block.column(log_column(key)).to_numpy(), parts)
        for key, by_column in ids.items()
        for column, parts in by_column.items()
    }
    history = histories.history.columns if histories is not None else []
    if histories is not None:
        encoded |= histories.encoded(block, ids)
    for name, scale in zip(number_columns([*scales]), scales.values(), strict=True) if scales else ():
        encoded[name] = standardised(block.column(name).combine_chunks(), scale)
    weighted = "importance" in block.column_names
    grouped, numbers = "group" in block.column_names, [*(scales or ())]
    schema = shard_schema(columns, grouped, history, weighted, numbers, labels)
    table = pa.table(
        {name: encoded[name] if name in encoded else block.column(name) for name in schema.names},
        schema=schema,
    )
    timestamps = block.column("timestamp").to_numpy()
    keys = [
        (block.column("order")[row].as_py(), block.column("row_id")[row].as_py())
        for row in (0, len(block) - 1)
    ]
    full, rest = divmod(len(table), row_group_rows)
    entry = {"rows": len(table), "row_groups": [row_group_rows] * full + [rest] * (rest > 0)}
    return {
        "entry": entry | write_parquet(uri, file, table, row_group_rows),
        "keys": keys,
        "clicks": int(block.column("label").to_numpy().sum(dtype=np.int64)),
        "weights": _weight_sums(block) if weighted else None,
        "labels": [_label_counts(block.column(name).to_numpy()) for name in label_columns(labels)],
        "bounds": (int(timestamps.min()), int(timestamps.max())),
    }


def _weight_sums(rows: pa.Table) -> list[float]:
    """Return the weight of all rows, and of those with a click."""
    weights = rows.column("importance").to_numpy().astype(np.float64)
    return [float(weights.sum()), float(weights @ rows.column("label").to_numpy())]


def _label_counts(column: np.ndarray) -> list[int]:
    """Return the rows of which a label is known, and those of them where it is positive."""
    return [int((column >= 0).sum()), int((column > 0).sum())]

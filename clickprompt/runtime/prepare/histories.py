"""Give every row of the coded log what its user did before (data/prepared/history.py).

A task finds the histories of one share of the users, reading four columns of all coded files, and writes a
record batch for each file. So no task holds more than its users' rows, and a file finds its own again.

A log's own histories (data/transform/history_lists.py) have their items' codes from the beginning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.config import MOST_HISTORY, history_columns
from clickprompt.data.prepared import staging
from clickprompt.data.prepared.dataset import field_columns
from clickprompt.data.prepared.history import EVENTS, items_before
from clickprompt.data.prepared.partitions import Coded, IdPart, ids_of
from clickprompt.data.prepared.staging import log_column
from clickprompt.data.sources.raw import Source, log_column_of
from clickprompt.data.transform.multi import in_places
from clickprompt.data.transform.row_transform import HISTORY
from clickprompt.errors import InputError
from clickprompt.runtime.prepare.fan_out import FanOut

__all__ = ["Histories", "check_history", "find_histories", "own_codes", "own_histories", "with_history"]

_ROWS_PER_BUCKET = 1 << 19  # rows whose histories one task holds: 40 MB for 20 items each


@dataclass(frozen=True)
class Histories:
    """Where the histories of a coded log are."""

    parts: tuple[str, ...]
    """files of the users' shares: record batch i belongs to the log's file i; none for a log's own"""
    files: tuple[str, ...]
    """the log's"""
    length: int
    item: tuple[str, str]
    """log column and field column of the items"""

    def encoded(
        self, block: pa.Table, ids: Mapping[str, Mapping[str, Sequence[IdPart]]]
    ) -> dict[str, np.ndarray]:
        """Return the columns' ids, [rows] int32 each: 0 for no item, or one that has no id."""
        key, column = self.item
        found = {}
        for name in history_columns(self.length):
            codes = block.column(name).to_numpy()
            found[name] = np.where(codes < 0, 0, ids_of(np.maximum(codes, 0), ids[key][column]))
        return found


def check_history(source: Source, length: int, events: str) -> None:
    """Raise InputError for histories that this log can't have."""
    if not 1 <= length <= MOST_HISTORY:
        raise InputError(f"history={length}: give a number of rows from 1 to {MOST_HISTORY}, or leave it out")
    if source.history_of == "column" and events != "column":
        raise InputError(
            f"history_of={events!r}: {source.name} has a column of histories, which is taken; leave it out"
        )
    if events not in (*EVENTS, source.history_of):
        raise InputError(f"history_of={events!r} is unknown; known: {', '.join(EVENTS)}")
    if any(rule.column == HISTORY for rule in source.rules()):
        raise InputError(f"history={length}: a field's column is called {HISTORY}, too; rename the column")
    for role, field in (("user", source.roles()["user"]), ("item", source.roles()["item"])):
        if field not in source.fields:
            raise InputError(
                f"history={length}: no field is the {role}'s; name its column as {role} in the schema, and "
                "make it a field"
            )


def find_histories(
    work: FanOut,
    source: Source,
    tables: Mapping[str, pa.Table],
    files: list[str],
    columns: Sequence[Coded],
    rows: int,
    options: dict[str, Any],
    stage: str,
) -> Histories | None:
    """Find the histories that the options ask for; None if they don't."""
    if "history" not in options and source.history_column is None:
        return None
    roles = source.roles()
    user, item = (log_column_of(str(roles[role]), tables) for role in ("user", "item"))
    item_column = field_columns(source.fields)[source.fields.index(str(roles["item"]))]
    if source.history_column is not None:
        return Histories((), tuple(files), source.history_column.length, (item, item_column))
    # Rows without a user are of many users, so they have no history
    [coded] = [column for column in columns if column.name == user]
    nobody = len(coded) if coded.in_table else 0
    buckets = -(-rows // _ROWS_PER_BUCKET)
    read = [log_column(user), "timestamp", "row_id", log_column(item), "label"]
    read += ["group"] if source.grouped else []
    parts = work.each(
        _of_users,
        (
            (files, read, nobody, options["history"], options["history_of"], bucket, buckets, stage)
            for bucket in range(buckets)
        ),
        "finding what users did before",
    )
    return Histories(tuple(parts), tuple(files), options["history"], (item, item_column))


def with_history(rows: pa.Table, number: int, histories: Histories) -> pa.Table:
    """Add the codes of their histories to the rows of coded file `number`, if they don't have them yet."""
    if not histories.parts:
        return rows
    parts = [staging.read_batch(part, number) for part in histories.parts]
    found = pa.Table.from_batches(parts).combine_chunks()
    order = np.argsort(found.column("row_id").to_numpy(), kind="stable")
    places = order[
        np.searchsorted(found.column("row_id").to_numpy()[order], rows.column("row_id").to_numpy())
    ]
    found = found.take(pa.array(places))
    for name in history_columns(histories.length):
        rows = rows.append_column(name, found.column(name))
    return rows


def own_histories(rows: pa.Table, item: str, length: int) -> pa.Table:
    """Return a parsed file's rows with their own histories, a column of lists, as places in the dictionary of
    the log column `item`, which gets values that only histories have.
    """
    place, history = rows.schema.get_field_index(log_column(item)), rows.column(HISTORY).combine_chunks()
    items = rows.column(place).chunk(0)
    numbering = staging.Numbering(items.dictionary, grows=True)
    [places] = numbering.codes([history.flatten()])
    items = pa.DictionaryArray.from_arrays(items.indices, numbering.values)
    rows = rows.set_column(place, log_column(item), items).drop_columns([HISTORY])
    found = in_places(history, places.astype(np.int64) + 1, length, gaps=True).astype(np.int32) - 1
    for name, column in zip(history_columns(length), found.T, strict=True):
        rows = rows.append_column(name, pa.array(column))
    return rows


def own_codes(rows: pa.Table, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of `own_histories` as codes, given those of the dictionary's values; −1 for none."""
    names = [name for name in history_columns(MOST_HISTORY) if name in rows.column_names]
    places = {name: rows.column(name).to_numpy() for name in names}
    return {name: np.where(column < 0, np.int32(-1), codes[column]) for name, column in places.items()}


def _of_users(
    files: list[str],
    columns: list[str],
    nobody: int,
    length: int,
    events: str,
    bucket: int,
    buckets: int,
    stage: str,
) -> str:
    """Write the histories of the users of one bucket; return where. `nobody`: the code of no user."""
    found = []
    for file in files:
        of_file = staging.read_columns(file, *columns)
        found.append([column[of_file[0] % buckets == bucket] for column in of_file])
    user, timestamp, row_id, item, label, *group = (
        np.concatenate(column) for column in zip(*found, strict=True)
    )
    event = label > 0 if events == "clicks" else np.ones(len(label), dtype=bool)
    items = items_before(user, timestamp, row_id, item, event, length, *group).astype(np.int32)
    items[user == nobody] = -1
    ends = np.cumsum([len(of_file[0]) for of_file in found])[:-1]
    to = f"{stage}/histories/{bucket:06d}.arrow"
    batches = [
        [ids, *of_rows.T.copy()]
        for ids, of_rows in zip(np.split(row_id, ends), np.split(items, ends), strict=True)
    ]
    staging.write_columns(to, ["row_id", *history_columns(length)], batches)
    return to

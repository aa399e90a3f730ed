"""Give every row of the coded log what its user did before (data/prepared/history.py).

A task finds the histories of one share of the users, reading a few columns of all coded files, and writes a
record batch for each file. So no task holds more than its users' rows, and a file finds its own again.

A log's own histories (data/transform/history_lists.py) have their items' codes from the beginning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.config import EVENT_SIZES, MOST_HISTORY, EventWord, History, history_columns
from clickprompt.data.prepared import staging
from clickprompt.data.prepared.dataset import field_columns
from clickprompt.data.prepared.history import EVENTS, age_ids, items_before, label_ids
from clickprompt.data.prepared.partitions import Coded, IdPart, ids_of
from clickprompt.data.prepared.staging import log_column
from clickprompt.data.sources.raw import Source, log_column_of
from clickprompt.data.transform.history_ids import HISTORY
from clickprompt.data.transform.multi import in_places
from clickprompt.errors import InputError
from clickprompt.runtime.prepare.fan_out import FanOut

__all__ = [
    "Histories",
    "buckets_for",
    "find_histories",
    "history_options",
    "own_codes",
    "own_histories",
    "with_history",
    "write_before",
]

_ROWS_PER_BUCKET = 1 << 19  # rows whose histories one task holds: 40 MB for 20 items each
_SECOND = 1_000_000  # microseconds


@dataclass(frozen=True)
class Histories:
    """Where the histories of a coded log are."""

    parts: tuple[str, ...]
    """files of the users' shares: record batch i belongs to the log's file i; none for a log's own"""
    files: tuple[str, ...]
    """the log's"""
    history: History
    fields: tuple[tuple[str, str], ...]
    """log column and field column of the item, then of each further field"""
    numbered: bool = False
    """whether the parts have ids instead of codes"""

    @property
    def _of_fields(self) -> list[tuple[str, str, list[str]]]:
        """Return the log column, the field column and the columns of the history of each field."""
        names = (history_columns(self.history.length, of) for of in (None, *self.history.fields))
        return [(*field, columns) for field, columns in zip(self.fields, names, strict=True)]

    @property
    def by_field(self) -> dict[str, list[str]]:
        """Return field column → the columns of the history with its ids."""
        return {field: columns for _, field, columns in self._of_fields}

    @property
    def staged(self) -> dict[str, list[str]]:
        """Return log column → the columns of the parts with its codes: those of the first field it has."""
        found: dict[str, list[str]] = {}
        for key, _, columns in self._of_fields:
            found.setdefault(key, columns)
        return found

    def encoded(
        self, block: pa.Table, ids: Mapping[str, Mapping[str, Sequence[IdPart]]]
    ) -> dict[str, np.ndarray]:
        """Return the columns' ids, [rows] int32 each: 0 for no row, or one whose value has no id."""
        if self.numbered:
            return {name: block.column(name).to_numpy() for name in self.history.columns}
        found, staged = {}, self.staged
        for key, field, columns in self._of_fields:
            codes = np.stack([block.column(name).to_numpy() for name in staged[key]])
            of_codes = ids_of(np.maximum(codes, 0).ravel(), ids[key][field]).reshape(codes.shape)
            found |= dict(zip(columns, np.where(codes < 0, 0, of_codes), strict=True))
        for word in self.history.words:
            columns = history_columns(self.history.length, word)
            found |= {name: block.column(name).to_numpy() for name in columns}
        return found


def history_options(
    source: Source, history: int | None, history_of: str | None, history_with: Sequence[str]
) -> dict[str, Any]:
    """Return the options of a dataset's histories: what is given, else the source's; empty for none.

    Raises InputError for histories that this log can't have.
    """
    if source.history_column and (history, history_of) != (None, None):
        raise InputError(
            f"history: {source.name} has its own in the column {source.history_column.column}; leave "
            "--history and --history-of out, or history out of the schema"
        )
    if source.history_column and history_with:
        raise InputError(
            f"history_with={history_with[0]}: the histories of {source.name} are its column "
            f"{source.history_column.column}, which has the items alone; leave --history-with out"
        )
    history = source.history if history is None else history
    names = [*(history_with or source.history_with)]
    if history is None:
        if history_of is not None or names:
            what = f"history_of={history_of}" if history_of is not None else f"history_with={names[0]}"
            raise InputError(f"{what}: there is no history; give its length as history, too")
        return {}
    options = {"history": history, "history_of": history_of or source.history_of}
    _check_history(source, history, options["history_of"])
    if names:
        described = _history(source, options | {"history_with": names})
        options["history_with"] = described.names(source.fields)  # in one order, however they are given
    return options


def _check_history(source: Source, length: int, events: str) -> None:
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


def _history(source: Source, options: Mapping[str, Any]) -> History:
    """Return the histories that the options describe. Raises InputError for a further column that there
    can't be.
    """
    item = source.fields.index(str(source.roles()["item"]))
    names = options.get("history_with", ())
    for name in names:
        _check_further(source, name, options["history_of"], item)
    given = {*names}
    words: list[EventWord] = [word for word in EVENT_SIZES if word in given]
    fields = [
        number for number, name in enumerate(source.fields) if name in given and name not in EVENT_SIZES
    ]
    return History(item, options["history"], (*fields, *words))


def _check_further(source: Source, name: str, events: str, item: int) -> None:
    rules = dict(zip(source.fields, source.rules(), strict=True))
    single = [one for one, rule in rules.items() if not rule.schema.most_values and not rule.schema.learned]
    known = [*EVENT_SIZES, *(one for one in single if one != source.fields[item])]
    why, remedy = None, "leave it out"
    if events == "column":
        why = f"the histories of {source.name} are a column of the log, which has the items alone"
    elif name not in {*EVENT_SIZES, *source.fields}:
        raise InputError(f"history_with={name!r} is unknown; known: {', '.join(known)}")
    elif name in EVENT_SIZES and name in source.fields:
        why, remedy = "a field has that name, too", "give the field another one"
    elif any(rule.column == f"{HISTORY} {name}" for rule in rules.values()):
        why, remedy = f"a field's column is called {HISTORY} {name}, too", "rename the column"
    elif name == "label" and events == "clicks":
        why, remedy = "all rows of a history of clicks are clicked", "set history_of=all, or leave it out"
    elif name == "age" and source.split != "time":
        why = f"{source.name} has no times"
    elif name == source.fields[item]:
        why = "the items are the history itself"
    elif name not in EVENT_SIZES and rules[name].schema.most_values:
        why = "a row has several values of that field, and an earlier row one column"
    elif name not in EVENT_SIZES and rules[name].schema.learned:
        why = "the numbers of that field are learned, and of an earlier row only ids are known"
    if why:
        raise InputError(f"history_with={name}: {why}; {remedy}")


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
    own = source.history_column
    history = _history(source, options if own is None else {"history": own.length, "history_of": "column"})
    of_fields = field_columns(source.fields)
    numbers = [history.field, *history.fields]
    fields = tuple((log_column_of(source.fields[one], tables), of_fields[one]) for one in numbers)
    histories = Histories((), tuple(files), history, fields)
    if own is not None:
        return histories
    user = log_column_of(str(source.roles()["user"]), tables)
    # Rows without a user are of many users, so they have no history
    [coded] = [column for column in columns if column.name == user]
    nobody = len(coded) if coded.in_table else 0
    buckets = buckets_for(rows, history)
    read = ["timestamp", "row_id", "label", *(["group"] if source.grouped else [])]
    parts = work.each(
        _of_users,
        (
            (files, log_column(user), read, nobody, histories, options["history_of"], bucket, buckets, stage)
            for bucket in range(buckets)
        ),
        "finding what users did before",
    )
    return replace(histories, parts=tuple(parts))


def buckets_for(rows: int, history: History) -> int:
    """Return into how many shares the users of so many rows are divided."""
    return -(-rows * (1 + len(history.further)) // _ROWS_PER_BUCKET)


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
    for name in found.column_names:
        if name != "row_id":
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
    user_column: str,
    columns: list[str],
    nobody: int,
    histories: Histories,
    events: str,
    bucket: int,
    buckets: int,
    stage: str,
) -> str:
    """Write the histories of the users of one bucket; return where. `nobody`: the code of no user."""
    staged = {log_column(key): of_key for key, of_key in histories.staged.items()}
    columns = [user_column, *columns]
    codes = [key for key in staged if key not in columns]
    found = []
    for file in files:
        of_file = staging.read_columns(file, *columns, *codes)
        found.append([column[of_file[0] % buckets == bucket] for column in of_file])
    to = f"{stage}/histories/{bucket:06d}.arrow"
    names = [*columns, *codes]
    write_before(found, names, staged, histories, events, to, nobody=nobody, none=-1, files=len(files))
    return to


def write_before(
    found: Sequence[Sequence[np.ndarray]],
    names: Sequence[str],
    copied: Mapping[str, Sequence[str]],
    histories: Histories,
    events: str,
    to: str,
    *,
    nobody: int,
    none: int,
    files: int,
) -> None:
    """Write the histories of some users' rows to the file `to`, a record batch for each of the first `files`.

    found: the rows' columns `names` by file, of which the first is the user; copied: column → those of the
    history that have its values at the earlier rows, or `none`.
    """
    joined = (np.concatenate(column) for column in zip(*found, strict=True))
    read = dict(zip(names, joined, strict=True))
    user, length = read[names[0]], histories.history.length
    timestamp, row_id, label = (read[name] for name in ("timestamp", "row_id", "label"))
    event = label > 0 if events == "clicks" else np.ones(len(label), dtype=bool)
    group = read.get("group")
    before = items_before(user, timestamp, row_id, np.arange(len(user)), event, length, group)
    before[user == nobody] = -1
    named, written = ["row_id"], [row_id]
    for name, of_name in copied.items():
        written += [*_of_events(read[name], before, none).T]
        named += of_name
    for word in histories.history.words:
        if word == "label":
            ids = _of_events(label_ids(label), before, 0)
        else:
            ages = (timestamp[:, None] - _of_events(timestamp, before, 0)) // _SECOND
            ids = np.where(before < 0, 0, age_ids(ages))
        written += [*ids.T]
        named += history_columns(length, word)
    ends = np.cumsum([len(of_file[0]) for of_file in found])[:files]
    cut = [np.split(np.ascontiguousarray(column), ends)[:files] for column in written]
    staging.write_columns(to, named, zip(*cut, strict=True))


def _of_events(column: np.ndarray, before: np.ndarray, none: int) -> np.ndarray:
    """Return [R, N]: the column's values [R] at the rows `before`, or `none` where that is −1."""
    return np.append(column, column.dtype.type(none))[before]

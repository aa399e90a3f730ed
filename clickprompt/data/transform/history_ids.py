"""Ids of what the users of new rows did before, from the columns in which the rows say it.

`history` has the items, newest first, or the log's own column has them. Each further column of the dataset's
histories (`History` in config/history.py) comes as `history <name>`, with an entry for each of the items: a
field's value as it would stand in a row, `label` 0 or 1, `age` in seconds. They are lists, or texts with |
between the entries.

Shape legend: B rows, N events of a history, E entries of all rows.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.config import EventWord, History
from clickprompt.data.prepared.history import age_ids, label_ids
from clickprompt.data.sources.history_schema import HistoryColumn
from clickprompt.data.transform.columns import BadValue, is_missing, kind_of, plain, refuse, shown, stripped
from clickprompt.data.transform.history_lists import newest_items
from clickprompt.data.transform.multi import in_places
from clickprompt.data.transform.values import numbers, texts

__all__ = ["HISTORY", "HistoryIds"]

HISTORY = "history"
"""the column of new rows with what their users did before"""

_BETWEEN = "|"

OfItems = Callable[[pa.Array], np.ndarray]
"""maps texts of items [E] to ids [E] int64"""
OfField = Callable[[int, pa.Array], np.ndarray]
"""maps a field's number and values [E], as they stand in its column, to ids [E] int64"""


class HistoryIds:
    """Reads the columns of one dataset's histories."""

    def __init__(
        self, history: History, own: HistoryColumn | None, columns: Mapping[int, str], number: bool
    ) -> None:
        """own: the log's column; columns: that of each further field; number: whether items are numbers."""
        self.history, self._number = history, number
        self._items = own or HistoryColumn(column=HISTORY, length=history.length, newest="first")
        self._own = own is not None
        self._further = [
            columns[one] if isinstance(one, int) else f"{HISTORY} {one}" for one in history.further
        ]

    @property
    def columns(self) -> list[str]:
        """Return the columns that rows must have, each once."""
        return [*dict.fromkeys([self._items.column, *self._further])]

    def __call__(
        self, columns: Mapping[str, pa.Array], nulls: Sequence[str], of_items: OfItems, of_field: OfField
    ) -> np.ndarray:
        """Return the ids [B, N (1 + further)] int64, in the order of `History.columns`, 0 for none.

        Raises BadValue with the column.
        """
        items, length = columns[self._items.column], self.history.length
        rule = self._items
        if not self._own and kind_of(items.type) != "list":
            rule = rule.model_copy(update={"separator": _BETWEEN})
        with _of_column(self._items.column):
            newest = newest_items(items, rule, self._number, nulls)
            found = [in_places(newest, of_items(newest.flatten()), length, gaps=True)]
            if not self._further:
                return found[0]
            entries, counts = _entries(items, nulls)
            places = _newest(texts(entries, nulls), counts, length)
        for one, name in zip(self.history.further, self._further, strict=True):
            column = columns[name]
            with _of_column(name):
                entries, rows = _aligned(column, nulls, counts, self._items.column)
                try:
                    ids = _ids(one, entries, nulls, of_field)
                except BadValue as error:
                    row = int(rows[error.index])
                    why = f"has the entry {error.value}, which {error.why}"
                    raise BadValue(row, shown(column, row), why) from error
            found.append(np.append(ids, 0)[places])
        return np.concatenate(found, axis=1)


@contextmanager
def _of_column(name: str) -> Iterator[None]:
    """Name the column in a BadValue."""
    try:
        yield
    except BadValue as error:
        error.column = name
        raise


def _entries(column: pa.Array, nulls: Sequence[str]) -> tuple[pa.Array, np.ndarray]:
    """Return all entries of a column of lists or texts, missing ones as well, and how many each row has:
    [E], [B].
    """
    column = plain(column)
    kind = kind_of(column.type)
    if kind == "text":
        whole = stripped(column, nulls)
        column = pc.split_pattern(pc.if_else(whole.is_null(), pa.scalar(None, column.type), column), _BETWEEN)
    elif kind != "list":
        why = f"is of type {column.type}, neither a list nor a text with {_BETWEEN} between its entries"
        refuse(column, pc.invert(is_missing(column)), why)
        return pa.nulls(0, pa.string()), np.zeros(len(column), dtype=np.int64)
    counts = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return pc.list_flatten(column), counts


def _aligned(
    column: pa.Array, nulls: Sequence[str], counts: np.ndarray, name: str
) -> tuple[pa.Array, np.ndarray]:
    """Return as many entries as the items, [E], and the row of each."""
    entries, own = _entries(column, nulls)
    rows = np.repeat(np.arange(len(counts)), counts)
    # One missing entry is an empty text, which could as well be none
    blank = (own == 0) & (counts == 1)
    wrong = (own != counts) & ~blank
    if wrong.any():
        row = int(np.argmax(wrong))
        entry = "entry" if own[row] == 1 else "entries"
        why = f"has {own[row]} {entry}, and {name} has {counts[row]}; give one for each"
        raise BadValue(row, shown(column, row), why)
    if blank.any():
        places = np.full(len(rows), -1)
        places[~blank[rows]] = np.arange(len(entries))
        entries = entries.take(pa.array(places, mask=places < 0))
    return entries, rows


def _newest(items: pa.StringArray, counts: np.ndarray, length: int) -> np.ndarray:
    """Return [B, N] places in the entries of each row's first items that aren't missing, −1 for none."""
    known = np.flatnonzero(items.is_valid().to_numpy(zero_copy_only=False))
    rows = np.repeat(np.arange(len(counts)), counts)[known]
    ranks = np.arange(len(rows)) - np.searchsorted(rows, rows)
    places = np.full((len(counts), length), -1)
    places[rows[ranks < length], ranks[ranks < length]] = known[ranks < length]
    return places


def _ids(one: int | EventWord, entries: pa.Array, nulls: Sequence[str], of_field: OfField) -> np.ndarray:
    """Return the ids of one of `History.further`, [E] int64, 0 for a missing label or age."""
    if isinstance(one, int):
        return of_field(one, entries)
    found = numbers(entries, nulls)
    known, values = found.is_valid().to_numpy(zero_copy_only=False), found.fill_null(0).to_numpy()
    if one == "label":
        refuse(entries, (values != 0) & (values != 1), "is neither 0 nor 1, whether it was clicked")
        return np.where(known, label_ids(values), 0)
    refuse(entries, values < 0, "is negative: give the seconds from the earlier row to this one")
    return np.where(known, age_ids(values), 0)

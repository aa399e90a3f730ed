"""What a row's user did before: the items of the last rows, as columns of ids beside the fields'.

`prepare --history N` gives every row the columns h_00 … h_<N−1>: ids of the item field, newest first, 0 where
there is none. `--history-with` adds columns of what else is known of these rows (`History` in
config/history.py): the ids of other fields, whether it was clicked, how long ago it was. All come from the
log itself without looking ahead. A user's rows are in the order of their times, equal times in the order of
the log; a row's history has only rows before it. Rows that were shown together (`group`) have none of each
other in it: when they were shown, nobody had clicked yet.

Shape legend: R rows of some users, N length of a history, F fields.
"""

import numpy as np

from clickprompt.config import EVENT_SIZES

__all__ = ["EVENTS", "age_ids", "items_before", "label_ids"]

EVENTS = ("clicks", "all")
"""which of a user's rows become part of the histories"""


def items_before(
    user: np.ndarray,
    timestamp: np.ndarray,
    row_id: np.ndarray,
    item: np.ndarray,
    event: np.ndarray,
    length: int,
    group: np.ndarray | None = None,
) -> np.ndarray:
    """Return [R, N], aligned with the arguments [R]: for each row the items of its user's last N rows before
    it that are an `event` (bool), newest first; −1 where there are fewer. With the rows' places as items it
    says which rows these are.
    """
    order = np.lexsort((row_id, timestamp, user) if group is None else (row_id, group, timestamp, user))
    user, event = user[order], event[order]
    events = np.concatenate([[0], np.cumsum(event)])  # before each row
    first = np.searchsorted(user, user, side="left")
    own = np.arange(len(user))
    if group is not None:
        shown = np.concatenate(
            [[True], (np.diff(user) != 0) | (np.diff(timestamp[order]) != 0) | (np.diff(group[order]) != 0)]
        )[: len(user)]
        own = np.maximum.accumulate(np.where(shown, own, 0))
    happened = np.append(item[order][event], -1)
    places = events[own][:, None] - 1 - np.arange(length)
    found = np.where(places >= events[first][:, None], happened[np.maximum(places, -1)], -1)
    result = np.empty_like(found)
    result[order] = found
    return result


def label_ids(label: np.ndarray) -> np.ndarray:
    """Return the ids of `EVENT_SIZES`, int32: 1 for no click, 2 for a click; label > 0 is one."""
    return np.where(label > 0, np.int32(2), np.int32(1))


def age_ids(seconds: np.ndarray) -> np.ndarray:
    """Return the ids of `EVENT_SIZES`, int32, of ages in whole or other seconds from 0 up: 1 below a second,
    then 2 + ⌊log₂ s⌋, and the last of all from 2³⁰ seconds (34 years) up.
    """
    exponent = np.frexp(np.floor(seconds))[1]  # s = m 2^exponent with ½ ≤ m < 1: exact, as a logarithm isn't
    return np.minimum(1 + exponent, EVENT_SIZES["age"]).astype(np.int32)

"""A field's several values in one row (`take: each`).

They travel as one text, with a control character between them, through everything that has one text per field
and row. `apart` and `in_places` make ids of it, in `prepare` as for new rows.

Shape legend: B rows, M values of a row at most, E values of all rows.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.transform.columns import list_rows, refuse

__all__ = ["BETWEEN", "apart", "in_places", "named", "together"]

BETWEEN = "\x1f"
"""the unit separator, which no text of a log has for another purpose"""


def together(values: pa.ListArray, column: pa.Array, most: int) -> pa.StringArray:
    """Return [B] texts of each row's first M values; null stays null. Raises BadValue, for the row of
    `column`, if a value has the character that goes between them.
    """
    inside = pc.match_substring(values.flatten(), BETWEEN)
    if pc.any(inside).as_py():
        wrong = np.zeros(len(values), dtype=bool)
        wrong[list_rows(values)[inside.to_numpy(zero_copy_only=False)]] = True
        refuse(column, wrong, "has the control character U+001F in a value; take it out")
    return pc.binary_join(pc.list_slice(values, 0, most), BETWEEN)


def apart(texts: pa.StringArray) -> pa.ListArray:
    """Return the values of `together` as list<string>; null stays null."""
    return pc.split_pattern(texts, BETWEEN)


def named(texts: pa.StringArray) -> pa.StringArray:
    """Return the values of `together` as people read them."""
    return pc.replace_substring(texts, BETWEEN, ", ")


def in_places(values: pa.ListArray, ids: np.ndarray, most: int, gaps: bool = False) -> np.ndarray:
    """Return each row's ids, [B, M] int64: those of its values (ids [E]) in their order, without values that
    have none (or, with `gaps`, 0 in their places), then 0.
    """
    known = (ids > 0) | gaps
    rows = list_rows(values)[known]
    found = np.zeros((len(values), most), dtype=np.int64)
    found[rows, np.arange(len(rows)) - np.searchsorted(rows, rows)] = ids[known]
    return found

"""Histories that a log gives in a column of its own: lists of items, or texts with a separator."""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.sources.history_schema import HistoryColumn
from clickprompt.data.transform.values import canonical_number, lists

__all__ = ["newest_items"]


def newest_items(column: pa.Array, rule: HistoryColumn, number: bool, nulls: Sequence[str]) -> pa.ListArray:
    """Return each row's items, newest first, `rule.length` at most; null for none.

    number: whether items are numbers (`FieldRule.number`). Raises BadValue as `lists` does.
    """
    items = lists(column, rule.separator, nulls)
    flat = items.flatten()
    sizes = pc.list_value_length(items).fill_null(0).to_numpy()
    kept = np.minimum(sizes, rule.length)
    ends = np.cumsum(kept)
    rows = np.repeat(np.arange(len(items)), kept)
    places = np.arange(len(rows)) - (ends - kept)[rows]
    if rule.newest == "last":
        places = sizes[rows] - 1 - places
    found = flat.take(pa.array((np.cumsum(sizes) - sizes)[rows] + places))
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), canonical_number(found) if number else found, mask=pa.array(kept == 0)
    )

"""Rows of a file that stand for many rows of the log: lists, or texts such as `N1-1 N2-0`
(data/sources/schema.py, `Explode`).
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.sources.schema import Explode
from clickprompt.data.transform.columns import BadValue, plain, refuse
from clickprompt.data.transform.values import kind_of

__all__ = ["exploded"]


def exploded(rows: pa.Table, rule: Explode, *, labelled: bool = True) -> tuple[pa.Table, np.ndarray]:
    """Return the rows that the lists in `rule.columns` stand for, and the number of the row that each comes
    from; an empty list makes none.

    labelled: if False, entries may lack their second part, all or none of them: new rows have no clicks yet.

    Raises BadValue for lists that differ in length, and for an entry without its two parts.
    """
    parts = {}
    for name in rule.columns:
        parts[name] = _no_nulls(_elements(rows.column(name).combine_chunks(), rule.separator))
    sizes = {name: pc.list_value_length(found).to_numpy() for name, found in parts.items()}
    first, *others = sizes
    for name in others:
        if (differs := sizes[name] != sizes[first]).any():
            index = int(np.argmax(differs))
            why = f"has {sizes[name][index]} entries where {first} has {sizes[first][index]}; mend the row"
            raise BadValue(index, parts[name][index].as_py(), why, name)
    origin = np.repeat(np.arange(len(rows)), sizes[first])
    flat = {name: found.flatten() for name, found in parts.items()}
    if rule.split and rule.into:
        flat = dict(zip(rule.into, _two_parts(flat[first], rule, origin, labelled), strict=True))
    kept = rows.drop_columns([name for name in rows.column_names if name in (*rule.columns, *flat)]).take(
        pa.array(origin)
    )
    columns = dict(zip(kept.column_names, kept.columns, strict=True)) | flat
    return pa.table(columns), origin


def _elements(column: pa.Array, separator: str | None) -> pa.Array:
    """Return [B] lists of a column that has them, or of texts cut at the separator."""
    column = plain(column)
    if kind_of(column.type) == "list":
        return column
    if kind_of(column.type) != "text" or separator is None:
        refuse(
            column, column.is_valid(), "is not a list; say what stands between its entries, as separator: ' '"
        )
        return pa.nulls(len(column), pa.list_(pa.string()))
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.split_pattern(
        pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed), separator
    )


def _no_nulls(lists: pa.Array) -> pa.Array:
    """Replace null lists by empty ones."""
    sizes = pc.list_value_length(lists).fill_null(0).to_numpy()
    return pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)), lists.flatten()
    )


def _two_parts(
    entries: pa.Array, rule: Explode, origin: np.ndarray, labelled: bool
) -> tuple[pa.Array, pa.Array]:
    halves = pc.split_pattern(entries, rule.split, max_splits=1, reverse=True)
    wrong = pc.not_equal(pc.list_value_length(halves), 2).fill_null(True).to_numpy(zero_copy_only=False)
    if not labelled and wrong.all() and not entries.null_count:
        return entries, pa.nulls(len(entries), pa.string())
    if wrong.any():
        index = int(np.argmax(wrong))
        raise BadValue(
            int(origin[index]),
            entries[index].as_py(),
            f"has no {rule.split!r} between two parts; mend the row",
        )
    return pc.list_element(halves, 0), pc.list_element(halves, 1)

"""Find which table of the given files is joined to which column of the log."""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.prepared.dataset import slug
from clickprompt.data.sources.draft_files import FileGroup, read_keys
from clickprompt.data.sources.draft_label import Label
from clickprompt.data.sources.draft_log import DraftLog
from clickprompt.data.sources.draft_look import Look, look
from clickprompt.data.sources.draft_names import are_alike
from clickprompt.data.transform.row_transform import key_texts
from clickprompt.data.transform.values import BadValue, kind_of

__all__ = ["DraftJoin", "join_table"]

_FEW_KEYS = 5  # distinct values from which it means something that a table has them all


# Share of the log's keys that a table must have, if the names are alike and if they aren't
_MATCHING = 0.5


_SURELY = 0.95


@dataclass
class DraftJoin:
    name: str
    group: FileGroup
    key: str
    on: str
    looks: list[Look]


def join_table(
    log: DraftLog, group: FileGroup, label: Label | None, tables: Sequence[DraftJoin]
) -> DraftJoin | None:
    """Return the join by the pair of columns that fits best, or None."""
    sample = group.sample
    looks = [
        look(name, sample.column(name).combine_chunks(), group.nulls, group.kinds[name])
        for name in sample.column_names
    ]
    nameless = group.made_names or log.group.made_names
    best: tuple[float, str, str] | None = None
    for key in looks:
        if (
            key.missing
            or key.distinct < key.rows
            or not key.rows
            or key.problem
            or kind_of(key.column.type) in ("list", "time")
        ):
            continue
        keys: pa.Array | None = None
        for column in log.looks:
            if column.problem or not column.present or kind_of(column.column.type) in ("list", "time"):
                continue
            if label is not None and column.name == label.column:
                continue
            alike = are_alike(column.name, key.name, group.stem)
            if not alike and not (nameless and column.distinct >= _FEW_KEYS and column.numbers is None):
                continue
            if keys is None:
                keys = _keys(group, key.name)
            if keys is None:
                break
            share = _share_in(column, keys)
            if share < (_MATCHING if alike else _SURELY):
                continue
            score = share + (1 if alike else 0) + (1 if column.name == key.name else 0)
            if best is None or score > best[0]:
                best = (score, key.name, column.name)
    if best is None:
        return None
    columns = {one.name for one in log.looks} | {joined.name for joined in tables}
    name, number = slug(group.stem) or "table", 2
    while any(column == name or column.startswith(f"{name}.") for column in columns):
        name, number = f"{slug(group.stem) or 'table'}_{number}", number + 1
    return DraftJoin(name, group, best[1], best[2], looks)


def _keys(group: FileGroup, column: str) -> pa.Array | None:
    """Return all keys of a table; None if one is missing or comes twice."""
    try:
        found = pa.concat_arrays([key_texts(piece, group.nulls) for piece in read_keys(group, column)])
    except BadValue:
        return None
    return None if found.null_count or len(found.unique()) < len(found) else found


def _share_in(column: Look, keys: pa.Array) -> float:
    """Return those of the log's distinct values that the table has."""
    found = key_texts(column.column, column.nulls).drop_null().unique()
    return pc.mean(pc.is_in(found, value_set=keys)).as_py() or 0.0

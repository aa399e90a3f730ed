"""What stands in the text in a value's place: a joined table's description (`text` of a field's schema).

The value and its id stay; only texts change. The joined table's file has the descriptions beside its keys, in
`text_column`.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.transform.values import canonical_number

__all__ = ["KEY", "described", "text_column"]

KEY = "\tkey"
"""a joined table's column with its keys; no field can have the name"""


def text_column(field: str) -> str:
    """Return the table's column with the descriptions of a field's values; no field can have that name."""
    return f"\ttext\t{field}"


def described(values: pa.Array, table: pa.Table, field: str) -> pa.Array:
    """Return the descriptions [B] of a field's values [B] strings, and the values themselves that have none.

    table: the joined one that has them.
    """
    keys, descriptions = (table.column(name).combine_chunks() for name in (KEY, text_column(field)))
    return pc.coalesce(descriptions.take(pc.index_in(canonical_number(values), value_set=keys)), values)

"""Describe a typed column as a reader delivers it: which kind it is, what is missing in it, which row doesn't
fit.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from clickprompt.data.sources.field_schema import NULLS

__all__ = [
    "NULLS",
    "BadValue",
    "Kind",
    "any_true",
    "first_uncastable",
    "flags",
    "has_outer_blanks",
    "is_missing",
    "kind_of",
    "list_rows",
    "may_be_values",
    "plain",
    "refuse",
    "shown",
    "stripped",
]


Kind = Literal["integer", "float", "decimal", "boolean", "time", "text", "list", "null", "other"]

_BLANK = 32  # and below: blanks, tabs
# Unicode's other blanks, too, as UTF-8
_BLANKS_BEGIN = np.isin(np.arange(256), [*range(_BLANK + 1), 0xC2, 0xE1, 0xE2, 0xE3])
_BLANKS_END = np.isin(np.arange(256), [*range(_BLANK + 1), *range(0x80, 0x8B), 0x9F, 0xA0, 0xA8, 0xA9, 0xAF])

_LISTS = (
    types.is_list,
    types.is_large_list,
    types.is_fixed_size_list,
    types.is_list_view,
    types.is_large_list_view,
)
_TEXTS = (
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    types.is_binary,
    types.is_large_binary,
    types.is_binary_view,
)
_KINDS: tuple[tuple[Kind, tuple[Callable[[pa.DataType], bool], ...]], ...] = (
    ("integer", (types.is_integer,)),
    ("float", (types.is_floating,)),
    ("decimal", (types.is_decimal,)),
    ("boolean", (types.is_boolean,)),
    ("time", (types.is_date, types.is_timestamp, types.is_time)),
    ("text", _TEXTS),  # older writers of Parquet don't mark text as text
    ("list", _LISTS),
    ("null", (types.is_null,)),
)


class BadValue(Exception):  # noqa: N818  a row's value that a caller turns into a DataError with its place
    """Row `index` (the first such row, counted from 0) holds `value`, as shown to people, which doesn't fit;
    `why`: the rule and the remedy.

    The parts of a line "FILE, row N: COLUMN=value why". The caller that knows the column sets it and adds the
    place.
    """

    def __init__(self, index: int, value: Any, why: str, column: str = "") -> None:
        super().__init__(why)
        self.index = index
        self.value = repr(value[:80]) if isinstance(value, str) else str(value)[:80]
        self.why = why
        self.column = column

    def __str__(self) -> str:
        return f"{self.column}={self.value} {self.why}" if self.column else f"{self.value} {self.why}"


def kind_of(type: pa.DataType) -> Kind:
    """Return the kind. A dictionary or an extension is of the kind of what it holds."""
    if types.is_dictionary(type):
        return kind_of(type.value_type)
    if isinstance(type, pa.BaseExtensionType):
        return kind_of(type.storage_type)
    for kind, tests in _KINDS:
        if any(test(type) for test in tests):
            return kind
    return "other"


def plain(column: pa.Array) -> pa.Array:
    """Return the same values without a dictionary or extension: texts as string, lists as list. Raises
    BadValue for bytes that are not UTF-8.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = kind_of(column.type)
    if kind == "text" and column.type != pa.string():
        bad = first_uncastable(column, pa.string())
        if bad is not None:
            raise BadValue(
                bad,
                column[bad].as_py(),
                "is bytes that are no UTF-8 text; leave the column out, or write it as text",
            )
        return column.cast(pa.string())
    if kind == "list" and not types.is_list(column.type):
        return column.cast(pa.list_(column.type.value_type))
    return column


def is_missing(column: pa.Array, nulls: Sequence[str] = NULLS) -> pa.BooleanArray:
    """Return which rows are missing: null, NaN, a blank text or, trimmed, one of `nulls`, and a list in which
    every element is missing.
    """
    column = plain(column)
    kind = kind_of(column.type)
    if kind == "float":
        return column.is_null(nan_is_null=True)
    if kind == "text":
        return stripped(column, nulls).is_null()
    if kind == "list":
        present = ~flags(is_missing(pc.list_flatten(column), nulls))
        return pa.array(np.bincount(list_rows(column)[present], minlength=len(column)) == 0)
    return column.is_null()


def stripped(column: pa.StringArray, nulls: Sequence[str]) -> pa.StringArray:
    """Return texts without surrounding blanks; null if that leaves nothing, or one of `nulls`."""
    found = pc.utf8_trim_whitespace(column) if has_outer_blanks(column) else column
    markers = sorted({"", *(null.strip() for null in nulls)})
    if not _may_hold(found, markers):
        return found
    return pc.if_else(
        pc.is_in(found, value_set=pa.array(markers, pa.string())), pa.scalar(None, pa.string()), found
    )


def _may_hold(column: pa.StringArray, markers: Sequence[str]) -> bool:
    """Return whether a text may be one of `markers`, judged by its length and first byte. False is certain.
    Far faster than looking texts up.
    """
    _, offsets, content = column.buffers()
    if not len(column) or content is None or not content.size:
        return column.null_count < len(column)
    ends = np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4)
    lengths = np.diff(ends)
    empty = lengths == 0
    if empty.any() and (empty & column.is_valid().to_numpy(zero_copy_only=False)).any():
        return True
    some = [marker.encode() for marker in markers if marker]
    begins = np.zeros(256, bool)
    begins[[marker[0] for marker in some]] = True
    first = np.frombuffer(content, np.uint8).take(ends[:-1], mode="clip")
    return bool((begins[first] & (lengths <= max(map(len, some), default=0))).any())


def has_outer_blanks(column: pa.StringArray) -> bool:
    """Return whether trimming may change a text. False is certain. It takes a tenth of the time of
    trimming.
    """
    _, offsets, content = column.buffers()
    if not len(column) or content is None or not content.size:
        return False
    characters = np.frombuffer(content, np.uint8)
    ascii_only = characters.max() < 128
    if ascii_only and characters.min() > _BLANK:
        return False
    ends = np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4)
    # Those of an empty cell are its neighbours': at worst one unnecessary look
    first, last = characters.take(ends[:-1], mode="clip"), characters.take(ends[1:] - 1, mode="clip")
    if ascii_only:  # the usual case, and as fast
        return bool(first.min() <= _BLANK or last.min() <= _BLANK)
    return bool(_BLANKS_BEGIN[first].any() or _BLANKS_END[last].any())


def may_be_values(nulls: Sequence[str]) -> bool:
    """Return whether a marker such as -1 or 1970-01-01 would be read as a number or time, so that columns
    must be `stripped` first.
    """
    return any(character.isdigit() for null in nulls for character in null)


def list_rows(column: pa.ListArray) -> np.ndarray:
    """Return [elements]: the row of each element of `pc.list_flatten` (pc.list_parent_indices counts the
    elements behind a null, too).
    """
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(column)), lengths)


def refuse(column: pa.Array, wrong: pa.Array | np.ndarray, why: str) -> None:
    """Raise BadValue for the first row of `column` that is `wrong`."""
    rows = flags(wrong)
    if rows.any():
        index = int(np.argmax(rows))
        raise BadValue(index, shown(column, index), why)


def shown(column: pa.Array, index: int) -> Any:
    """Return a row's value for people; a time as ISO text."""
    value = column[index]
    return (
        str(value.cast(pa.string())) if kind_of(column.type) == "time" and value.is_valid else value.as_py()
    )


def flags(found: pa.BooleanArray | np.ndarray) -> np.ndarray:
    """Return the mask as numpy bool, with null as false."""
    return (
        found if isinstance(found, np.ndarray) else pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    )


def any_true(found: pa.BooleanArray) -> bool:
    return bool(pc.any(found).as_py())


def first_uncastable(values: pa.Array, type: pa.DataType) -> int | None:
    """Return the first row that can't be cast to `type`, found by halving, in the time of two casts."""

    def fails(some: pa.Array) -> bool:
        try:
            some.cast(type)
        except (pa.ArrowInvalid, UnicodeDecodeError):
            return True
        return False

    if not fails(values):
        return None
    start, length = 0, len(values)  # the row is one of these
    while length > 1:
        half = length // 2
        if fails(values.slice(start, half)):
            length = half
        else:
            start, length = start + half, length - half
    return start

"""Columns of any type → what a rule of a schema needs: texts, numbers, labels, lists. Columns keep their types until here.

A column is a string array where a text file is read (its markers of missing values are null already), else what the file has. `nulls` are
texts that say that there is no value; blank text always does. Everything works on whole columns. Shape legend: N rows.
"""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = [
    "BadValue",
    "LabelCounts",
    "all_of",
    "as_text",
    "canonical_number",
    "cut",
    "elements",
    "first_of",
    "is_in",
    "is_missing",
    "kind_of",
    "labels",
    "lists",
    "numbers",
    "plain",
    "require",
    "texts",
]

Kind = Literal["integer", "float", "decimal", "boolean", "time", "text", "list", "null", "other"]

_WHOLE = r"(?:0|[1-9][0-9]*)"
_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_EXACT = 2.0**53  # beyond it a float stands for several whole numbers
_FALSE, _TRUE = ("0", "false"), ("1", "true")


class BadValue(Exception):  # noqa: N818
    """A value that doesn't fit its rule: the row that has it, counting from 0, and what to do. Whoever knows it sets the column."""

    def __init__(self, index: int, value: Any, why: str, column: str = "") -> None:
        super().__init__(why)
        self.index, self.value, self.why, self.column = index, value, why, column

    def __str__(self) -> str:
        shown = "nothing" if self.value is None else repr(self.value[:80]) if isinstance(self.value, str) else str(self.value)[:80]
        return f"{self.column}={shown} {self.why}" if self.column else f"{shown} {self.why}"


def require(fits: pa.Array, column: pa.Array, why: str) -> None:
    """Raises BadValue for the first row that doesn't fit; null counts as fitting."""
    wrong = ~fits.fill_null(True).to_numpy(zero_copy_only=False)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise BadValue(index, column[index].as_py(), why)


def kind_of(type_: pa.DataType) -> Kind:
    types = pa.types
    if types.is_dictionary(type_):
        return kind_of(type_.value_type)
    for kind, tests in _KINDS.items():
        if any(getattr(types, test)(type_) for test in tests):
            return kind
    return "other"


_KINDS: dict[Kind, tuple[str, ...]] = {
    "integer": ("is_integer",),
    "float": ("is_floating",),
    "decimal": ("is_decimal",),
    "boolean": ("is_boolean",),
    "time": ("is_timestamp", "is_date"),
    "text": ("is_string", "is_large_string", "is_string_view"),
    "list": ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view"),
    "null": ("is_null",),
}


def plain(column: pa.Array) -> pa.Array:
    """In the simplest type that holds the same: no dictionary, `string` for all text, `list` for all lists."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = kind_of(column.type)
    if kind == "text":
        return column.cast(pa.string())
    if kind == "null":
        return column.cast(pa.string())
    return column.cast(pa.list_(column.type.value_type)) if kind == "list" and not pa.types.is_list(column.type) else column


def is_missing(column: pa.Array, nulls: Sequence[str] = ("",)) -> pa.Array:
    """[N] bool: null, NaN, NaT, blank text, one of `nulls`; a list without an element that isn't missing."""
    column = plain(column)
    kind = kind_of(column.type)
    if kind == "text":
        trimmed = pc.utf8_trim_whitespace(column)
        return pc.is_in(trimmed, value_set=pa.array([None, "", *nulls], pa.string()))
    if kind == "float":
        return column.is_null(nan_is_null=True)
    if kind == "list":
        return pc.equal(pc.list_value_length(_without_missing(column, nulls)).fill_null(0), 0)
    return column.is_null()


def texts(column: pa.Array, nulls: Sequence[str] = ("",), *, whole: bool = False) -> pa.Array:
    """[N] strings, null where missing: text without surrounding blanks, whole numbers as digits, also where a float or a decimal holds
    them, dates and times as ISO has them, true and false.

    whole: a fraction is wrong, and 3.0 is 3. Raises BadValue for a float that stands for several numbers, and what has no text.
    """
    column = plain(column)
    kind = kind_of(column.type)
    if kind == "text":
        trimmed = pc.utf8_trim_whitespace(column)
        found = pc.if_else(pc.is_in(trimmed, value_set=pa.array(["", *nulls], pa.string())), pa.scalar(None, pa.string()), trimmed)
    elif kind == "float":
        found = _float_texts(column)
    elif kind == "decimal":
        found = canonical_number(column.cast(pa.string()))
    elif kind in ("integer", "boolean", "time"):
        found = column.cast(pa.string())
    else:
        raise BadValue(0, column[0].as_py() if len(column) else None, f"is of type {column.type}; give text, numbers, times, true or false")
    if whole:
        found = canonical_number(found)
        require(pc.match_substring_regex(found, f"^-?{_WHOLE}$"), column, "is no whole number, as type: integer asks for; mend the row")
    return found


def _float_texts(column: pa.Array) -> pa.Array:
    numbers = column.to_numpy(zero_copy_only=False).astype(np.float64)
    missing = np.isnan(numbers)
    sizes = np.abs(np.where(missing, 0, numbers))
    require(pa.array(sizes <= _EXACT), column, "is a float, which can't hold such a number exactly; write the column as integers or text")
    whole = np.isin(sizes % 1, 0) & ~missing
    digits = pa.array(np.where(whole, numbers, 0).astype(np.int64)).cast(pa.string())
    found = digits if whole.all() else pc.if_else(pa.array(whole), digits, column.cast(pa.string()))
    return pc.if_else(pa.array(missing), pa.scalar(None, pa.string()), found)


def as_text(column: pa.Array) -> pa.Array:
    """[N] strings for a reader: any value as it is, lists in brackets."""
    column = plain(column)
    if kind_of(column.type) in ("list", "other"):
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    return column.cast(pa.string())


def canonical_number(found: pa.Array) -> pa.Array:
    """One spelling for numbers that are one value: 3, 3.0, +3 and 3.00 are 3, 3.50 is 3.5, −0 is 0. Others stay what they are: 007 is an
    id, 1e3 a word."""
    if not len(found) or not pc.any(pc.match_substring_regex(found, r"^[+-]|\.[0-9]*$")).as_py():
        return found
    found = pc.replace_substring_regex(found, rf"^([+-]?{_WHOLE}\.[0-9]*?)0*$", r"\1")
    found = pc.replace_substring_regex(found, rf"^([+-]?{_WHOLE})\.$", r"\1")
    found = pc.replace_substring_regex(found, rf"^\+({_WHOLE}(?:\.[0-9]+)?)$", r"\1")
    return pc.if_else(pc.equal(found, "-0"), "0", found)


def _comparable(found: pa.Array) -> pa.Array:
    """Numbers in one spelling, TRUE and False in small letters."""
    lower = pc.utf8_lower(found)
    return canonical_number(pc.if_else(pc.is_in(lower, value_set=pa.array(["true", "false"])), lower, found))


def is_in(column: pa.Array, values: Sequence[str], nulls: Sequence[str] = ("",)) -> pa.Array:
    """[N] bool: 3, 3.0 and "3.0" are one value; a missing one is in nothing."""
    return pc.is_in(_comparable(texts(column, nulls)), value_set=_comparable(pa.array(values, pa.string())))


def numbers(column: pa.Array, nulls: Sequence[str] = ("",)) -> pa.Array:
    """[N] float64, null where missing. Raises BadValue for what is no number, and for an infinite one."""
    column = plain(column)
    kind = kind_of(column.type)
    if kind == "text":
        found = texts(column, nulls)
        require(pc.match_substring_regex(found, _NUMBER), column, "is no number; make it one, or set kind: categorical")
        found = pc.replace_substring_regex(found, r"^\+", "").cast(pa.float64())
    elif kind in ("integer", "float", "decimal"):
        found = column.cast(pa.float64(), safe=False)
    elif kind == "boolean":
        found = column.cast(pa.int8()).cast(pa.float64())
    else:
        raise BadValue(0, column[0].as_py() if len(column) else None, f"is of type {column.type}, and no number; set another kind")
    found = pc.if_else(found.is_null(nan_is_null=True), pa.scalar(None, pa.float64()), found)
    require(pc.is_finite(found), column, "is infinite; mend the row")
    return found


@dataclass
class LabelCounts:
    """Rows without a label and with one of `drop`; the values of `drop` and `positive` that occurred."""

    missing: int = 0
    dropped: int = 0
    occurred: set[str] = field(default_factory=set)


def labels(
    column: pa.Array,
    *,
    positive_from: float | None = None,
    positive: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    missing: Literal["drop", "negative"] = "drop",
    nulls: Sequence[str] = ("",),
) -> tuple[pa.Array, LabelCounts]:
    """[N] int8, null for rows that are left out, by the rule of a schema (LabelRule). Raises BadValue for a label that it can't read."""
    column = plain(column)
    if kind_of(column.type) == "list":
        raise BadValue(0, column[0].as_py() if len(column) else None, "is a list; a label is one value")
    absent = is_missing(column, nulls)
    dropped = is_in(column, drop, nulls) if drop else pa.array(np.zeros(len(column), dtype=bool))
    left_out = pc.or_(absent, dropped)
    kept = pc.if_else(left_out, pa.scalar(None, column.type), column)
    if positive_from is not None:
        click = pc.greater_equal(_label_numbers(kept, nulls, positive_from), positive_from)
    elif positive is not None:
        click = is_in(kept, positive, nulls)
    else:
        found = _comparable(texts(kept, nulls))
        place = pc.index_in(found, value_set=pa.array([*_FALSE, *_TRUE]))
        why = "is neither 0 nor 1; say with positive_from or positive which labels are clicks"
        require(pc.or_(place.is_valid(), found.is_null()), column, why)
        click = pc.greater_equal(place, len(_FALSE))
    label = pc.if_else(left_out, pa.scalar(None, pa.bool_()), click).cast(pa.int8())
    if missing == "negative":
        label = pc.if_else(absent, pa.scalar(0, pa.int8()), label)
    named = [*drop, *(positive or ())]
    occurring = _comparable(texts(column, nulls)).unique() if named else pa.array([], pa.string())
    occurs = pc.is_in(_comparable(pa.array(named, pa.string())), value_set=occurring).to_pylist()
    counts = LabelCounts(pc.sum(absent).as_py() or 0, pc.sum(dropped).as_py() or 0)
    counts.occurred = {value for value, found in zip(named, occurs, strict=True) if found}
    return label, counts


def _label_numbers(kept: pa.Array, nulls: Sequence[str], positive_from: float) -> pa.Array:
    try:
        return numbers(kept, nulls)
    except BadValue as error:
        raise BadValue(
            error.index, error.value, f"is no number (label.positive_from={positive_from:g}); mend the row, or drop it"
        ) from error


def elements(column: pa.Array, separator: str | None) -> pa.Array:
    """[N] lists of a column that has them, or of texts cut at the separator; null where there is nothing.

    Raises BadValue for text without a separator, and for lists with one.
    """
    column = plain(column)
    kind = kind_of(column.type)
    first = column[0].as_py() if len(column) else None
    if kind == "list":
        if separator is not None:
            raise BadValue(0, first, "is a list already; leave the separator out")
        return column
    if kind != "text":
        raise BadValue(0, first, "is no list and no text; leave out what is for several values")
    if separator is None:
        if pc.all(is_missing(column)).as_py():
            return pa.nulls(len(column), pa.list_(pa.string()))
        raise BadValue(0, first, "is one text; give the separator that stands between its values")
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.split_pattern(pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed), separator)


def lists(column: pa.Array, separator: str | None, nulls: Sequence[str] = ("",)) -> pa.Array:
    """[N] lists of strings without the missing ones; null where nothing is left. Raises BadValue as `elements` and `texts` do."""
    column = plain(column)
    if kind_of(column.type) == "text" and separator is not None:
        column = pc.if_else(is_missing(column, nulls), pa.scalar(None, pa.string()), column)
    return _without_missing(elements(column, separator), nulls)


def _without_missing(column: pa.Array, nulls: Sequence[str]) -> pa.Array:
    parents = pc.list_parent_indices(column).to_numpy()
    try:
        found = texts(column.flatten(), nulls)
    except BadValue as error:
        raise BadValue(int(parents[error.index]) if len(parents) else 0, error.value, error.why) from error
    present = found.is_valid().to_numpy(zero_copy_only=False)
    sizes = np.bincount(parents[present], minlength=len(column))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    kept = found.filter(pa.array(present))
    return pa.ListArray.from_arrays(pa.array(offsets), kept, mask=pa.array(sizes == 0))


def first_of(several: pa.Array) -> pa.Array:
    """[N] strings."""
    starts = several.offsets.to_numpy()[:-1]
    return several.values.take(pa.array(starts, mask=several.is_null().to_numpy(zero_copy_only=False)))


def all_of(several: pa.Array) -> pa.Array:
    """[N] strings, the values with commas between them."""
    return pc.binary_join(several, ", ")


def cut(found: pa.Array, longest: int) -> tuple[pa.Array, int]:
    """Texts of at most so many characters, and how many were longer."""
    long = pc.greater(pc.utf8_length(found), longest)
    count = pc.sum(long).as_py() or 0
    return (pc.utf8_rtrim_whitespace(pc.utf8_slice_codeunits(found, 0, longest)) if count else found), count

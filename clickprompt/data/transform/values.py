"""Read a typed column as a rule needs it: its text, its number, its label, its list. Pure functions of Arrow
arrays, without a loop over rows.

Numbers that are one value are one value in every type: 3, 3.0, "3.0" and Decimal 3.00 have the text 3.
BadValue names the first row that a column can't represent exactly (a float beyond 2^53) or that doesn't fit a
rule.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import contextlib
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from clickprompt.data.transform.columns import (
    NULLS,
    BadValue,
    flags,
    is_missing,
    kind_of,
    list_rows,
    may_be_values,
    plain,
    refuse,
    shown,
    stripped,
)
from clickprompt.data.transform.spelling import canonical_number, shortest, texts

__all__ = [
    "NULLS",
    "BadValue",
    "LabelCounts",
    "all_of",
    "canonical_number",
    "cut",
    "first_of",
    "hashes",
    "is_in",
    "is_missing",
    "kind_of",
    "labels",
    "lists",
    "numbers",
    "row_weights",
    "texts",
]

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_STRING = pa.string()
_NO_TEXT = pa.scalar(None, pa.string())


def is_in(column: pa.Array, values: Sequence[str], nulls: Sequence[str] = NULLS) -> pa.BooleanArray:
    """Return whether each row holds one of `values`; numbers are compared as numbers (3, 3.0, "3.0", Decimal
    3.00), true and false in any case.

    A boolean column's true matches the values true and 1. A missing value matches nothing. Raises BadValue
    for lists and structs.
    """
    return _places(column, values, nulls).is_valid()


def numbers(column: pa.Array, nulls: Sequence[str] = NULLS) -> pa.DoubleArray:
    """Return float64, null if missing; true is 1. Raises BadValue for what is not a number, or an infinite
    one.
    """
    column = plain(column)
    kind = kind_of(column.type)
    if kind == "text":
        return _text_numbers(column, nulls)
    if kind == "float":
        present = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        refuse(column, pc.is_inf(present), "is not a finite number; mend the row or leave it out")
        # 0.7 as a float32 is the number 0.7, as in a CSV file; its bits are 0.699999988
        return present if types.is_float64(column.type) else shortest(present).cast(pa.float64())
    if kind == "boolean":
        return column.cast(pa.int8()).cast(pa.float64())
    if kind in ("integer", "decimal", "null"):
        return column.cast(pa.float64(), safe=False)
    refuse(column, column.is_valid(), f"is not a number but of type {column.type}; set another kind")
    return pa.nulls(len(column), pa.float64())


def row_weights(column: pa.Array, label: pa.Array, nulls: Sequence[str] = NULLS) -> pa.FloatArray:
    """Return the rows' weights, float32; 0 for a row without a label, which is left out. Raises BadValue for
    another row's that is missing, negative or too large.
    """
    found = numbers(column, nulls)
    with np.errstate(over="ignore"):
        weights = found.to_numpy(zero_copy_only=False).astype(np.float32)
    kept = label.is_valid().to_numpy(zero_copy_only=False)
    wrong = kept & ~(np.isfinite(weights) & (weights >= 0))
    refuse(column, wrong, "is no weight, which is a number from 0 up; mend the row or leave it out")
    return pa.array(np.where(kept, weights, np.float32(0)))


@dataclass(frozen=True)
class LabelCounts:
    """Counts of labels. `missing` rows have no label, whatever becomes of them; `dropped` rows have a value
    of `drop`; `found`: the values of `drop` and `positive` that occur.
    """

    missing: int
    dropped: int
    found: frozenset[str]


def labels(
    column: pa.Array,
    *,
    positive_from: float | None = None,
    positive: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    missing: Literal["drop", "negative"] = "drop",
    nulls: Sequence[str] = NULLS,
) -> tuple[pa.Int8Array, LabelCounts]:
    """Return 1 and 0, null where the row is left out: by `drop`, or because its label is missing, unless a
    missing label counts as a negative one.

    Raises BadValue for a label that the rule can't read: with `positive_from` no number, without a rule
    neither 0 nor 1 (false, true, 1.0).
    """
    column = plain(column)
    rows = None
    # Texts with few distinct values: judge each value once
    if kind_of(column.type) == "text" and len(column.slice(0, 10_000).unique()) < 1000:
        encoded = column.dictionary_encode()
        column, rows = encoded.dictionary, encoded.indices
    try:
        dropped = _places(column, drop, nulls)
        kept = (
            pc.if_else(dropped.is_valid(), pa.scalar(None, column.type), column)
            if dropped.null_count < len(dropped)
            else column
        )
        label, found = _labels(kept, positive_from, positive, nulls)
    except BadValue as error:
        if rows is None:
            raise
        raise BadValue(pc.index(rows, error.index).as_py(), column[error.index].as_py(), error.why) from error
    found |= _occurring(dropped, drop)
    empty = pc.and_(label.is_null(), dropped.is_null())
    if missing == "negative":
        label = pc.if_else(empty, pa.scalar(0, pa.int8()), label)
    if rows is None:
        return label, LabelCounts(empty.true_count, len(dropped) - dropped.null_count, frozenset(found))
    label = label.take(rows)
    if missing == "negative":
        label = pc.if_else(rows.is_null(), pa.scalar(0, pa.int8()), label)
    without = rows.null_count + _rows_of(rows, empty)
    return label, LabelCounts(without, _rows_of(rows, dropped.is_valid()), frozenset(found))


def lists(column: pa.Array, separator: str | None, nulls: Sequence[str] = NULLS) -> pa.ListArray:
    """Return list<string> of what isn't missing, null if nothing is left: a list column's elements, or a
    text's between separators.

    Raises BadValue for a text without a separator, a list with one, and elements that have no text.
    """
    column = plain(column)
    kind = kind_of(column.type)
    if kind == "list":
        if separator is not None:
            refuse(column, column.is_valid(), f"is a list already; leave separator={separator!r} out")
        rows = list_rows(column)
        try:
            elements = texts(pc.list_flatten(column), nulls)
        except BadValue as error:
            index = int(rows[error.index])
            raise BadValue(
                index, shown(column, index), f"has the element {error.value}, which {error.why}"
            ) from error
        return _regrouped(elements, rows, len(column))
    if kind == "text":
        whole = stripped(column, nulls)
        if separator is not None:
            # not `whole`, where blanks that may be separators are trimmed
            split = pc.split_pattern(pc.if_else(whole.is_null(), _NO_TEXT, column), separator)
            return _regrouped(stripped(pc.list_flatten(split), nulls), list_rows(split), len(column))
        refuse(
            column,
            whole.is_valid(),
            "is a text, not a list; say what stands between its values, as separator: '|'",
        )
    refuse(
        column,
        pc.invert(is_missing(column)),
        f"is of type {column.type}, neither a list nor a text; set kind: categorical or numeric",
    )
    return pa.nulls(len(column), pa.list_(_STRING))


def first_of(lists: pa.ListArray) -> pa.StringArray:
    """Return each list's first element; null for null, or an empty list."""
    some = pc.greater(pc.list_value_length(lists), 0)
    return lists.values.take(
        pc.if_else(pc.fill_null(some, False), lists.offsets[:-1], pa.scalar(None, pa.int32()))
    )


def all_of(lists: pa.ListArray) -> pa.StringArray:
    """Join each list's elements with ", "; null stays null."""
    return pc.binary_join(lists, ", ")


def cut(texts: pa.StringArray, longest: int) -> tuple[pa.StringArray, int]:
    """Return texts of at most `longest` characters (code points), and how many were longer."""
    long = pc.sum(pc.greater(pc.utf8_length(texts), longest)).as_py() or 0
    return (pc.utf8_slice_codeunits(texts, 0, longest) if long else texts), long


def hashes(values: pa.Array) -> pa.Array:
    """Return int64 numbers that tell the values apart; −1 for a missing one."""
    encoded = values.dictionary_encode()
    digests = [
        hashlib.blake2b(value.encode(), digest_size=8).digest() for value in encoded.dictionary.to_pylist()
    ]
    numbers = np.append(np.frombuffer(b"".join(digests), dtype=np.int64) & np.int64(2**62 - 1), np.int64(-1))
    return pa.array(numbers[encoded.indices.fill_null(len(digests)).to_numpy()])


def _text_numbers(column: pa.StringArray, nulls: Sequence[str]) -> pa.DoubleArray:
    if not may_be_values(nulls):
        with contextlib.suppress(pa.ArrowInvalid):
            found = column.cast(pa.float64())
            if pc.all(pc.is_finite(found), min_count=0).as_py():
                return found
    texts = stripped(column, nulls)
    try:
        found = texts.cast(pa.float64())
    except pa.ArrowInvalid:
        found = pc.if_else(pc.match_substring_regex(texts, _NUMBER), texts, _NO_TEXT).cast(pa.float64())
    wrong = pc.and_(texts.is_valid(), pc.invert(pc.fill_null(pc.is_finite(found), False)))
    refuse(column, wrong, "is not a number; make it one, or set kind: categorical")
    return found


def _labels(
    column: pa.Array, positive_from: float | None, positive: Sequence[str] | None, nulls: Sequence[str]
) -> tuple[pa.Int8Array, set[str]]:
    """Apply the rule alone: labels, null if missing, and the values of `positive` that occur."""
    if positive_from is not None:
        try:
            return pc.greater_equal(numbers(column, nulls), positive_from).cast(pa.int8()), set()
        except BadValue as error:
            raise BadValue(
                error.index,
                shown(column, error.index),
                f"is not a number (label.positive_from={positive_from:g})",
            ) from error
    empty = is_missing(column, nulls)
    if positive is not None:
        places = _places(column, positive, nulls)
        return pc.if_else(empty, pa.scalar(None, pa.int8()), places.is_valid().cast(pa.int8())), _occurring(
            places, positive
        )
    places = _places(column, ("0", "false", "1", "true"), nulls)
    wrong = pc.and_not(places.is_null(), empty)
    refuse(column, wrong, "is neither 0 nor 1; say with positive_from or positive which labels are clicks")
    return pc.greater_equal(places, 2).cast(pa.int8()), set()


def _rows_of(indices: pa.Int32Array, chosen: pa.BooleanArray) -> int:
    """Count the indices that are of chosen distinct values."""
    places = np.flatnonzero(flags(chosen)).astype(np.int32)
    return pc.sum(pc.is_in(indices, value_set=pa.array(places))).as_py() or 0 if len(places) else 0


def _places(column: pa.Array, values: Sequence[str], nulls: Sequence[str]) -> pa.Int32Array:
    """Return which of `values` (the first that is the same) each row holds; null for none."""
    column = plain(column)
    kind = kind_of(column.type)
    if kind in ("list", "other"):
        refuse(
            column,
            column.is_valid(),
            f"is of type {column.type}, where one value is needed; name another column",
        )
    if kind in ("list", "other", "null") or not values:
        return pa.nulls(len(column), pa.int32())
    spellings = canonical_number(pa.array([value.strip() for value in values], _STRING)).to_pylist()
    keys: dict[str | float, int] = {}
    for place, value in enumerate(spellings):
        for key in _keys(value, column.type):
            keys.setdefault(key, place)
    if kind == "float":
        # -0.0 + 0 is 0.0, the same for index_in
        found = pc.add(column, pa.scalar(0, column.type)).cast(pa.float64())
        value_set = pa.array(list(keys), pa.float64())
    else:
        found = canonical_number(stripped(column, nulls)) if kind == "text" else texts(column)
        value_set = pa.array(list(keys), _STRING)
    return pa.array(list(keys.values()), pa.int32()).take(
        pc.index_in(found, value_set=value_set, skip_nulls=True)
    )


def _keys(value: str, type: pa.DataType) -> Sequence[str | float]:
    """Return how a value may look in a column of the type: true in any case, 0.1 as the float
    nearest to it.
    """
    kind = kind_of(type)
    if kind == "float":
        number = pc.match_substring_regex(pa.scalar(value), _NUMBER).as_py()
        return [float(type.to_pandas_dtype()(value)) + 0.0] if number else []
    if kind == "boolean":
        return [{"1": "true", "0": "false"}.get(value, value.lower())]
    if value.lower() in ("true", "false"):
        return [
            "".join(letters)
            for letters in itertools.product(*((letter.lower(), letter.upper()) for letter in value))
        ]
    return [value]


def _occurring(places: pa.Int32Array, values: Sequence[str]) -> set[str]:
    found: list[int] = pc.unique(places.drop_null()).to_pylist()
    return {values[place] for place in found}


def _regrouped(elements: pa.StringArray, rows: np.ndarray, count: int) -> pa.ListArray:
    """Return lists of the elements that aren't null, each in its row."""
    valid = elements.is_valid()
    counts = np.bincount(rows[flags(valid)], minlength=count)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), elements.filter(valid), mask=pa.array(counts == 0))

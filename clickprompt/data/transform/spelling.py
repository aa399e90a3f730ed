"""Give a value one text, whatever type its column has: 3, 3.0 and Decimal 3.00 are "3", and ids keep every
digit. There is no loop over rows.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from clickprompt.data.transform.columns import NULLS, any_true, kind_of, plain, refuse, stripped

__all__ = ["as_text", "canonical_number", "shortest", "texts", "without_exponent"]

_STRING = pa.string()


def texts(column: pa.Array, nulls: Sequence[str] = NULLS, *, whole: bool = False) -> pa.StringArray:
    """Return a category's text, null if it is missing.

    Texts are kept without surrounding blanks. Whole numbers become digits; fractions have no needless zeros
    and never an exponent; booleans become true and false; dates and times have ISO form. `whole`: the column
    holds whole numbers, and "3.0", "+3" and "003" are 3.

    Raises BadValue for floats that may have been rounded when they were written, for what has no text (lists,
    structs), and, if `whole`, for fractions and texts.
    """
    column = plain(column)
    kind = kind_of(column.type)
    if kind == "text":
        found = stripped(column, nulls)
    elif kind == "float":
        found = _float_texts(column)
    elif kind == "decimal":
        found = canonical_number(without_exponent(column.cast(_STRING)))
    elif kind == "time":
        found = _time_texts(column)
    elif kind in ("integer", "boolean", "null"):
        found = column.cast(_STRING)
    else:
        why = (
            "is a list; set kind: multi"
            if kind == "list"
            else f"is of type {column.type}, which has no text; leave the column out"
        )
        refuse(column, column.is_valid(), why)
        return pa.nulls(len(column), _STRING)
    return _whole(column, found) if whole and kind != "integer" else found


def canonical_number(texts: pa.StringArray) -> pa.StringArray:
    """Give one spelling to a number written in several: 3.0, 3. and 3.00 are 3, 3.50 is 3.5, .5 is 0.5, -0.0
    is 0; exact, of any length.

    Everything else stays: 007, +3 and 1e3 may be ids.
    """
    pointed = pc.or_(pc.match_substring(texts, "."), pc.equal(texts, "-0"))
    if not any_true(pointed):
        return texts
    pointed = pc.match_substring_regex(texts, r"^(-?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)|-0)$")
    some = texts.filter(pointed)
    some = pc.replace_substring_regex(some, r"^(-?)\.", r"\10.")
    some = pc.replace_substring_regex(some, r"\.0*$", "")
    some = pc.replace_substring_regex(some, r"(\.[0-9]*[1-9])0+$", r"\1")
    some = pc.replace_substring_regex(some, r"^-0$", "0")
    return pc.replace_with_mask(texts, pointed, some)


def without_exponent(texts: pa.StringArray) -> pa.StringArray:
    """Write numbers with their digits in full: 1e-7 is 0.0000001."""
    raised = pc.match_substring(texts, "e", ignore_case=True)
    if not any_true(raised):
        return texts
    distinct = texts.filter(raised).dictionary_encode()
    spelled = pa.array([f"{Decimal(value):f}" for value in distinct.dictionary.to_pylist()], _STRING)
    return pc.replace_with_mask(texts, raised, spelled.take(distinct.indices))


def _whole(column: pa.Array, found: pa.StringArray) -> pa.StringArray:
    found = pc.replace_substring_regex(found, r"^\+([0-9.])", r"\1")
    found = canonical_number(pc.replace_substring_regex(found, r"^(-?)0+([0-9])", r"\1\2"))
    wrong = pc.invert(pc.match_substring_regex(found, "^-?[0-9]+$"))
    refuse(column, wrong, "is not a whole number, as type: integer says; mend the row, or leave type out")
    return found


def _float_texts(column: pa.FloatingPointArray) -> pa.StringArray:
    """Write floats. Raises BadValue from the first whole number on that the type can't tell from its
    neighbours.
    """
    present = pc.invert(column.is_null(nan_is_null=True))
    wide = pc.if_else(present, column, pa.scalar(None, column.type)).cast(pa.float64())
    inexact = {16: 2**11, 32: 2**24, 64: 2**53}[column.type.bit_width]
    refuse(
        column,
        pc.greater_equal(pc.abs(wide), inexact),
        "is a float, which can't hold it exactly; write the column as integers or text",
    )
    truncated = pc.trunc(wide)
    found = truncated.cast(pa.int64()).cast(_STRING)
    fraction = pc.fill_null(pc.not_equal(wide, truncated), False)
    if any_true(fraction):
        found = pc.replace_with_mask(found, fraction, without_exponent(shortest(column.filter(fraction))))
    return found


def shortest(column: pa.FloatingPointArray) -> pa.StringArray:
    """Write the shortest decimal number that is nearest to no other float of the type."""
    if not types.is_float16(column.type):
        return column.cast(_STRING)
    distinct = column.dictionary_encode()  # Arrow writes a float16's bits out
    spelled = [
        np.format_float_positional(value, trim="-")
        for value in distinct.dictionary.to_numpy(zero_copy_only=False)
    ]
    return pa.array(spelled, _STRING).take(distinct.indices)


def _time_texts(column: pa.Array) -> pa.StringArray:
    """Write a date alone, or with a T and the time, in UTC and with a Z if it has a zone, without a fraction
    of zeros.
    """
    if types.is_date(column.type):
        return column.cast(pa.date32()).cast(_STRING)
    if not types.is_timestamp(column.type):
        return _short_fraction(column.cast(_STRING))
    found = _short_fraction(
        pc.replace_substring(column.cast(pa.timestamp(column.type.unit)).cast(_STRING), " ", "T")
    )
    return found if column.type.tz is None else pc.binary_join_element_wise(found, "Z", "")


def _short_fraction(times: pa.StringArray) -> pa.StringArray:
    return pc.replace_substring_regex(times, r"(\.[0-9]*[1-9])0+$|\.0+$", r"\1")


def as_text(column: pa.Array) -> pa.StringArray:
    """Write any value as text for a reader; null stays null."""
    column = plain(column)
    if kind_of(column.type) in ("list", "other"):
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    return column.cast(pa.string())

"""Times in any of the ways that files have them → microseconds since 1970, UTC. Shape legend: N rows."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.values import BadValue, kind_of, plain, require, texts

__all__ = ["Unit", "instants"]

Unit = Literal["s", "ms", "us", "ns"]

_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_UNITS: tuple[tuple[Unit, str, float], ...] = (
    ("s", "seconds since 1970", 1e11),
    ("ms", "milliseconds since 1970", 1e14),
    ("us", "microseconds since 1970", 1e17),
    ("ns", "nanoseconds since 1970", np.inf),
)
"""unit, what it is called, and the size of a number from which on it is another"""
_ANY_UNIT = 1e8  # smaller numbers fit every unit

_NAIVE, _ZONED = "a date or time without a zone", "a time with a zone"
_NUMBER = r"^(?P<sign>-?)\+?(?P<whole>[0-9]{1,19})(?:\.(?P<fraction>[0-9]*))?$"
_ISO = (
    r"^(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ](?P<clock>[0-9]{2}:[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?)?"
    r" ?(?P<zone>Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}|[+-][0-9]{2})?$"
)
_WHY = "is neither a number nor a date such as 2024-05-01, 2024-05-01 12:30:00 or 2024-05-01T12:30:00+02:00; mend the row or leave it out"


def instants(column: pa.Array, unit: Unit | None = None, nulls: Sequence[str] = ("",)) -> tuple[pa.Array, dict[str, int]]:
    """[N] int64, null where missing, and the forms that the column has them in → a row of each.

    unit: of numbers; without it their size says it. Raises BadValue for what is no time, and where two forms are in one column.
    """
    column = plain(column)
    kind = kind_of(column.type)
    if kind == "time":
        found, forms = _of_times(column)
    elif kind in ("integer", "float", "decimal"):
        found, forms = _of_numbers(column, unit)
    elif kind == "text":
        found, forms = _of_texts(column, unit, nulls)
    else:
        raise BadValue(0, column[0].as_py() if len(column) else None, f"is of type {column.type}, and no time; name another column")
    if unit is not None and (dated := [index for form, index in forms.items() if form in (_NAIVE, _ZONED)]):
        raise BadValue(dated[0], column[dated[0]].as_py(), f"is a date, and timestamp.unit={unit} is for numbers; leave unit out")
    if len(forms) > 1:
        (one, first), (other, second), *_ = sorted(forms.items(), key=lambda item: item[1])
        before = f"is {other}, after {column[first].as_py()!r}, which is {one}"
        why = f"{before}: one column has one unit and zone; mend it, or give timestamp.unit"
        raise BadValue(second, column[second].as_py(), why)
    return found, forms


def _of_times(column: pa.Array) -> tuple[pa.Array, dict[str, int]]:
    zoned = pa.types.is_timestamp(column.type) and column.type.tz is not None
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    raw = column.cast(pa.int64())  # NaT is null
    scale = _MICROSECONDS.get(column.type.unit)
    try:
        found = _divided(raw) if scale is None else pc.multiply_checked(raw, scale)
    except pa.ArrowInvalid as error:
        index = int(np.argmax(np.abs(raw.fill_null(0).to_numpy(zero_copy_only=False))))
        raise BadValue(index, str(raw[index]), "is too far from 1970; mend the row") from error
    return found, _first_valid(found, _ZONED if zoned else _NAIVE)


def _divided(nanoseconds: pa.Array) -> pa.Array:
    missing = nanoseconds.is_null().to_numpy(zero_copy_only=False)
    return pa.array(nanoseconds.fill_null(0).to_numpy(zero_copy_only=False) // 1000, mask=missing)


def _first_valid(found: pa.Array, form: str) -> dict[str, int]:
    index = pc.index(found.is_valid(), True).as_py()
    return {form: index} if index >= 0 else {}


def _of_numbers(column: pa.Array, unit: Unit | None) -> tuple[pa.Array, dict[str, int]]:
    if kind_of(column.type) == "integer":
        require(_fits_int64(column), column, "is too far from 1970; mend the row")
        missing = column.is_null().to_numpy(zero_copy_only=False)
        whole = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        return _scaled(column, whole, np.zeros(len(whole)), missing, unit)
    if kind_of(column.type) == "decimal":
        return _of_texts(column.cast(pa.string()), unit, ())
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    values = np.where(missing, 0, values)
    require(pa.array(np.abs(values) < 2.0**63), column, "is too far from 1970; mend the row")
    whole = np.floor(values)
    return _scaled(column, whole.astype(np.int64), values - whole, missing, unit)


def _fits_int64(column: pa.Array) -> pa.Array:
    return pc.less(column, 1 << 63) if pa.types.is_uint64(column.type) else pa.array(np.ones(len(column), dtype=bool))


def _scaled(
    column: pa.Array, whole: np.ndarray, fraction: np.ndarray, missing: np.ndarray, unit: Unit | None
) -> tuple[pa.Array, dict[str, int]]:
    """whole [N] int64 and fraction [N] in 0…1, of one unit → microseconds."""
    sizes = np.abs(whole.astype(np.float64))
    forms: dict[str, int] = {}
    if unit is None:
        low = _ANY_UNIT
        for name, form, high in _UNITS:
            rows = np.flatnonzero(~missing & (sizes >= low) & (sizes < high))
            if len(rows):
                forms[form] = int(rows[0])
                unit = unit or name
            low = high
        if len(forms) > 1:
            return pa.nulls(len(whole), pa.int64()), forms
    else:
        form = next(form for name, form, _ in _UNITS if name == unit)
        forms = {form: int(np.flatnonzero(~missing)[0])} if (~missing).any() else {}
    if unit == "ns":
        return pa.array(whole // 1000, mask=missing), forms
    scale = _MICROSECONDS[unit or "s"]
    far = np.abs(whole) >= 2**62 // scale
    require(pa.array(~far), column, "is too far from 1970; mend the row, or give timestamp.unit")
    return pa.array(whole * scale + np.rint(fraction * scale).astype(np.int64), mask=missing), forms


def _of_texts(column: pa.Array, unit: Unit | None, nulls: Sequence[str]) -> tuple[pa.Array, dict[str, int]]:
    found = texts(column, nulls)
    present = found.is_valid().to_numpy(zero_copy_only=False)
    numeric = pc.match_substring_regex(found, _NUMBER).fill_null(False).to_numpy(zero_copy_only=False)
    dated = pc.match_substring_regex(found, _ISO).fill_null(False).to_numpy(zero_copy_only=False)
    require(pa.array(numeric | dated | ~present), column, _WHY)
    if numeric.any() and dated.any():
        return found, {"a number": int(np.argmax(numeric)), "a date": int(np.argmax(dated))}
    if numeric.any():
        whole, fraction = _parsed_numbers(found, column)
        return _scaled(column, whole, fraction, ~present, unit)
    return _parsed_dates(found, column)


def _parsed_numbers(found: pa.Array, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    parts = pc.extract_regex(found, _NUMBER)
    negative = pc.equal(pc.struct_field(parts, "sign"), "-").fill_null(False).to_numpy(zero_copy_only=False)
    whole = _int64(pc.struct_field(parts, "whole").fill_null("0"), column)
    digits = pc.struct_field(parts, "fraction").fill_null("")
    fraction = pc.binary_join_element_wise("0.", pc.if_else(pc.equal(digits, ""), "0", digits), "").cast(pa.float64())
    fraction = fraction.to_numpy(zero_copy_only=False)
    up = negative & (fraction > 0)  # −1.25 is −2 and .75
    return np.where(negative, -whole, whole) - up, np.where(up, 1 - fraction, fraction)


def _int64(digits: pa.Array, column: pa.Array) -> np.ndarray:
    try:
        return digits.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        shorter = pc.or_(pc.less(pc.utf8_length(digits), 19), pc.less_equal(digits, str(2**63 - 1)))
        require(shorter, column, "is too far from 1970; mend the row")
        raise


def _parsed_dates(found: pa.Array, column: pa.Array) -> tuple[pa.Array, dict[str, int]]:
    parts = pc.extract_regex(found, _ISO)

    def part(name: str, default: str) -> pa.Array:
        piece = pc.struct_field(parts, name).fill_null("")
        return pc.if_else(pc.equal(piece, ""), default, piece)

    text = pc.binary_join_element_wise(part("day", "1970-01-01"), part("clock", "00:00"), " ")
    text = pc.binary_join_element_wise(text, part("second", "00"), ":")
    text = pc.binary_join_element_wise(text, pc.utf8_slice_codeunits(pc.utf8_rpad(part("fraction", "0"), 9, "0"), 0, 6), ".")
    micro = _cast_dates(text, column).cast(pa.int64())
    zone = part("zone", "")
    offset = part("zone", "+0000")
    offset = pc.if_else(pc.is_in(offset, value_set=pa.array(["Z", "UTC", "GMT"])), "+0000", pc.replace_substring(offset, ":", ""))
    offset = pc.utf8_rpad(offset, 5, "0")
    minutes = pc.add(
        pc.multiply(pc.utf8_slice_codeunits(offset, 1, 3).cast(pa.int64()), 60), pc.utf8_slice_codeunits(offset, 3, 5).cast(pa.int64())
    )
    east = pc.if_else(pc.starts_with(offset, "-"), pc.negate(minutes), minutes)
    micro = pc.if_else(found.is_valid(), pc.subtract(micro, pc.multiply(east, 60_000_000)), pa.scalar(None, pa.int64()))
    zoned = pc.and_(pc.not_equal(zone, ""), found.is_valid())
    forms = {}
    for form, rows in ((_ZONED, zoned), (_NAIVE, pc.and_(pc.invert(zoned), found.is_valid()))):
        index = pc.index(rows, True).as_py()
        if index >= 0:
            forms[form] = index
    return micro, forms


def _cast_dates(text: pa.Array, column: pa.Array) -> pa.Array:
    try:
        return text.cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        distinct: Any = text.dictionary_encode()
        fits = [_is_date(value) for value in distinct.dictionary.to_pylist()]
        require(pa.array(fits).take(distinct.indices), column, _WHY)
        raise


def _is_date(text: str) -> bool:
    try:
        pa.array([text]).cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        return False
    return True

"""Read a column of times as microseconds since 1970 (UTC): numbers in s, ms, us or ns, dates, timestamps, ISO
texts with or without a zone.

A column has one form. `instants` refuses two in one array, and names the one it found, so that a caller can
compare files (`conflict`).
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from clickprompt.data.transform.columns import (
    NULLS,
    BadValue,
    any_true,
    first_uncastable,
    flags,
    is_missing,
    kind_of,
    may_be_values,
    plain,
    refuse,
    shown,
    stripped,
)
from clickprompt.data.transform.spelling import texts, without_exponent

__all__ = ["WITHOUT_ZONE", "WITH_ZONE", "Forms", "Unit", "conflict", "day_of", "instants", "unit_of"]

Unit = Literal["s", "ms", "us", "ns"]
Forms = dict[str, int]  # form → the first row that has it

_UNITS: dict[str, Unit] = {"seconds": "s", "milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns"}
_NUMBERS = {unit: form for form, unit in _UNITS.items()}
_SMALL, WITHOUT_ZONE, WITH_ZONE = "number near 0", "date or time without zone", "time with zone"
_ORDER = (*_UNITS, WITHOUT_ZONE, WITH_ZONE, _SMALL)
# three years in seconds; counts of steps, hours or days fall below this, too, so such a number fits any unit
_NEAR_0 = 1e8
# Below the first are seconds (until the year 5138), from the last on nanoseconds
_BOUNDS = np.array([1e11, 1e14, 1e17])
_MICROS = {"s": 10**6, "ms": 10**3, "us": 1}  # microseconds in one of the unit
_DIGITS = {"s": 6, "ms": 3, "us": 0, "ns": 0}  # digits of the unit's fraction, down to microseconds

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = r"[T ][0-9]{2}(:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?)?"
_ISO = rf"{_DATE}({_TIME})?$"
_ISO_ZONED = rf"{_DATE}{_TIME} ?(Z|z|UTC|[+-][0-9]{{2}}(:?[0-9]{{2}})?)$"

_NEITHER = (
    "is neither a number nor a date such as 2024-05-01 or 2024-05-01T12:30:00+02:00; mend the row or "
    "leave it out"
)
_NO_DAY = "is not a date of the calendar or not a time of a day; mend the row or leave it out"
_TOO_FAR = "is too far from 1970 for a time in microseconds; mend the row, or set its unit"


def instants(
    column: pa.Array, unit: Unit | None = None, nulls: Sequence[str] = NULLS
) -> tuple[pa.Int64Array, Forms]:
    """Return int64 microseconds since 1970 UTC, null if missing, and the form found, with the first row that
    has it; no form if there is no value.

    Numbers are in `unit`, or in the unit that their size tells; numbers near 0 fit any, and have the unit of
    the column's others, or seconds if there are none. What is finer than a microsecond is cut off
    (downwards); a float of s or ms is the nearest microsecond. A time without a zone is taken as UTC.

    Raises BadValue for the first row that is not a time, is too far away, is a date despite a unit, or has a
    second form.
    """
    column = plain(column)
    try:
        return _instants(column, unit, nulls)
    except BadValue as error:
        if error.index:
            # An earlier row may break a rule that is checked later
            instants(column.slice(0, error.index), unit, nulls)
        raise


def _instants(column: pa.Array, unit: Unit | None, nulls: Sequence[str]) -> tuple[pa.Int64Array, Forms]:
    kind = kind_of(column.type)
    if kind == "text":
        return _from_texts(column, unit, nulls)
    if kind == "integer":
        return _from_integers(column, unit)
    if kind == "float":
        return _from_floats(column, unit)
    if kind == "decimal":
        return _from_digits(column, texts(column), unit)
    if kind == "time" and not types.is_time(column.type):
        return _from_times(column, unit)
    refuse(
        column,
        pc.invert(is_missing(column, nulls)),
        f"is no time but of type {column.type}; name another column",
    )
    return pa.nulls(len(column), pa.int64()), {}


def conflict(forms: Iterable[str]) -> tuple[str, str] | None:
    """Return two forms that can't be in one column, of those found in its parts; None if they go together."""
    clear = sorted(set(forms) - {_SMALL}, key=_ORDER.index)
    if len(clear) > 1:
        return clear[0], clear[1]
    if clear and clear[0] not in _UNITS and _SMALL in forms:
        return clear[0], _SMALL
    return None


def unit_of(forms: Iterable[str]) -> Unit | None:
    """Return the unit of a column with these forms, for `instants` of a part that may have only numbers near
    0; None for dates.
    """
    found = set(forms)
    for form, unit in _UNITS.items():
        if form in found:
            return unit
    return "s" if _SMALL in found else None


def _from_integers(column: pa.Array, unit: Unit | None) -> tuple[pa.Int64Array, Forms]:
    if types.is_uint64(column.type):
        refuse(column, pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())), _TOO_FAR)
    whole = _filled(column.cast(pa.int64()))
    unit, forms = _unit(column, whole.astype(np.float64), unit)
    return pa.array(_micros(column, whole, unit), mask=flags(column.is_null())), forms


def _from_floats(column: pa.FloatingPointArray, unit: Unit | None) -> tuple[pa.Int64Array, Forms]:
    column = pc.if_else(column.is_null(nan_is_null=True), pa.scalar(None, column.type), column)
    values = _filled(column.cast(pa.float64()))
    refuse(column, np.abs(values) >= 2.0**63, _TOO_FAR)
    unit, forms = _unit(column, values, unit)
    floor = np.floor(values)
    micros = _micros(column, floor.astype(np.int64), unit)
    if _DIGITS[unit]:
        micros += np.rint((values - floor) * _MICROS[unit]).astype(np.int64)
    return pa.array(micros, mask=flags(column.is_null())), forms


def _from_times(column: pa.Array, unit: Unit | None) -> tuple[pa.Int64Array, Forms]:
    if unit is not None:
        refuse(column, column.is_valid(), f"is not a number of unit: {unit}; leave unit out")
    valid = flags(column.is_valid())
    if types.is_timestamp(column.type):
        form = WITHOUT_ZONE if column.type.tz is None else WITH_ZONE
        micros = _micros(column, _filled(column.cast(pa.int64())), column.type.unit)
    else:
        days = _filled(column.cast(pa.date32()).cast(pa.int32())).astype(np.int64)
        form, micros = WITHOUT_ZONE, _micros(column, days * 86_400, "s")
    return pa.array(micros, mask=~valid), _example(form, valid)


def _from_texts(
    column: pa.StringArray, unit: Unit | None, nulls: Sequence[str]
) -> tuple[pa.Int64Array, Forms]:
    values = None if may_be_values(nulls) else _uniform(column)
    found = column if values is not None else stripped(column, nulls)
    values = values if values is not None else _uniform(found)
    if values is not None:
        try:
            return _instants(values, unit, nulls)
        except BadValue as error:
            raise BadValue(error.index, shown(column, error.index), error.why) from error
    present = flags(found.is_valid())
    rest = present
    groups = []
    for pattern, read in ((_NUMBER, _from_digits), (_ISO, _from_iso), (_ISO_ZONED, _from_zoned_iso)):
        if rest.any():
            some = flags(pc.match_substring_regex(found, pattern))
            groups.append((some, read))
            rest = rest & ~some
    refuse(column, rest, _NEITHER)
    forms: Forms = {}
    micros = np.zeros(len(column), np.int64)
    for some, read in groups:
        rows = np.flatnonzero(some)
        taken = pa.array(rows)
        try:
            values, its_forms = read(column.take(taken), found.take(taken), unit)
        except BadValue as error:
            index = int(rows[error.index])
            raise BadValue(index, shown(column, index), error.why) from error
        micros[rows] = _filled(values)
        forms |= {form: int(rows[row]) for form, row in its_forms.items()}
    _refuse_mixed(column, forms)
    return pa.array(micros, mask=~present), forms


def _uniform(texts: pa.StringArray) -> pa.Array | None:
    """Convert the usual column, all whole numbers, or all times with or without a zone; return None for any
    other.
    """
    for type in (pa.int64(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            found = texts.cast(type)
        except pa.ArrowInvalid:
            continue
        hexadecimal = type == pa.int64() and any(
            any_true(pc.starts_with(texts, start)) for start in ("0x", "0X")
        )
        return None if hexadecimal else found  # Arrow reads 0x10 as 16
    return None


def _from_iso(
    column: pa.StringArray, found: pa.StringArray, unit: Unit | None, zone: str | None = None
) -> tuple[pa.Int64Array, Forms]:
    type = pa.timestamp("us", zone)
    iso = pc.replace_substring_regex(found, r"(\.[0-9]{6})[0-9]+", r"\1")
    bad = first_uncastable(iso, type)
    if bad is not None:
        raise BadValue(bad, shown(column, bad), _NO_DAY)
    return _from_times(iso.cast(type), unit)


def _from_zoned_iso(
    column: pa.StringArray, found: pa.StringArray, unit: Unit | None
) -> tuple[pa.Int64Array, Forms]:
    iso = pc.replace_substring_regex(found, r" ?(Z|z|UTC)$", "Z")
    return _from_iso(column, pc.replace_substring_regex(iso, r" ([+-])", r"\1"), unit, "UTC")


def _from_digits(column: pa.Array, numbers: pa.StringArray, unit: Unit | None) -> tuple[pa.Int64Array, Forms]:
    """Convert numbers in decimal notation exactly; a float has no room for 1714557600123.4567."""
    numbers = without_exponent(numbers)
    negative = flags(pc.starts_with(numbers, "-"))
    digits = pc.utf8_ltrim(numbers, "+-")
    whole = pc.utf8_ltrim(pc.replace_substring_regex(digits, r"\..*$", ""), "0")
    whole = pc.utf8_lpad(whole, 19, "0")
    refuse(
        column,
        pc.greater(pc.if_else(pc.greater(pc.utf8_length(whole), 19), "9" * 19, whole), str(2**63 - 1)),
        _TOO_FAR,
    )
    sizes = _filled(whole.cast(pa.int64()))
    fraction = pc.utf8_rpad(pc.replace_substring_regex(digits, r"^[^.]*\.?", ""), 6, "0")
    unit, forms = _unit(column, sizes.astype(np.float64), unit)
    micros, kept = _micros(column, sizes, unit), _DIGITS[unit]
    if kept:
        micros += _filled(pc.utf8_slice_codeunits(fraction, 0, kept).cast(pa.int64()))
    finer = flags(pc.match_substring_regex(pc.utf8_slice_codeunits(fraction, kept), "[1-9]"))
    if unit == "ns":
        finer = finer | (sizes % 1000 != 0)
    return pa.array(np.where(negative, -micros - finer, micros), mask=flags(numbers.is_null())), forms


def _unit(column: pa.Array, values: np.ndarray, unit: Unit | None) -> tuple[Unit, Forms]:
    """Return the one unit of a column of numbers, as given or by their size (`values`, 0 where missing)."""
    present = flags(column.is_valid())
    if unit is not None or not present.any():
        return unit or "s", _example(_NUMBERS[unit or "s"], present)
    sizes = np.abs(values)
    clear = sizes >= _NEAR_0
    if not clear.any():
        return "s", _example(_SMALL, present)
    least, most = sizes.min(where=clear, initial=np.inf), sizes.max()
    smallest, largest = np.searchsorted(_BOUNDS, [least, most], side="right")
    if smallest < largest:
        places = np.searchsorted(_BOUNDS, sizes, side="right")
        _refuse_mixed(
            column,
            {
                form: row
                for place, name in enumerate(_UNITS)
                for form, row in _example(name, clear & (places == place)).items()
            },
        )
    form = tuple(_UNITS)[smallest]
    return _UNITS[form], _example(form, clear)


def _micros(column: pa.Array, whole: np.ndarray, unit: str) -> np.ndarray:
    """Return [N] int64; nanoseconds are rounded down."""
    if unit == "ns":
        return whole // 1000
    most = (2**63 - 1) // _MICROS[unit] - 1  # leaves room for a fraction
    if len(whole) and (whole.max() > most or whole.min() < -most):
        refuse(column, (whole > most) | (whole < -most), _TOO_FAR)
    return whole * _MICROS[unit]


def _refuse_mixed(column: pa.Array, forms: Forms) -> None:
    """Raise BadValue for the first row that has another form than a row before it."""
    rows = sorted((row, form) for form, row in forms.items())
    for place in range(1, len(rows)):
        pair = conflict([form for _, form in rows[: place + 1]])
        if pair is not None:
            row, form = rows[place]
            other = next(name for name in pair if name != form)
            why = (
                f"({form}) stands beside {shown(column, forms[other])} ({other}); a column has one "
                "unit and zone: mend the rows"
            )
            raise BadValue(row, shown(column, row), why)


def _example(form: str, rows: np.ndarray) -> Forms:
    return {form: int(np.argmax(rows))} if rows.any() else {}


def _filled(values: pa.Array) -> np.ndarray:
    return pc.fill_null(values, 0).to_numpy(zero_copy_only=False)


def day_of(microseconds: int) -> str:
    """Return the date of microseconds since 1970, or the seconds if they are beyond every calendar."""
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).date().isoformat()
    except OverflowError:
        return f"{microseconds / 1e6:.0f} s"

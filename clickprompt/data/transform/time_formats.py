"""Read a column of times by a format of strptime, such as %Y%m%d or %d/%b/%Y:%H:%M:%S %z.

Without a format, `instants` reads numbers since 1970 and ISO.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.transform.columns import NULLS, kind_of, plain, refuse
from clickprompt.data.transform.instants import WITH_ZONE, WITHOUT_ZONE, Forms
from clickprompt.data.transform.spelling import texts

__all__ = ["check_time_format", "digits_format", "formatted_instants", "time_of"]

_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_EXAMPLE = datetime(2013, 11, 24, 21, 47, 53, tzinfo=UTC)
_DIGITS = {
    8: ("%Y%m%d", "%y%m%d%H"),
    10: ("%Y%m%d%H",),
    12: ("%Y%m%d%H%M", "%y%m%d%H%M%S"),
    14: ("%Y%m%d%H%M%S",),
}
_YEARS = range(1995, 2041)  # of logs
_WIDTHS = {"Y": 4, "j": 3} | dict.fromkeys("ymdHIMS", 2)  # digits
_UNDIVIDED = re.compile("%[YjymdHIMS]%[YjymdHIMS]")


def check_time_format(format: str) -> str:
    """Return it. Raises ValueError if strptime doesn't know it, or it says no date or half a time."""
    if "%Z" in format:
        raise ValueError(f"{format!r} has %Z, and zones' names differ from machine to machine; use %z")
    try:
        again = datetime.strptime(_EXAMPLE.strftime(format), format)
    except (ValueError, re.error) as error:  # re's: a directive twice
        raise ValueError(f"{format!r} is no format of strptime ({error}); %Y%m%d reads 20240501") from error
    if again.date() != _EXAMPLE.date():
        raise ValueError(f"{format!r} says no date; give its year, month and day, as %Y%m%d does")
    if again.hour not in (0, _EXAMPLE.hour):
        raise ValueError(f"{format!r} has hours up to 12; add %p, or use %H")
    return format


def formatted_instants(
    column: pa.Array, format: str, nulls: Sequence[str] = NULLS
) -> tuple[pa.Int64Array, Forms]:
    """Return what `instants` does, of texts or whole numbers in a format. A time without %z is taken as UTC.

    Raises BadValue for the first row that is not such a time.
    """
    column = plain(column)
    if kind_of(column.type) not in ("text", "integer", "float", "decimal", "null"):
        refuse(column, column.is_valid(), f"is of type {column.type}, not a text; leave the format out")
    encoded = texts(column, nulls).dictionary_encode()
    micros = _read(encoded.dictionary, format).take(encoded.indices)
    present = encoded.indices.is_valid()
    why = f"is not a time of the format {format}; mend the row, or correct the format"
    refuse(column, pc.and_(present, micros.is_null()), why)
    form = WITH_ZONE if "%z" in format else WITHOUT_ZONE
    rows = present.to_numpy(zero_copy_only=False)
    return micros, {form: int(np.argmax(rows))} if rows.any() else {}


def time_of(text: str, format: str) -> int | None:
    """Return microseconds since 1970 UTC; None if the text isn't of the format."""
    found = _parsed(text, format)
    return None if found is None else (found - _1970) // timedelta(microseconds=1)


def digits_format(text: str) -> str | None:
    """Return the format of a date that is written as digits, in a year that logs are of."""
    if text.isascii() and text.isdigit():
        for format in _DIGITS.get(len(text), ()):
            found = _parsed(text, format)
            if found is not None and found.year in _YEARS:
                return format
    return None


def _parsed(text: str, format: str) -> datetime | None:
    try:
        found = datetime.strptime(text, format)
    except ValueError:
        return None
    # strptime takes 2024111 for a %Y%m%d, and nobody can say which day that is
    if _UNDIVIDED.search(format):
        wanted = sum(_WIDTHS.get(directive, 0) for directive in re.findall("%(.)", format))
        if sum(map(str.isdigit, text)) < wanted:
            return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _read(values: pa.StringArray, format: str) -> pa.Int64Array:
    """Return microseconds since 1970; null where a text isn't of the format.

    Not by Arrow's strptime, which takes 30 February for 1 March, and is no faster with a check for that.
    """
    return pa.array([time_of(text, format) for text in values.to_pylist()], pa.int64())

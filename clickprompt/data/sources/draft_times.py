"""Find the columns of times in a sample, and the format of dates that aren't numbers since 1970 nor ISO."""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from itertools import product
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.sources import draft_names
from clickprompt.data.sources.draft_look import Look, share
from clickprompt.data.transform.instants import instants
from clickprompt.data.transform.time_formats import digits_format, time_of
from clickprompt.data.transform.values import BadValue, kind_of

__all__ = ["Times", "looks_like_times", "times_of"]

_RECENT = (0.94e9, 2.1e9)  # seconds: from late in 1999 to 2036
_DATES = (
    *("%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y"),
    *("%Y.%m.%d", "%d.%m.%Y", "%d.%m.%y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%d-%b-%Y", "%d-%b-%y", "%d%b%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y"),
)
_CLOCKS = ("", "%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")
_FORMATS = (
    *(f"{date} {clock}".rstrip() for date, clock in product(_DATES, _CLOCKS)),
    # a web server's, an e-mail's, ctime's, Twitter's, ISO without dividers and with a comma
    *("%d/%b/%Y:%H:%M:%S %z", "%a, %d %b %Y %H:%M:%S %z", "%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S %z %Y"),
    *("%Y%m%dT%H%M%S%z", "%Y%m%dT%H%M%S", "%Y-%m-%d %H:%M:%S,%f"),
)
_NAMELESS = 10  # fewest digits that are a date without a name that says so


class Times(NamedTuple):
    """A column's first and last time, in microseconds, and the format they are of, "" if none is needed;
    other formats that they could be of.
    """

    first: int
    last: int
    format: str = ""
    others: tuple[str, ...] = ()


def times_of(found: Look, nameless: bool = False) -> Times | None:
    """Return the times of a column that has nothing but times, not all the same.

    nameless: whether the file has no names of columns. Then numbers are times if they look like recent ones;
    otherwise the name must say so.
    """
    if (
        found.missing
        or not found.rows
        or found.problem
        or kind_of(found.column.type) in ("list", "boolean", "other")
    ):
        return None
    named = draft_names.is_time(found.name)
    if (formats := _formats(found)) and (found.numbers is None or named or _long(found, nameless)):
        spans = [(*_span(found, format), format) for format in formats]
        # 01/05 is in January or May: a log is of few days rather than many
        first, last, format = min(spans, key=lambda span: span[1] - span[0])
        others = tuple(one for *span, one in spans if span != [first, last])
        return Times(first, last, format, others) if first < last else None
    if found.numbers is not None and (
        np.abs(found.numbers).min() < 1e8 or not (_are_recent(found) if nameless else named)
    ):
        return None
    try:
        moments = instants(found.column, None, found.nulls)[0]
    except (BadValue, pa.ArrowException):
        return None
    if moments.null_count:
        return None
    first, last = pc.min_max(moments).as_py().values()
    return Times(first, last) if first < last else None


def _formats(found: Look) -> list[str]:
    """Return the formats that all values are of."""
    if not found.present or kind_of(found.column.type) not in ("text", "integer", "float"):
        return []
    distinct = found.values.drop_null().unique().to_pylist()
    if found.numbers is not None:
        formats = {digits_format(text) for text in distinct}
        return [*formats] if len(formats) == 1 and None not in formats else []  # pyright: ignore[reportReturnType]
    formats = [format for format in _FORMATS if time_of(distinct[0], format) is not None]
    return [format for format in formats if all(time_of(text, format) is not None for text in distinct)]


def _span(found: Look, format: str) -> tuple[int, int]:
    moments = [time_of(text, format) for text in found.values.unique().to_pylist()]
    known = [moment for moment in moments if moment is not None]
    return min(known), max(known)


def _long(found: Look, nameless: bool) -> bool:
    return nameless and len(found.example) >= _NAMELESS


def _are_recent(found: Look) -> bool:
    """Return whether the numbers are seconds or milliseconds since 1970, of this century so far, and most of
    them come once or twice.
    """
    assert found.numbers is not None
    seconds = found.numbers / (1000 if found.numbers.min() > _RECENT[1] else 1)
    within = bool((seconds >= _RECENT[0]).all() and (seconds <= _RECENT[1]).all())
    return within and found.distinct > found.rows / 2


def _dated(found: Look) -> bool:
    if found.numbers is not None and (not found.present or np.nanmin(np.abs(found.numbers)) < 1e8):
        return False
    try:
        return bool(found.present) and instants(found.column, None, found.nulls)[0].null_count < found.rows
    except (BadValue, pa.ArrowException):
        return False


def looks_like_times(found: Look) -> bool:
    """Return whether the values look like times, including forms that aren't read."""
    if kind_of(found.column.type) == "time":
        return True
    if draft_names.is_time(found.name) and (_dated(found) or _formats(found)):
        return True
    return share(found, r"^[0-9]{1,4}[-/. ][0-9A-Za-z]{1,3}[-/. ][0-9]{1,4}\b.*[0-9]:[0-9]{2}") > 0.5

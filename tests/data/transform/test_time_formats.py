"""Dates by a format of strptime, against datetime's own reading of each value."""

import random
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest

from clickprompt.data.transform.columns import BadValue
from clickprompt.data.transform.time_formats import check_time_format, digits_format, formatted_instants

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FORMATS = [
    *("%Y%m%d", "%y%m%d%H", "%Y%m%d%H%M%S", "%Y%m%d%H%M%S%f", "%d%b%Y", "%Y%m%dT%H%M%S%z", "%Y%j"),
    *("%d/%b/%Y:%H:%M:%S %z", "%m/%d/%Y %I:%M:%S %p", "%d.%m.%Y %H:%M:%S.%f", "%a %b %d %H:%M:%S %Y"),
]


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read(format):
    draw = random.Random(format)
    zone = timezone(timedelta(hours=-3, minutes=-30)) if "%z" in format else UTC
    moments = [
        datetime(1970, 1, 1, tzinfo=zone) + timedelta(microseconds=draw.randrange(0, 2_900_000_000 * 10**6))
        for _ in range(300)
    ]
    written = [moment.strftime(format) for moment in moments]
    column = pa.array([*written, None, " ", *written])
    # what is finer than the format is lost in writing
    again = [datetime.strptime(text, format) for text in written]
    meant = [(one if one.tzinfo else one.replace(tzinfo=UTC)) - EPOCH for one in again]
    micros = [one // timedelta(microseconds=1) for one in meant]
    found, forms = formatted_instants(column, format)
    assert found.to_pylist() == [*micros, None, None, *micros]
    assert forms == {"time with zone" if "%z" in format else "date or time without zone": 0}
    assert check_time_format(format) == format


@pytest.mark.parametrize("type", [pa.int32(), pa.int64(), pa.float64(), pa.decimal128(25, 2), pa.string()])
def test_whole_numbers_are_dates_too(type):
    column = pa.array([20240229, 20231231, None]).cast(type)
    found, _ = formatted_instants(column, "%Y%m%d")
    assert found.cast(pa.timestamp("us")).to_pylist() == [datetime(2024, 2, 29), datetime(2023, 12, 31), None]


@pytest.mark.parametrize(
    ("value", "format"),
    [
        ("20240230", "%Y%m%d"),  # Arrow takes it for 1 March
        ("2024111", "%Y%m%d"),  # 11 January or 1 November
        ("202405011", "%Y%m%d"),
        ("2024-05-01", "%Y%m%d"),
        ("13/01/2024", "%m/%d/%Y"),
        ("yesterday", "%d %B %Y"),
        ("01/05/2024 25:00", "%d/%m/%Y %H:%M"),
    ],
)
def test_what_is_no_such_time(value, format):
    right = datetime(2024, 5, 1).strftime(format)
    with pytest.raises(BadValue, match=f"is not a time of the format {format}; mend the row") as error:
        formatted_instants(pa.array([right, None, right, value, right]), format)
    assert (error.value.index, error.value.value) == (3, repr(value))


@pytest.mark.parametrize("column", [pa.array([None, True]), pa.array([None, datetime(2024, 5, 1)])])
def test_what_is_neither_text_nor_number(column):
    with pytest.raises(BadValue, match="not a text; leave the format out") as error:
        formatted_instants(column, "%Y%m%d")
    assert error.value.index == 1


@pytest.mark.parametrize(
    ("format", "said"),
    [
        *(
            (format, "is no format of strptime")
            for format in ("%Q", "%", "%s", "%Y-W%V", "%Y%m%d %Y", "%Y%m%d\0", "%Y%m%d\ud800")
        ),
        *((format, "says no date") for format in ("", "%H:%M", "%Y", "%m/%d", "%Y%m")),
        ("%m/%d/%Y %I:%M", "has hours up to 12; add %p"),
        ("%Y-%m-%d %H:%M %Z", "zones' names differ from machine to machine; use %z"),
    ],
)
def test_what_is_no_format(format, said):
    with pytest.raises(ValueError, match=said):
        check_time_format(format)


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("20240501", "%Y%m%d"),
        ("14102100", "%y%m%d%H"),
        ("2024050112", "%Y%m%d%H"),
        ("202405011230", "%Y%m%d%H%M"),
        ("240501123059", "%y%m%d%H%M%S"),
        ("20240501123059", "%Y%m%d%H%M%S"),
        *(
            (text, None)
            for text in ("", "1714557600", "1714557600000", "1714557600000000", "20241301", "²0240501")
        ),
        *((text, None) for text in ("19000101", "2024-05-01", "240501", "99999999")),
    ],
)
def test_digits_that_look_like_a_date(text, format):
    assert digits_format(text) == format

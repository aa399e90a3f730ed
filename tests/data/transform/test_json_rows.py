"""Rows of JSON as typed tables: what a row means doesn't depend on what it comes with."""

import json

import pyarrow as pa
import pytest

from clickprompt.data.transform.json_rows import parse_rows, tables_of

VALUES = [5, 5.0, 0.5, "5", "5.0", True, None, [], [1, 2], ["a", 1, 2.0], [None], 2**53 + 1, 10**20, "", "ü"]


def test_every_row_comes_as_it_would_alone():
    rows = [{"a": left, "b": right} for left in VALUES for right in VALUES]
    tables, errors = tables_of(rows, ["a", "b"])
    assert errors == []
    assert sorted(place for places, _ in tables for place in places) == list(range(len(rows)))
    for places, table in tables:
        for place, found in zip(places, table.to_pylist(), strict=True):
            [(_, alone)], _ = tables_of([rows[place]], ["a", "b"])
            assert found == alone.to_pylist()[0]


def test_types():
    [(_, table)], _ = tables_of(
        [{"a": 5, "t": "x", "l": [1], "big": 2**60, "n.m": 1}, {"a": 0.5, "b": False}],
        ["a", "t", "l", "big", "b", "z"],
        [0],
    )
    types = [pa.float64(), pa.string(), pa.list_(pa.float64()), pa.int64(), pa.bool_(), pa.null()]
    assert table.schema.types == types
    [(_, table)], _ = tables_of([{"s": {"x": {"y": 3}}}], ["s.x.y"])
    assert table.to_pylist() == [{"s.x.y": 3}]


@pytest.mark.parametrize(
    ("row", "column", "why"),
    [
        (3, None, "is not an object"),
        ({"c": 1}, "c", "is not a column that is read; known: a, b"),
        ({"a": {"x": 1}}, "a", "is nested"),
        ({"a": [[1]]}, "a", "is nested"),
        ({"a": "\ud800"}, "a", "half a surrogate pair"),
        ({"a": ["\ud800"]}, "a", "half a surrogate pair"),
        ({"a": 10**40}, "a", "too large"),
        ({"a": float("inf")}, "a", "too large"),
    ],
)
def test_a_row_that_cannot_be_read_is_one_error(row, column, why):
    tables, [error] = tables_of([{"a": 1}, row, {"b": 2}], ["a", "b"])
    assert (error.row, error.column) == (1, column)
    assert why in error.why
    assert [places.tolist() for places, _ in tables] == [[0, 2]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"rows": 3}',
        b'{"rows": [], "x": 1}',
        b"\xff",
        b'{"rows": [Infinity]}',
        b"[" * 100_000,
        b'{"rows": [1, 2, 3]}',
    ],
)
def test_what_is_no_request(body):
    with pytest.raises(ValueError, match=r"send|not a key|is no value|at most"):
        parse_rows(body, 2)


def test_nan_is_missing():
    assert parse_rows(b'{"rows": [{"a": NaN}], "ignore_unknown": true}', 2) == ([{"a": None}], True)
    assert json.loads("[NaN]") != [None]

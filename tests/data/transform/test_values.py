"""Values of typed columns, case by case as issue logs have them, and against plain Python on made-up
columns.
"""

import datetime
import math
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, settings
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from clickprompt.data.transform.buckets import (
    bucket,
    bucket_names,
    log_bucket,
    quantile_edges,
    rounded,
    significant,
)
from clickprompt.data.transform.instants import conflict, instants, unit_of
from clickprompt.data.transform.values import (
    NULLS,
    BadValue,
    LabelCounts,
    all_of,
    canonical_number,
    cut,
    first_of,
    is_in,
    is_missing,
    kind_of,
    labels,
    lists,
    numbers,
    texts,
)

NAN, INF = float("nan"), float("inf")
DAY = datetime.date(2024, 5, 1)
MORNING = 1_714_557_600_000_000  # 2024-05-01 10:00 UTC


def given(*strategies: st.SearchStrategy):
    """Without hypothesis' limit of time for an example, which a busy machine breaks."""
    return lambda test: settings(deadline=None)(hypothesis_given(*strategies)(test))


def strings(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())


def decimals(*values: str | None, type: pa.DataType | None = None) -> pa.Array:
    return pa.array([None if value is None else Decimal(value) for value in values], type)


# --- kinds and missing values


@pytest.mark.parametrize(
    ("type", "kind"),
    [
        *[(type, "integer") for type in (pa.int8(), pa.int64(), pa.uint64())],
        *[(type, "float") for type in (pa.float16(), pa.float32(), pa.float64())],
        *[(type, "decimal") for type in (pa.decimal128(5, 2), pa.decimal256(50, 2))],
        (pa.bool_(), "boolean"),
        *[
            (type, "time")
            for type in (
                pa.date32(),
                pa.date64(),
                pa.timestamp("ns"),
                pa.timestamp("s", "UTC"),
                pa.time32("s"),
            )
        ],
        *[(type, "text") for type in (pa.string(), pa.large_string(), pa.string_view(), pa.binary())],
        *[
            (type, "list")
            for type in (pa.list_(pa.int8()), pa.large_list(pa.string()), pa.list_(pa.string(), 2))
        ],
        (pa.null(), "null"),
        (pa.struct([("a", pa.int8())]), "other"),
        (pa.dictionary(pa.int8(), pa.string()), "text"),
    ],
    ids=str,
)
def test_kinds(type, kind):
    assert kind_of(type) == kind


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (
            strings("a", None, "", "  ", " NA ", "null", "Null", "\u00a0\n", *NULLS[1:]),
            [0, 1, 1, 1, 1, 1, 0, 1, *[1] * 8],
        ),
        (pa.array([0.0, NAN, None, INF]), [0, 1, 1, 0]),
        (pa.array([0.0, NAN, None], pa.float16()), [0, 1, 1]),
        (pa.array([0, None]), [0, 1]),
        (pa.array([False, None]), [0, 1]),
        (decimals("0", None), [0, 1]),
        (pa.array(np.array(["2024-05-01", "NaT"], "M8[ns]"), from_pandas=True), [0, 1]),
        (pa.nulls(2), [1, 1]),
        (pa.array([["a"], [], None, [None, "NA", " "], ["", "b"]]), [0, 1, 1, 1, 0]),
        (pa.array([[NAN], [1.0, NAN], []]), [1, 0, 1]),
        (pa.array([["a", "b"], None, [None, "NA"]], pa.list_(pa.string(), 2)), [0, 1, 1]),
        (strings("a", "NA", "a").dictionary_encode(), [0, 1, 0]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_missing_in_every_spelling_a_type_has(column, expected):
    assert is_missing(column).to_pylist() == [bool(flag) for flag in expected]
    assert is_missing(column[1:]).to_pylist() == [bool(flag) for flag in expected[1:]], "of a slice"


def test_markers_are_the_schemas_to_say():
    assert is_missing(strings("NA", "-", "x"), ["-"]).to_pylist() == [False, True, False]
    assert numbers(strings("5", "-1"), ["-1"]).to_pylist() == [5, None], "a marker that is a number"
    assert instants(strings("1714557600", "-1"), None, ["-1"])[0].to_pylist() == [MORNING, None]
    assert texts(strings("NA", " - "), ["-"]).to_pylist() == ["NA", None]


def test_elements_behind_a_null_list_are_not_there():
    column = pa.ListArray.from_arrays(
        pa.array([0, 2, 4], pa.int32()), strings("a", "b", "c", "d"), mask=pa.array([True, False])
    )
    assert is_missing(column).to_pylist() == [True, False]
    assert lists(column, None).to_pylist() == [None, ["c", "d"]]


# --- texts


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (strings(" a b ", "007", "3.0", "1e3", "NA"), ["a b", "007", "3.0", "1e3", None]),
        (pa.array([7, -7, 2**53 + 1, None]), ["7", "-7", "9007199254740993", None]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (
            pa.array([5.0, 0.1, -0.0, NAN, None, 1e-7, 2.0**53 - 1, -2.5]),
            ["5", "0.1", "0", None, None, "0.0000001", "9007199254740991", "-2.5"],
        ),
        (pa.array([0.1, 3.0, 16777215.0], pa.float32()), ["0.1", "3", "16777215"]),
        (pa.array([0.1, 3.0], pa.float16()), ["0.1", "3"]),
        (decimals("3.00", "3.50", "-0.00", None), ["3", "3.5", "0", None]),
        (decimals("1E-20", "0.5", type=pa.decimal128(25, 20)), ["0.00000000000000000001", "0.5"]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([DAY, None]), ["2024-05-01", None]),
        (pa.array([DAY], pa.date64()), ["2024-05-01"]),
        (
            pa.array([MORNING, MORNING + 500_000], pa.timestamp("us")),
            ["2024-05-01T10:00:00", "2024-05-01T10:00:00.5"],
        ),
        (
            pa.array([MORNING * 1000 + 1], pa.timestamp("ns", "Europe/Berlin")),
            ["2024-05-01T10:00:00.000000001Z"],
        ),
        (pa.array([datetime.time(10, 30)]), ["10:30:00"]),
        (pa.nulls(1), [None]),
        (strings("a", "b", "a").dictionary_encode(), ["a", "b", "a"]),
        (pa.array([b"caf\xc3\xa9"]), ["café"]),
        (pa.array(["x "], pa.large_string()), ["x"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_texts(column, expected):
    found = texts(column)
    assert found.type == pa.string()
    assert found.to_pylist() == expected


@pytest.mark.parametrize(
    ("column", "index", "value"),
    [
        (
            pa.array([1.0, 9007199254740993.0, INF]),
            1,
            "9007199254740992.0",
        ),  # the id 2^53 + 1, as a float has it
        (pa.array([None, -INF]), 1, "-inf"),
        (pa.array([1.0, 16777217.0], pa.float32()), 1, "16777216.0"),
        (pa.array([[1]]), 0, "[1]"),
        (pa.array([None, {"a": 1}]), 1, "{'a': 1}"),
        (pa.array([b"ok", b"\xff"]), 1, "b'\\xff'"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_what_has_no_exact_text_is_refused(column, index, value):
    with pytest.raises(BadValue) as error:
        texts(column)
    assert (error.value.index, error.value.value) == (index, value)
    assert "; " in error.value.why, "a remedy"


def test_whole_numbers():
    assert texts(
        strings("3.0", "3", "+3", "003", "-0.0", "NA", "9007199254740993"), whole=True
    ).to_pylist() == [
        *["3"] * 4,
        "0",
        None,
        "9007199254740993",
    ]
    assert texts(pa.array([3.0, NAN]), whole=True).to_pylist() == ["3", None]
    for column in (
        pa.array([1.0, 3.5, 4.5]),
        strings("1", "3.5"),
        strings("1", "x"),
        decimals("1.00", "3.50"),
        strings("1", "1e3"),
    ):
        with pytest.raises(BadValue, match="type: integer") as error:
            texts(column, whole=True)
        assert error.value.index == 1


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=6), max_size=20))
def test_texts_of_texts_lose_blanks_alone(values):
    shown = [None if value is None else str(value) for value in values]
    expected = [None if value is None or value.strip() in NULLS else value.strip() for value in shown]
    found = texts(pa.array(shown, pa.string())).to_pylist()
    assert found == expected


@given(
    st.lists(
        st.none() | st.floats(allow_infinity=False, min_value=-(2.0**53) + 1, max_value=2.0**53 - 1),
        max_size=20,
    ),
    st.sampled_from([32, 64]),
)
def test_texts_of_floats_are_the_shortest_that_read_back(values, bits):
    dtype = np.float32 if bits == 32 else np.float64
    column = pa.array(
        [None if value is None else dtype(value) for value in values],
        pa.float32() if bits == 32 else pa.float64(),
    )
    assume(
        all(
            value is None or math.isnan(value) or abs(value) < 2.0 ** (24 if bits == 32 else 53)
            for value in column.to_pylist()
        )
    )
    for value, text in zip(column.to_pylist(), texts(column).to_pylist(), strict=True):
        if value is None or math.isnan(value):
            assert text is None
        else:
            assert dtype(text) == value
            assert "e" not in text
            assert Decimal(text) == Decimal(str(dtype(value))), "as short as numpy's"
            assert text == canonical_number(strings(text))[0].as_py(), "spelled as a text would be"


@given(
    st.lists(st.none() | st.decimals(min_value=-(10**12), max_value=10**12, places=6), max_size=20),
    st.sampled_from([6, 10, 20]),
)
def test_texts_of_decimals(values, scale):
    column = pa.array(values, pa.decimal128(38, scale))
    for value, text in zip(values, texts(column).to_pylist(), strict=True):
        expected = (
            None
            if value is None
            else f"{value:f}".rstrip("0").rstrip(".")
            if "." in f"{value:f}"
            else f"{value:f}"
        )
        assert text == ("0" if expected == "-0" else expected)


# --- one value, several spellings

SPELLINGS = [
    ("3", "3"), ("3.0", "3"), ("3.", "3"), ("3.00", "3"), ("3.50", "3.5"), ("-0", "0"), ("-0.0", "0"), (".5", "0.5"), ("-.50", "-0.5"),
    ("100", "100"), ("100.10", "100.1"), ("12345678901234567890.10", "12345678901234567890.1"), ("-3.0", "-3"),
    *[(text, text) for text in ("007", "007.0", "1e3", "+3", "v1.0", "1.0.0", ".", "-.", "", "-", "3.0 ", "1,0", "٣.0")],
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SPELLINGS)
def test_canonical_number(text, expected):
    assert canonical_number(strings(None, text, "x")).to_pylist() == [None, expected, "x"]


@given(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20),
    st.integers(0, 5),
    st.booleans(),
)
def test_a_number_has_one_spelling(number, zeros, bare):
    text = f"{number:f}"
    longer = text + ("0" * zeros if "." in text else "." + "0" * zeros)
    if bare and longer.lstrip("-").startswith("0.") and longer.lstrip("-") != "0.":
        longer = longer.replace("0.", ".", 1)
    one, other = canonical_number(strings(text, longer)).to_pylist()
    assert one == other
    assert Decimal(one) == number
    assert canonical_number(strings(one))[0].as_py() == one


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        *[
            (column, ["3"], [True, False, False])
            for column in (
                pa.array([3, 4, None]),
                pa.array([3.0, 3.1, NAN]),
                decimals("3.00", "3.10", None),
                strings("3.0", "4", "NA"),
                strings(" 3 ", "03", ""),
            )
        ],
        *[
            (column, ["3.0", "x"], [True, False])
            for column in (
                pa.array([3, 4], pa.uint64()),
                pa.array([3.0, 3.5], pa.float32()),
                decimals("3", "4"),
                strings("3", "4"),
                strings("3.00", "30"),
            )
        ],
        (pa.array([0.1, 0.2], pa.float32()), ["0.10"], [True, False]),
        (pa.array([-0.0, 1.0]), ["0"], [True, False]),
        (pa.array([INF, 1.0]), ["1"], [False, True]),
        (pa.array([2**53 + 1, 2**53]), ["9007199254740993"], [True, False]),
        (pa.array([True, False, None]), ["true"], [True, False, False]),
        (pa.array([True, False, None]), ["1"], [True, False, False]),
        (pa.array([True, False]), ["FALSE"], [False, True]),
        (strings("TRUE", "true", "tRue", "1"), ["True"], [True, True, True, False]),
        (strings("yes", "Yes"), ["yes"], [True, False]),
        (strings("NA", ""), ["NA", ""], [False, False]),
        (pa.array([DAY]), ["2024-05-01"], [True]),
        (pa.nulls(1), ["x"], [False]),
        (strings("a"), [], [False]),
        (strings("007", "7"), ["7"], [False, True]),
    ],
)
def test_membership_compares_numbers_as_numbers(column, values, expected):
    assert is_in(column, values).to_pylist() == expected


# --- numbers


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (
            strings("1e3", "-.5", "+3", " 4 ", "5.", "NA", None, "", "nan"),
            [1000, -0.5, 3, 4, 5, None, None, None, None],
        ),
        (strings("1", "2.5"), [1, 2.5]),
        (strings("1", "nan"), [1, None]),
        (pa.array([1.5, NAN, None]), [1.5, None, None]),
        (pa.array([0.7, None], pa.float32()), [0.7, None]),
        (pa.array([0.7], pa.float16()), [0.7]),
        (pa.array([1, None], pa.uint8()), [1, None]),
        (pa.array([2**64 - 1], pa.uint64()), [2.0**64]),
        (decimals("3.25", None), [3.25, None]),
        (pa.array([True, False, None]), [1, 0, None]),
        (pa.nulls(1), [None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_numbers(column, expected):
    found = numbers(column)
    assert found.type == pa.float64()
    assert found.to_pylist() == expected


@pytest.mark.parametrize(
    "bad",
    ["x", "inf", "-Infinity", "1e400", "0x10", "1_0", "1,5", "1e", ".", "+-3", "NAN", "2024-05-01", "１"],
)
@pytest.mark.parametrize("before", [["1", None], ["1", "NA", " 2 "]])
def test_text_that_is_no_number_is_refused(bad, before):
    with pytest.raises(BadValue, match="not a number") as error:
        numbers(strings(*before, bad, "x", "inf"))
    assert (error.value.index, error.value.value) == (len(before), repr(bad))


@pytest.mark.parametrize(
    "column",
    [pa.array([1.0, INF]), pa.array([NAN, -INF], pa.float32()), pa.array([None, DAY]), pa.array([None, [1]])],
)
def test_what_has_no_number_is_refused(column):
    with pytest.raises(BadValue) as error:
        numbers(column)
    assert error.value.index == 1


@given(
    st.lists(
        st.none()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.integers()
        | st.text("0123456789.eE+-nax ", max_size=7),
        max_size=12,
    )
)
def test_numbers_are_pythons(values):
    shown = [None if value is None else str(value) for value in values]
    expected: list[float | None] = []
    bad = None
    for index, text in enumerate(shown):
        if text is None or text.strip() in NULLS:
            expected.append(None)
            continue
        try:
            number = float(text)
        except ValueError:
            number = NAN
        if not math.isfinite(number):
            bad = index
            break
        expected.append(number)
    if bad is None:
        assert numbers(pa.array(shown, pa.string())).to_pylist() == expected
    else:
        with pytest.raises(BadValue) as error:
            numbers(pa.array(shown, pa.string()))
        assert error.value.index == bad


# --- labels


def label(column, positive_from=None, positive=None, drop=(), missing="drop"):
    found, counts = labels(column, positive_from=positive_from, positive=positive, drop=drop, missing=missing)
    assert found.type == pa.int8()
    return found.to_pylist(), counts


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 1, None]),
        pa.array([0.0, 1.0, NAN]),
        pa.array([0, 1, NAN], pa.float32()),
        pa.array([False, True, None]),
        decimals("0", "1.00", None),
        *[
            strings(*values)
            for values in (
                ("0", "1", "NA"),
                ("0.0", "1.0", ""),
                ("FALSE", "true", None),
                (" False ", "TRUE", "\\N"),
                ("-0", "1.", " "),
            )
        ],
    ],
    ids=str,
)
def test_the_usual_labels(column):
    assert label(column) == ([0, 1, None], LabelCounts(1, 0, frozenset()))
    assert label(column, missing="negative") == ([0, 1, 0], LabelCounts(1, 0, frozenset()))
    assert label(column, positive=["1", "true"])[0] == [0, 1, None]
    if column.type != pa.string() or column[0].as_py().strip()[0] in "-0":
        assert label(column, positive_from=0.5)[0] == [0, 1, None], "a missing number is no `no click`"


@pytest.mark.parametrize(
    "column",
    [
        pa.array([3, 4, 5, None]),
        pa.array([3.0, 4.0, 5.0, NAN]),
        decimals("3.0", "4.0", "5.0", None),
        strings("3.0", "4", "5.00", "NA"),
        strings("3", " 4", "5", ""),
    ],
    ids=str,
)
def test_drop_and_positive_compare_numbers(column):
    assert label(column, positive_from=5, drop=["3"]) == (
        [None, 0, 1, None],
        LabelCounts(1, 1, frozenset({"3"})),
    )
    assert label(column, positive=["5.0", "6"], drop=["3.0", "7"]) == (
        [None, 0, 1, None],
        LabelCounts(1, 1, frozenset({"3.0", "5.0"})),
    )
    assert label(column, positive_from=5, drop=["3"], missing="negative")[0] == [None, 0, 1, 0]


def test_a_float32_label_is_the_number_it_was_written_as():
    assert label(pa.array([0.7, 0.6], pa.float32()), positive_from=0.7)[0] == [1, 0]


@pytest.mark.parametrize(
    ("column", "rule", "index"),
    [
        (strings("1", "NA", "2", "x"), {}, 2),
        (strings("1", "yes"), {}, 1),
        (pa.array([0.0, 0.5]), {}, 1),
        (pa.array([0, 1, -1]), {}, 2),
        (pa.array([1.0, INF]), {"positive_from": 1}, 1),
        (strings("4", "NA", "good"), {"positive_from": 4}, 2),
        (pa.array([None, [1]]), {}, 1),
        (pa.array([None, [1]]), {"positive": ["1"]}, 1),
        (pa.array([None, DAY]), {"positive_from": 1}, 1),
    ],
    ids=str,
)
def test_a_label_the_rule_cannot_read_is_refused(column, rule, index):
    with pytest.raises(BadValue) as error:
        label(column, **rule)
    assert error.value.index == index


SOME_LABELS = st.sampled_from(
    ["0", "1", "0.0", "1.0", "true", "FALSE", "3", "3.0", "5", "5.50", None, "NA", "", " ", "nan"]
)


@given(
    st.lists(SOME_LABELS, max_size=30),
    st.sampled_from([(None, None), (1.0, None), (None, ("3", "true", "9")), (None, ("5.5",))]),
    st.sampled_from([(), ("3",), ("3.0", "true"), ("5.5", "0")]),
    st.sampled_from(["drop", "negative"]),
)
def test_labels_are_those_of_a_loop(values, rule, drop, missing):
    positive_from, positive = rule

    def same(text, other):
        try:
            return Decimal(text) == Decimal(other)
        except ArithmeticError:
            return text.lower() == other.lower()

    expected, bad, found, counts = [], None, set(), Counter()
    for index, value in enumerate(values):
        if value is None or value.strip() in NULLS:
            counts["missing"] += 1
            expected.append(0 if missing == "negative" else None)
        elif hits := [other for other in drop if same(value, other)]:
            counts["dropped"] += 1
            found.update(hits)
            expected.append(None)
        elif positive is not None:
            hits = [other for other in positive if same(value, other)]
            found.update(hits)
            expected.append(int(bool(hits)))
        elif positive_from is not None:
            try:
                expected.append(int(float(value) >= positive_from))
            except ValueError:
                bad = index
                break
        elif any(same(value, other) for other in ("0", "1", "true", "false")):
            expected.append(int(same(value, "1") or same(value, "true")))
        else:
            bad = index
            break
    column = pa.array(values, pa.string())
    if bad is None:
        assert label(column, positive_from, positive, drop, missing) == (
            expected,
            LabelCounts(counts["missing"], counts["dropped"], frozenset(found)),
        )
    else:
        with pytest.raises(BadValue) as error:
            label(column, positive_from, positive, drop, missing)
        assert error.value.index == bad


def test_many_distinct_labels_are_as_few():
    values = np.random.default_rng(0).random(30_000).round(6)
    found, counts = label(pa.array([*map(str, values), "NA"]), positive_from=0.5, drop=[str(values[5])])
    expected = (values >= 0.5).astype(int).tolist()
    assert found == [
        None if value == values[5] else click for value, click in zip(values, expected, strict=True)
    ] + [None]
    assert (counts.missing, counts.dropped) == (1, int((values == values[5]).sum()))


# --- lists


@pytest.mark.parametrize(
    ("column", "separator", "expected"),
    [
        (
            pa.array([["a", None, " NA", " b "], None, [], [None], ["c"]]),
            None,
            [["a", "b"], None, None, None, ["c"]],
        ),
        (pa.array([[1, 2], [None], [2**53 + 1]]), None, [["1", "2"], None, ["9007199254740993"]]),
        (pa.array([[1.0, NAN, 0.5], [NAN]]), None, [["1", "0.5"], None]),
        (pa.array([["a", "b"], None], pa.list_(pa.string(), 2)), None, [["a", "b"], None]),
        (pa.array([["a"]], pa.large_list(pa.string())), None, [["a"]]),
        (
            strings("a|b||NA", " c | d ", "NA", None, "|", "e"),
            "|",
            [["a", "b"], ["c", "d"], None, None, None, ["e"]],
        ),
        (strings("a.b", "c"), ".", [["a", "b"], ["c"]]),
        (pa.nulls(2), None, [None, None]),
        (strings(None, "NA"), None, [None, None]),
        (strings("a, b", "a, ", ", a", ",", " , "), ", ", [["a", "b"], ["a"], ["a"], [","], None]),
    ],
)
def test_lists(column, separator, expected):
    found = lists(column, separator)
    assert found.type == pa.list_(pa.string())
    assert found.to_pylist() == expected
    assert lists(column[1:], separator).to_pylist() == expected[1:]
    assert first_of(found).to_pylist() == [items and items[0] for items in expected]
    assert all_of(found).to_pylist() == [items and ", ".join(items) for items in expected]
    assert first_of(found[1:]).to_pylist() == [items and items[0] for items in expected[1:]]


@pytest.mark.parametrize(
    ("column", "separator", "index", "remedy"),
    [
        (strings(None, "a|b"), None, 1, "separator: "),
        (pa.array([None, ["a"]]), "|", 1, "leave separator"),
        (pa.array([None, 5]), None, 1, "kind: categorical"),
        (pa.array([[1.0], None, [0.5, INF]]), None, 2, "write the column as"),
        (pa.array([[["a"]]]), None, 0, "list"),
    ],
)
def test_what_is_no_list_is_refused(column, separator, index, remedy):
    with pytest.raises(BadValue, match=remedy) as error:
        lists(column, separator)
    assert error.value.index == index


def test_cut_counts_characters():
    found, long = cut(strings("naïve", "a", None, "日本語の"), 3)
    assert (found.to_pylist(), long) == (["naï", "a", None, "日本語"], 2)
    assert cut(strings("a", None), 3)[1] == 0


# --- times

WITHOUT, WITH, SMALL = "date or time without zone", "time with zone", "number near 0"


@pytest.mark.parametrize(
    ("column", "unit", "expected", "form"),
    [
        (strings("1714557600", None, " NA "), None, [MORNING, None, None], "seconds"),
        (strings("1714557600.25", "1714557600"), None, [MORNING + 250_000, MORNING], "seconds"),
        (strings("1714557600.1234567", "+1714557600"), None, [MORNING + 123_456, MORNING], "seconds"),
        (strings("1.7145576e9", "1714557600"), None, [MORNING, MORNING], "seconds"),
        (strings("1714557600123.4567"), None, [MORNING + 123_456], "milliseconds"),
        (pa.array([1714557600, None], pa.uint32()), None, [MORNING, None], "seconds"),
        (pa.array([1714557600123]), None, [MORNING + 123_000], "milliseconds"),
        (pa.array([MORNING + 1]), None, [MORNING + 1], "microseconds"),
        (pa.array([MORNING * 1000 + 1999]), None, [MORNING + 1], "nanoseconds"),
        (
            strings(f"{MORNING * 1000 + 1999}", f"{MORNING * 1000}.5"),
            None,
            [MORNING + 1, MORNING],
            "nanoseconds",
        ),
        (pa.array([1714557600.25, NAN]), None, [MORNING + 250_000, None], "seconds"),
        (pa.array([1714557600.1]), None, [MORNING + 100_000], "seconds"),
        (decimals("1714557600.250001"), None, [MORNING + 250_001], "seconds"),
        (pa.array([5, 1714557600123]), None, [5000, MORNING + 123_000], "milliseconds"),
        (strings("5", "1714557600123.5"), None, [5000, MORNING + 123_500], "milliseconds"),
        (pa.array([5, -1]), None, [5_000_000, -1_000_000], SMALL),
        (pa.array([5, -1]), "ms", [5000, -1000], "milliseconds"),
        (pa.array([-1, -1001]), "ns", [-1, -2], "nanoseconds"),
        (strings("-1", "-1001.5", "-1000.0"), "ns", [-1, -2, -1], "nanoseconds"),
        (strings("-1.5", "-0.0000001", "0.0000009"), None, [-1_500_000, -1, 0], SMALL),
        (pa.array([DAY, None]), None, [MORNING - 36_000_000_000, None], WITHOUT),
        (pa.array([DAY], pa.date64()), None, [MORNING - 36_000_000_000], WITHOUT),
        (pa.array([MORNING // 10**6], pa.timestamp("s")), None, [MORNING], WITHOUT),
        (
            pa.array([MORNING * 1000 + 999, -1], pa.timestamp("ns")),
            None,
            [MORNING, -1],
            WITHOUT,
        ),  # INT96, too
        (pa.array([MORNING // 1000], pa.timestamp("ms", "Europe/Berlin")), None, [MORNING], WITH),
        (
            strings("2024-05-01", "2024-05-01 10:00", "2024-05-01T10:00:00", "2024-05-01 10:00:00.5"),
            None,
            [MORNING - 36_000_000_000, MORNING, MORNING, MORNING + 500_000],
            WITHOUT,
        ),
        (
            strings("2024-05-01 10:00:00.123456789", " 2024-05-01T10 "),
            None,
            [MORNING + 123_456, MORNING],
            WITHOUT,
        ),
        (strings("1969-12-31 23:59:59.9999999"), None, [-1], WITHOUT),
        (
            strings(
                "2024-05-01T10:00:00Z",
                "2024-05-01T12:00:00+02:00",
                "2024-05-01 12:00+0200",
                "2024-05-01T05:00-05",
                "2024-05-01 10:00:00 UTC",
                "2024-05-01 12:00 +02:00",
            ),
            None,
            [MORNING] * 6,
            WITH,
        ),
        (strings("2024-05-01T10:00:00.123456789Z"), None, [MORNING + 123_456], WITH),
        (
            pa.array(np.array(["NaT", "2024-05-01T10:00"], "M8[ns]"), from_pandas=True),
            None,
            [None, MORNING],
            WITHOUT,
        ),
    ],
)
def test_instants(column, unit, expected, form):
    found, forms = instants(column, unit)
    assert found.type == pa.int64()
    assert (found.to_pylist(), list(forms)) == (expected, [form])
    assert expected[forms[form]] is not None, "the example has a value"


@pytest.mark.parametrize(
    ("column", "unit", "index", "says"),
    [
        (strings("1714557600", "NA", "1714557600000"), None, 2, r"milliseconds\) stands beside 1714557600 \(seconds"),
        (pa.array([5, 1714557600, 1714557600000]), None, 2, "milliseconds"),
        (pa.array([1714557600.0, 1714557600000.0]), None, 1, "milliseconds"),
        (strings("1714557600.5", "1714557600000.5"), None, 1, "milliseconds"),
        (strings("2024-05-01", "1714557600"), None, 1, r"seconds\) stands beside 2024-05-01"),
        (strings("5", "2024-05-01"), None, 1, WITHOUT),
        (strings("2024-05-01T10:00", "2024-05-01T10:00Z"), None, 1, WITH),
        (strings("2024-05-01", "2024-02-30", "x"), None, 1, "not a date of the calendar"),
        (strings("2024-05-01", "yesterday"), None, 1, "neither a number nor a date"),
        (strings("2024-05-01", "5", "2024-02-30"), None, 1, SMALL),
        (strings("1714557600", "2024-05-01", "1714557600000"), None, 1, WITHOUT),
        (strings("1714557600.5", "1714557600000", "1e40"), None, 1, "milliseconds"),
        (strings("10:30"), None, 0, "neither"),
        (strings("5", "0x10"), None, 1, "neither"),
        (strings("5", "0X10"), None, 1, "neither"),
        (strings("5", "inf"), None, 1, "neither"),
        (strings("99999999999999999999"), None, 0, "too far"),
        (strings("1", "1e40"), None, 1, "too far"),
        (pa.array([1, 10**15]), "s", 1, "too far"),
        (strings("1", f"{10**15}.5"), "s", 1, "too far"),
        (pa.array([1.0, INF]), None, 1, "too far"),
        (pa.array([2**64 - 1], pa.uint64()), None, 0, "too far"),
        (pa.array([2**62], pa.timestamp("s")), None, 0, "too far"),
        (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), None, 0, "too far"),
        (strings("1", "2024-05-01"), "ms", 1, "unit: ms"),
        (pa.array([None, DAY]), "s", 1, "unit: s"),
        (pa.array([None, True]), None, 1, "no time"),
        (pa.array([datetime.time(10)]), None, 0, "no time"),
        (pa.array([None, [1]]), None, 1, "no time"),
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(column, unit, index, says):
    with pytest.raises(BadValue, match=says) as error:
        instants(column, unit)
    assert error.value.index == index


def test_forms_of_several_files():
    assert conflict([]) is None
    assert conflict(["seconds", SMALL]) is None
    assert conflict([SMALL, WITHOUT]) == (WITHOUT, SMALL)
    assert conflict(["milliseconds", "seconds"]) == ("seconds", "milliseconds")
    assert conflict([WITH, WITHOUT]) == (WITHOUT, WITH)
    assert [unit_of(forms) for forms in ([], [SMALL], [SMALL, "milliseconds"], [WITH])] == [
        None,
        "s",
        "ms",
        None,
    ]


@given(
    st.lists(
        st.none() | st.datetimes(datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30)),
        min_size=1,
        max_size=10,
    ),
    st.data(),
)
def test_instants_are_datetimes(values, data):
    """Every spelling of a time is the same microsecond."""
    epoch = datetime.datetime(1970, 1, 1)
    micros = [
        None if value is None else (value - epoch) // datetime.timedelta(microseconds=1) for value in values
    ]
    hours, minutes = data.draw(st.integers(-12, 12)), data.draw(st.sampled_from([0, 30]))
    zone = datetime.timezone(datetime.timedelta(hours=hours, minutes=minutes))

    def zoned(value):
        return (
            value.replace(tzinfo=datetime.UTC)
            .astimezone(zone)
            .isoformat(data.draw(st.sampled_from([" ", "T"])))
        )

    columns = [
        pa.array(
            [value and value.isoformat(data.draw(st.sampled_from([" ", "T"]))) for value in values],
            pa.string(),
        ),
        pa.array([value and zoned(value) for value in values], pa.string()),
        pa.array(values, pa.timestamp("us")),
        pa.array(micros, pa.int64()).cast(pa.timestamp("us", "Asia/Tokyo")),
    ]
    for column in columns:
        assert instants(column, None)[0].to_pylist() == micros, str(column)


UNITS = {"s": 10**6, "ms": 10**3, "us": 1, "ns": Fraction(1, 1000)}


@given(
    st.lists(st.decimals(min_value=-(10**12), max_value=10**12, places=9), min_size=1, max_size=10),
    st.sampled_from(list(UNITS)),
)
def test_numbers_of_a_unit_are_exact(values, unit):
    expected = [math.floor(Fraction(value) * UNITS[unit]) for value in values]
    assert instants(pa.array([f"{value:f}" for value in values]), unit)[0].to_pylist() == expected
    assert instants(pa.array(values, pa.decimal128(30, 9)), unit)[0].to_pylist() == expected
    whole = [int(value) for value in values]
    assert instants(pa.array(whole), unit)[0].to_pylist() == [
        math.floor(value * UNITS[unit]) for value in whole
    ]


A_TIME = st.sampled_from([
    "1714557600", "1714557600.5", "1714557600000", "5", "2024-05-01", "2024-05-01T10:00", "2024-05-01T10:00Z", "2024-05-01 10:00 +02:00",
    "2024-02-30", "x", "1e40", "NA", None, "1.7e9",
])  # fmt: skip


@given(st.lists(A_TIME, max_size=6))
def test_the_first_row_that_does_not_fit_is_named(values):
    column = pa.array(values, pa.string())
    try:
        instants(column, None)
    except BadValue as error:
        instants(column[: error.index], None)  # the rows before it fit
        with pytest.raises(BadValue):
            instants(column[: error.index + 1], None)


# --- buckets


def test_bucket_names():
    assert bucket_names([4]) == ["below 4", "4 or more"]
    assert bucket_names([4, 10.5]) == ["below 4", "4 to 10.5", "10.5 or more"]
    assert bucket_names([1e6, 1234567, 1234568]) == [
        "below 1e+06",
        "1e+06 to 1234567",
        "1234567 to 1234568",
        "1234568 or more",
    ]


@given(
    st.lists(st.none() | st.floats(-20, 20), max_size=20),
    st.lists(st.floats(-20, 20), min_size=1, max_size=5, unique=True),
)
def test_buckets(values, edges):
    edges = sorted(edges)
    names = bucket_names(edges)
    assert len(set(names)) == len(names)
    expected = [None if value is None else names[sum(value >= edge for edge in edges)] for value in values]
    assert bucket(pa.array(values, pa.float64()), edges).to_pylist() == expected


@given(
    st.lists(
        st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1000, 1000), max_size=20
    ),
    st.integers(-3, 9),
)
def test_rounded_is_the_nearest_with_its_digits(values, digits):
    column = pa.array(values, pa.float64())
    found = rounded(column, digits).to_pylist()
    for value, text in zip(values, found, strict=True):
        if value is None:
            assert text is None
            continue
        assert text.strip("0.") != "-", "no -0"
        far = abs(Fraction(text) - Fraction(value))
        assert far <= Fraction(10) ** -digits / 2 + abs(Fraction(value)) * Fraction(2) ** -50, (
            "the nearest, but for the float's own error"
        )
        assert len(text.partition(".")[2]) == max(digits, 0)


def test_rounded():
    assert rounded(pa.array([3.5, 2.345, -0.001, None, 1e20]), 2).to_pylist()[:4] == [
        "3.50",
        "2.35",
        "0.00",
        None,
    ]
    assert rounded(pa.array([1234.0, 1250.0, 1350.0]), -2).to_pylist() == ["1200", "1200", "1400"], (
        "halves to the even digit"
    )
    assert rounded(pa.array([0.5, 1.5]), 0).to_pylist() == ["0", "2"]
    assert rounded(pa.array([], pa.float64()), 2).to_pylist() == []
    assert rounded(pa.array([999999999999995.0, -5e-324]), -1).to_pylist() == ["1000000000000000", "0"]
    assert [float(text) for text in rounded(pa.array([1e308, -1.7976931348623157e308]), 2).to_pylist()] == [
        1e308,
        -1.7976931348623157e308,
    ]


def test_log_buckets():
    values = pa.array([0, -0.0, 1, 7.9, 8, 15.9, 16, 0.3, 0.25, -8, -8.1, -16, None, 1048576])
    assert log_bucket(values, 2).to_pylist() == [
        "0",
        "0",
        "1 to 2",
        "4 to 8",
        "8 to 16",
        "8 to 16",
        "16 to 32",
        "0.25 to 0.5",
        "0.25 to 0.5",
        "-16 to -8",
        "-16 to -8",
        "-32 to -16",
        None,
        "1048576 to 2097152",
    ]
    assert log_bucket(pa.array([999.0, 1000.0, 1e15, 0.001]), 10).to_pylist() == [
        "100 to 1000",
        "1000 to 10000",
        "1e+15 to 1e+16",
        "0.001 to 0.01",
    ]
    assert log_bucket(pa.array([None, 0.0], pa.float64()), 2).to_pylist() == [None, "0"]
    assert log_bucket(pa.array([1e308, 5e-324, 1.0]), 10).to_pylist() == [
        "1e+308 to inf",
        "0 to 9.88131e-324",
        "1 to 10",
    ]
    assert log_bucket(pa.array([1.0, 1e30]), 1.1)[0].as_py() == "1 to 1.1"


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=10), st.sampled_from([2.0, 10.0, 1.1, 1.5, 3.0]))
def test_a_number_lies_between_its_powers(values, base):
    below, above = (
        log_bucket(pa.array([-value for value in values]), base),
        log_bucket(pa.array(values), base),
    )
    for value, name, negative in zip(values, above.to_pylist(), below.to_pylist(), strict=True):
        low, high = map(float, name.split(" to "))
        assert low <= value < high
        assert math.isclose(high / low, base)
        assert [float(part) for part in negative.split(" to ")] == [-high, -low]


@given(st.integers(-300, 300), st.sampled_from([2.0, 10.0]))
def test_powers_open_their_bucket(power, base):
    value = float(Fraction(base) ** power)
    assert float(log_bucket(pa.array([value, value * 5]), base).to_pylist()[0].split(" to ")[0]) == value


@given(st.lists(st.none() | st.floats(1e-200, 1e200) | st.floats(-1e6, 1e6), max_size=20), st.integers(1, 9))
def test_significant_digits(values, digits):
    found = significant(pa.array(values, pa.float64()), digits)
    for value, short in zip(values, found.to_pylist(), strict=True):
        if value is None or value == 0:
            assert short == value
        elif abs(value) > 1e-280:
            expected = float(f"{value:.{digits - 1}e}")
            assert math.isclose(short, expected, rel_tol=1e-12) or math.isclose(
                abs(short - value), abs(expected - value), rel_tol=1e-3
            ), "or a tie"
    assert significant(found, digits).equals(found)


def test_a_number_rounded_up_to_a_power_of_ten_is_spelled_as_it():
    found = significant(pa.array([9.5e198, 9.6, 1e199]), 1)
    assert found.to_pylist() == [1e199, 10.0, 1e199]
    assert significant(found, 1).equals(found)
    assert significant(pa.array([9.99996, 123456.0, 0.1 + 0.2]), 5).to_pylist() == [10.0, 123460.0, 0.3]


@given(st.lists(st.integers(0, 30), min_size=2, max_size=200), st.integers(2, 12))
def test_quantile_edges_cut_as_near_to_equal_as_ties_allow(rows, n):
    values, counts = np.unique(np.array(rows, float), return_counts=True)
    if len(values) == 1:
        with pytest.raises(ValueError, match="cut"):
            quantile_edges(values, counts, n)
        return
    edges = quantile_edges(values[::-1], counts[::-1], n)
    assert 1 <= len(edges) <= n - 1
    assert list(edges) == sorted(set(edges))
    cuts = {float(value): sum(row < value for row in rows) for value in values[1:]}
    nearest = [min(abs(cut - len(rows) * part / n) for cut in cuts.values()) for part in range(1, n)]
    assert all(
        any(
            math.isclose(abs(cuts[edge] - len(rows) * part / n), nearest[part - 1], abs_tol=1e-9)
            for edge in edges
        )
        for part in range(1, n)
    )


def test_quantiles_without_ties_are_equal():
    values = np.arange(100.0)
    edges = quantile_edges(values, np.ones(100, np.int64), 4)
    assert edges == (25.0, 50.0, 75.0)
    assert Counter(bucket(pa.array(values), edges).to_pylist()).most_common()[0][1] == 25
    assert quantile_edges(np.array([0.0, 1, 2]), np.array([90, 5, 5]), 4) == (1.0,)

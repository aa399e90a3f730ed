"""The transform's look-ups as a graph: exactly the transform's ids, at the ends of every bucket, for unknown
and for missing values.
"""

import numpy as np
import onnx_ir
import onnxruntime
import pyarrow as pa
import pytest

from clickprompt.data.sources.schema import FieldSchema
from clickprompt.data.text.template import UNKNOWN
from clickprompt.data.transform.buckets import bucket_names
from clickprompt.data.transform.row_transform import KEY, FieldRule, RowTransform, field_texts
from clickprompt.data.transform.standard import Scale
from clickprompt.errors import DataError
from clickprompt.export.raw_graph import (
    MISSING_INTEGER,
    OPSET,
    add_lookups,
    check_lookups,
    drawn_inputs,
    raw_inputs,
)


def session_of(transform: RowTransform, path) -> onnxruntime.InferenceSession:
    """The look-ups before a graph that gives back its ids."""
    shape = onnx_ir.Shape(["batch", "columns"])
    ids = onnx_ir.Value(name="field_ids", type=onnx_ir.TensorType(onnx_ir.DataType.INT64), shape=shape)
    node = onnx_ir.node("Identity", [ids], outputs=[onnx_ir.Value(name="out", type=ids.type, shape=shape)])
    graph = onnx_ir.Graph([ids], node.outputs, nodes=[node], opset_imports={"": OPSET})
    model = onnx_ir.Model(graph, ir_version=10)
    add_lookups(model, transform)
    onnx_ir.save(model, str(path))
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def transform_of(**fields) -> RowTransform:
    """name → (schema, values that occur, kinds of the column)"""
    rules, vocabularies = [], []
    for name, (schema, values, kinds, edges) in fields.items():
        rule = FieldRule(FieldSchema(name=name, column=name, **schema), kinds=kinds, edges=edges)
        found = [
            text
            for text in dict.fromkeys(field_texts(rule, values, ("",)).to_pylist())
            if text not in (None, UNKNOWN)
        ]
        rules.append(rule)
        vocabularies.append(pa.array([UNKNOWN, *found], pa.string()))
    return RowTransform(rules, vocabularies, {})


def check(transform: RowTransform, path, seeds=range(3)):
    check_lookups(transform)
    session = session_of(transform, path)
    seen = 0
    for seed in seeds:
        rows, inputs = drawn_inputs(transform, 400, seed)
        expected = transform(rows, ("",)).all_ids
        for size in (1, 7, 400):
            found = session.run(None, {name: column[:size] for name, column in inputs.items()})[0]
            np.testing.assert_array_equal(found, expected[:size])
        assert (expected == 0).any(axis=0).all()
        seen = np.maximum(seen, expected.max(axis=0))
    assert (seen > 0).all()


numbers = np.random.default_rng(0).normal(size=300)
small = np.array([0.0, 1e-3, 0.25, 0.5, 1.0, 7.999, 8.0, 1000.0, -0.3, -8.0, -9.5, 1e300])


@pytest.mark.parametrize(
    ("schema", "values", "edges"),
    [
        ({"edges": (-1.5, 0.0, 0.1, 2.5)}, numbers, None),
        ({"edges": (0.1, 0.3)}, np.array([0.1, 0.2, 1e308]), None),  # no row below
        ({"quantiles": 8}, numbers, (-1.1503, -0.5, 0.0, 0.31416, 1.0)),
        ({"quantiles": 2}, np.array([1e10, 2e10, 3e300]), (2e10,)),
        ({"round": 2}, numbers, None),
        ({"round": 0}, small, None),
        ({"round": -2}, small * 100, None),
        ({"round": 1}, np.array([0.05, 0.15, 0.25, 0.35, -0.05, 2.0**52 + 1, 1e22]), None),
        ({"log": 2.0}, small, None),
        ({"log": 10.0}, small, None),
        ({"log": 1.7}, np.array([5e-324, *small]), None),
    ],
    ids=lambda found: str(found)[:40],
)
@pytest.mark.sampled(4)
def test_numeric_fields_at_the_ends_of_their_buckets(tmp_path, schema, values, edges):
    check(
        transform_of(Number=({"kind": "numeric", **schema}, pa.array(values), ("float",), edges)),
        tmp_path / "model.onnx",
    )


@pytest.mark.parametrize(
    ("schema", "values", "kinds", "type_"),
    [
        ({}, pa.array(["a", "ü", "007", "3.0", "3"]), ("text",), "string"),
        ({}, pa.array([7, 2**53 + 1, -(2**63) + 1, 2**63 - 1]), ("integer",), "int64"),
        ({}, pa.array([7, 2**64 - 1], pa.uint64()), ("integer",), "string"),
        ({}, pa.array([7, -(2**63)]), ("integer",), "string"),  # the sign of a missing value
        ({}, pa.array([0.1, 3.0, -2.5]), ("float",), "double"),
        ({}, pa.array([0.1, 0.3], pa.float32()), ("float",), "double"),
        ({}, pa.array(["0.10000000000000000001", "0.1"]).cast(pa.decimal128(38, 20)), ("decimal",), "string"),
        ({"type": "integer"}, pa.array(["3.0", "+4", "005"]), ("text",), "int64"),
        ({"type": "integer"}, pa.array(["3", str(10**20)]), ("text",), "string"),
        ({}, pa.array([True, False]), ("boolean",), "string"),
        (
            {"values": {"1": "one", "2": "two", "3": "one", "9": "nine"}},
            pa.array([1, 2, 3]),
            ("integer",),
            "int64",
        ),
        ({"values": {"a": "one", "b": "two"}}, pa.array(["a", "b"]), ("text",), "string"),
        ({}, pa.array(["unknown", None]), ("text",), "string"),
    ],
    ids=lambda found: " ".join(str(found).split())[:40],
)
def test_categories(tmp_path, schema, values, kinds, type_):
    transform = transform_of(
        Category=(schema, values, kinds, None), Other=({}, pa.array(["x", "y"]), ("text",), None)
    )
    assert [one.type for one in raw_inputs(transform)] == [type_, "string"]
    if transform.vocabularies[0].to_pylist() == [UNKNOWN]:
        rows = {"Category": np.array(["unknown", "", "x"], object), "Other": np.array(["x", "z", ""], object)}
        found = session_of(transform, tmp_path / "model.onnx").run(None, rows)[0]
        assert found.tolist() == [[0, 1], [0, 0], [0, 0]]
        return
    check(transform, tmp_path / "model.onnx")


@pytest.mark.parametrize("separator", [None, "|", ", "])
def test_several_values(tmp_path, separator):
    values = pa.array([["a"], ["b c", "a"], [], ["ü"]])
    if separator:
        values = pa.array([separator.join(found) for found in values.to_pylist()])
    transform = transform_of(Tags=({"kind": "multi", "separator": separator}, values, ("list",), None))
    check(transform, tmp_path / "model.onnx")
    session = session_of(transform, tmp_path / "model.onnx")
    rows = np.array(["", f"{separator}a"], object) if separator else np.array([["", ""], ["", "a"]], object)
    assert session.run(None, {"Tags": rows})[0].tolist() == [[0], [1]]
    nothing = np.array(["", ""], object) if separator else np.empty((2, 0), object)
    assert session.run(None, {"Tags": nothing})[0].tolist() == [[0], [0]]


EACH = {"kind": "multi", "take": "each"}


@pytest.mark.parametrize("separator", [None, "|"])
@pytest.mark.parametrize("most", [2, 3, 5])
def test_all_values_of_a_row(tmp_path, separator, most):
    """Those without an id leave no gap, missing ones don't count, and a list may be shorter than M."""
    rules = [
        FieldRule(FieldSchema(name="A", column="a")),
        FieldRule(FieldSchema(name="Tags", column="t", separator=separator, most=most, **EACH)),
    ]
    transform = RowTransform(rules, [pa.array([UNKNOWN, "x"]), pa.array([UNKNOWN, "b c", "a", "ü"])], {})
    if most <= 3:  # as many as drawn rows have
        check(transform, tmp_path / "model.onnx", seeds=range(2))
    rows = [["", "a", "?", "a", "ü"], ["unknown", "b c", "", "", ""], [""] * 5]
    column = np.array([separator.join(row) for row in rows], object) if separator else np.array(rows, object)
    session = session_of(transform, tmp_path / "model.onnx")
    [found] = session.run(None, {"a": np.array(["x"] * 3, object), "t": column})
    first = {2: [2, 0], 3: [2, 2, 0], 5: [2, 2, 3, 0, 0]}[most]
    assert found.tolist() == [[1, *first], [1, 1, *[0] * (most - 1)], [1, *[0] * most]]
    nothing = np.array(["", ""], object) if separator else np.empty((2, 0), object)
    [found] = session.run(None, {"a": np.array(["x", ""], object), "t": nothing})
    assert found.tolist() == [[1, *[0] * most], [0] * (most + 1)]


def test_all_values_of_a_joined_row(tmp_path):
    table = pa.table({KEY: ["1", "2", "30"], "Tags": ["a\x1f?\x1fb", None, "b"]})
    rules = [
        FieldRule(
            FieldSchema(name="Tags", column="items.Tags", separator="|", most=2, **EACH), "items", "item"
        ),
        FieldRule(FieldSchema(name="Item", column="item"), kinds=("text",)),
    ]
    transform = RowTransform(
        rules, [pa.array([UNKNOWN, "a", "b"]), pa.array([UNKNOWN, "2", "1"])], {"items": table}
    )
    check(transform, tmp_path / "model.onnx", seeds=range(1))
    items = np.array(["1", "2", "30", "31"], object)
    [found] = session_of(transform, tmp_path / "model.onnx").run(None, {"item": items})
    assert found.tolist() == [[1, 2, 2], [0, 1, 0], [2, 0, 0], [0, 0, 0]]


def test_learned_numbers(tmp_path):
    """To the millionth, also beyond the most deviations and for a missing one."""
    price = FieldSchema(name="Price", column="price", kind="numeric", edges=(1.0, 5.5), learned=True)
    rules = [
        FieldRule(price, scale=Scale(3.7, 1 / 3)),
        FieldRule(FieldSchema(name="Tags", column="t", most=2, **EACH)),
    ]
    buckets = bucket_names((1.0, 5.5))
    transform = RowTransform(rules, [pa.array([UNKNOWN, *buckets]), pa.array([UNKNOWN, "a", "b"])], {})
    check(transform, tmp_path / "model.onnx")
    draw = np.random.default_rng(1)
    values = np.concatenate(
        [draw.normal(3, 2, 3000), 10.0 ** draw.integers(-8, 12, 50), [np.nan, 3.7, 1e300]]
    )
    rows = pa.table({"price": values, "t": pa.array([[]] * len(values), pa.list_(pa.string()))})
    tags = np.empty((len(values), 0), object)
    [found] = session_of(transform, tmp_path / "model.onnx").run(None, {"price": values, "t": tags})
    np.testing.assert_array_equal(found, transform(rows, ("",)).all_ids)
    assert found[-3:, -1].tolist() == [0, 0, 2_000_000_000]


@pytest.mark.parametrize("own", [None, "integer", "text"])
def test_joined_fields_share_their_tables_rows(tmp_path, own):
    """The key may be a field itself."""
    table = pa.table(
        {
            KEY: ["1", "2", "30", "b"],
            "Title": ["x", None, "y", "x"],
            "Year": ["1990", "2000", "unknown", "1990"],
        }
    )
    rules = [
        FieldRule(FieldSchema(name=name, column=f"items.{name}"), "items", "item", ("text",))
        for name in ("Title", "Year")
    ]
    vocabularies = [pa.array([UNKNOWN, "y", "x"]), pa.array([UNKNOWN, "2000", "1990"])]
    if own:
        rules.append(FieldRule(FieldSchema(name="Item", column="item"), kinds=(own,)))
        vocabularies.append(pa.array([UNKNOWN, "30", "1", "55"]))
    transform = RowTransform(rules, vocabularies, {"items": table})
    check(transform, tmp_path / "model.onnx")
    keys = (
        np.array([1, 2, 30, 31, MISSING_INTEGER])
        if own == "integer"
        else np.array(["1", "2", "30", "b", ""], object)
    )
    found = session_of(transform, tmp_path / "model.onnx").run(None, {"item": keys})[0]
    assert found[:, :2].tolist() == [[2, 2], [0, 1], [1, 0], [0, 0] if own == "integer" else [2, 2], [0, 0]]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"remove": "x"}, "has remove, and a graph can't cut texts"),
        ({"max_characters": 3}, "has max_characters"),
        ({"kind": "multi", "take": "all"}, "take: all, and a graph can't join texts"),
    ],
)
def test_what_a_graph_cannot_do_is_refused(schema, said):
    transform = RowTransform(
        [FieldRule(FieldSchema(name="A", column="a", **schema))], [pa.array([UNKNOWN, "x"])], {}
    )
    with pytest.raises(DataError, match=f"--raw: the field A .*{said}.*without --raw"):
        check_lookups(transform)


def test_a_column_that_is_a_number_and_a_key_is_refused():
    rules = [
        FieldRule(FieldSchema(name="Title", column="items.Title"), "items", "item"),
        FieldRule(FieldSchema(name="A", column="item", kind="numeric", round=1)),
    ]
    with pytest.raises(DataError, match="'item' is a table's key and a numeric field"):
        check_lookups(RowTransform(rules, [pa.array([UNKNOWN])] * 2, {}))


@pytest.mark.parametrize("name", ["out", "raw/0:0"])
def test_a_column_with_the_name_of_a_value_is_refused(tmp_path, name):
    rule = FieldRule(FieldSchema(name="A", column=name), kinds=("text",))
    with pytest.raises(DataError, match=f"the column '{name}' has the name of a value in the graph"):
        session_of(RowTransform([rule], [pa.array([UNKNOWN, "x"])], {}), tmp_path / "model.onnx")

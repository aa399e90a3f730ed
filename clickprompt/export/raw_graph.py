"""Add the transform's look-ups (data/transform/row_transform.py) to an ONNX graph, which then takes raw rows.

The graph uses opsets 20 and ai.onnx.ml 4. It has an input for each column of the log, with the column's name:

    int64   [B]     whole numbers; `MISSING_INTEGER` for a missing one
    double  [B]     numbers; NaN for a missing one
    string  [B]     texts without blanks around them, true and false, dates in ISO form; "" for a missing one
    string  [B, L]  lists, filled up with ""

Categories are dictionaries (LabelEncoder). The buckets of a numeric field, whatever its rule, are intervals
of float64: their ends are found by the transform itself and are exact, and a row's interval by binary search.
A joined table becomes a dictionary of its keys. Learned numbers are standardised in float64, as everywhere. A
value that the transform refuses (an infinite number, a
code that `values` lacks) is unknown here.

Shape legend: B rows, L values of a list, M of them that a field keeps, V values that have an id.
"""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.transform.multi import apart, in_places
from clickprompt.data.transform.row_transform import KEY, FieldRule, RowTransform
from clickprompt.data.transform.spelling import texts
from clickprompt.errors import DataError

if TYPE_CHECKING:
    import onnx_ir as ir

from clickprompt.export.intervals import intervals_of
from clickprompt.export.raw_nodes import ML_DOMAIN, Nodes

__all__ = [
    "MISSING_INTEGER",
    "OPSET",
    "RawInput",
    "add_lookups",
    "check_lookups",
    "drawn_inputs",
    "raw_inputs",
]

MISSING_INTEGER = -(2**63)
OPSET = 20
_WHOLE = r"^(0|-?[1-9][0-9]*)$"


Type = Literal["int64", "double", "string"]


@dataclass(frozen=True)
class RawInput:
    """A column of the log, and its form as an input of the graph."""

    column: str
    type: Type
    shape: tuple[str, ...]
    separator: str | None = None
    """separator of the values in a text"""

    def to_json(self) -> dict[str, Any]:
        missing: dict[Type, Any] = {"int64": MISSING_INTEGER, "double": "NaN", "string": ""}
        return {"column": self.column, "type": self.type, "shape": self.shape, "missing": missing[self.type]}


def check_lookups(transform: RowTransform) -> None:
    """Raise DataError for a rule that a graph can't follow."""
    kinds: dict[str, set[str]] = {}
    for rule in transform.rules:
        schema = rule.schema
        if rule.table is None:
            for option in ("remove", "max_characters"):
                if getattr(schema, option) is not None:
                    raise DataError(
                        f"--raw: the field {schema.name} has {option}, and a graph can't cut texts; export "
                        "without --raw"
                    )
            if schema.kind == "multi" and schema.take == "all":
                raise DataError(
                    f"--raw: the field {schema.name} has take: all, and a graph can't join texts; export "
                    "without --raw"
                )
        kinds.setdefault(rule.column, set()).add("categorical" if rule.table else schema.kind)
    for column, found in kinds.items():
        if len(found) > 1:
            raise DataError(
                f"--raw: the column {column!r} is a table's key and a {(found - {'categorical'}).pop()} "
                "field; export without --raw"
            )


def raw_inputs(transform: RowTransform) -> list[RawInput]:
    """Return the graph's inputs, one for each column that the transform reads, in its order."""
    own = {
        rule.column: (rule, vocabulary)
        for rule, vocabulary in zip(transform.rules, transform.vocabularies, strict=True)
        if not rule.table
    }
    made = []
    for column in transform.columns:
        if column not in own:
            made.append(RawInput(column, "string", ("batch",)))
            continue
        rule, vocabulary = own[column]
        if rule.schema.kind == "multi":
            shape = ("batch",) if rule.schema.separator else ("batch", "values")
            made.append(RawInput(column, "string", shape, rule.schema.separator))
        else:
            type_ = (
                "double"
                if rule.schema.kind == "numeric"
                else _type_of(rule, _categories(rule, vocabulary)[0])
            )
            made.append(RawInput(column, type_, ("batch",)))
    return made


def _categories(rule: FieldRule, vocabulary: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return (texts [V] that have an id, their ids [V])."""
    if rule.schema.values is None:
        return vocabulary.slice(1), np.arange(1, len(vocabulary))
    codes = pa.array(list(rule.schema.values), pa.string())
    ids = pc.fill_null(
        pc.index_in(pa.array(list(rule.schema.values.values())), value_set=vocabulary), 0
    ).to_numpy()
    return codes.filter(pa.array(ids > 0)), ids[ids > 0]


def _type_of(rule: FieldRule, values: pa.Array) -> Type:
    """Choose a numeric input if the log has only numbers, and the type can tell all of them apart."""
    if not rule.number:
        return "string"
    whole = rule.schema.type == "integer" or set(rule.kinds) == {"integer"}
    if whole and pc.all(_are_int64(values), min_count=0).as_py():
        return "int64"
    return "string" if whole or not pc.all(_are_doubles(values), min_count=0).as_py() else "double"


def _are_int64(values: pa.Array) -> pa.BooleanArray:
    try:
        return pc.and_(
            pc.match_substring_regex(values, _WHOLE), pc.not_equal(values.cast(pa.int64()), MISSING_INTEGER)
        )
    except pa.ArrowInvalid:  # some aren't numbers, or are too large
        found = [
            bool(re.match(_WHOLE, value)) and -(2**63) < int(value) < 2**63 for value in values.to_pylist()
        ]
        return pa.array(found, pa.bool_())


def _are_doubles(values: pa.Array) -> pa.BooleanArray:
    """Whether each text is the spelling of its own float64."""

    def is_one(value: str) -> bool:
        try:
            number = float(value)
        except ValueError:
            return False
        return abs(number) < 2**53 and texts(pa.array([number])).to_pylist() == [value]

    return pa.array([is_one(value) for value in values.to_pylist()], pa.bool_())


def _typed(type_: Type, values: pa.Array, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (keys [V] of the type, ids [V]) for the texts that are values of the type."""
    if type_ == "string":
        return values.to_numpy(zero_copy_only=False), ids
    some = _are_int64(values) if type_ == "int64" else _are_doubles(values)
    keys = values.filter(some).cast(pa.int64() if type_ == "int64" else pa.float64())
    return keys.to_numpy(zero_copy_only=False), ids[some.to_numpy(zero_copy_only=False)]


def add_lookups(model: "ir.Model", transform: RowTransform) -> None:
    """Put the look-ups before the graph; the columns' inputs replace its input `field_ids` [B, F + V + K].

    Raises DataError for a column whose name the graph needs itself.
    """
    import onnx_ir

    nodes, graph = Nodes(), model.graph
    types = {
        "int64": onnx_ir.DataType.INT64,
        "double": onnx_ir.DataType.DOUBLE,
        "string": onnx_ir.DataType.STRING,
    }
    described = raw_inputs(transform)
    inputs = {
        one.column: onnx_ir.Value(
            name=one.column, type=onnx_ir.TensorType(types[one.type]), shape=onnx_ir.Shape(one.shape)
        )
        for one in described
    }
    known = {one.column: one for one in described}
    rows: dict[str, ir.Value] = {}  # of each table
    columns, further, learned = [], [], []
    for rule, vocabulary in zip(transform.rules, transform.vocabularies, strict=True):
        column, schema = inputs[rule.column], rule.schema
        if rule.table is not None:
            table = transform.tables[rule.table]
            if rule.table not in rows:
                keys = table.column(KEY).combine_chunks()
                rows[rule.table] = nodes.look_up(
                    column, *_typed(known[rule.column].type, keys, np.arange(1, len(keys) + 1))
                )
            joined = table.column(schema.name).combine_chunks()
            ids = _ids_of(joined, vocabulary, schema.most_values)
            ids = np.concatenate([np.zeros_like(ids[:1]), ids])
            found = nodes.add("Gather", nodes.constant(ids), rows[rule.table])
        elif schema.kind == "numeric":
            found = nodes.find(column, intervals_of(rule, vocabulary))
        elif schema.kind == "multi":
            values = (
                nodes.add("StringSplit", column, outputs=2, delimiter=schema.separator)
                if schema.separator
                else column
            )
            known_values = _typed("string", *_categories(rule, vocabulary))
            if schema.most_values:
                found = nodes.several(values, *known_values, schema.most_values)
            else:
                found = nodes.first(values, *known_values)
        else:
            found = nodes.look_up(column, *_typed(known[rule.column].type, *_categories(rule, vocabulary)))
        if schema.most_values:
            further.append(nodes.add("Gather", found, nodes.constant(range(1, schema.most_values)), axis=1))
            found = nodes.add("Gather", found, nodes.constant(0), axis=1)
        columns.append(nodes.add("Unsqueeze", found, nodes.constant([1])))
        if rule.scale:
            learned.append(
                nodes.add("Unsqueeze", nodes.standardised(column, rule.scale), nodes.constant([1]))
            )
    [ids] = graph.inputs
    onnx_ir.convenience.replace_all_uses_with(ids, nodes.add("Concat", *columns, *further, *learned, axis=1))
    taken = {value.name for node in [*nodes.made, *graph] for value in node.outputs} | set(graph.initializers)
    for column in inputs:
        if column in taken:
            raise DataError(
                f"--raw: the column {column!r} has the name of a value in the graph; export without --raw"
            )
    graph.inputs[:] = inputs.values()
    for constant in nodes.constants:
        graph.register_initializer(constant)
    graph.insert_before(graph[0], nodes.made)
    graph.opset_imports[ML_DOMAIN] = 4


def _ids_of(joined: pa.Array, vocabulary: pa.Array, most: int | None) -> np.ndarray:
    """Return the ids of a joined column's texts, [R] int64, or of a field with several values, [R, M]."""
    values = joined if most is None else apart(joined)
    flat = joined if most is None else values.flatten()
    ids = pc.fill_null(pc.index_in(flat, value_set=vocabulary), 0).to_numpy().astype(np.int64)
    return ids if most is None else in_places(values, ids, most)


def drawn_inputs(
    transform: RowTransform, count: int, seed: int = 0
) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Return `count` rows for the transform, and the same rows as the graph takes them.

    They have values with an id, values without one, and missing values.
    """
    rng = np.random.default_rng(seed)
    columns, inputs = {}, {}
    for one in raw_inputs(transform):
        known = _some_values(transform, one, rng)
        chosen = rng.integers(0, len(known), (count, 3))
        lost = rng.random((count, 3)) < 0.2
        values = [
            [None if gone else known[place] for place, gone in zip(*row, strict=True)]
            for row in zip(chosen, lost, strict=True)
        ]
        if one.separator is not None:
            texts_ = [one.separator.join(value or "" for value in row) for row in values]
            columns[one.column], inputs[one.column] = pa.array(texts_, pa.string()), np.array(texts_, object)
        elif len(one.shape) == 2:
            columns[one.column] = pa.array(values, pa.list_(pa.string()))
            inputs[one.column] = np.array([[value or "" for value in row] for row in values], object)
        else:
            type_ = {"int64": pa.int64(), "double": pa.float64(), "string": pa.string()}[one.type]
            columns[one.column] = pa.array([row[0] for row in values], type_)
            missing = {"int64": MISSING_INTEGER, "double": np.nan, "string": ""}[one.type]
            inputs[one.column] = pc.fill_null(columns[one.column], missing).to_numpy(zero_copy_only=False)
    return pa.table(columns), inputs


def _some_values(transform: RowTransform, one: RawInput, rng: np.random.Generator) -> list[Any]:
    """Return some hundreds of a column's values at most.

    Among them are the ends of intervals and their neighbours, and unknown values if the rule accepts these.
    """
    found: list[Any] = []
    for rule, vocabulary in zip(transform.rules, transform.vocabularies, strict=True):
        if rule.column != one.column:
            continue
        if rule.table is None and rule.schema.kind == "numeric":
            ends = intervals_of(rule, vocabulary)
            numbers = np.concatenate([ends.lows, ends.highs])
            with np.errstate(over="ignore"):
                numbers = np.concatenate(
                    [numbers, np.nextafter(numbers, -np.inf), np.nextafter(numbers, np.inf), [0.0, -1.5, 1e9]]
                )
            found += numbers[np.isfinite(numbers)].tolist()
            continue
        table = rule.table and transform.tables[rule.table]
        keys = table.column(KEY).combine_chunks() if table else _categories(rule, vocabulary)[0]
        found += _typed(one.type, keys, np.zeros(len(keys)))[0].tolist()
        if rule.table or rule.schema.values is None:
            text = "-987654321" if rule.schema.type == "integer" else "never seen"
            found += {"int64": [-987654321, 2**62 + 1], "double": [-98765.4321, 1e15], "string": [text]}[
                one.type
            ]
    return [found[place] for place in rng.permutation(len(found))[:500]]

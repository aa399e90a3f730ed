"""What a wrong schema is told: every mistake at once, in words of its keys, and of no library."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from clickprompt.data.sources.schema import (
    Explode,
    FieldSchema,
    JoinedTable,
    LabelRule,
    TableSchema,
    TimeRule,
    load_schema,
)
from clickprompt.errors import ConfigError
from tests.support.words import PYDANTIC

WHOLE: dict[str, Any] = {
    "data": ["log.csv"],
    "tables": {"items": {"data": "items.csv", "key": "id"}},
    "explode": {"columns": ["shown"], "separator": " "},
    "fields": [{"name": "Age", "column": "age"}, {"name": "Title", "column": "items.title"}],
    "label": {"column": "clicked"},
    "timestamp": {"column": "when"},
}
MODELS: list[tuple[tuple[Any, ...], str, type]] = [
    ((), "", TableSchema),
    (("tables", "items"), "tables.items.", JoinedTable),
    (("explode",), "explode.", Explode),
    (("fields", 0), "fields (Age).", FieldSchema),
    (("label",), "label.", LabelRule),
    (("timestamp",), "timestamp.", TimeRule),
]
KEYS = [(path, prefix, key) for path, prefix, model in MODELS for key in model.model_fields]
WRONG: list[Any] = [
    *("no-such-word", "", -1, 0, 1.5, 10**12, float("nan"), float("inf"), True, None),
    *([], [None], ["x"], [[1]], [1, "x"], {}, {"no": "such"}, {"no": {"such": 1}}, {"no": [[]]}),
    *([{"name": "A"}], [{"name": "A", "column": "a"}, 3], [{}, {}], {"data": {}, "key": []}),
]


def changed(path: tuple[Any, ...], key: str, value: Any) -> dict[str, Any]:
    schema = copy.deepcopy(WHOLE)
    below: Any = schema
    for name in path:
        below = below[name]
    below[key] = value
    return schema


@pytest.fixture
def told(tmp_path):
    """`told(schema)`: what is said about it, without the file's name; None if it is right."""
    file = tmp_path / "log.yaml"

    def of(schema: Any) -> str | None:
        file.write_text(yaml.safe_dump(schema))
        try:
            load_schema(str(file))
        except ConfigError as error:
            name, said = str(error).split(": ", 1)
            return said if name == str(file) else f"{name} is not the file: {said}"
        return None

    return of


def test_the_whole_is_right(told):
    assert told(WHOLE) is None


@pytest.mark.parametrize(("path", "prefix", "key"), KEYS)
@pytest.mark.sampled(20)
def test_no_value_of_any_key_is_refused_in_words_of_pydantic(told, path, prefix, key):
    refused = [said for value in WRONG if (said := told(changed(path, key, value)))]
    assert refused
    for said in refused:
        assert not PYDANTIC.search(said), said
        assert "\n" not in said


@pytest.mark.parametrize(("path", "prefix", "key"), KEYS)
def test_a_misspelt_key_is_told_the_right_one(told, path, prefix, key):
    said = told(changed(path, f"{key}q", "x"))
    assert said is not None
    nearest = rf"unknown key {re.escape(prefix)}{key}q; the nearest known key is ([\w.]+\.)?{key}\b"
    assert re.search(nearest, said), said


def mistakes(said: str) -> Iterator[str]:
    yield from re.split(r"(?:; )?\(\d+\) ", said)[1:]


def test_every_mistake_is_named_at_once(told):
    schema = {
        "data": [],
        "tables": {"items": {"data": "items.csv", "kye": "id"}},
        "fields": [
            {"name": "Age", "column": "age", "edge": [1]},
            {"column": "b"},
            {"name": "C", "column": "c", "kind": "numerc", "quantiles": 1},
        ],
        "lable": {"column": "y"},
        "timestamp": [],
        "k_core": "x",
    }
    assert list(mistakes(told(schema))) == [
        "unknown key tables.items.kye; the nearest known key is key",
        "unknown key fields (Age).edge; the nearest known key is edges",
        "unknown key lable; the nearest known key is label",
        "data=[]: give a list: text, not empty",
        "fields (entry 2).name is missing; give text, not empty",
        "fields (C).kind='numerc': give categorical, numeric or multi; did you mean numeric?",
        "fields (C).quantiles=1: give a whole number ≥ 2, ≤ 10000 or null",
        "timestamp=[]: this is a section; set one of its keys, such as timestamp.column",
        "k_core='x': give a whole number ≥ 0",
    ]

"""Collators and models are built with a layout, which names every kind of column: none can be left out."""

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest

from clickprompt.config import Layout, load_config
from clickprompt.data.collate import Collator
from clickprompt.models.build import build_model

ROOT = Path(__file__).parents[2]
MAKERS = {
    "clickprompt/data/prepared/layout.py",  # a dataset's
    "clickprompt/export/format.py",  # an export's
    "clickprompt/runtime/cluster/sizing.py",  # of a dataset that needn't exist
    "clickprompt/benchmark/ctr_arms.py",  # of made-up rows
}


@pytest.mark.parametrize(("build", "place"), [(Collator, 0), (build_model, 1)])
def test_both_take_it_whole(build, place):
    parameters = list(inspect.signature(build).parameters.values())
    assert parameters[place].annotation in (Layout, "Layout")
    assert parameters[place].default is inspect.Parameter.empty
    kinds = {field.name for field in dataclasses.fields(Layout)}
    assert not kinds & {parameter.name for parameter in parameters}, "given beside the layout"


def test_columns_or_sizes_alone_are_refused():
    with pytest.raises((AttributeError, TypeError)):
        Collator(["f_user", "f_item"])  # pyright: ignore[reportArgumentType]
    with pytest.raises((AttributeError, TypeError)):
        build_model(load_config(None), [3, 4], objective="without_plm")  # pyright: ignore[reportArgumentType]


def test_it_has_no_defaults():
    for field in dataclasses.fields(Layout):
        assert field.default is dataclasses.MISSING is field.default_factory, field.name


def test_only_these_files_make_one():
    """Others take a dataset's or an export's."""
    found = set()
    for part in ("clickprompt", "jobs", "scripts"):
        for path in (ROOT / part).rglob("*.py"):
            text = path.read_text()
            if "Layout" in text and any(_makes_one(node) for node in ast.walk(ast.parse(text))):
                found.add(str(path.relative_to(ROOT)))
    assert found == MAKERS


def _makes_one(node: ast.AST) -> bool:
    """Whether it is a call of Layout(…) or Layout.plain(…)."""
    called = node.func if isinstance(node, ast.Call) else None
    if isinstance(called, ast.Attribute) and called.attr == "plain":
        called = called.value
    return isinstance(called, ast.Name) and called.id == "Layout"

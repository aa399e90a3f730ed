"""Norms of tables and tower: against loops, and what a run warns of."""

import math

import numpy as np
import pytest
import torch

from clickprompt.config import load_config, replaced
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import unique_tensors
from clickprompt.training.carry_over import tables_of
from clickprompt.training.norms import Norms, far_from_fresh
from tests.support.layouts import made_up

NAMES, SIZES = ["User ID", "Gender", "Movie ID"], [40, 3, 50]
TRAINED = [np.arange(40) > 0, np.arange(3) > 1, np.arange(50) % 2 > 0]
EMBEDDING, LINEAR = "ctr.embedding.weight", "ctr.linear_terms.weight"
MATRIX = "ctr.backbone.deep.linears.0.weight"


@pytest.fixture
def fresh():
    config = replaced(
        load_config(None), {"ctr.backbone": "deepfm", "ctr.embedding_dim": 4, "ctr.hidden_dim": 8}
    )
    model = build_model(config, made_up(SIZES), objective="without_plm")
    assert tables_of(model) == [EMBEDDING, LINEAR]
    return {name: tensor.clone() for name, tensor in unique_tensors(model).items()}


def norms_of(fresh):
    return Norms(fresh, [EMBEDDING, LINEAR], NAMES, TRAINED)


def test_figures_equal_loops(fresh):
    start = {name: tensor * 2 + 0.01 for name, tensor in fresh.items()}
    end = {name: tensor * 5 for name, tensor in fresh.items()}
    norms = norms_of(fresh)
    norms.begin(start)
    found = norms.end(end)
    assert found["tower"].keys() == {
        name for name, tensor in fresh.items() if tensor.ndim > 1 and name not in (EMBEDDING, LINEAR)
    }
    for name, figures in found["tower"].items():
        for key, weights in (("fresh", fresh), ("start", start), ("end", end)):
            squares = [entry**2 for row in weights[name].tolist() for entry in row]
            assert figures[key] == pytest.approx(math.sqrt(sum(squares) / len(squares)), rel=1e-5)
    for table in (EMBEDDING, LINEAR):
        offset = 0
        for field, trained in zip(NAMES, TRAINED, strict=True):
            for key, weights in (("fresh", fresh), ("start", start), ("end", end)):
                rows = weights[table][offset : offset + len(trained)].tolist()
                entries = [entry for row, was in zip(rows, trained, strict=True) if was for entry in row]
                mean = sum(entries) / len(entries)
                sigma = math.sqrt(sum((entry - mean) ** 2 for entry in entries) / len(entries))
                assert found["tables"][table][field][key] == pytest.approx(sigma, rel=1e-4, abs=1e-12)
            offset += len(trained)


def test_a_run_from_scratch_begins_with_fresh_weights(fresh):
    norms = norms_of(fresh)
    assert far_from_fresh("a", norms) is None
    figures = norms.end(fresh)["tables"][EMBEDDING]["User ID"]
    assert figures["fresh"] == figures["start"] == figures["end"]


@pytest.mark.parametrize(("factor", "warns"), [(2.9, False), (3.1, True), (0.34, False), (0.32, True)])
def test_tables_that_are_far_from_fresh_are_named_with_the_remedy(fresh, factor, warns):
    norms = norms_of(fresh)
    start = dict(fresh)
    start[EMBEDDING] = fresh[EMBEDDING].clone()
    start[EMBEDDING][:43] *= factor  # two fields; Gender has too few entries to tell
    norms.begin(start)
    line = far_from_fresh("runs/a", norms)
    assert (line is not None) == warns
    if line is not None:
        assert line.startswith("finetune.init=runs/a: differs from fresh weights by more than 3 times: ")
        assert "User ID (" in line
        assert "Movie ID" not in line
        assert "Gender" not in line
        assert "; finetune.init_scale=0.02 scales them" in line
        assert "tower" not in line
        assert "\n" not in line


def test_a_tower_that_is_far_from_fresh_is_named_with_the_remedy(fresh):
    norms = norms_of(fresh)
    norms.begin(fresh | {MATRIX: fresh[MATRIX] * 4})
    line = far_from_fresh("runs/a", norms)
    assert line is not None
    assert MATRIX in line
    assert "; finetune.init_parts=tables leaves the tower out" in line
    assert "init_scale" not in line


def test_a_field_without_trained_rows_has_no_figure(fresh):
    norms = Norms(fresh, [EMBEDDING, LINEAR], NAMES, [np.zeros(40, bool), *TRAINED[1:]])
    norms.begin({name: torch.zeros_like(tensor) for name, tensor in fresh.items()})
    assert norms.end(fresh)["tables"][EMBEDDING]["User ID"] == {"fresh": None, "start": None, "end": None}
    line = far_from_fresh("a", norms)
    assert line is not None
    assert "User ID" not in line
    assert "Movie ID (0, fresh 0.0" in line

"""What a finetuning takes over: against loops over parts, fields, rows and entries."""

import math
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clickprompt.config import CTRConfig, FinetuneConfig, PretrainConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.io import storage
from clickprompt.models.ctr import CTRModel
from clickprompt.training import init_parts
from clickprompt.training.carry_over import tables_of
from clickprompt.training.init_parts import (
    chosen_parts,
    deviations,
    prepare_tables,
    start_weights,
    trained_rows,
)
from tests.support.synthetic import FIELDS, write_dataset

SIZES = [6, 3, 9]
TABLES = ["ctr.embedding.weight", "ctr.linear_terms.weight"]


def export_like(sizes, seed=0):
    """The tensors of a DeepFM, with others beside it."""
    torch.manual_seed(seed)
    tower = CTRModel(sizes, CTRConfig(backbone="deepfm", embedding_dim=4, hidden_dim=8, num_layers=1))
    weights = {f"ctr.{name}": tensor * 3 + 0.1 for name, tensor in tower.state_dict().items()}
    return weights | {"plm.backbone.w": torch.ones(2), "prompt_projector.w": torch.ones(3)}


@pytest.mark.parametrize(
    ("parts", "tables", "tower"), [("all", True, True), ("tables", True, False), ("tower", False, True)]
)
def test_parts(parts, tables, tower):
    weights = export_like(SIZES)
    kept = chosen_parts(weights, TABLES, parts)
    for name, tensor in weights.items():
        expected = tables if name in TABLES else tower or not name.startswith("ctr.")
        assert (name in kept) == expected, name
        assert name not in kept or kept[name] is tensor


def naive(table, trained, scale, unseen):
    """The docstring's formulas, entry by entry."""
    result, start = [[float(entry) for entry in row] for row in table], 0
    for of_field in trained:
        rows = range(start, start + len(of_field))
        seen = [row for row, was in zip(rows, of_field, strict=True) if was]
        start += len(of_field)
        if not seen:
            continue
        entries = [entry for row in seen for entry in result[row]]
        mean = sum(entries) / len(entries)
        sigma = math.sqrt(sum((entry - mean) ** 2 for entry in entries) / len(entries))
        if scale is not None and sigma > 0:
            for row in rows:
                result[row] = [entry * scale / sigma for entry in result[row]]
        for row in rows[1:]:
            if row in seen:
                continue
            if unseen == "mean":
                result[row] = [sum(result[one][i] for one in seen) / len(seen) for i in range(len(table[0]))]
            if unseen == "unknown":
                result[row] = list(result[rows[0]])
    return torch.tensor(result)


@pytest.mark.parametrize("unseen", ["own", "mean", "unknown"])
@pytest.mark.parametrize("scale", [None, 0.02])
@pytest.mark.parametrize("seed", range(5))
def test_scale_then_unseen_equal_a_loop(seed, scale, unseen):
    draw, weights = random.Random(seed), export_like(SIZES, seed)
    trained = [np.array([draw.random() < 0.6 for _ in range(size)]) for size in SIZES]
    trained[1][:] = seed % 2 == 0  # a field of which nothing was seen stays as it is
    before = {name: tensor.clone() for name, tensor in weights.items()}
    found = prepare_tables(weights, TABLES, trained, scale, unseen)
    for name, tensor in weights.items():
        assert tensor.equal(before[name]), "the given weights were changed"
        if name not in TABLES:
            assert found[name] is tensor
            continue
        torch.testing.assert_close(found[name], naive(tensor, trained, scale, unseen))
        for sigma, of_field in zip(deviations(found[name], trained), trained, strict=True):
            if not of_field.any():
                assert sigma is None
            elif scale is not None and tensor.shape[1] > 1:
                assert sigma == pytest.approx(scale)


def test_blocks_of_rows_make_no_difference(monkeypatch):
    table, trained = torch.randn(103, 3), [np.arange(103) % 3 > 0]
    [whole] = deviations(table, trained)
    monkeypatch.setattr(init_parts, "_BLOCK_ROWS", 10)
    assert deviations(table, trained) == [pytest.approx(whole, rel=1e-12)]
    assert whole == pytest.approx(table[trained[0]].std(correction=0).item(), rel=1e-6)


def test_equal_entries_have_no_scale():
    table = {"ctr.embedding.weight": torch.full((3, 2), 0.5)}
    found = prepare_tables(table, TABLES, [np.ones(3, bool)], 0.02, "own")
    assert found["ctr.embedding.weight"].equal(table["ctr.embedding.weight"])


def with_counts(dataset, zero):
    """The same dataset, whose vocabularies say that the ids in `zero` had no training row."""
    for number, entry in enumerate(dataset.manifest["fields"]):
        table = dataset.vocabulary(number)
        counts = np.ones(len(table), np.int64)
        counts[[0, *zero]] = 0
        path = storage.join(dataset.uri, entry["file"])
        pq.write_table(table.set_column(2, "train_count", pa.array(counts)), path)
    return Dataset(dataset.uri, dataset.manifest)


def test_rows_come_from_the_vocabularies(tmp_path):
    dataset = with_counts(write_dataset(str(tmp_path)), [2])
    expected = [np.array([number not in (0, 2) for number in range(size + 1)]) for size in FIELDS.values()]
    for found, wanted in zip(trained_rows(dataset), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)

    weights = export_like(dataset.field_sizes)
    assert tables_of(CTRModel(SIZES, CTRConfig(backbone="deepfm"))) == [
        name.removeprefix("ctr.") for name in TABLES
    ]
    stage = FinetuneConfig(init_scale=0.02, init_unseen="mean", init_parts="tables")
    found = start_weights(weights, TABLES, dataset, None, stage)
    assert found.keys() == chosen_parts(weights, TABLES, "tables").keys()
    for name in TABLES:
        torch.testing.assert_close(found[name], naive(weights[name], expected, 0.02, "mean"))


@pytest.mark.parametrize("stage", [FinetuneConfig(), PretrainConfig()])
def test_the_defaults_take_all_as_it_is(tmp_path, stage):
    dataset = write_dataset(str(tmp_path))
    weights = export_like(dataset.field_sizes)
    found = start_weights(weights, TABLES, dataset, None, stage)
    assert found.keys() == weights.keys()
    assert all(found[name] is tensor for name, tensor in weights.items())


def test_values_that_only_the_new_dataset_has_were_never_seen(tmp_path):
    """The earlier dataset lacks the last value of each field; its row 0 was trained."""
    now = write_dataset(str(tmp_path / "now"))
    earlier = write_dataset(str(tmp_path / "earlier"))
    for number, entry in enumerate(earlier.manifest["fields"]):
        kept = earlier.vocabulary(number).slice(0, entry["size"] - 1)
        counts = np.arange(len(kept))[::-1].copy()  # the last one kept wasn't seen, row 0 was
        entry["size"] = len(kept)
        pq.write_table(
            kept.set_column(2, "train_count", pa.array(counts)), storage.join(earlier.uri, entry["file"])
        )
    weights = export_like(earlier.field_sizes)
    stage = FinetuneConfig(init_unseen="mean")
    found = start_weights(weights, TABLES, now, earlier, stage)
    start = then = 0
    for new, old in zip(now.field_sizes, earlier.field_sizes, strict=True):
        for name in TABLES:
            before, after = weights[name][then : then + old], found[name][start : start + new]
            assert after[: old - 1].equal(before[: old - 1])
            mean = before[: old - 1].mean(0).expand(2, -1)
            torch.testing.assert_close(after[old - 1 :], mean)
        start, then = start + new, then + old

"""What a finetuning takes over and how large it is: weights, result, and what the run says."""

import os

import pytest

from clickprompt.config import replaced
from clickprompt.data.prepared.layout import layout_of
from clickprompt.export.format import export_of, load_weights
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import unique_tensors
from clickprompt.runtime.train.train import run_training
from clickprompt.training.init_parts import deviations, trained_rows
from tests.support.synthetic import FIELDS, write_dataset
from tests.support.tiny import tiny_config

TABLES = ("ctr.embedding.weight", "ctr.linear_terms.weight")


def figures(result, when):
    return {
        table: [found[when] for found in fields.values()]
        for table, fields in result["norms"]["tables"].items()
    }


def test_scale_parts_and_norms(tmp_path, capsys):
    dataset = write_dataset(str(tmp_path / "data"))
    config = tiny_config(
        dataset.uri,
        "none",
        ctr__backbone="deepfm",
        runtime__use_ray="never",
        finetune__with_plm=False,
        finetune__epochs=20,
        finetune__lr="{ctr: 0.03}",
        finetune__schedule="constant",
        finetune__validate_every=100,
        finetune__max_steps=60,
    )
    fresh = unique_tensors(build_model(config, layout_of(dataset), objective="without_plm"))
    trained = trained_rows(dataset)

    first = run_training(config, "finetune", str(tmp_path / "first"))
    assert "differs from fresh" not in capsys.readouterr().err
    assert list(first["norms"]["tables"][TABLES[0]]) == list(FIELDS)
    exported = load_weights(export_of(first["run"]))
    for table in TABLES:
        assert figures(first, "start")[table] == figures(first, "fresh")[table]
        assert figures(first, "fresh")[table] == pytest.approx(deviations(fresh[table], trained), rel=1e-6)
        assert figures(first, "end")[table] == pytest.approx(deviations(exported[table], trained), rel=1e-6)
    assert min(figures(first, "end")[TABLES[0]]) > 0.07, "too small to be warned of"

    again = replaced(
        config, {"finetune.init": first["run"], "finetune.max_steps": 2, "finetune.lr.ctr": 1e-9}
    )
    second = run_training(again, "finetune", str(tmp_path / "second"))
    [line] = [line for line in capsys.readouterr().err.splitlines() if "differs from fresh" in line]
    assert line.startswith(
        f"finetune.init={os.path.join(str(tmp_path), 'first')}: differs from fresh weights by"
    )
    for name, size in FIELDS.items():
        assert (f"{name} (" in line) == (size > 2), "three rows of eight entries say little"
    assert "; finetune.init_scale=0.02 scales them to fresh ones" in line
    assert figures(second, "start") == figures(first, "end")

    changes = {
        "finetune.init_parts": "tables",
        "finetune.init_scale": 0.02,
        "finetune.embedding_optimizer": "lazy",
    }
    third = run_training(replaced(again, changes), "finetune", str(tmp_path / "third"))
    assert "differs from fresh" not in capsys.readouterr().err
    for table in TABLES:
        assert figures(third, "start")[table] == pytest.approx([0.02] * len(FIELDS), rel=1e-5)
        assert figures(third, "end")[table] == pytest.approx([0.02] * len(FIELDS), rel=1e-3)
    for found in third["norms"]["tower"].values():
        assert found["start"] == found["fresh"]
    weights = load_weights(export_of(third["run"]))
    for name, tensor in weights.items():
        if name in TABLES:
            begin, end = 0, dataset.field_sizes[0]
            ratio = tensor[begin:end] / exported[name][begin:end]
            assert ratio.std() < 1e-3 * ratio.mean()
        elif tensor.ndim > 1:
            assert tensor.allclose(fresh[name], atol=1e-6)

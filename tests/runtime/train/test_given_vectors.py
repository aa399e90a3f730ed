"""Given vectors through the commands: ended and continued, evaluated, predicted, exported, planned."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from clickprompt.config import dump_config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.export.format import load_weights
from clickprompt.io import storage
from clickprompt.models.given_vectors import GIVEN
from clickprompt.runtime.train.train import run_training
from tests.support.commands import printed
from tests.support.ending import ended_and_continued
from tests.support.tiny import tiny_config
from tests.support.vectors import SIZE, write_with_vectors

ALONE = ["--set", "runtime.use_ray=never"]
IDS = {"finetune.with_plm": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="module")
def config(folder):
    dataset, plm = write_with_vectors(str(folder))
    shape = {"finetune__max_steps": 10, "finetune__patience": 9, "finetune__lr__ctr": 0.03}
    return tiny_config(dataset.uri, plm, runtime__use_ray="never", ctr__backbone="deepfm", **shape)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A finetuning from a pretraining, both of which read the vectors."""
    folder = tmp_path_factory.mktemp("run")
    before = str(folder / "pretrained")
    settings = {"pretrain.max_steps": 4, "masking.hide_ids": 0.5, "pretrain.id_objective": "masked"}
    run_training(replaced(config, settings), "pretrain", before)
    found = replaced(config, IDS | {"finetune.init": before})
    run_training(found, "finetune", str(folder / "run"))
    return found, str(folder / "run")


def test_a_run_that_is_ended_continues_to_the_same_bits(run, tmp_path):
    settings, whole = run
    ended_and_continued(settings, "finetune", str(tmp_path / "run"), whole)


def test_predicted_as_evaluated_without_the_vectors(run, folder, capsys, tmp_path):
    settings, place = run
    assert not [name for name in load_weights(f"{place}/export") if name.startswith(GIVEN)]
    printed(capsys, "evaluate", "--run", place, *ALONE, "--json")
    expected = read_predictions(f"{place}/predictions/test").sort_by("row_id")["logit"].to_numpy()
    split = Dataset.open(settings.data.path).read_split("test")
    files = [pd.read_csv(file, dtype=str) for file in sorted((folder / "log").glob("log-*.csv"))]
    new = pd.concat(files, ignore_index=True).iloc[np.sort(split["row_id"].to_numpy())]
    rows, out = str(tmp_path / "rows.csv"), str(tmp_path / "out")
    new.to_csv(rows, index=False)
    printed(capsys, "predict", "--run", place, "--rows", rows, "--out", out, *ALONE)
    found = [
        row["logit"] for name in storage.list_names(out) for row in pq.read_table(f"{out}/{name}").to_pylist()
    ]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    words = ["export", "--run", place, "--format", "onnx", "--out", str(tmp_path / "onnx"), "--json"]
    assert json.loads(printed(capsys, *words))["largest_difference"] <= 1e-4


def test_they_make_a_difference(run, config, tmp_path):
    """The same run without them ends with other weights; with the PLM they are read, too."""
    for number, settings in enumerate((run[0], replaced(config, {"finetune.max_steps": 2}))):
        found = []
        for vectors in ("added", "none"):
            place = str(tmp_path / f"{number}-{vectors}")
            run_training(replaced(settings, {"ctr.vectors": vectors}), "finetune", place)
            found.append(load_weights(f"{place}/export")["ctr.embedding.weight"])
        assert not found[0].allclose(found[1], atol=1e-4)


def test_the_plan_counts_them(config, capsys, tmp_path):
    path, plans = tmp_path / "config.yaml", []
    for vectors in ("added", "none"):
        path.write_text(dump_config(replaced(config, IDS | {"ctr.vectors": vectors})))
        plans.append(json.loads(printed(capsys, "plan", str(path), "--stage", "finetune", "--json")))
    with_them, without = plans
    assert with_them["parameters"]["ctr"] - without["parameters"]["ctr"] == SIZE * 8
    assert with_them["data"]["vectors"] == [[1, 21, SIZE]]
    more = with_them["worker_bytes"]["weights"] - without["worker_bytes"]["weights"]
    assert more == 4 * SIZE * 8 + 2 * SIZE * 21
    assert "vectors" not in without["data"]

"""A model of sampled negatives says the probabilities of all rows, wherever it is asked: evaluated,
predicted, served, as a graph; and AUC is as without the correction.
"""

import json
import math
import os
from dataclasses import replace

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from clickprompt.config.sampling import shift_of_sample
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset, columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.evaluation.click_rate import click_rate_of
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.export.format import export_of, load_export
from clickprompt.io import storage
from clickprompt.models.build import build_model
from clickprompt.objectives import ClickLoss, RankLoss
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.raw_rows import open_scorer
from tests.support.commands import printed
from tests.support.tiny import tiny_config, write_plm

KEPT = 0.1


def true_rate(user, item):
    return np.where(user % 3 == item % 3, 0.3, 0.05)


def write_log(folder: str, rows: int = 6000) -> str:
    """A log of which each row's true click rate is known, by its user and item."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 12, rows), rng.integers(0, 9, rows)
    click = (rng.random(rows) < true_rate(user, item)).astype(int)
    os.makedirs(folder)
    pq.write_table(
        pa.table({"user": user, "item": item, "group": item % 3, "who": user % 3, "click": click}),
        f"{folder}/log.parquet",
    )
    with open(f"{folder}/log.yaml", "w") as stream:
        stream.write(
            "data: log.parquet\nlabel: {column: click}\n"
            "fields: [{name: User ID, column: user}, {name: Movie ID, column: item},\n"
            "  {name: Genre, column: group}, {name: Kind, column: who}]\n"
        )
    return f"{folder}/log.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("negatives"))
    schema = write_log(f"{folder}/log")
    dataset = prepare(schema, None, f"{folder}/data", keep_negatives=KEPT)
    config = tiny_config(
        dataset.uri,
        write_plm(f"{folder}/plm"),
        runtime__use_ray="never",
        finetune__with_plm=False,
        finetune__max_steps=80,
        finetune__epochs=99,
        finetune__global_batch_size=128,
        finetune__micro_batch_size=128,
        finetune__validate_every=80,
        finetune__lr__ctr=0.01,
    )
    run = f"{folder}/run"
    run_training(config, "finetune", run)
    [figures] = evaluate([run], "test", config=config)
    return dataset, config, run, figures


def test_the_shift_is_the_published_formula():
    p = np.array([0.001, 0.3, 0.9])
    shifted = np.log(p / (1 - p)) + shift_of_sample(KEPT)
    np.testing.assert_allclose(1 / (1 + np.exp(-shifted)), p / (p + (1 - p) / KEPT), rtol=1e-12)
    assert shift_of_sample(None) == 0


def test_probabilities_are_right_again(made):
    dataset, _, run, figures = made
    rows = dataset.read_split("test").to_pandas().sort_values("row_id")
    found = read_predictions(f"{run}/predictions/test").to_pandas()
    user, item = (
        dataset.vocabulary(number)["value"].to_numpy()[rows[column]].astype(int)
        for number, column in enumerate(dataset.columns[:2])
    )
    true = true_rate(user, item)
    probability = found["probability"].to_numpy()
    uncorrected = 1 / (1 + np.exp(-(found["logit"].to_numpy() - math.log(KEPT))))
    assert abs(probability.mean() - true.mean()) < 0.03
    assert np.abs(probability - true).mean() < 0.06
    assert uncorrected.mean() > 3 * true.mean()
    labels, logits = found["label"].to_numpy(), found["logit"].to_numpy()
    assert figures["log_loss"] == pytest.approx(log_loss(labels, logits), rel=1e-6)
    assert figures["log_loss"] < log_loss(labels, logits - np.float32(math.log(KEPT))) - 0.1
    assert figures["calibration"]["equal_mass"]["error"] < 0.07
    assert figures["auc"] == auc(labels, found["ctr_logit"].to_numpy()) > 0.65
    alone = click_rate_of(dataset.manifest, "test")
    assert alone["prediction"] == pytest.approx(true.mean(), abs=0.02)
    assert dataset.manifest["clicks"]["train"] / dataset.counts["train"] > 0.4


@pytest.mark.slow
def test_predicted_served_and_as_a_graph(made, capsys, tmp_path):
    dataset, _, run, _ = made
    expected = read_predictions(f"{run}/predictions/test").to_pandas().set_index("row_id")["logit"]
    log = pq.read_table(f"{os.path.dirname(run)}/log/log.parquet").take(pa.array(expected.index))
    rows = str(tmp_path / "rows.parquet")
    pq.write_table(log, rows)
    alone = ["--set", "runtime.use_ray=never"]
    printed(capsys, "predict", "--run", run, "--rows", rows, "--out", str(tmp_path / "out"), *alone)
    [file] = [name for name in storage.list_names(str(tmp_path / "out")) if name.endswith(".parquet")]
    found = pq.read_table(f"{tmp_path}/out/{file}").to_pandas()
    np.testing.assert_allclose(found["logit"], expected, atol=1e-5)
    np.testing.assert_allclose(found["probability"], 1 / (1 + np.exp(-expected)), atol=1e-6)
    served = str(tmp_path / "served")
    printed(capsys, "export", "--run", run, "--out", served)
    np.testing.assert_allclose(open_scorer(served).score(log)[0], expected, atol=1e-5)
    card = storage.read_bytes(f"{served}/README.md").decode()
    assert (
        "Of the training rows without a click 0.1 were kept, at random; its probabilities are those of"
        in card
    )
    for form in (["onnx"], ["torch-export"], ["onnx", "--raw"]):
        out = str(tmp_path / "-".join(form))
        made_of = json.loads(
            printed(capsys, "export", "--run", run, "--format", form[0], *form[1:], "--out", out, "--json")
        )
        assert made_of["largest_difference"] <= 1e-4
    session = onnxruntime.InferenceSession(f"{tmp_path}/onnx/model.onnx", providers=["CPUExecutionProvider"])
    split = dataset.read_split("test").to_pandas().set_index("row_id").loc[expected.index]
    [logits] = session.run(["logit"], {"field_ids": split[dataset.columns].to_numpy(np.int64)})
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("ranked", [False, True])
def test_the_loss_is_that_of_the_sample(made, ranked):
    """Unweighted and uncorrected: that of a model that knows of no sample."""
    dataset, config, _, _ = made
    models = [
        build_model(config, replace(layout_of(dataset), keep_negatives=kept), objective="without_plm").eval()
        for kept in (KEPT, None)
    ]
    assert models[0].logit_shift == math.log(KEPT)
    group = dataset.columns[0] if ranked else None
    batch = Collator(layout_of(dataset), group=group)(columns_of(dataset.first_rows("train", 60)))
    of_sample, plain = (
        (RankLoss(model, "pairwise", 0.5) if ranked else ClickLoss(model))(batch).tolist() for model in models
    )
    assert of_sample == pytest.approx(plain, rel=1e-5)
    with torch.no_grad():
        ours, theirs = (model(batch.field_ids) for model in models)
    torch.testing.assert_close(ours, theirs + math.log(KEPT))
    if not ranked:
        expected = F.binary_cross_entropy_with_logits(theirs, batch.labels, reduction="sum")
        assert plain == pytest.approx([expected.item()], rel=1e-6)


def test_an_export_of_all_rows_says_nothing_of_it(made, tmp_path):
    _, config, run, _ = made
    assert storage.read_json(f"{export_of(run)}/export.json")["keep_negatives"] == KEPT
    assert load_export(export_of(run))[0].logit_shift == math.log(KEPT)
    schema = f"{os.path.dirname(run)}/log/log.yaml"
    whole = prepare(schema, None, str(tmp_path / "data"))
    settings = config.model_copy(
        update={
            "data": config.data.model_copy(update={"path": whole.uri}),
            "finetune": config.finetune.model_copy(update={"max_steps": 1}),
        }
    )
    run_training(settings, "finetune", str(tmp_path / "run"))
    info = storage.read_json(f"{export_of(str(tmp_path / 'run'))}/export.json")
    assert "keep_negatives" not in info
    assert Dataset.open(whole.uri).keep_negatives is None

"""Weights through training, evaluation and the report: figures of every place are those of a loop."""

import os

import pytest

from clickprompt.config import replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import ConfigError
from clickprompt.evaluation import figures, streamed
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.export.format import export_of, scores_of
from clickprompt.report.make import make_report
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.score.scorer import Scorer
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.training.metrics_log import read_metrics
from tests.support.ending import ended_and_continued
from tests.support.tiny import tiny_config
from tests.support.weighted import naive_auc, naive_log_loss, write_weighted


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_weighted(str(tmp_path_factory.mktemp("weighted")))
    return tiny_config(
        dataset.uri,
        plm,
        runtime__use_ray="never",
        finetune__with_plm=False,
        finetune__max_steps=10,
        finetune__patience=9,
        finetune__lr__ctr=0.03,
    )


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    run = str(tmp_path_factory.mktemp("run") / "run")
    run_training(config, "finetune", run)
    return run


def naive(config, run, split):
    rows = Dataset.open(config.data.path).read_split(split).to_pandas().sort_values("row_id")
    found = read_predictions(f"{run}/predictions/{split}").to_pandas()
    columns = rows["label"].tolist(), found["logit"].astype(float).tolist(), rows["importance"].tolist()
    return naive_auc(*columns), naive_log_loss(*columns)


def test_a_run_that_is_ended_continues_to_the_same_bits(config, run, tmp_path):
    ended_and_continued(config, "finetune", str(tmp_path / "run"), run)


def test_validated_and_evaluated_by_weight(config, run, monkeypatch):
    evaluate([run], "valid", config=config)
    expected = naive(config, run, "valid")
    assert scores_of(export_of(run)) == pytest.approx(expected, rel=1e-6)
    [found] = evaluate([run], "test", config=config)
    auc, log_loss = naive(config, run, "test")
    assert (found["auc"], found["log_loss"]) == pytest.approx((auc, log_loss), rel=1e-6)
    low, high = found["auc_interval"]
    assert low < auc < high
    rows = Dataset.open(config.data.path).counts["test"]
    assert found["rows"] == rows
    assert 0 < sum(one["rows"] for one in found["calibration"]["equal_width"]["curve"]) < rows

    monkeypatch.setattr(figures, "EXACT_ROWS", 10)
    monkeypatch.setattr(streamed, "_AT_ONCE", 30)
    monkeypatch.setattr(streamed, "_USERS_ROWS", 20)
    dataset = Dataset.open(config.data.path)
    of_parts = figures.figures_of_files(f"{run}/predictions/test", dataset, "test", config.evaluate)
    assert abs(of_parts["auc"] - auc) <= of_parts["auc_bound"] + 1e-9
    for key in ("rows", "log_loss"):
        assert of_parts[key] == pytest.approx(found[key], rel=1e-9)
    for key in ("value", "users", "rows"):
        assert of_parts["gauc"][key] == pytest.approx(found["gauc"][key], rel=1e-9)
    error = of_parts["calibration"]["equal_width"]["error"]
    assert error == pytest.approx(found["calibration"]["equal_width"]["error"], rel=1e-9)


def test_an_actor_gives_the_rows_weights(config, run):
    """In the order of its logits, which isn't that of the rows."""
    dataset = Dataset.open(config.data.path)
    rows = dataset.read_row_groups("valid", [1]).to_pandas()
    _, labels, logits, weights = Scorer(dataset, "cpu", "fp32").logits(export_of(run), "valid", 1)
    assert weights is not None
    assert sorted(zip(labels, weights, strict=True)) == sorted(
        zip(rows["label"], rows["importance"], strict=True)
    )
    evaluate([run], "valid", config=config)
    found = read_predictions(f"{run}/predictions/valid").to_pandas().set_index("row_id")["logit"]
    by_logit = dict(zip(found.loc[rows["row_id"]].tolist(), rows["importance"], strict=True))
    assert [by_logit[logit] for logit in logits.tolist()] == weights.tolist()


def test_a_report_and_a_comparison(config, run, tmp_path):
    other = str(tmp_path / "other")
    run_training(replaced(config, {"seed": 1, "ctr.backbone": "fm"}), "finetune", other)
    evaluate([run, other], "test", config=config)
    [against] = evaluate([other], "test", config=config, against=run)
    assert against["against"]["auc"] == pytest.approx(naive(config, run, "test")[0], rel=1e-6)
    assert against["against"]["delong"] is None
    made = make_report([run, other], str(tmp_path / "report.html"))
    assert os.path.exists(tmp_path / "report.html")
    weights = Dataset.open(config.data.path).manifest["weights"]["train"]
    assert made["click_rate_only"]["prediction"] == weights[1] / weights[0]


def test_the_metrics_say_what_counted(run):
    steps = [line for line in read_metrics(run) if "targets" in line]
    assert len(steps) == 10
    assert all(0 < step["targets"] < step["rows"] for step in steps)


def test_losses_of_order_are_refused(config):
    with pytest.raises(ConfigError, match=r"finetune\.loss=pairwise: the rows of .* have weights"):
        check_training(replaced(config, {"finetune.loss": "pairwise"}), "finetune")

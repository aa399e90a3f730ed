"""Several labels through the commands: ended and continued, evaluated, predicted, served, exported."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from clickprompt.config import dump_config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import ConfigError, DataError, RunError
from clickprompt.evaluation import figures
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.export.format import export_of, label_scores_of, load_weights, read_info
from clickprompt.io import storage
from clickprompt.report.make import make_report
from clickprompt.runtime import in_process
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.score.explain import explain
from clickprompt.runtime.score.scorer import Scorer
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.answers import answers
from clickprompt.scoring.raw_rows import open_scorer
from clickprompt.training.metrics_log import read_metrics
from tests.support.commands import fails, printed
from tests.support.ending import EndsBefore, are_the_same, ended_and_continued
from tests.support.labelled import LABELS, write_labelled
from tests.support.tiny import tiny_config
from tests.support.weighted import naive_auc, naive_log_loss

ALONE = ["--set", "runtime.use_ray=never"]
VARIANTS = {
    "shared_bottom": {"finetune.with_plm": False, "ctr.backbone": "deepfm"},
    "mmoe": {"finetune.with_plm": True, "ctr.tasks": "mmoe"},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_labelled(str(tmp_path_factory.mktemp("labelled")), f"{LABELS}\nweight: weight")
    return tiny_config(
        dataset.uri,
        plm,
        runtime__use_ray="never",
        ctr__experts=3,
        ctr__expert_dim=5,
        finetune__max_steps=10,
        finetune__patience=9,
        finetune__lr__ctr=0.03,
        finetune__task_weights="{like: 0.5}",
    )


@pytest.fixture(scope="module", params=VARIANTS)
def run(request, config, tmp_path_factory):
    settings = replaced(config, VARIANTS[request.param])
    run = str(tmp_path_factory.mktemp(request.param) / "run")
    run_training(settings, "finetune", run)
    evaluate([run], "valid", config=settings)
    evaluate([run], "test", config=settings)
    return settings, run


def test_a_run_that_is_ended_continues_to_the_same_bits(run, tmp_path):
    settings, whole = run
    ended_and_continued(settings, "finetune", str(tmp_path / "run"), whole)
    steps = [line for line in read_metrics(whole) if "loss" in line]
    for step in steps:
        terms = step["click_loss"] + 0.5 * step["like_loss"] + step["purchase_loss"]
        assert step["loss"] == pytest.approx(terms)
    used = [scores for step in steps for scores in step.get("validations", ())]
    assert used
    assert {"valid_auc", "valid_auc_like", "valid_log_loss_purchase"} <= used[-1].keys()


def naive(config, run, split, name):
    """Of the rows that have the label."""
    rows = Dataset.open(config.data.path).read_split(split).to_pandas().sort_values("row_id")
    found = read_predictions(f"{run}/predictions/{split}").to_pandas()
    known = rows[f"label_{name}"].to_numpy() >= 0
    columns = rows[f"label_{name}"][known], found[f"logit_{name}"].astype(float).to_numpy()[known]
    weighted = [column.tolist() for column in (*columns, rows["importance"][known])]
    return naive_auc(*weighted), naive_log_loss(*weighted), int(known.sum())


def test_each_label_has_its_own_figures(run):
    settings, folder = run
    of_result = storage.read_json(f"{folder}/result.json")["valid_labels"]
    assert of_result == label_scores_of(export_of(folder))
    for name in ("like", "purchase"):
        auc, log_loss, _ = naive(settings, folder, "valid", name)
        assert (of_result[name]["auc"], of_result[name]["log_loss"]) == pytest.approx(
            (auc, log_loss), rel=1e-5
        )
        found = storage.read_json(f"{folder}/evaluation-test.json")["labels"][name]
        auc, log_loss, rows = naive(settings, folder, "test", name)
        assert (found["auc"], found["log_loss"], found["rows"]) == pytest.approx(
            (auc, log_loss, rows), rel=1e-6
        )
        low, high = found["auc_interval"]
        assert low < auc < high
    predicted = read_predictions(f"{folder}/predictions/test").to_pandas()
    rows = Dataset.open(settings.data.path).read_split("test").to_pandas().sort_values("row_id")
    assert predicted["label_like"].fillna(-1).tolist() == rows["label_like"].tolist()
    expected = 1 / (1 + np.exp(-predicted["logit_like"].astype(float)))
    np.testing.assert_allclose(predicted["probability_like"], expected, rtol=1e-6)


def raw_rows(dataset: Dataset) -> pd.DataFrame:
    """The test split as new rows, in the order of row_id."""
    split = dataset.read_split("test").to_pandas().sort_values("row_id")
    columns = zip(("user", "item", "genre"), dataset.columns, strict=True)
    return pd.DataFrame(
        {
            name: np.array(dataset.vocabulary(number)["value"].to_pylist(), object)[split[column]]
            for number, (name, column) in enumerate(columns)
        }
    )


def test_predicted_as_evaluated_and_served_alike(run, capsys, tmp_path):
    settings, folder = run
    expected = read_predictions(f"{folder}/predictions/test").to_pandas()
    new = raw_rows(Dataset.open(settings.data.path))
    rows, out, served = (str(tmp_path / name) for name in ("rows.csv", "out", "served"))
    new.to_csv(rows, index=False)
    printed(capsys, "predict", "--run", folder, "--rows", rows, "--out", out, *ALONE)
    found = pd.concat([pq.read_table(f"{out}/{name}").to_pandas() for name in storage.list_names(out)])
    names = [f"{what}{name}" for name in ("", "_like", "_purchase") for what in ("logit", "probability")]
    assert list(found.columns) == ["file", "row", *names]
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    printed(capsys, "export", "--run", folder, "--format", "safetensors", "--out", served)
    body = json.dumps({"rows": new.head(5).to_dict("records")}).encode()
    [(status, answer)] = answers(open_scorer(served), [body])
    assert status == 200
    assert [list(prediction) for prediction in answer["predictions"]] == [names] * 5
    for name in names:
        of_rows = [prediction[name] for prediction in answer["predictions"]]
        assert of_rows == pytest.approx(found[name].head(5).tolist(), abs=1e-5)
    card = (tmp_path / "served" / "README.md").read_text()
    assert f"- Tasks (`{settings.ctr.tasks}`) and the weights of their losses: `click` 1, `like` 0.5" in card
    assert "| purchase | test | 0." in card
    line = fails(
        capsys, "predict", "--run", folder, "--rows", rows, "--out", out + "2", "--keep", "logit_like"
    )
    assert "--keep logit_like: the predictions have a column of that name" in line


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mmoe", "shared_bottom"])
def test_graphs_have_an_output_of_each(config, capsys, tmp_path, kind):
    """Whoever writes one compares its logits with the model's."""
    folder = str(tmp_path / "run")
    changes = {"finetune.with_plm": False, "ctr.tasks": kind, "finetune.max_steps": 4}
    run_training(replaced(config, changes), "finetune", folder)
    outputs = ["logit", "logit_like", "logit_purchase"]
    for graph, more in (("onnx", ["--raw"]), ("torch-export", [])):
        out = f"{folder}-{graph}{''.join(more)}"
        words = ["export", "--run", folder, "--format", graph, *more, "--out", out, "--json"]
        made = json.loads(printed(capsys, *words))
        assert made["largest_difference"] <= 1e-5
        assert made["outputs"] == outputs
    assert (
        "gives `logit`, `logit_like`, `logit_purchase` [rows]"
        in storage.read_bytes(f"{out}/README.md").decode()
    )


def test_reported_and_printed(run, capsys, tmp_path):
    _, folder = run
    line = printed(capsys, "evaluate", "--run", folder, *ALONE)
    assert "\nlike: AUC 0." in line
    assert make_report([folder], str(tmp_path / "report.html"))["sections"].count("Further labels") == 1
    assert "purchase" in (tmp_path / "report.html").read_text()


def test_explained_is_the_click(run):
    """A gate that mixes experts leaves the click no prediction of its own, so there are no attributions."""
    settings, folder = run
    found = explain(folder, "test", repeats=2, rows=3, config=settings)
    assert list(found["fields"]) == ["User ID", "Movie ID", "Film genre"]
    assert bool(found.get("attributions")) == (settings.ctr.tasks == "shared_bottom")


def test_an_actor_gives_all_labels(run):
    settings, folder = run
    dataset = Dataset.open(settings.data.path)
    _, labels, logits, _ = Scorer(dataset, "cpu", "fp32").logits(export_of(folder), "valid", 0)
    assert labels.shape == logits.shape == (37, 3)


def test_large_splits_have_figures_of_the_click_alone(run, monkeypatch):
    settings, folder = run
    monkeypatch.setattr(figures, "EXACT_ROWS", 10)
    dataset = Dataset.open(settings.data.path)
    found = figures.figures_of_files(f"{folder}/predictions/test", dataset, "test", settings.evaluate)
    assert "labels" not in found
    assert "no further labels" in found["left_out"]


def test_pretraining_knows_none_and_finetuning_starts_from_it(config, tmp_path):
    pretrained, finetuned = str(tmp_path / "pretrain"), str(tmp_path / "finetune")
    run_training(replaced(config, {"pretrain.max_steps": 3}), "pretrain", pretrained)
    assert not [name for name in load_weights(export_of(pretrained)) if "tasks" in name]
    changes = {"finetune.init": pretrained, "ctr.tasks": "mmoe", "finetune.max_steps": 3}
    run_training(replaced(config, changes), "finetune", finetuned)
    assert read_info(export_of(finetuned)).labels == ["like", "purchase"]


def test_a_finetuning_goes_on_with_its_own_heads(run, tmp_path):
    settings, folder = run
    settings = replaced(settings, {"finetune.init": folder, "finetune.lr.ctr": 1e-6})
    assert check_training(settings, "finetune").init == export_of(folder)
    other = "labels: {purchase: {column: liked}, like: {column: liked}}"
    dataset, _ = write_labelled(str(tmp_path / "other"), other)
    changes = {"data.path": dataset.uri}
    with pytest.raises(ConfigError, match=r"learned the labels like, purchase .* this run purchase, like"):
        check_training(replaced(settings, changes), "finetune")


def test_the_click_alone(config, tmp_path):
    """ctr.tasks=none: the model, its files and its figures are those of a log without labels."""
    folder = str(tmp_path / "run")
    changes = {"finetune.with_plm": False, "ctr.tasks": "none", "finetune.task_weights": {}}
    settings = replaced(config, changes)
    run_training(settings, "finetune", folder)
    assert not [name for name in load_weights(export_of(folder)) if "tasks" in name]
    assert "valid_labels" not in storage.read_json(f"{folder}/result.json")
    [found] = evaluate([folder], "test", config=settings)
    assert "labels" not in found
    assert "logit_like" not in read_predictions(f"{folder}/predictions/test").column_names


MISTAKES = {
    "order": (
        {"finetune.loss": "pairwise"},
        r"finetune\.loss=pairwise orders rows by the click, and the log has",
    ),
    "words": (
        {"plm.click_text": True, "finetune.with_plm": True},
        r"plm\.click_text=true asks the PLM for the click in words, and the log has labels besides \(like",
    ),
    "label": (
        {"finetune.task_weights": {"likes": 2}},
        r"finetune\.task_weights\.likes: no such label; the nearest label that is learned is like",
    ),
    "alone": (
        {"ctr.tasks": "none"},
        r"finetune\.task_weights\.like: no such label; only the click is learned",
    ),
    "click": (
        {"ctr.tasks": "none", "finetune.task_weights": {"click": 2}},
        r"finetune\.task_weights\.click: only the click is learned, and there is nothing to weigh it against",
    ),
    "baseline": (
        {"ctr.tasks": "mmoe", "baseline": "ptab", "prompt.num_prompts": 0, "finetune.with_plm": True},
        r"ctr\.tasks=mmoe: baseline=ptab learns the click alone; leave it out",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_a_line(config, name):
    changes, said = MISTAKES[name]
    with pytest.raises(ConfigError, match=said):
        check_training(replaced(config, {"finetune.with_plm": False} | changes), "finetune")


def test_a_log_without_labels(config, run, tmp_path):
    dataset, plm = write_labelled(str(tmp_path / "without"), "")
    changes = {"data.path": dataset.uri, "plm.path": plm, "finetune.task_weights": {}}
    without = replaced(config, changes)
    with pytest.raises(
        ConfigError, match=r"ctr\.tasks=mmoe: .* has no labels besides the click; name them in"
    ):
        check_training(replaced(without, {"ctr.tasks": "mmoe"}), "finetune")
    assert check_training(without, "finetune").tasks == ()
    with pytest.raises(DataError, match=r"trained on the label like, which .* doesn't have; give"):
        evaluate([run[1]], "test", config=config, data=dataset.uri)


def test_the_plan_counts_their_heads(config, capsys, tmp_path):
    path = tmp_path / "config.yaml"

    def parameters(**changes):
        path.write_text(dump_config(replaced(config, {"finetune.with_plm": False} | changes)))
        plan = json.loads(printed(capsys, "plan", str(path), "--stage", "finetune", "--json"))
        return plan["parameters"]["ctr"]

    alone = parameters(**{"ctr.tasks": "none", "finetune.task_weights": {}})
    width = 2 * 16 // 2 + 3 * 8  # [cross, last hidden layer] of DCNv2
    assert parameters() == alone + 2 * (width + 1)
    mmoe = 3 * (width + 1) * 5 + 3 * 3 * width + 3 * (5 * 5 + 5 + 5 + 1)
    assert parameters(**{"ctr.tasks": "mmoe"}) == alone - (width + 1) + mmoe


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_actors_find_the_same(ray_session, config, monkeypatch, tmp_path):
    """Begun on Ray, whose actors score validations, and ended here: as if it had stayed here, to the bit."""
    settings = replaced(config, VARIANTS["mmoe"] | {"finetune.with_plm": False})
    on_ray = replaced(settings, {"runtime.use_ray": "always"})
    here, run = (str(tmp_path / name) for name in ("here", "run"))
    with pytest.raises(RunError, match="ended by the test"):
        run_training(on_ray, "finetune", run, around=EndsBefore(9))
    monkeypatch.setattr(in_process, "connected", lambda: False)  # as if the session's Ray weren't there
    for place in (here, run):
        run_training(settings, "finetune", place)
    are_the_same(run, here)

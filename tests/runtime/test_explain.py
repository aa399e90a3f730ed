"""Permutation importance against a loop over columns, and on a log in which one field decides the click."""

import json
import os

import numpy as np
import pytest
import torch
import yaml

from clickprompt.cli.main import main
from clickprompt.config import EvaluateConfig, RuntimeConfig, load_config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.evaluation.metrics import auc
from clickprompt.io import storage
from clickprompt.runtime import in_process
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.score.explain import explain
from clickprompt.runtime.score.scorer import Scorer
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.rows import RowScorer
from tests.support.finetuned import write_run
from tests.support.tiny import write_both


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("explain")))


def test_as_by_a_loop_over_columns(prepared, tmp_path):
    dataset, run = prepared[0], str(tmp_path / "run")
    model = write_run(run, prepared)
    found = explain(run, "valid", repeats=2, rows=3, config=load_config(None, ["seed=7"]))
    rows = dataset.read_split("valid")
    labels = rows["label"].to_numpy()
    ids = np.stack([rows[column].to_numpy() for column in dataset.columns], axis=1).astype(np.int64)

    def auc_of(field_ids):
        with torch.no_grad():
            return auc(labels, model(torch.from_numpy(field_ids)).numpy())

    assert found["auc"] == pytest.approx(auc_of(ids), abs=1e-12)
    assert len(dataset.row_group_counts("valid")) > 1
    assert list(found["fields"]) == dataset.field_names
    for field, name in enumerate(dataset.field_names):
        drops = []
        for repeat in range(2):
            order = np.random.default_rng((7, field, repeat)).permutation(len(ids))
            permuted = ids.copy()
            permuted[:, field] = ids[order, field]
            drops.append(auc_of(ids) - auc_of(permuted))
        assert found["fields"][name]["drops"] == pytest.approx(drops, abs=1e-12)
        assert found["fields"][name]["drop"] == pytest.approx(np.mean(drops), abs=1e-12)
    assert found["fields"]["User ID"]["drops"][0] != found["fields"]["User ID"]["drops"][1]
    assert storage.read_json(os.path.join(run, "explain.json")).keys() == found.keys() - {"explain"}


def test_the_text_follows_the_permuted_value(prepared, tmp_path):
    """PTab reads nothing but text; it has no CTR logit to attribute."""
    run = str(tmp_path / "run")
    write_run(run, prepared, objective="with_plm", baseline="ptab", prompt__num_prompts=0)
    found = explain(run, "test", repeats=1, rows=2)
    assert found["attributions"] is None
    export, rows = os.path.join(run, "export"), prepared[0].read_split("test")
    scorer, scores = Scorer(prepared[0], "cpu", "fp32"), RowScorer(export, prepared[0]).score(rows)
    groups = range(len(prepared[0].row_group_counts("test")))
    logits, permuted = (
        np.concatenate([scorer.permuted(export, "test", group, of) for group in groups])
        for of in (None, (2, 0, 0))
    )
    by_id = dict(zip(scores.row_ids.tolist(), scores.logits.tolist(), strict=True))
    expected = [by_id[row] for row in rows["row_id"].to_pylist()]
    np.testing.assert_allclose(logits, expected, atol=1e-5)  # batches of other texts round otherwise
    assert np.abs(permuted - logits).max() > 1e-3
    assert found["fields"]["Movie ID"]["drops"] == pytest.approx(
        [auc(rows["label"].to_numpy(), logits) - auc(rows["label"].to_numpy(), permuted)]
    )


@pytest.fixture(scope="module")
def deciding(tmp_path_factory) -> str:
    """A run trained on a log in which `item` alone decides the click; `noise` has nothing to do with it."""
    top = tmp_path_factory.mktemp("deciding")
    rng = np.random.default_rng(0)
    lines = ["who,item,noise,y\n"]
    for _ in range(3000):
        item = rng.integers(10)
        clicked = int(rng.random() < (0.9 if item < 5 else 0.1))
        lines.append(f"u{rng.integers(40)},i{item},n{rng.integers(10)},{clicked}\n")
    (top / "log.csv").write_text("".join(lines))
    fields = [{"name": name, "column": name} for name in ("who", "item", "noise")]
    schema = {"data": "log.csv", "fields": fields, "label": {"column": "y"}, "user": "who", "item": "item"}
    (top / "log.yaml").write_text(yaml.safe_dump(schema))
    never = RuntimeConfig(use_ray="never")
    dataset = prepare(
        str(top / "log.yaml"), None, str(top / "data"), runtime=never, progress=lambda line: None
    )
    settings = [f"data.path={dataset.uri}", "finetune.with_plm=false", "ctr.embedding_dim=8"]
    settings += ["ctr.hidden_dim=16", "ctr.num_layers=2", "finetune.lr.ctr=0.01", "runtime.use_ray=never"]
    settings += ["finetune.global_batch_size=128", "finetune.micro_batch_size=128", "finetune.epochs=4"]
    run_training(load_config(None, settings), "finetune", str(top / "run"))
    return str(top / "run")


def test_the_field_that_decides_is_worth_most_and_noise_nothing(deciding, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "--run", deciding, "--rows", "2"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].startswith("item ")
    found = storage.read_json(os.path.join(deciding, "explain.json"))
    assert found["user"] == "who"
    item, noise = found["fields"]["item"], found["fields"]["noise"]
    assert len(item["drops"]) == 5
    assert found["auc"] > 0.8
    assert item["drop"] == pytest.approx(found["auc"] - 0.5, abs=0.06)  # what is left is chance
    assert item["interval"][0] > 0.2
    assert item["interval"][0] < item["drop"] < item["interval"][1]
    assert abs(noise["drop"]) < 0.03
    assert noise["interval"][0] < 0.01
    first = found["attributions"]["rows"][0]
    parts = {name: part["attribution"] for name, part in first["fields"].items()}
    assert max(parts, key=lambda name: abs(parts[name])) == "item"
    assert sum(parts.values()) == pytest.approx(
        first["ctr_logit"] - found["attributions"]["baseline_logit"], abs=2e-3
    )
    dataset = Dataset.open(os.path.join(os.path.dirname(deciding), "data"))
    row = dataset.first_rows("test", 1).to_pylist()[0]
    assert (first["row_id"], first["label"]) == (row["row_id"], row["label"])
    item_value = dataset.vocabulary(1)["value"][row["f_item"]].as_py()
    assert first["fields"]["item"]["value"] == item_value


def test_the_same_seed_gives_the_same_and_another_another(prepared, tmp_path):
    run = str(tmp_path / "run")
    write_run(run, prepared)
    first, again = (explain(run, "test", repeats=1, rows=0) for _ in range(2))
    assert first == again
    other = explain(run, "test", repeats=1, rows=0, config=load_config(None, ["seed=1"]))
    assert other["fields"] != first["fields"]
    assert other["auc"] == first["auc"]


def test_intervals_take_users_that_the_log_or_the_settings_name(prepared, tmp_path):
    run = str(tmp_path / "run")
    write_run(run, prepared)
    config = load_config(None, [])
    without = Dataset.open(prepared[0].uri).manifest.get("roles", {}).get("user") is None
    found = explain(run, "test", repeats=1, rows=0, config=config)
    assert (found["fields"]["Movie ID"]["interval"] is None) is without
    named = config.model_copy(update={"evaluate": EvaluateConfig(user="User ID")})
    found = explain(run, "test", repeats=1, rows=0, config=named)
    low, high = found["fields"]["Movie ID"]["interval"]
    assert low < found["fields"]["Movie ID"]["drop"] < high


@pytest.mark.parametrize(
    ("objective", "options", "said"),
    [
        ("without_plm", ["--repeats", "0"], "--repeats 0: give a number from 1 up"),
        ("without_plm", ["--rows", "-1"], "--rows -1: give a number from 0 up"),
        ("pretrain", [], "a pretrained model has no click logit yet"),
        ("without_plm", ["--data", "/nowhere"], "there is nothing here"),
        (None, [], "holds no export"),
    ],
)
def test_a_mistake_is_one_line(prepared, tmp_path, capsys, objective, options, said):
    run = str(tmp_path / "run")
    if objective:
        write_run(run, prepared, objective=objective)
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "--run", run, *options])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.ray
@pytest.mark.slow
def test_actors_find_the_same(ray_session, prepared, tmp_path, capsys):
    """Row groups of several permutations, each scored by whichever actor is free."""
    run = str(tmp_path / "run")
    write_run(run, prepared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_process, "connected", lambda: False)
        here = explain(run, "test", repeats=2, rows=1)
    assert "on Ray" not in capsys.readouterr().err
    on_ray = explain(
        run, "test", repeats=2, rows=1, config=load_config(None, ["runtime.evaluation_actors=2"])
    )
    assert json.loads(json.dumps(on_ray)) == json.loads(json.dumps(here))

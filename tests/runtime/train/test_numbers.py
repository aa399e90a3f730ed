"""Learned numbers through the commands: ended and continued, evaluated, predicted, exported; and what is
refused.
"""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.config import dump_config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.transform.columns import BadValue
from clickprompt.errors import ConfigError
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.io import storage
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.score.explain import explain
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.raw_rows import open_scorer
from tests.support.commands import printed
from tests.support.ending import ended_and_continued
from tests.support.numbers import write_log, write_with_numbers
from tests.support.tiny import tiny_config

STEPS = 10
VARIANTS = {
    "ids": {"finetune.with_plm": False, "ctr.numeric": "periodic"},
    "text": {"finetune.with_plm": True, "ctr.numeric": "soft_buckets"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("numbers")


@pytest.fixture(scope="module")
def config(folder):
    dataset, plm = write_with_numbers(str(folder))
    return tiny_config(
        dataset.uri,
        plm,
        runtime__use_ray="never",
        ctr__backbone="deepfm",
        ctr__numeric_sigma=1,
        finetune__max_steps=STEPS,
        finetune__patience=9,
        finetune__lr__ctr=0.03,
    )


@pytest.fixture(scope="module", params=VARIANTS)
def run(request, config, tmp_path_factory):
    settings = replaced(config, VARIANTS[request.param])
    run = str(tmp_path_factory.mktemp(request.param) / "run")
    run_training(settings, "finetune", run)
    return settings, run


def raw_rows(folder, config) -> pd.DataFrame:
    """The test split's rows as they stand in the log."""
    split = Dataset.open(config.data.path).read_split("test")
    files = [pd.read_csv(file, dtype=str) for file in sorted((folder / "log").glob("log-*.csv"))]
    return pd.concat(files, ignore_index=True).iloc[np.sort(split["row_id"].to_numpy())]


@pytest.mark.sampled(1)
def test_a_run_that_is_ended_continues_to_the_same_bits(run, tmp_path):
    settings, whole = run
    ended_and_continued(settings, "finetune", str(tmp_path / "run"), whole)


def test_predicted_as_evaluated_and_served_alike(run, folder, capsys, tmp_path):
    settings, place = run
    alone = ["--set", "runtime.use_ray=never"]
    printed(capsys, "evaluate", "--run", place, *alone, "--json")
    expected = read_predictions(f"{place}/predictions/test").sort_by("row_id")["logit"].to_numpy()
    new = raw_rows(folder, settings)
    rows, out, served = (str(tmp_path / name) for name in ("rows.csv", "out", "served"))
    new.to_csv(rows, index=False)
    printed(capsys, "predict", "--run", place, "--rows", rows, "--out", out, *alone)
    found = [
        row["logit"] for name in storage.list_names(out) for row in pq.read_table(f"{out}/{name}").to_pylist()
    ]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    printed(capsys, "export", "--run", place, "--format", "safetensors", "--out", served)
    some = pa.Table.from_pandas(new.head(9))
    ours, theirs = (open_scorer(of).score(some)[0].tolist() for of in (served, place))
    assert ours == theirs
    card = (tmp_path / "served" / "README.md").read_text()
    assert f"Fields whose numbers it embeds (`{settings.ctr.numeric}`): Price, Age" in card


def test_two_prices_of_a_bucket_are_two_and_a_missing_one_is_none(run, folder):
    settings, place = run
    rows, scorer = raw_rows(folder, settings).head(6), open_scorer(place)

    def logits(price):
        return scorer.score(pa.Table.from_pandas(rows.assign(price=price)))[0]

    assert (logits("14") != logits("16")).all()
    assert logits("1.4e1").tolist() == logits("14.0").tolist()
    assert logits("").tolist() == logits(None).tolist()
    with pytest.raises(BadValue, match="is not a number"):
        logits("x")


@pytest.mark.slow
def test_graphs_read_them(config, capsys, tmp_path):
    """Whoever writes one compares its logits with the model's, also one that takes raw rows."""
    for numeric, kind in (("soft_buckets", "torch-export"), ("periodic", "onnx")):
        place = str(tmp_path / numeric)
        run_training(replaced(config, VARIANTS["ids"] | {"ctr.numeric": numeric}), "finetune", place)
        words = ["export", "--run", place, "--format", kind, "--out", f"{place}-{kind}", "--json"]
        assert json.loads(printed(capsys, *words))["largest_difference"] <= 1e-4
    words = ["export", "--run", place, "--format", "onnx", "--raw", "--out", f"{place}-raw", "--json"]
    assert json.loads(printed(capsys, *words))["largest_difference"] <= 1e-4


def test_explained(run):
    """A field is permuted with its number, and the attributions are of it."""
    settings, place = run
    found = explain(place, "test", repeats=2, rows=3, config=settings)
    assert any(found["fields"]["Price"]["drops"])
    for row in found["attributions"]["rows"]:
        total = sum(field["attribution"] for field in row["fields"].values())
        assert total == pytest.approx(row["ctr_logit"] - found["attributions"]["baseline_logit"], abs=2e-3)


def test_pretrained_prompts_read_them(config, capsys, tmp_path):
    place = str(tmp_path / "run")
    settings = {"ctr.numeric": "periodic", "pretrain.max_steps": 4, "masking.hide_ids": 0.5}
    run_training(replaced(config, settings), "pretrain", place)
    for command in ("recovery", "attention"):
        printed(capsys, command, "--run", place, "--set", "runtime.use_ray=never", "--json")
    begun = {"ctr.numeric": "periodic", "finetune.init": place}
    run_training(replaced(config, begun | {"finetune.max_steps": 2}), "finetune", str(tmp_path / "from"))
    other = {**begun, "ctr.numeric": "soft_buckets"}
    with pytest.raises(ConfigError, match=r"pretrained with ctr.numeric=periodic, not soft_buckets"):
        check_training(replaced(config, other), "finetune")
    rows = prepare(write_log(str(tmp_path / "log"), rows=500), None, str(tmp_path / "other"))
    elsewhere = {**begun, "data.path": rows.uri, "finetune.with_plm": False}
    with pytest.raises(
        ConfigError, match="its numbers were standardised by the mean and deviation of another"
    ):
        check_training(replaced(config, elsewhere), "finetune")


def test_the_plan_reads_their_columns(config, capsys, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(replaced(config, VARIANTS["ids"])))
    plan = json.loads(printed(capsys, "plan", str(path), "--stage", "finetune", "--json"))
    assert (plan["data"]["fields"], plan["data"]["numbers"]) == (4, 2)


@pytest.mark.parametrize(
    ("changes", "stage", "said"),
    [
        ({"pretrain.id_objective": "replaced"}, "pretrain", "puts other buckets into rows, and they have no"),
        (
            {"finetune.with_plm": False, "ctr.text_embeddings": "added", "prompt.num_prompts": 0},
            "finetune",
            "can't be combined with ctr.numeric=periodic",
        ),
        ({"baseline": "p5", "prompt.num_prompts": 0}, "finetune", "ctr.numeric=periodic"),
        ({"baseline": "ctr_bert", "prompt.num_prompts": 0}, "finetune", "ctr.numeric=periodic"),
    ],
)
def test_what_is_refused(config, changes, stage, said):
    with pytest.raises(ConfigError, match=said):
        check_training(replaced(config, {"ctr.numeric": "periodic"} | changes), stage)


def test_a_log_without_any_is_refused(config, folder, tmp_path):
    log = write_log(str(tmp_path / "log"), price="kind: numeric, quantiles: 4", age="kind: numeric, round: 0")
    plain = prepare(log, None, str(tmp_path / "data"))
    with pytest.raises(ConfigError, match="has no learned numbers; set learned: true in a numeric field"):
        check_training(replaced(config, VARIANTS["ids"] | {"data.path": plain.uri}), "finetune")

"""Fields of several values through the commands: ended and continued, evaluated, predicted, exported."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.config import dump_config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import ConfigError
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.io import storage
from clickprompt.runtime.score.explain import explain
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.raw_rows import open_scorer
from tests.support.commands import printed
from tests.support.ending import ended_and_continued
from tests.support.multi import write_with_multi
from tests.support.tiny import tiny_config

STEPS = 10
VARIANTS = {"ids": {"finetune.with_plm": False}, "text": {"finetune.with_plm": True}}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_with_multi(str(tmp_path_factory.mktemp("multi")))
    return tiny_config(
        dataset.uri,
        plm,
        runtime__use_ray="never",
        ctr__backbone="deepfm",
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


def raw_rows(dataset: Dataset) -> pd.DataFrame:
    """The test split as new rows."""
    split = dataset.read_split("test").to_pandas().sort_values("row_id")
    words = [dataset.vocabulary(number)["value"].to_pylist() for number in range(3)]
    genres = split[["f_film_genre", "v_01_01", "v_01_02"]].to_numpy().tolist()
    return pd.DataFrame(
        {
            "user": [words[0][place] if place else None for place in split.f_user_id],
            "genres": ["|".join(words[1][place] for place in of_row if place) for of_row in genres],
            "item": [words[2][place] if place else None for place in split.f_movie_id],
        }
    )


@pytest.mark.sampled(1)
def test_a_run_that_is_ended_continues_to_the_same_bits(run, tmp_path):
    settings, whole = run
    ended_and_continued(settings, "finetune", str(tmp_path / "run"), whole)


def test_predicted_as_evaluated_and_served_alike(run, capsys, tmp_path):
    settings, folder = run
    alone = ["--set", "runtime.use_ray=never"]
    printed(capsys, "evaluate", "--run", folder, *alone, "--json")
    expected = read_predictions(f"{folder}/predictions/test").sort_by("row_id")["logit"].to_numpy()
    new = raw_rows(Dataset.open(settings.data.path))
    rows, out, served = (str(tmp_path / name) for name in ("rows.csv", "out", "served"))
    new.to_csv(rows, index=False)
    printed(capsys, "predict", "--run", folder, "--rows", rows, "--out", out, *alone)
    found = [
        row["logit"] for name in storage.list_names(out) for row in pq.read_table(f"{out}/{name}").to_pylist()
    ]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(set(found)) > len(found) / 2
    printed(capsys, "export", "--run", folder, "--format", "safetensors", "--out", served)
    some = pa.Table.from_pandas(new.head(9))
    ours, theirs = (open_scorer(place).score(some)[0].tolist() for place in (served, folder))
    assert ours == theirs
    assert (
        "Fields of several values, pooled (`mean`): Film genre (up to 3)"
        in (tmp_path / "served" / "README.md").read_text()
    )


def test_more_values_and_new_ones(run):
    """A fourth value counts for nothing; the text names one that has no id."""
    settings, folder = run
    rows = raw_rows(Dataset.open(settings.data.path)).head(6).assign(genres="red|old|new")
    scorer = open_scorer(folder)

    def logits(genres):
        return scorer.score(pa.Table.from_pandas(rows.assign(genres=genres)))[0]

    assert logits("red|old|new|blue").tolist() == logits("red|old|new").tolist()
    assert (logits("red|old|new") != logits("red|old")).all()
    unseen, without = logits("red|warm red"), logits("red")
    assert (unseen == without).all() == (not settings.finetune.with_plm)
    assert np.isfinite(logits(None)).all()


@pytest.mark.slow
def test_graphs_read_its_ids(config, capsys, tmp_path):
    """Whoever writes one compares its logits with the model's, also one that takes raw rows."""
    folder = str(tmp_path / "run")
    run_training(replaced(config, VARIANTS["ids"] | {"ctr.pooling": "max"}), "finetune", folder)
    for kind in ("onnx", "torch-export"):
        words = ["export", "--run", folder, "--format", kind, "--out", f"{folder}-{kind}", "--json"]
        assert json.loads(printed(capsys, *words))["largest_difference"] <= 1e-4
    words = ["export", "--run", folder, "--format", "onnx", "--raw", "--out", f"{folder}-raw", "--json"]
    assert json.loads(printed(capsys, *words))["largest_difference"] <= 1e-4


def test_explained(run):
    """A field is permuted with all its values, and the attributions are of all of them."""
    settings, folder = run
    found = explain(folder, "test", repeats=2, rows=3, config=settings)
    assert list(found["fields"]) == ["User ID", "Film genre", "Movie ID"]
    assert found["fields"]["Film genre"]["drop"] > 0
    rows = found["attributions"]["rows"]
    for row in rows:
        total = sum(field["attribution"] for field in row["fields"].values())
        assert total == pytest.approx(row["ctr_logit"] - found["attributions"]["baseline_logit"], abs=1e-3)
    assert any(", " in (row["fields"]["Film genre"]["value"] or "") for row in rows)


def test_what_reads_prompts_reads_them(config, capsys, tmp_path):
    folder = str(tmp_path / "run")
    run_training(replaced(config, {"pretrain.max_steps": 4}), "pretrain", folder)
    for command in ("recovery", "attention"):
        printed(capsys, command, "--run", folder, "--set", "runtime.use_ray=never", "--json")


def test_the_plan_reads_further_columns(config, capsys, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    plan = json.loads(printed(capsys, "plan", str(path), "--stage", "finetune", "--json"))
    assert (plan["data"]["fields"], plan["data"]["further"]) == (3, 2)


def test_frozen_texts_are_for_one_value(config):
    texts = VARIANTS["ids"] | {"ctr.text_embeddings": "added", "prompt.num_prompts": 0}
    with pytest.raises(ConfigError, match="is for fields of one value, and Film genre has several"):
        check_training(replaced(config, texts), "finetune")

"""Histories through the commands: ended and continued, evaluated, predicted, exported, planned."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.config import dump_config, history_columns, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import ConfigError
from clickprompt.evaluation.metrics import auc
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.export.format import export_of
from clickprompt.io import storage
from clickprompt.runtime.score.explain import explain
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.raw_rows import open_scorer
from clickprompt.scoring.recovery import Recovery
from clickprompt.scoring.rows import RowScorer
from tests.support.commands import fails, printed
from tests.support.ending import ended_and_continued
from tests.support.histories import FURTHER, LENGTH, write_with_history
from tests.support.tiny import tiny_config

STEPS = 10
VARIANTS = {"ids": {"finetune.with_plm": False}, "text": {"finetune.with_plm": True, "plm.history_items": 3}}
HISTORIES = {"ids": FURTHER, "text": f"history: {LENGTH}"}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def config(variant, tmp_path_factory):
    """Of histories with further columns for the ids, without for the text."""
    dataset, plm = write_with_history(str(tmp_path_factory.mktemp("history")), HISTORIES[variant])
    return tiny_config(
        dataset.uri,
        plm,
        runtime__use_ray="never",
        finetune__max_steps=STEPS,
        finetune__patience=9,
        finetune__lr__ctr=0.03,
    )


@pytest.fixture(scope="module")
def run(variant, config, tmp_path_factory):
    settings = replaced(config, VARIANTS[variant])
    run = str(tmp_path_factory.mktemp(variant) / "run")
    run_training(settings, "finetune", run)
    return settings, run


def raw_rows(dataset: Dataset) -> pd.DataFrame:
    """The test split as new rows: a user's earlier items stand in one text."""
    split = dataset.read_split("test").to_pandas().sort_values("row_id")
    words = [dataset.vocabulary(number)["value"].to_pylist() for number in range(len(dataset.columns))]
    rows = pd.DataFrame(
        {
            name: [words[number][place] if place else None for place in split[column]]
            for number, (name, column) in enumerate(
                zip(("user", "item", "genre"), dataset.columns, strict=True)
            )
        }
    )
    history = dataset.history
    items = split[history_columns(history.length)].to_numpy()
    # The test's log has no rare items, so an id is 0 only where there is no earlier row
    shown = {None: words[1], 2: words[2], "label": ["", 0, 1], "age": ["", 0.5, *(2.0**n for n in range(31))]}
    for one, name in zip((None, *history.further), ("", *history.names(dataset.field_names)), strict=True):
        ids = split[history_columns(history.length, one)].to_numpy()
        texts = (
            "|".join(str(shown[one][place]) for place in of_row[known])
            for of_row, known in zip(ids, items > 0, strict=True)
        )
        rows[f"history {name}".strip()] = list(texts)
    return rows


@pytest.mark.sampled(1)
def test_a_run_that_is_ended_continues_to_the_same_bits(run, tmp_path):
    settings, whole = run
    ended_and_continued(settings, "finetune", str(tmp_path / "run"), whole)


def test_predicted_as_evaluated(run, capsys, tmp_path):
    settings, folder = run
    alone = ["--set", "runtime.use_ray=never"]
    printed(capsys, "evaluate", "--run", folder, *alone, "--json")
    expected = read_predictions(f"{folder}/predictions/test").sort_by("row_id")["logit"].to_numpy()
    dataset = Dataset.open(settings.data.path)
    rows = str(tmp_path / "rows.csv")
    raw_rows(dataset).to_csv(rows, index=False)
    out = str(tmp_path / "out")
    printed(capsys, "predict", "--run", folder, "--rows", rows, "--out", out, *alone)
    found = [
        row["logit"] for name in storage.list_names(out) for row in pq.read_table(f"{out}/{name}").to_pylist()
    ]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(set(found)) > len(found) / 2


def test_a_list_is_as_a_text_and_more_than_the_length_is_cut(run):
    settings, folder = run
    rows = raw_rows(Dataset.open(settings.data.path)).head(20)
    scorer = open_scorer(folder)
    of_text = scorer.score(pa.Table.from_pandas(rows))[0]
    names = [name for name in rows if name.startswith("history")]
    lists = {
        name: [
            [*filter(None, text.split("|")), *(["1"] if text.count("|") == 3 else [])] for text in rows[name]
        ]
        for name in names
    }
    assert any(len(items) > 4 for items in lists["history"])
    of_lists = scorer.score(pa.Table.from_pandas(rows.assign(**lists)))[0]
    assert of_lists.tolist() == of_text.tolist()
    empty = scorer.score(pa.Table.from_pandas(rows.assign(**dict.fromkeys(names, ""))))[0]
    assert (empty != of_text).any()


def test_rows_without_the_column_are_refused(run, capsys, tmp_path):
    settings, folder = run
    rows = str(tmp_path / "rows.csv")
    raw_rows(Dataset.open(settings.data.path)).drop(columns="history").to_csv(rows, index=False)
    line = fails(capsys, "predict", "--run", folder, "--rows", rows, "--out", str(tmp_path / "out"))
    assert "history" in line


def test_a_folder_for_a_server_scores_the_same(run, capsys, tmp_path):
    settings, folder = run
    served = str(tmp_path / "served")
    printed(capsys, "export", "--run", folder, "--format", "safetensors", "--out", served)
    rows = pa.Table.from_pandas(raw_rows(Dataset.open(settings.data.path)).head(9))
    ours, theirs = (open_scorer(place).score(rows)[0].tolist() for place in (served, folder))
    assert ours == theirs


@pytest.mark.slow
def test_graphs_read_its_ids(config, capsys, tmp_path):
    """Whoever writes one compares its logits with the model's; look-ups of raw rows are refused."""
    folder = str(tmp_path / "run")
    run_training(replaced(config, VARIANTS["ids"] | {"ctr.history": "din"}), "finetune", folder)
    for kind in ("onnx", "torch-export"):
        made = printed(
            capsys, "export", "--run", folder, "--format", kind, "--out", f"{folder}-{kind}", "--json"
        )
        assert json.loads(made)["largest_difference"] <= 1e-4
    line = fails(capsys, "export", "--run", folder, "--format", "onnx", "--raw", "--out", f"{folder}-raw")
    assert "this dataset has histories, which a graph can't look up; export without --raw" in line


def test_explained(run):
    """What the histories are worth, by permuting them as a whole."""
    settings, folder = run
    found = explain(folder, "test", repeats=2, rows=3, config=replaced(settings, {"seed": 7}))
    assert list(found["fields"]) == ["User ID", "Movie ID", "Film genre", "history"]
    assert found["attributions"] is None
    dataset = Dataset.open(settings.data.path)
    rows = dataset.read_split("test")
    scorer = RowScorer(export_of(folder), dataset)

    def auc_of(table):
        scores = scorer.score(table)
        return auc(scores.labels, scores.logits)

    drops = []
    for repeat in range(2):
        order = np.random.default_rng((7, 3, repeat)).permutation(len(rows))
        permuted = rows
        for name in dataset.history_columns:
            place = rows.column_names.index(name)
            permuted = permuted.set_column(place, rows.schema.field(name), rows[name].take(pa.array(order)))
        drops.append(auc_of(rows) - auc_of(permuted))
    assert found["fields"]["history"]["drops"] == pytest.approx(drops, abs=1e-12)
    assert any(drops)


def test_what_reads_prompts_has_the_histories(config, capsys, tmp_path):
    """`recovery` and `attention` of a pretraining give the CTR tower what training gave it."""
    folder = str(tmp_path / "run")
    settings = {"pretrain.max_steps": 4, "plm.history_items": 3}
    run_training(replaced(config, settings), "pretrain", folder)
    dataset = Dataset.open(config.data.path)
    recovery = Recovery.load(export_of(folder), dataset)
    read, forward = [], recovery._model.ctr.interaction_vector

    def noting(field_ids, *others):
        read.append(field_ids)
        return forward(field_ids, *others)

    recovery._model.ctr.interaction_vector = noting
    rows = dataset.read_row_groups("test", [0])
    recovery.score(rows)
    known = {tuple(row) for row in rows.select(dataset.id_columns).to_pandas().to_numpy().tolist()}
    assert {tuple(row) for batch in read for row in batch.tolist()} <= known
    for command in ("recovery", "attention"):
        printed(capsys, command, "--run", folder, "--set", "runtime.use_ray=never", "--json")


def test_frozen_texts_are_for_towers_without_it(config):
    texts = VARIANTS["ids"] | {"ctr.text_embeddings": "added", "prompt.num_prompts": 0}
    with pytest.raises(ConfigError, match=r"text_embeddings=added can't be combined with ctr\.history=mean"):
        check_training(replaced(config, texts), "finetune")


def test_the_plan_knows_it(variant, config, capsys, tmp_path):
    path = str(tmp_path / "config.yaml")
    parameters = {}
    for kind in ("none", "mean", "din"):
        settings = replaced(config, VARIANTS["ids"] | {"ctr.history": kind})
        storage.write_bytes(path, dump_config(settings).encode())
        plan = json.loads(printed(capsys, "plan", path, "--stage", "finetune", "--json"))
        assert plan["data"]["history"] == 4
        further = ["Film genre", "label", "age"] if variant == "ids" else None
        assert plan["data"].get("history_with") == further
        parameters[kind] = plan["parameters"]["ctr"]
    assert parameters["none"] < parameters["mean"] < parameters["din"]
    tokens = []
    for items in (0, 3):
        settings = replaced(config, VARIANTS["text"] | {"plm.history_items": items})
        storage.write_bytes(path, dump_config(settings).encode())
        plan = json.loads(printed(capsys, "plan", path, "--stage", "finetune", "--json"))
        tokens.append(plan["data"]["tokens"])
    assert tokens[0] + 3 < tokens[1]

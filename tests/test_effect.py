"""scripts/effect.py on a small log: every arm gets its tries and seeds once, whatever interrupts it, and the
table compares what was run.
"""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from clickprompt.config import EvaluateConfig, load_config
from clickprompt.data.prepared.layout import layout_of
from clickprompt.evaluation.figures import check_fields
from clickprompt.evaluation.metrics import auc
from tests.support.page_numbers import numbers, numbers_of
from tests.support.tiny import write_both

SCRIPTS = Path(__file__).parents[1] / "scripts"
STUDY = {
    "label_shares": {0.5: {"finetune.validate_every": 2}},
    "base": {
        "ctr": {"embedding_dim": 4, "hidden_dim": 8, "num_layers": 1},
        "plm": {"random_init": True},
        "prompt": {"num_prompts": 1},
        "pretrain": {
            "global_batch_size": 64,
            "micro_batch_size": 64,
            "epochs": 2,
            "checkpoint_every": 2,
            "lr": {"ctr": 1e-2, "heads": 1e-2},
        },
        "finetune": {
            "with_plm": False,
            "global_batch_size": 64,
            "micro_batch_size": 64,
            "lr": {"ctr": 1e-2},
        },
    },
    "tries": [{"finetune.epochs": 1}, {"finetune.epochs": 3, "finetune.average_validations": 3}],
    "arms": {
        "scratch": {},
        "again": {"weights": 100},
        "ids": {"pretrain": {"pretrain.with_plm": False, "pretrain.id_objective": "replaced"}},
        "with PLM": {"pretrain": {"masking.hide_ids": 1.0}, "finetune": {"finetune.with_plm": True}},
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("effect")
    dataset, plm = write_both(str(folder))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return folder, dataset, plm


def call(place, script, *arguments):
    folder, dataset, plm = place
    where = ["--data", dataset.uri, "--work", str(folder / "work")]
    if script == "effect.py":
        where += ["--plm", plm, "--out", str(folder / "runs.jsonl"), "--seeds", "2"]
    command = [sys.executable, str(SCRIPTS / script), *arguments, *where]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def script():
    spec = importlib.util.spec_from_file_location("effect", SCRIPTS / "effect.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(place):
    path = place[0] / "runs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_runs_once_goes_on_and_is_compared(place):
    folder, dataset, _ = place
    study = str(folder / "study.yaml")
    said = call(place, "effect.py", study, "--minutes", "1e-9")
    assert "time is up" in said
    assert lines(place) == []
    call(place, "effect.py", study)
    runs = lines(place)
    keys = [(run["arm"], run["try"], run["seed"], run["test"]) for run in runs]
    assert len(set(keys)) == len(keys) == 4 * (2 + 2)
    for arm in STUDY["arms"]:
        own = [run for run in runs if run["arm"] == arm]
        best = max((run for run in own if not run["test"]), key=lambda run: run["valid_auc"])
        assert {run["try"] for run in own if run["test"]} == {best["try"]}
        assert all(run["test_auc"] is None for run in own if not run["test"])
    assert call(place, "effect.py", study) == ""
    assert lines(place) == runs

    labels = dataset.read_split("test")["label"].to_numpy()
    table = {
        row["arm"]: row for row in json.loads(call(place, "effect_table.py", str(folder / "runs.jsonl")))
    }
    scratch, mean = (table[arm] for arm in ("scratch", "two models from scratch"))
    first, second = (np.load(folder / "work" / f"0.5-scratch-{seed}.npy") for seed in (0, 1))
    others = [np.load(folder / "work" / f"0.5-again-{seed}.npy") for seed in (0, 1)]
    pairs = [(first + others[0]) / 2, (second + others[1]) / 2]
    assert not np.allclose(first, others[0], atol=1e-4)
    assert mean["test_auc"] == pytest.approx(np.mean([auc(labels, pair) for pair in pairs]))
    table_of = dataset.read_split("test")
    user, item = check_fields(dataset, EvaluateConfig())
    rare, seen = np.zeros(len(labels), dtype=bool), np.ones(len(labels), dtype=bool)
    for field in (user, item):
        counts, ids = dataset.train_counts()[field], table_of[dataset.columns[field]].to_numpy()
        order = [value for value in np.argsort(counts, kind="stable") if value > 0 and counts[value] > 0]
        rare |= np.isin(ids, order[: len(order) // 10])
        seen &= counts[ids] > 0
    warm = seen & ~rare
    assert 0 < warm.sum() < len(labels)
    expected = np.mean([auc(labels[warm], found[warm]) for found in (first, second)])
    assert scratch["subsets"]["warm"] == pytest.approx(expected)
    for arm, row in table.items():
        if arm == "two models from scratch":
            continue
        own = [run for run in runs if run["arm"] == arm and run["test"]]
        logits = [np.load(folder / "work" / f"0.5-{arm}-{seed}.npy".replace(" ", "_")) for seed in (0, 1)]
        assert [auc(labels, found) for found in logits] == [run["test_auc"] for run in own]
        assert row["test_auc"] == pytest.approx(np.mean([run["test_auc"] for run in own]))
        assert ("t_test" in row) == (arm != "scratch")
    page = call(place, "effect_table.py", str(folder / "runs.jsonl"), "--page").split("\n\n")
    for part in page[:2]:
        *shown, values = part.strip().splitlines()
        cells = json.loads(values)
        assert [line.split("|")[2].strip() for line in shown[2:]] == [row[1] for row in cells["rows"]]
        for line, row in zip(shown[2:], cells["rows"], strict=True):
            assert len(row) == len(cells["columns"]) == line.count("|") - 1
            assert numbers(line) == numbers_of(row)
    aucs = {row[1]: row[3] for row in json.loads(page[0].splitlines()[-1])["rows"]}
    assert aucs == {arm: round(row["test_auc"], 4) for arm, row in table.items()}
    tested = [row for row in table.values() if "holm_p_value" in row]
    assert {row["arm"] for row in tested} == {"ids", "with PLM"}
    values = sorted((row["t_test"]["p_value"], row["holm_p_value"]) for row in tested)
    assert values[0][1] == pytest.approx(min(1, len(tested) * values[0][0]))


def test_a_pretraining_goes_on_from_its_checkpoint(place, tmp_path, monkeypatch):
    """The weights are those of one that wasn't interrupted, to the bit."""
    effect = script()
    _, dataset, plm = place
    piece = {"label_share": 0.5, "arm": "with PLM", "try": 0, "seed": 3, "test": True}
    config = effect.configured(STUDY, piece, dataset.uri, plm)
    whole = effect.pretrain(config, effect.Place(str(tmp_path), torch.device("cpu"), None))
    cut = tmp_path / "cut"
    cut.mkdir()
    place_of_cut = effect.Place(str(cut), torch.device("cpu"), None)
    asked = []
    monkeypatch.setattr(place_of_cut, "time_is_up", lambda: asked.append(1) or len(asked) == 5)
    with pytest.raises(effect.TimeIsUpError):
        effect.pretrain(config, place_of_cut)
    assert [name for name in os.listdir(cut) if not name.endswith(".safetensors")]
    again = effect.pretrain(config, effect.Place(str(cut), torch.device("cpu"), None))
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("study", sorted((SCRIPTS / "effect").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_can_be_configured(study):
    """Its keys are known, its arms begin with the one from scratch, and all have something to learn."""
    effect, values = script(), yaml.safe_load(study.read_text())
    for share, index in itertools.product(values["label_shares"], range(len(values["tries"]))):
        pieces = [{"label_share": share, "arm": arm, "try": index, "seed": 1} for arm in values["arms"]]
        configs = [effect.configured(values, piece, "data", "plm") for piece in pieces]
        scratch = ["pretrain" not in arm for arm in values["arms"].values()]
        assert scratch[0]
        assert [config.finetune.init is None for config in configs] == scratch
        assert all(config.pretrain.micro_batches(1) for config in configs)


@pytest.mark.parametrize(
    ("preset", "study", "piece"),
    [
        ("few-labels", "movielens-1m", {"label_share": 0.1, "arm": "ids masked, tables", "try": 4}),
        ("dcnv2-averaged", "movielens-1m-all", {"label_share": 1.0, "arm": "scratch", "try": 2}),
    ],
)
def test_the_preset_is_what_the_study_chose(preset, study, piece):
    study = yaml.safe_load((SCRIPTS / "effect" / f"{study}.yaml").read_text())
    config = script().configured(study, {**piece, "seed": 0}, "data", None)
    wanted = config.model_dump()
    wanted["finetune"] |= {"init": None}
    found = load_config(f"movielens-1m-{preset}").model_dump()
    found["finetune"]["checkpoint_every"] = config.finetune.checkpoint_every  # changes no result
    stages = (
        ["finetune"] if "pretrain" not in study["arms"][piece["arm"]] else ["masking", "pretrain", "finetune"]
    )
    for section in ("ctr", *stages):
        assert found[section] == wanted[section]


def test_lazy_tables_start_and_end_as_dense_ones(place, tmp_path):
    effect, (_, dataset, _) = script(), place
    found = []
    for optimizer in ("dense", "lazy"):
        stages = {f"{stage}.embedding_optimizer": optimizer for stage in ("pretrain", "finetune")}
        study = {**STUDY, "base": {**STUDY["base"], **stages}}
        piece = {"label_share": 0.5, "arm": "ids", "try": 1, "seed": 0, "test": True}
        config = effect.configured(study, piece, dataset.uri, None)
        here = effect.Place(str(tmp_path / optimizer), torch.device("cpu"), None)
        (tmp_path / optimizer).mkdir()
        effect.run_piece(config, piece, here)
        found.append(np.load(tmp_path / optimizer / "0.5-ids-0.npy"))
    np.testing.assert_allclose(*found, atol=1e-4)
    assert np.abs(found[0]).max() > 1e-3


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_scored_is_the_mean_of_so_many_validations(place, tmp_path, number):
    effect, (_, dataset, _) = script(), place
    piece = {"label_share": 0.5, "arm": "scratch", "try": 0, "seed": 1, "test": False}
    config = effect.configured(STUDY, piece, dataset.uri, None)
    config = effect.replaced(config, {"finetune.average_validations": number})
    here = effect.Place(str(tmp_path), torch.device("cpu"), None)
    training, engine, collator = effect.begin(config, "finetune", here)
    model = effect.build_model(config, layout_of(dataset), objective=training.objective)
    validation = effect.InProcess(engine, model, collator, training, str(tmp_path))
    weights = []
    for step in (2, 4, 6):
        with torch.no_grad():
            for parameter in engine.model.parameters():
                parameter += 0.01 * step
        weights.append(engine.weights())
        validation.begin(step)
    found = effect.load_file(validation.scored(6))
    for name, tensor in found.items():
        own = torch.stack([each[name] for each in weights[-number:]])
        torch.testing.assert_close(tensor, own.mean(0), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)
    assert [each["valid_step"] for each in validation.seen] == [2, 4, 6]

"""Frozen text vectors through the real commands: finetune makes them once, a training that is ended goes on
to the same bits, and evaluate, predict, export, plan and report need neither them nor the PLM.
"""

import json
import os
import shutil

import pyarrow as pa
import pytest
import torch

from clickprompt.config import dump_config, replaced
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.errors import ConfigError, RunError
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.export.format import load_export, load_weights
from clickprompt.io import storage
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import load_matching
from clickprompt.models.text_projection import PROJECTION
from clickprompt.objectives import model_inputs
from clickprompt.runtime.pipeline.pipeline import run_pipeline
from clickprompt.runtime.train import exports
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.runtime.train.worker import build_collator
from clickprompt.scoring.raw_rows import open_scorer
from tests.support.commands import printed
from tests.support.ending import EndsBefore, are_the_same
from tests.support.tiny import tiny_config, write_both

STEPS = 10
ON = {"ctr.text_embeddings": "added", "finetune.with_plm": False, "prompt.num_prompts": 0}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("frozen")))
    shape = {"finetune__max_steps": STEPS, "finetune__patience": 9, "finetune__lr__ctr": 1e-2}
    return tiny_config(dataset.uri, plm, runtime__use_ray="never", **shape)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A finetuning with text vectors."""
    folder = str(tmp_path_factory.mktemp("run") / "run")
    result = run_training(replaced(config, ON), "finetune", folder)
    assert PROJECTION not in result["norms"]["tower"]
    return folder


def test_the_vectors_are_made_once(config, run, capsys, tmp_path):
    kept = {
        name: os.stat(f"{config.data.path}/text_vectors/{name}/vectors.bin").st_mtime_ns
        for name in os.listdir(f"{config.data.path}/text_vectors")
    }
    assert len(kept) == 1
    run_training(replaced(config, ON), "finetune", str(tmp_path / "again"))
    assert "no text vectors" not in capsys.readouterr().err
    are_the_same(str(tmp_path / "again"), run)
    [(name, time)] = kept.items()
    assert os.stat(f"{config.data.path}/text_vectors/{name}/vectors.bin").st_mtime_ns == time


def test_the_cost_is_said_first(config, capsys, tmp_path):
    shutil.copytree(config.data.path, tmp_path / "data", ignore=shutil.ignore_patterns("text_vectors"))
    changed = replaced(config, ON | {"data.path": str(tmp_path / "data"), "finetune.max_steps": 1})
    run_training(changed, "finetune", str(tmp_path / "run"))
    said = capsys.readouterr().err
    assert "embedding 82 values once, 0.0 MiB" in said
    assert said.index("embedding 82 values") < said.index("finetune: ")


@pytest.mark.parametrize("tables", ["dense", "lazy"])
def test_a_run_that_is_ended_continues_to_the_same_bits(config, run, tmp_path, tables):
    settings = replaced(config, ON | {"finetune.embedding_optimizer": tables})
    whole = run
    if tables != "dense":
        whole = str(tmp_path / "whole")
        run_training(settings, "finetune", whole)
    ended = str(tmp_path / "ended")
    for step in (6, 9):
        with pytest.raises(RunError, match="ended by the test"):
            run_training(settings, "finetune", ended, around=EndsBefore(step))
    run_training(settings, "finetune", ended)
    are_the_same(ended, whole)


def test_the_export_is_the_trained_model_without_its_texts(config, tmp_path):
    """The training's weights have E and W, the export has E + W v."""
    settings = replaced(config, ON | {"finetune.validate_every": STEPS, "finetune.checkpoint_every": STEPS})
    seen = {}

    fold = exports.fold

    def watched(weights, *arguments):
        seen.update({name: tensor.clone() for name, tensor in weights.items()})
        fold(weights, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "fold", watched)
        run_training(settings, "finetune", str(tmp_path / "run"))
    assert seen[PROJECTION].abs().max() > 1e-3
    training = check_training(settings, "finetune")
    trained = build_model(
        training.config, training.layout, objective="without_plm", text_size=training.text_size
    ).eval()
    load_matching(trained, seen)
    rows = columns_of(training.dataset.read_split("test"))
    batch = build_collator(training, None)(rows)
    exported, info = load_export(str(tmp_path / "run" / "export"))
    assert info.plm is None
    with torch.no_grad():
        theirs = exported(batch.field_ids)
        torch.testing.assert_close(theirs, trained(*model_inputs(batch)), atol=1e-5, rtol=1e-5)
        trained.ctr.text_projection.weight.zero_()
        assert (theirs - trained(*model_inputs(batch))).abs().max() > 1e-3


def test_scored_without_vectors_and_plm(config, run, capsys, tmp_path):
    hidden = f"{config.data.path}-hidden"
    os.rename(f"{config.data.path}/text_vectors", hidden)
    os.rename(str(config.plm.path), f"{config.plm.path}-hidden")
    alone = ["--set", "runtime.use_ray=never"]
    try:
        found = json.loads(printed(capsys, "evaluate", "--run", run, *alone, "--json"))
        assert 0 < found["auc"] < 1
        predictions = read_predictions(f"{run}/predictions/test")
        assert predictions["plm_logit"].null_count == len(predictions) == 120
        rows = tmp_path / "rows.csv"
        rows.write_text(
            "user_id,gender,movie_id,film_genre\nred 8,blue 1,green 2,quiet 5\nnew,old,new,warm 7\n"
        )
        printed(capsys, "predict", "--run", run, "--rows", str(rows), "--out", str(tmp_path / "out"), *alone)
        for form in ("safetensors", "onnx"):
            words = ["export", "--run", run, "--format", form, "--out", str(tmp_path / form)]
            printed(capsys, *words)
        report = str(tmp_path / "report.html")
        printed(capsys, "report", run, "--out", report)
        assert "dcnv2 + frozen plm, from scratch" in storage.read_bytes(report).decode()
    finally:
        os.rename(hidden, f"{config.data.path}/text_vectors")
        os.rename(f"{config.plm.path}-hidden", str(config.plm.path))


def test_a_new_value_adds_no_text(run):
    """It has the unknown id, whose vector is 0."""
    columns = ("user_id", "gender", "movie_id", "film_genre")
    new = pa.table({name: [f"new {name}"] for name in columns})
    model, _ = load_export(f"{run}/export")
    with torch.no_grad():
        expected = model(torch.zeros(1, 4, dtype=torch.int64))
    assert open_scorer(run).score(new)[0] == pytest.approx(expected.numpy(), rel=1e-5)


def test_the_plan_counts_it(config, capsys, tmp_path):
    path = str(tmp_path / "config.yaml")
    plans = []
    for settings in (replaced(config, ON), replaced(config, ON | {"ctr.text_embeddings": "none"})):
        storage.write_bytes(path, dump_config(settings).encode())
        plans.append(json.loads(printed(capsys, "plan", path, "--stage", "finetune", "--json")))
        shown = printed(capsys, "plan", path, "--stage", "finetune")
        assert ("text vectors" in shown) == (settings.ctr.text_embeddings == "added")
    more, plain = plans
    assert more["parameters"]["ctr"] - plain["parameters"]["ctr"] == 4 * 32 * 8
    assert (more["text_vector_bytes"], plain["text_vector_bytes"]) == (2 * 32 * 82, 0)
    assert more["worker_bytes"]["activations"] - plain["worker_bytes"]["activations"] == 6 * 12 * 4 * 32


def test_begun_from_a_run_with_or_without_texts(config, run, tmp_path):
    """W begins at 0 again, so the finetuning begins with what the export scores: at no rate it ends there."""
    plain = str(tmp_path / "plain")
    run_training(replaced(config, ON | {"ctr.text_embeddings": "none"}), "finetune", plain)
    for number, init in enumerate((run, plain)):
        settings = replaced(config, ON | {"finetune.init": init, "finetune.lr.ctr": 1e-30})
        run_training(settings, "finetune", str(tmp_path / f"on-{number}"))
        before, after = (load_weights(f"{one}/export") for one in (init, str(tmp_path / f"on-{number}")))
        assert before.keys() == after.keys()
        assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_refused_in_one_line(config, stage):
    with pytest.raises(ConfigError, match=r"ctr\.text_embeddings=added: ") as caught:
        check_training(replaced(config, {"ctr.text_embeddings": "added"}), stage)
    assert "\n" not in str(caught.value)


def test_the_pipeline_refuses_it(config):
    with pytest.raises(ConfigError, match=r"ctr\.text_embeddings=added: the pipeline pretrains"):
        run_pipeline(replaced(config, ON), "nowhere")

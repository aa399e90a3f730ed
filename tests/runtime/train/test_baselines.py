"""Baselines through the real commands: a training that is ended goes on to the same bits, and evaluate,
predict, export, plan and report know what has no CTR tower. What a baseline can't follow is refused in one
line.
"""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.config import dump_config, replaced
from clickprompt.errors import ConfigError, RunError
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.io import storage
from clickprompt.models.baselines import BASELINES
from clickprompt.runtime.pipeline.pipeline import run_pipeline
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.raw_rows import open_scorer
from tests.support.baselines import SETTINGS, write_all
from tests.support.commands import fails, printed
from tests.support.ending import EndsBefore, are_the_same
from tests.support.own_command import at_a_later_checkpoint, start
from tests.support.tiny import tiny_config

STEPS = 10
ALONE = [name for name, baseline in BASELINES.items() if not baseline.has_ctr]
"""baselines of a PLM alone"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_all(str(tmp_path_factory.mktemp("baselines")))


@pytest.fixture(scope="module")
def config(prepared):
    dataset, plms = prepared
    return tiny_config(
        dataset.uri,
        plms["ptab"],
        runtime__use_ray="never",
        pretrain__max_steps=STEPS,
        finetune__max_steps=STEPS,
        finetune__patience=9,
        finetune__lr__plm=1e-3,
    )


@pytest.fixture(scope="module", params=BASELINES)
def runs(request, prepared, config, tmp_path_factory):
    """(configuration, folder with a run of each stage, the finetuning begun from the pretraining)"""
    own = SETTINGS[request.param] | {"plm.path": prepared[1][request.param]}
    if request.param == "p5":
        del own["p5.answers"]  # the training finds them
    settings = replaced(config, own)
    folder = str(tmp_path_factory.mktemp(request.param))
    for stage in BASELINES[request.param].stages:
        run_training(settings, stage, f"{folder}/{stage}")
        if stage == "pretrain":
            settings = replaced(settings, {"finetune.init": f"{folder}/pretrain"})
    return settings, folder


@pytest.mark.sampled(1)
def test_a_run_that_is_ended_continues_to_the_same_bits(runs, tmp_path):
    settings, folder = runs
    for stage in BASELINES[settings.baseline].stages:
        run = str(tmp_path / stage)
        for step in (6, 9):
            with pytest.raises(RunError, match="ended by the test"):
                run_training(settings, stage, run, around=EndsBefore(step))
        run_training(settings, stage, run)
        are_the_same(run, f"{folder}/{stage}")


@pytest.mark.chaos
@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bits(runs, tmp_path):
    """kill -9 of its command twice, in each stage."""
    settings, folder = runs
    file = str(tmp_path / "run.yaml")
    for stage in BASELINES[settings.baseline].stages:
        every_step = replaced(settings, {f"{stage}.checkpoint_every": 1})
        storage.write_bytes(file, dump_config(every_step).encode())
        run = str(tmp_path / stage)
        for _ in range(2):
            process = start(stage, "--config", file, "--run", run)
            at_a_later_checkpoint(process, run)
            process.kill()
            process.wait()
        assert not storage.exists(f"{run}/result.json"), "it was over before it was killed"
        process = start(stage, "--config", file, "--run", run)
        assert process.wait(timeout=300) == 0, process.stderr.read()
        are_the_same(run, f"{folder}/{stage}")


@pytest.mark.sampled(2)
def test_evaluated_predicted_and_reported(runs, capsys, tmp_path):
    settings, folder = runs
    run = f"{folder}/finetune"
    alone = ["--set", "runtime.use_ray=never"]
    found = json.loads(printed(capsys, "evaluate", "--run", run, *alone, "--json"))
    assert 0 < found["auc"] < 1
    predictions = read_predictions(f"{run}/predictions/test")
    used, unused = ("plm", "ctr") if settings.baseline in ALONE else ("ctr", "plm")
    assert predictions[f"{unused}_logit"].null_count == len(predictions) == 120
    assert predictions[f"{used}_logit"].equals(predictions["logit"])
    rows = tmp_path / "rows.csv"
    rows.write_text("user_id,gender,movie_id,film_genre\nred 8,blue 1,green 2,quiet 5\nnew,old,new,warm 7\n")
    out = str(tmp_path / "out")
    printed(capsys, "predict", "--run", run, "--rows", str(rows), "--out", out, *alone)
    logits = [row for name in storage.list_names(out) for row in pq.read_table(f"{out}/{name}").to_pylist()]
    assert len({row["logit"] for row in logits}) == 2
    report = str(tmp_path / "report.html")
    printed(capsys, "report", run, "--out", report)
    plm = os.path.basename(settings.plm.path)
    shown = (
        f"{settings.baseline}: {plm}" if settings.baseline in ALONE else "autoint, initialised by pretrain"
    )
    assert shown in storage.read_bytes(report).decode()


@pytest.mark.sampled(1)
def test_a_graph_of_the_ctr_model_is_refused_without_one(runs, capsys, tmp_path):
    settings, folder = runs
    words = ["export", "--run", f"{folder}/finetune", "--format", "onnx", "--out", str(tmp_path / "out")]
    if settings.baseline not in ALONE:
        printed(capsys, *words)
        return
    line = fails(capsys, *words)
    assert "onnx is for the CTR model alone; use --format safetensors" in line


def test_a_folder_for_a_server_scores_the_same(runs, capsys, tmp_path):
    run, served = f"{runs[1]}/finetune", str(tmp_path / "served")
    printed(capsys, "export", "--run", run, "--format", "safetensors", "--out", served)
    table = pa.table(
        {
            "user_id": ["red 8", "other"],
            "gender": ["blue 1", "x"],
            "movie_id": ["green 2", "y"],
            "film_genre": ["quiet 5", "z"],
        }
    )
    ours, theirs = (open_scorer(place).score(table)[0].tolist() for place in (served, run))
    assert ours == theirs
    assert ours[0] != ours[1]


def test_the_plan_counts_it(runs, capsys, tmp_path):
    settings, _ = runs
    path = str(tmp_path / "config.yaml")
    storage.write_bytes(path, dump_config(settings).encode())
    for stage in BASELINES[settings.baseline].stages:
        plan = json.loads(printed(capsys, "plan", path, "--stage", stage, "--json"))
        used = {key for key, count in plan["parameters"].items() if count} - {"total", "trained"}
        if settings.baseline in ALONE:
            assert used == {"plm"} | ({"heads"} if settings.baseline != "p5" else set())
        else:
            assert used == {"ctr", "embeddings"} | ({"plm", "heads"} if stage == "pretrain" else set())


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"prompt.num_prompts": 2},
            "=2: baseline={} has no prompts; set prompt.num_prompts=0",
        ),
        ({"finetune.with_plm": False}, "baseline={} is its PLM alone; set finetune.with_plm=true"),
        (
            {"finetune.embedding_optimizer": "lazy"},
            "no embedding tables; set finetune.embedding_optimizer=dense",
        ),
        ({"data.id_dropout": 0.1}, "data.id_dropout=0.1: baseline={} reads no ids"),
        ({"plm.click_text": True}, "plm.click_text=true: baseline={} reads no click"),
    ],
)
def test_settings_that_it_cannot_follow(config, name, change, said):
    with pytest.raises(ConfigError) as caught:
        check_training(replaced(config, {**SETTINGS[name], **change}), "finetune")
    assert said.format(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"finetune.loss": "pairwise"}, "finetune.loss=pairwise: baseline=p5 learns to answer"),
        ({"plm.pooling": "mean"}, "plm.pooling=mean: baseline=p5 pools nothing; set plm.pooling=null"),
        ({}, "baseline=p5 answers by a decoder behind an encoder, which a bert lacks; use T5"),
        ({"plm.path": "t5", "p5.answers": [5, 4]}, "p5.answers=[5, 4]: the tokenizer of plm.path="),
    ],
)
def test_what_p5_cannot_follow(prepared, config, change, said):
    if "plm.path" in change:
        change = change | {"plm.path": prepared[1]["p5"]}
    with pytest.raises(ConfigError) as caught:
        check_training(replaced(config, SETTINGS["p5"] | change), "finetune")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_p5_is_not_pretrained(config):
    with pytest.raises(ConfigError, match="baseline=p5 isn't pretrained; run clickprompt finetune"):
        check_training(replaced(config, SETTINGS["p5"]), "pretrain")


def test_an_unknown_one_names_the_known(config):
    with pytest.raises(ConfigError, match=r"baseline='bert': no such baseline; known: none, .*ptab"):
        check_training(replaced(config, {"baseline": "bert"}), "finetune")


def test_the_pipeline_refuses_it(config):
    with pytest.raises(ConfigError, match="baseline=ptab: the pipeline compares ClickPrompt with its own"):
        run_pipeline(replaced(config, SETTINGS["ptab"]), "nowhere")


def test_only_its_own_runs_are_a_start(runs, config):
    settings, folder = runs
    with pytest.raises(ConfigError, match=f"trained with baseline={settings.baseline}, not none"):
        check_training(replaced(config, {"finetune.init": f"{folder}/finetune"}), "finetune")

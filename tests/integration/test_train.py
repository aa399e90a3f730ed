"""Training on the real Ray Train with real DeepSpeed workers: equal to one plain process, whatever is killed
meanwhile.
"""

import contextlib
import json
import os
import signal
import threading
import time

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from clickprompt.cli.main import main
from clickprompt.config import replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import DataError, RunError
from clickprompt.evaluation.attention import summarise_attention
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.evaluation.recovery import read_recovery
from clickprompt.export.format import export_of, load_export, load_weights
from clickprompt.export.serving_folder import export_for_serving
from clickprompt.io import storage
from clickprompt.report.make import make_report
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.attention import PromptAttention
from clickprompt.scoring.recovery import Recovery
from clickprompt.scoring.rows import RowScorer
from clickprompt.training.checkpoint import newest_complete
from clickprompt.training.metrics_log import read_metrics
from tests.support.engines import losses_of
from tests.support.tiny import tiny_config, write_both

pytestmark = pytest.mark.ray
STEPS = 24


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    dataset, plm = write_both(str(folder))
    return tiny_config(
        dataset.uri,
        plm,
        runtime__engine="deepspeed",
        runtime__num_workers=2,
        pretrain__epochs=3,
        pretrain__max_steps=STEPS,
        pretrain__micro_batch_size=2,  # slow enough to be killed in the middle
        pretrain__lr="{ctr: 1e-2, projector: 1e-3, plm: 1e-3, heads: 1e-3}",
        pretrain__warmup_ratio=0,
        pretrain__schedule="constant",
    )


def losses(run) -> list[float]:
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def kill_one_worker_after_the_first_checkpoint(run: str, killed: list[int], over: threading.Event) -> None:
    while not over.wait(0.02):
        if newest_complete(os.path.join(run, "checkpoints")):
            workers = [
                p
                for p in psutil.Process().children(recursive=True)
                if "RayTrainWorker" in "".join(p.cmdline())
            ]
            if len(workers) == 2:
                os.kill(workers[-1].pid, signal.SIGKILL)
                killed.append(workers[-1].pid)
                return


@contextlib.contextmanager
def one_worker_killed(run: str):
    killed, over = [], threading.Event()
    killer = threading.Thread(target=kill_one_worker_after_the_first_checkpoint, args=(run, killed, over))
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()
    assert len(killed) == 1, "nothing was killed"


@pytest.fixture(scope="module")
def pretrained(ray_session, config, tmp_path_factory):
    """A run of which one worker was killed on its way, and its result."""
    run = str(tmp_path_factory.mktemp("runs") / "pretrained")
    with one_worker_killed(run):
        result = run_training(config, "pretrain", run)
    return run, result


@pytest.mark.chaos
def test_two_zero_workers_on_ray_of_which_one_was_killed_equal_one_plain_process(pretrained, config):
    run, result = pretrained
    assert result["step"] == result["planned_steps"] == STEPS
    assert losses(run) == pytest.approx(losses_of(config, steps=STEPS), rel=1e-5)


@pytest.mark.slow
def test_without_a_kill_they_do_so_too(ray_session, config, tmp_path):
    run = str(tmp_path / "undisturbed")
    assert run_training(config, "pretrain", run)["step"] == STEPS
    assert losses(run) == pytest.approx(losses_of(config, steps=STEPS), rel=1e-5)


def test_running_it_again_returns_at_once(pretrained, config):
    run, result = pretrained
    started = time.monotonic()
    assert run_training(config, "pretrain", run) == result
    assert time.monotonic() - started < 5


@pytest.mark.chaos
@pytest.mark.slow
def test_a_broken_run_continues_with_another_number_of_workers_and_stage(
    ray_session, pretrained, config, tmp_path
):
    """As many as there is room for: all CPUs would do for 4 workers, but then Ray Data would have none and
    this would never end.
    """
    run = str(tmp_path / "broken")
    with one_worker_killed(run), pytest.raises(RunError, match="the same command continues"):
        run_training(replaced(config, {"runtime.max_failures": 0}), "pretrain", run)
    broken = newest_complete(os.path.join(run, "checkpoints"))
    changes = {
        "runtime.num_workers": [1, 4],
        "runtime.cpus_per_worker": 1.5,
        "runtime.zero_stage": 3,
        "runtime.evaluation_actors": 1,
    }
    result = run_training(replaced(config, changes), "pretrain", run)
    assert result["step"] == STEPS
    assert losses(run) == pytest.approx(losses(pretrained[0]), rel=1e-5)
    newest = newest_complete(os.path.join(run, "checkpoints"))
    assert newest != broken
    assert storage.read_json(os.path.join(newest, "trainer.json"))["num_workers"] in (2, 3)


def test_finetune_evaluate_export(ray_session, pretrained, config, tmp_path):
    """Without the PLM from the pretraining run, with lazy embeddings, in this process: the best validation's
    weights are exported, and score the same in any process.
    """
    run = str(tmp_path / "finetune")
    changes = {
        "finetune.with_plm": False,
        "finetune.init": pretrained[0],
        "finetune.epochs": 10,
        "finetune.patience": 2,
    }
    changes |= {"finetune.lr.ctr": 0.01, "finetune.embedding_optimizer": "lazy"}
    alone = replaced(config, {**changes, "runtime.num_workers": 1, "runtime.use_ray": "never"})
    result = run_training(alone, "finetune", run)
    metrics = read_metrics(run)
    validations = {
        scores["valid_step"]: scores["valid_auc"] for row in metrics for scores in row.get("validations", ())
    }
    assert result["best_auc"] == max(validations.values()) == validations[result["best_step"]]
    assert result["stopped"] is (result["step"] < result["planned_steps"])
    if result["stopped"]:
        assert [step for step in validations if step > result["best_step"]] == list(validations)[
            -alone.finetune.patience :
        ]

    actors = replaced(config, {"runtime.evaluation_actors": 2})
    [scores] = evaluate([run], "test", config=actors)
    model, info = load_export(export_of(run))
    assert info.objective == "without_plm"
    assert info.step == result["best_step"]
    assert model.plm is None
    dataset = Dataset.open(info.config["data"]["path"])
    predictions = read_predictions(os.path.join(run, "predictions", "test"))
    [same] = evaluate([run], "test", config=alone, against=run)
    assert predictions.equals(read_predictions(os.path.join(run, "predictions", "test"))), (
        "the same bits for any number of actors"
    )
    assert same["auc"] == same["against"]["auc"] == scores["auc"]
    assert same["against"]["delong"]["p_value"] == 1
    with pytest.raises(DataError, match="has no predictions of the valid split"):
        evaluate([run], "valid", config=alone, against=run)
    alone = RowScorer(export_of(run), dataset).score(dataset.read_split("test"))
    labels, logits = alone.labels, alone.logits
    expected = dict(zip(alone.row_ids.tolist(), logits.tolist(), strict=True))
    assert predictions["row_id"].to_pylist() == sorted(expected)
    assert predictions["logit"].to_pylist() == pytest.approx(
        [expected[row] for row in sorted(expected)], abs=1e-6
    )
    assert scores["auc"] == pytest.approx(auc(labels, logits), abs=1e-6)
    assert scores["log_loss"] == pytest.approx(log_loss(labels, logits), abs=1e-6)

    assert [
        sum(subset["rows"] for subset in scores["long_tail"][reading]) for reading in ("seen", "with_unseen")
    ] == [len(labels)] * 2

    report = make_report([run, pretrained[0]])
    shown = ["Result", "Runs", "Data", "Learning curves", "Size of the weights"]
    assert report["sections"][:8] == [*shown, "Calibration", "Long tail", "Cold start"]
    pretrained = storage.read_json(os.path.join(pretrained[0], "result.json"))["norms"]
    for table, fields in result["norms"]["tables"].items():
        assert len(fields) == 4
        ended = {name: found["end"] for name, found in pretrained["tables"][table].items()}
        assert {name: found["start"] for name, found in fields.items()} == ended
    text = storage.read_bytes(f"{run}/report.html").decode()
    assert f">{torch.__version__}<" in text, "as result.json has it"
    assert f"{scores['auc']:.4f}" in text
    assert all(f"step {step:,}: validation AUC {value:.4f}" in text for step, value in validations.items())

    served = str(tmp_path / "served")
    export_for_serving(run, served)
    assert load_weights(served).keys() == load_weights(export_of(run)).keys()
    assert len(os.listdir(os.path.join(served, "vocab"))) == len(dataset.field_names)


def measured(capsys, command: str, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--split", "valid", *arguments])
    output = capsys.readouterr()
    assert stopped.value.code in (0, 2), f"exit status {stopped.value.code}: {output.err}"
    return stopped.value.code, output.err if stopped.value.code else output.out


@pytest.mark.slow
def test_evaluate_a_pretraining_run(ray_session, pretrained, capsys):
    """What the actors wrote is what one process recovers; the table and --against say the same."""
    run = pretrained[0]
    code, line = measured(capsys, "recovery", "--run", run, "--against", run)
    assert code == 2, "compared with a run that wasn't evaluated"
    assert "run `clickprompt recovery`" in line
    assert not os.path.exists(os.path.join(run, "recovery"))

    code, table = measured(capsys, "recovery", "--run", run, "--set", "runtime.evaluation_actors=2")
    assert code == 0
    result = storage.read_json(os.path.join(run, "recovery-valid.json"))
    dataset = Dataset.open(load_export(export_of(run))[1].config["data"]["path"])
    lines = read_recovery(os.path.join(run, "recovery", "valid"))
    assert len(os.listdir(os.path.join(run, "recovery", "valid"))) == len(dataset.row_group_counts("valid"))
    recovery = Recovery.load(export_of(run), dataset)
    alone = [
        recovery.score(dataset.read_row_groups("valid", [group]))
        for group in range(len(dataset.row_group_counts("valid")))
    ]
    assert lines.equals(pa.concat_tables(alone).sort_by([("row_id", "ascending"), ("field", "ascending")]))
    assert sorted(result["fields"]) == sorted(dataset.field_names)
    for name, field in result["fields"].items():
        assert f"{field['targets']} " in next(
            printed for printed in table.splitlines() if printed.startswith(name)
        )
        assert (
            field["own"]
            == sum(lines.filter(pc.field("field") == name)["hits_own"].to_pylist()) / field["targets"]
        )

    here = ("--set", "runtime.use_ray=never")
    code, line = measured(capsys, "recovery", "--run", run, "--against", run, "--json", *here)
    assert code == 0
    for field in json.loads(line)["fields"].values():
        assert (field["against"]["difference"], field["against"]["interval"]) == (0, [0, 0])


@pytest.mark.slow
def test_attention_over_the_prompts_whatever_the_number_of_actors(ray_session, pretrained, capsys):
    run = pretrained[0]
    results = []
    for actors in (1, 2):
        code, line = measured(
            capsys,
            "attention",
            "--run",
            run,
            "--rows",
            "70",
            "--json",
            "--set",
            f"runtime.evaluation_actors={actors}",
        )
        assert code == 0
        results.append(json.loads(line))
    assert results[0] == results[1]
    dataset = Dataset.open(load_export(export_of(run))[1].config["data"]["path"])
    alone = PromptAttention.load(export_of(run), dataset).score(dataset.read_split("valid").slice(0, 70))
    for name, figures in summarise_attention(alone, dataset.field_names).items():
        assert results[0]["fields"][name]["rows"] == 70
        assert results[0]["fields"][name]["scores"] == pytest.approx(figures["scores"], rel=1e-5)
    report = make_report([run], split="valid")
    assert {"Prompt attention", "Learning curves"} <= set(report["sections"])
    assert all(
        f"{score:.2f}<" in storage.read_bytes(report["report"]).decode()
        for score in results[0]["fields"]["Gender"]["scores"]
    )
    code, line = measured(capsys, "attention", "--run", run, "--rows", "0")
    assert (code, "give a number of rows from 1 up" in line) == (2, True)

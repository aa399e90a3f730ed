"""A tiny sweep through the real Ray Tune: each pretraining once, and what becomes of its trials."""

import glob
import os
import signal
import subprocess
import sys
import time

import psutil
import pyarrow.parquet as pq
import pytest
import ray
from ray.util import placement_group_table
from ray.util.state import list_actors

from clickprompt.config import dump_config, load_config, replaced
from clickprompt.errors import ConfigError, RunError
from clickprompt.io import storage
from clickprompt.runtime.tune.tune import run_tune
from tests.support.tiny import tiny_config, write_both

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("tune")))
    return tiny_config(
        dataset.uri, plm, pretrain__max_steps=6, finetune__max_steps=8, tune__max_concurrent_trials=2
    )


def sweep(config, run, space, **changes):
    return run_tune(
        replaced(config, {"tune.space": space, **{f"tune.{key}": value for key, value in changes.items()}}),
        str(run),
    )


def test_each_pretraining_once(ray_session, config, tmp_path, capfd):
    config = replaced(config, {"finetune.with_plm": False})
    space = {"prompt.num_prompts": [1], "finetune.lr.ctr": [1e-2, "1e-3"]}
    run = str(tmp_path / "tune")
    result = sweep(config, run, space)
    assert list(result["pretrains"]) == ["pretrain-00"], "not one per point"
    assert result["trials"] == {"finished": 2, "stopped": 0, "failed": 0}
    assert [point["valid_auc"] for point in result["points"]] == sorted(
        (point["valid_auc"] for point in result["points"]), reverse=True
    )
    assert (
        "1 pretrainings of 6 steps, 2 finetunings of 8 steps (2 points); 2 at a time"
        in capfd.readouterr().err
    )

    table = pq.read_table(os.path.join(run, "trials.parquet")).to_pylist()
    assert {(row["prompt.num_prompts"], row["finetune.lr.ctr"]) for row in table} == {
        (k, rate) for k in (1,) for rate in (1e-2, 1e-3)
    }
    for row in table:
        export = storage.read_json(os.path.join(run, row["run"], "export", "export.json"))["config"]
        assert export["prompt"]["num_prompts"] == row["prompt.num_prompts"]
        assert export["finetune"]["lr"]["ctr"] == row["finetune.lr.ctr"]
        assert export["finetune"]["init"] == os.path.join(run, row["pretrain"])
        pretrained = storage.read_json(os.path.join(run, row["pretrain"], "export", "export.json"))["config"]
        assert pretrained["prompt"]["num_prompts"] == row["prompt.num_prompts"]
        assert row["valid_auc"] == storage.read_json(os.path.join(run, row["run"], "result.json"))["best_auc"]

    best = load_config(os.path.join(run, "best.yaml"))
    assert best.finetune.init == os.path.join(run, result["best"]["pretrain"])
    assert best.prompt.num_prompts == result["best"]["values"]["prompt.num_prompts"]
    assert sweep(config, run, space) == result, "complete: nothing is done again"


def test_what_is_refused_before_anything_starts(config, tmp_path):
    """No Ray here: this is all before it."""
    run = tmp_path / "tune"
    big = {"prompt.num_prompts": [1, 2, 3], "pretrain.warmup_ratio": [0, 0.1], "finetune.lr.plm": [0, 1e-4]}
    cases = [
        (
            big,
            {"max_points": 11},
            "12 points: 6 pretrainings and 12 finetunings, more than tune.max_points=11; give --yes",
        ),
        (big, {"max_points": 11, "seeds": [0, 1]}, "12 points: 6 pretrainings and 24 finetunings"),
        ({"prompt.nun_prompts": [1]}, {}, "the nearest known key is prompt.num_prompts"),
        ({"prompt.num_prompts": [1, -3]}, {}, "point 1 (prompt.num_prompts=-3)"),
        ({"ctr.backbone": ["dcnv2", "dcnv9"]}, {}, "dcnv9"),
        ({"finetune.global_batch_size": [24, 25]}, {}, "global_batch_size=25 is not a multiple"),
        (
            {"seed": [0]},
            {"max_concurrent_trials": 100},
            "100 runs at a time of runtime.num_workers=1 × 1 CPU + 1 for data",
        ),
    ]
    for space, changes, reason in cases:
        with pytest.raises(ConfigError) as error:
            sweep(config, run, space, **changes)
        assert reason in str(error.value)
        assert not os.path.exists(run)
    assert len(cases) == 7


@pytest.mark.slow
def test_seeds_a_failed_pretraining_and_another_space(ray_session, config, tmp_path):
    """Rates that give no finite loss: one pretraining fails, and with it its finetunings; the sweep goes
    on.
    """
    run = tmp_path / "tune"
    space = {"pretrain.lr.ctr": [1e-3, 1e30], "finetune.lr.plm": [1e-3]}
    result = sweep(config, run, space, seeds=[0, 5])
    assert result["trials"] == {"finished": 2, "stopped": 0, "failed": 2}
    good, bad = result["points"]
    assert (good["seeds"], good["status"], bad["status"], bad["valid_auc"]) == (2, "finished", "failed", None)
    rows = pq.read_table(run / "trials.parquet").to_pylist()
    assert [row["error"] is None for row in rows] == [True, True, False, False]
    assert rows[2]["error"].startswith("pretrain-01: ")
    assert "\n" not in rows[2]["error"]
    assert good["valid_auc"] == pytest.approx(sum(row["valid_auc"] for row in rows[:2]) / 2)
    assert rows[0]["valid_auc"] != rows[1]["valid_auc"], "another seed is another finetuning"
    assert load_config(str(run / "best.yaml")).pretrain.lr.ctr == 1e-3
    with pytest.raises(ConfigError, match=r"holds a run of another configuration: tune\.seeds was"):
        sweep(config, run, space, seeds=[0, 6])
    with pytest.raises(RunError, match="all 1 trials failed, such as trial-000: "):
        sweep(config, tmp_path / "all", {"finetune.lr.ctr": [1e30]}, pretrain=False)


@pytest.fixture(scope="module")
def slow(config):
    """Finetunings that take seconds; with a rate of nearly 0 the AUC stays what chance has made it."""
    changes = {
        "finetune.micro_batch_size": 1,
        "finetune.max_steps": 60,
        "finetune.epochs": 100,
        "finetune.patience": 100,
    }
    changes |= {
        "finetune.with_plm": False,
        "finetune.schedule": "constant",
        "finetune.validate_every": 10,
        "finetune.checkpoint_every": 10,
    }
    return replaced(config, {**changes, "tune.scheduler": "asha", "tune.reduction_factor": 2})


@pytest.mark.slow
def test_asha_stops_a_trial_and_nothing_of_it_goes_on(ray_session, slow, tmp_path, head):
    """`head`: beside another Ray, which what cleans up after the trial mustn't take for its own."""
    run = tmp_path / "tune"
    space = {"finetune.lr.ctr": [3e-2, 1e-9]}
    result = sweep(slow, run, space, pretrain=False, max_concurrent_trials=1)
    assert result["trials"] == {"finished": 1, "stopped": 1, "failed": 0}
    finished, stopped = pq.read_table(run / "trials.parquet").to_pylist()
    assert (finished["status"], finished["steps"]) == ("finished", 60)
    assert 20 <= stopped["steps"] < 60, "the AUC after step 10 is used at step 20"
    assert stopped["best_step"] == 10
    assert not os.path.exists(run / stopped["run"] / "result.json")
    assert result["best"]["values"] == {"finetune.lr.ctr": 3e-2}
    deadline = time.monotonic() + 60
    while left := [*_placement_groups(), *_training_actors()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
    assert sweep(slow, run, space, pretrain=False, max_concurrent_trials=2) == result


def _placement_groups() -> list[str]:
    return [name for name, group in placement_group_table().items() if group["state"] == "CREATED"]


def _training_actors() -> list[str]:
    here = ray.get_runtime_context().gcs_address  # not the cluster that was started last on this machine
    names = [actor.class_name for actor in list_actors(here, filters=[("state", "=", "ALIVE")], limit=1000)]
    return [name for name in names if "Scorer" in name or "TrainController" in name or "TrainWorker" in name]


@pytest.mark.slow
def test_tpe(ray_session, config, tmp_path):
    """Trials with workers of their own, as those with several or with GPUs have."""
    config = replaced(config, {"runtime.use_ray": "always"})
    space = {"finetune.lr.plm": {"low": 1e-5, "high": 1e-2, "log": True}}
    result = sweep(config, tmp_path / "tune", space, search="tpe", num_samples=2)
    assert result["trials"]["finished"] == 2
    assert list(result["pretrains"]) == ["pretrain-00"]
    rates = pq.read_table(tmp_path / "tune" / "trials.parquet")["finetune.lr.plm"].to_pylist()
    assert 1e-5 <= min(rates) < max(rates) <= 1e-2


@pytest.fixture(scope="module")
def undisturbed(slow, tmp_path_factory):
    """(configuration's path, run) of a sweep of which one trial fails and others are stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = str(folder / "sweep.yaml")
    changed = replaced(slow, {"tune.space": {"finetune.lr.ctr": [3e-2, 1e30, 1e-9, 2e-9]}})
    storage.write_bytes(path, dump_config(changed).encode())
    assert command("--config", path, "--run", str(folder / "run")).wait(timeout=600) == 0
    return path, folder / "run"


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_was_ended_continues_to_the_same_table(undisturbed, tmp_path, number):
    path, whole = undisturbed
    ended = tmp_path / "ended"
    process = command("--config", path, "--run", str(ended))
    while not glob.glob(f"{ended}/trial-000/checkpoints/*/manifest.json"):
        assert process.poll() is None
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    finished = {path: os.path.getmtime(path) for path in glob.glob(f"{ended}/*/result.json")}
    assert f"{ended}/pretrain-00/result.json" in finished
    process.send_signal(number)
    assert process.wait(timeout=120) == (-9 if number == signal.SIGKILL else 143)
    # One that is just starting gives its Ray a minute to come back
    assert psutil.wait_procs(started, timeout=150)[1] == [], "a process was left"
    assert not os.path.exists(ended / "result.json"), "it was over before it was ended"

    assert command("--config", path, "--run", str(ended)).wait(timeout=600) == 0
    assert {path: os.path.getmtime(path) for path in finished} == finished, "a finished run was done again"
    tables = [pq.read_table(run / "trials.parquet").to_pylist() for run in (whole, ended)]
    assert [row["status"] for row in tables[0]] == ["finished", "failed", "stopped", "stopped"]
    for row, other in zip(*tables, strict=True):
        assert row["valid_auc"] == pytest.approx(other["valid_auc"], abs=1e-6)
        for key in row.keys() - {
            "valid_auc",
            "seconds",
            "steps",
            "error",
        }:  # a stopped trial's last step is chance, and its error names a file
            assert row[key] == other[key]


def command(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", "from clickprompt.cli.main import main; main()", "tune", *arguments]
    )

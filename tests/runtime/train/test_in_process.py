"""A training in the command's own process: no Ray, nothing left behind in it, and what kills, signals and
errors do to the training.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from clickprompt.config import dump_config, load_config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import ConfigError, DataError, RunError, StoppedError
from clickprompt.io import storage
from clickprompt.runtime.train.in_process import OwnProcess
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.resume import clear_checkpoints, keep_newest, record
from clickprompt.runtime.train.train import run_training
from clickprompt.runtime.tune.tune import run_tune
from clickprompt.training.checkpoint import checkpoint_name, newest_complete
from tests.support.checkpoints import write_checkpoint
from tests.support.ending import EndsBefore, are_the_same, lines_of
from tests.support.hashed import grow_old, hashed
from tests.support.own_command import at_a_later_checkpoint, start
from tests.support.tiny import tiny_config, write_both

STEPS = 14


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("own")))


@pytest.fixture(scope="module")
def config(prepared):
    dataset, plm = prepared
    return tiny_config(
        dataset.uri,
        plm,
        runtime__use_ray="never",
        pretrain__max_steps=STEPS,
        finetune__max_steps=STEPS,
        finetune__with_plm=False,
        finetune__average_validations=2,
        finetune__patience=9,
        finetune__lr__ctr=0.03,
    )


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    run = str(tmp_path_factory.mktemp("undisturbed") / "run")
    run_training(config, "finetune", run)
    return run


def steps_in(run: str) -> list[str]:
    return [name for name in storage.list_names(f"{run}/checkpoints") if name.startswith("step-")]


def test_a_run_that_fails_continues_to_the_same_bits(config, undisturbed, tmp_path):
    run = str(tmp_path / "run")
    for step in (6, 11):
        with pytest.raises(RunError, match="ended by the test"):
            run_training(config, "finetune", run, around=EndsBefore(step))
    run_training(config, "finetune", run)
    are_the_same(run, undisturbed)
    assert steps_in(run) == [checkpoint_name(12), checkpoint_name(STEPS)], "runtime.keep_checkpoints"
    assert not os.path.exists(f"{run}/validations")
    assert run_training(config, "finetune", run)["step"] == STEPS, "a finished run isn't repeated"


def test_a_checkpoint_writes_the_steps_since_the_one_before(undisturbed):
    pieces = {
        name: storage.read_bytes(f"{undisturbed}/metrics/{name}")
        for name in os.listdir(f"{undisturbed}/metrics")
    }
    assert {
        name: [json.loads(line)["step"] for line in piece.splitlines()] for name, piece in pieces.items()
    } == {
        f"{checkpoint_name(last)}.jsonl": [*range(first, last + 1)]
        for first, last in ((1, 4), (5, 8), (9, 12), (13, STEPS))
    }


def test_a_run_of_a_version_with_one_file_of_metrics_continues(config, undisturbed, tmp_path):
    run = str(tmp_path / "run")
    with pytest.raises(RunError):
        run_training(config, "finetune", run, around=EndsBefore(10))
    shutil.rmtree(f"{run}/metrics")
    lines = [{**line, "seconds": 1.0, "wait_seconds": 0.5} for line in lines_of(undisturbed)]
    # With the steps of a checkpoint that didn't arrive
    written = "".join(json.dumps(line) + "\n" for line in lines[:12])
    storage.write_bytes(f"{run}/metrics.jsonl", written.encode())
    run_training(config, "finetune", run)
    are_the_same(run, undisturbed)


def test_a_start_hashes_the_newest_checkpoint_once_and_the_dataset_not_again(config, tmp_path, monkeypatch):
    run = str(tmp_path / "run")
    with pytest.raises(RunError):
        run_training(config, "finetune", run, around=EndsBefore(10))
    data = str(config.data.path)
    for folder in (run, data):
        grow_old(folder)
    Dataset.open(data).verify()
    read = hashed(monkeypatch)
    with pytest.raises(RunError):
        run_training(config, "finetune", run, around=EndsBefore(8))
    newest = f"{run}/checkpoints/{checkpoint_name(8)}"
    assert sorted(read) == [f"{newest}/state-00000.safetensors", f"{newest}/trainer.json"]


@pytest.mark.chaos
def test_a_run_in_a_bucket(config, undisturbed, bucket):
    run = storage.join(bucket, "run")
    settings = replaced(config, {"runtime.keep_every": 8})
    with pytest.raises(RunError, match="ended by the test"):
        run_training(settings, "finetune", run, around=EndsBefore(6))
    run_training(settings, "finetune", run)
    are_the_same(run, undisturbed)
    assert steps_in(run) == [checkpoint_name(12), checkpoint_name(STEPS)]
    assert storage.list_names(storage.join(run, "kept")) == [checkpoint_name(8)]


def test_the_process_is_as_before(config, tmp_path):
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = torch.get_rng_state(), dict(os.environ)
    try:
        run_training(replaced(config, {"runtime.deterministic": True}), "finetune", str(tmp_path / "run"))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert dict(os.environ) == before[1]
    assert not torch.are_deterministic_algorithms_enabled()
    assert (torch.tensor([1e-40]) * 0.5).item() != 0, "denormals are numbers"


def test_two_stages_in_one_process_are_those_of_two(config, undisturbed, tmp_path):
    run_training(config, "pretrain", str(tmp_path / "pretrain"))
    run_training(config, "finetune", str(tmp_path / "finetune"))
    are_the_same(str(tmp_path / "finetune"), undisturbed)


def test_watched_and_stopped(config, undisturbed, tmp_path, capsys):
    run, seen = str(tmp_path / "run"), []

    def watch(metrics):
        seen.append(metrics)
        return metrics.get("step", 0) > 3

    slow = replaced(config, {"finetune.micro_batch_size": 1})
    with pytest.raises(StoppedError, match=r"stopped at \d+ of 4000; the same command continues") as stopped:
        run_training(
            replaced(slow, {"finetune.max_steps": 4000, "finetune.epochs": 999}), "finetune", run, watch=watch
        )
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert {"loss", "validations", "seconds_per_step"} < seen[-1].keys()
    step = len(lines_of(run))
    assert f"stopped at {step} of" in str(stopped.value)
    assert newest_complete(f"{run}/checkpoints").endswith(checkpoint_name(step))
    assert "done in" not in capsys.readouterr().err


def test_errors_are_one_line(config, prepared, tmp_path):
    class Broken:
        def __call__(self, batches, writer, rank):
            raise KeyError("a fault\nof the program")

    run = str(tmp_path / "run")
    with pytest.raises(
        RunError, match=r"training failed: .*; the same command continues from the newest"
    ) as raised:
        run_training(config, "finetune", run, around=Broken())
    assert "\n" not in str(raised.value)
    write_checkpoint(run, 5, tmp_path)
    record(f"{run}/checkpoints", checkpoint_name(5))
    os.unlink(f"{run}/checkpoints/{checkpoint_name(5)}/state")
    with pytest.raises(DataError, match="no other checkpoint is complete"):
        run_training(config, "finetune", run)
    if not torch.cuda.is_available():
        settings = replaced(config, {"runtime.gpus_per_worker": 1})
        with pytest.raises(ConfigError, match=r"runtime\.gpus_per_worker=1: torch .* finds no GPU"):
            run_training(settings, "finetune", str(tmp_path / "gpu"))


def test_what_needs_ray_is_refused_or_named(config, tmp_path):
    with pytest.raises(ConfigError, match=r"use_ray=never: runtime\.num_workers=2: several .* needs Ray"):
        run_training(replaced(config, {"runtime.num_workers": 2}), "finetune", str(tmp_path / "run"))
    sweep = replaced(config, {"tune.space": {"finetune.lr.ctr": [0.01, 0.1]}})
    with pytest.raises(ConfigError, match=r"runtime\.use_ray=never: a sweep runs its trials on Ray"):
        run_tune(sweep, str(tmp_path / "run"))
    assert not os.path.exists(tmp_path / "run")


class Killed(BaseException):
    """As kill -9: nothing after it runs."""


@pytest.mark.parametrize("deadly", range(9))
def test_killed_at_any_operation_a_checkpoint_is_there_or_not(config, tmp_path, monkeypatch, deadly):
    """5 and 10 are there, 15 is being written, and 5 goes: killed before each operation on storage, or in the
    middle of a copy.
    """
    training = check_training(config, "finetune", str(tmp_path / "run"))
    host = OwnProcess(training, torch.device("cpu"), None)
    run, checkpoints = training.run, training.checkpoints
    for step in (5, 10):
        write_checkpoint(run, step, tmp_path)
        record(checkpoints, checkpoint_name(step))
    write_checkpoint(str(tmp_path / "other"), 15, tmp_path)
    local = f"{tmp_path}/other/checkpoints/{checkpoint_name(15)}"
    operations = 0

    def dying(name, real):
        def operation(*arguments):
            nonlocal operations
            operations += 1
            if operations == deadly + 1:
                if name == "copy_tree":
                    os.makedirs(arguments[1])
                    storage.copy_file(f"{arguments[0]}/manifest.json", f"{arguments[1]}/manifest.json")
                raise Killed
            return real(*arguments)

        return operation

    with monkeypatch.context() as patch:
        for name in ("copy_tree", "delete_tree", "move", "write_json", "list_names"):
            patch.setattr(storage, name, dying(name, getattr(storage, name)))
        try:
            host.store._copy(local, checkpoint_name(15))
            killed = False
        except Killed:
            killed = True
    assert killed is (operations == deadly + 1)
    there = newest_complete(checkpoints)
    assert there in (f"{checkpoints}/{checkpoint_name(10)}", f"{checkpoints}/{checkpoint_name(15)}")
    clear_checkpoints(run)
    assert newest_complete(checkpoints) == there
    host.store._copy(local, checkpoint_name(15))
    assert steps_in(run) == [checkpoint_name(10), checkpoint_name(15)]


def test_a_damaged_newest_checkpoint_is_told_and_written_anew(config, undisturbed, tmp_path, capsys):
    run = str(tmp_path / "run")
    with pytest.raises(RunError):
        run_training(config, "finetune", run, around=EndsBefore(10))
    assert steps_in(run) == [checkpoint_name(4), checkpoint_name(8)]
    os.unlink(f"{run}/checkpoints/{checkpoint_name(8)}/trainer.json")
    run_training(config, "finetune", run)
    assert f"{checkpoint_name(8)}: trainer.json is missing or was altered; continuing from step-00000004" in (
        capsys.readouterr().err
    )
    are_the_same(run, undisturbed)


def test_only_the_newest_stay(tmp_path):
    run = str(tmp_path / "run")
    for step in (5, 10, 15, 20):
        write_checkpoint(run, step, tmp_path)
    keep_newest(f"{run}/checkpoints", 2, checkpoint_name(15))
    assert steps_in(run) == [checkpoint_name(step) for step in (10, 15, 20)]
    keep_newest(f"{run}/checkpoints", 1)
    assert steps_in(run) == [checkpoint_name(20)]


@pytest.fixture(scope="module")
def slow(config, tmp_path_factory):
    """A run of its own command, with checkpoints every other step, and the file with its configuration."""
    folder = tmp_path_factory.mktemp("slow")
    settings = replaced(
        config,
        {
            "pretrain.micro_batch_size": 2,
            "pretrain.max_steps": 40,
            "pretrain.epochs": 9,
            "pretrain.checkpoint_every": 2,
        },
    )
    storage.write_bytes(str(folder / "run.yaml"), dump_config(settings).encode())
    run_training(settings, "pretrain", str(folder / "undisturbed"))
    return str(folder / "run.yaml"), str(folder / "undisturbed")


@pytest.mark.chaos
@pytest.mark.slow
def test_killed_again_and_again(slow, tmp_path):
    """kill -9 a little later after a checkpoint each time, so in the middle of a step, a save or a copy."""
    file, undisturbed = slow
    run = str(tmp_path / "run")
    for delay in (0.0, 0.03):
        process = start("pretrain", "--config", file, "--run", run)
        at_a_later_checkpoint(process, run)
        time.sleep(delay)
        process.kill()
        process.wait()
    assert not os.path.exists(f"{run}/result.json"), "it was over before it was killed"
    run_training(load_config(file), "pretrain", run)
    are_the_same(run, undisturbed)
    assert steps_in(run) == [checkpoint_name(38), checkpoint_name(40)]


@pytest.mark.chaos
def test_a_signal_is_no_error(slow, tmp_path):
    file, undisturbed = slow
    run = str(tmp_path / "run")
    for number, options in ((signal.SIGINT, ()), (signal.SIGTERM, ("--json",))):
        process = start("pretrain", "--config", file, "--run", run, *options)
        at_a_later_checkpoint(process, run)
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
        step = len(lines_of(run))
        sentence = f"{run}: stopped at {step} of 40; the same command continues"
        assert process.returncode == 128 + number, said
        assert said.splitlines()[-1] == sentence
        assert out == (json.dumps({"error": sentence}) + "\n" if options else "")
        assert newest_complete(f"{run}/checkpoints").endswith(checkpoint_name(step))
    run_training(load_config(file), "pretrain", run)
    are_the_same(run, undisturbed)


@pytest.mark.chaos
@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(slow, tmp_path):
    file, _ = slow
    run = str(tmp_path / "run")
    process = start("pretrain", "--config", file, "--run", run)
    at_a_later_checkpoint(process, run)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM), said
    assert "the same command continues" in said
    assert "Traceback" not in said


ALONE = """
import sys
from clickprompt.config import load_config, replaced
from clickprompt.runtime.train.train import run_training
config, run = load_config(sys.argv[1]), sys.argv[2]
run_training(config, "pretrain", run + "/pretrain")
run_training(replaced(config, {"finetune.init": run + "/pretrain"}), "finetune", run + "/finetune")
assert not {"ray", "deepspeed"} & set(sys.modules), sorted(name for name in sys.modules if "ray" in name)
"""


def test_ray_is_not_even_imported(config, tmp_path):
    settings = replaced(
        config, {"runtime.use_ray": "auto", "finetune.with_plm": True, "pretrain.max_steps": 2}
    )
    settings = replaced(settings, {"runtime.engine": "deepspeed"})  # which one worker doesn't use
    storage.write_bytes(str(tmp_path / "run.yaml"), dump_config(settings).encode())
    command = [sys.executable, "-c", ALONE, str(tmp_path / "run.yaml"), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

"""Runs that are stopped, whose storage refuses for a while, or whose numbers stop being numbers: on the real
Ray Train.
"""

import glob
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from clickprompt.config import dump_config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.errors import DataError, RunError, StoppedError
from clickprompt.export.format import export_of, read_info
from clickprompt.io import storage
from clickprompt.runtime.train.train import run_training
from clickprompt.training.checkpoint import checkpoint_name, damage_of, load_state, newest_complete
from clickprompt.training.metrics_log import read_metrics
from tests.support.click_training import Memory
from tests.support.click_training import run as run_plainly
from tests.support.synthetic import write_dataset
from tests.support.tiny import tiny_config

pytestmark = [pytest.mark.ray, pytest.mark.chaos]
STEPS = 120


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset = write_dataset(str(tmp_path_factory.mktemp("survive")))
    return tiny_config(
        dataset.uri,
        "none",
        finetune__with_plm=False,
        finetune__epochs=100,
        finetune__max_steps=STEPS,
        finetune__micro_batch_size=1,  # slow enough to be stopped in the middle
        finetune__validate_every=30,
        finetune__patience=9,
        finetune__checkpoint_every=10,
        runtime__num_workers=2,
    )


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    """The losses of one plain process."""
    memory = Memory(tmp_path_factory.mktemp("plain"))
    run_plainly(
        replaced(config, {"finetune.micro_batch_size": 24, "finetune.checkpoint_every": 1000}), memory
    )
    return [row["loss"] for row in memory.steps]


def losses(run: str) -> list[float]:
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def step_of(checkpoint: str | None) -> int:
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


def at_the_first_checkpoint(run: str, act) -> threading.Thread:
    def watch():
        while not newest_complete(storage.join(run, "checkpoints")):
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_stopped_run_continues_to_the_same_end(ray_session, config, undisturbed, tmp_path):
    """SIGTERM, then the same command. Checkpoints by the clock, copies kept, deterministic algorithms."""
    run = str(tmp_path / "run")
    changes = {
        "finetune.checkpoint_minutes": 0.01,
        "runtime.keep_every": 50,
        "runtime.deterministic": True,
        "runtime.num_workers": 2,
    }
    settings = replaced(config, changes)
    at_the_first_checkpoint(run, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedError, match=r"stopped at \d+ of 120") as stopped:
        run_training(settings, "finetune", run)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    step = len(losses(run))
    assert f"stopped at {step} of" in str(stopped.value)
    assert 0 < step == step_of(newest_complete(os.path.join(run, "checkpoints"))) < STEPS
    assert not {"result.json", "export"} & set(os.listdir(run))

    # What a killed worker leaves: half a checkpoint, and a folder of its own on this machine
    torn, left = (
        os.path.join(run, "checkpoints", "step-00000119"),
        f"{storage.machine_folder()}/checkpoints.tmp-{os.uname().nodename}-dead",
    )
    os.makedirs(torn)
    os.makedirs(left, exist_ok=True)
    storage.write_bytes(os.path.join(torn, "state-00000.safetensors"), b"half")
    result = run_training(settings, "finetune", run)
    assert result["step"] == STEPS
    assert losses(run) == pytest.approx(undisturbed, rel=1e-5)
    # On a slow machine the clock asks for a checkpoint after that very step
    assert not os.path.exists(torn) or damage_of(torn) is None
    assert not os.path.exists(left)
    assert len(glob.glob(os.path.join(run, "checkpoints", "step-*"))) == settings.runtime.keep_checkpoints
    assert step_of(newest_complete(os.path.join(run, "checkpoints"))) == STEPS
    kept = os.path.join(run, "kept")
    assert sorted(os.listdir(kept)) == ["step-00000050", "step-00000100"]
    assert newest_complete(kept) == f"{kept}/step-00000100"
    assert read_info(export_of(run)).step == result["best_step"]
    states = [load_state(folder) for folder in sorted(glob.glob(f"{kept}/step-*"))]
    needed = {
        checkpoint_name(step)
        for state in states
        for step in (state.best_step, state.validating)
        if step is not None
    }
    assert set(os.listdir(os.path.join(run, "validations"))) == needed


@pytest.mark.slow
def test_numbers_that_are_none_end_the_run_with_its_rows(ray_session, config, tmp_path):
    run = str(tmp_path / "run")
    settings = replaced(config, {"finetune.lr.ctr": 1e30, "finetune.warmup_ratio": 0.0})
    with pytest.raises(
        RunError,
        match=r"step \d+: loss .* must be finite, so the step was not applied\. The rows .*non_finite",
    ) as raised:
        run_training(settings, "finetune", run)
    [name] = os.listdir(os.path.join(run, "non_finite"))
    report = storage.read_json(os.path.join(run, "non_finite", name))
    assert f"step {report['step']}: loss" in str(raised.value)
    dataset, stage = Dataset.open(config.data.path), settings.finetune
    size = {
        "global_batch_size": stage.global_batch_size,
        "epochs": stage.epochs,
        "max_steps": stage.max_steps,
    }
    order = Order.of(dataset, chunk_batches=4, seed=config.seed, **size)
    shares = []
    for rank in range(2):
        _, columns = next(
            read_local_batches(dataset, order, start_step=report["step"] - 1, rank=rank, num_workers=2)
        )
        shares.append(columns["row_id"][columns["weight"] > 0].tolist())
    assert report["row_ids"] == shares
    assert len(os.listdir(os.path.join(run, "tensorboard"))) == 1, (
        "tried again, though it would only end so again"
    )


def test_a_damaged_checkpoint_is_named(ray_session, config, tmp_path):
    """In a process: the driver sees it before anything starts."""
    run = str(tmp_path / "run")
    folder = os.path.join(run, "checkpoints")
    os.makedirs(os.path.join(folder, "step-00000010"))
    storage.write_json(
        os.path.join(folder, "checkpoint_manager_snapshot.json"),
        {"checkpoint_results": [{"checkpoint_dir_name": "step-00000010"}]},
    )
    with pytest.raises(
        DataError,
        match=r"step-00000010: manifest\.json is missing or was altered, and no other checkpoint is complete",
    ):
        run_training(config, "finetune", run)


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", "from clickprompt.cli.main import main; main()", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_ctrl_c(config, undisturbed, tmp_path):
    """As a terminal sends it, to the command and all that it started; then twice in a row."""
    run, file = str(tmp_path / "run"), str(tmp_path / "run.yaml")
    storage.write_bytes(file, dump_config(config).encode())
    for signals, status in (((signal.SIGINT,), 130), ((signal.SIGTERM, signal.SIGINT), 130)):
        before = step_of(newest_complete(os.path.join(run, "checkpoints")))
        process = start("finetune", "--config", file, "--run", run)
        while step_of(newest_complete(os.path.join(run, "checkpoints"))) <= before:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        started = psutil.Process(process.pid).children(recursive=True)
        for number in signals:
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
            time.sleep(0.05)
        assert process.wait(timeout=60) == status, process.stderr.read()
        said = process.stderr.read()
        assert "the same command continues" in said
        assert "Traceback" not in said
        assert not [child for child in psutil.wait_procs(started, timeout=30)[1] if child.is_running()]
        if len(signals) == 1:
            assert f"stopped at {len(losses(run))} of {STEPS}" in said
            assert len(losses(run)) == step_of(newest_complete(os.path.join(run, "checkpoints")))
    before = step_of(newest_complete(os.path.join(run, "checkpoints")))
    process = start("finetune", "--config", file, "--run", run)
    while step_of(newest_complete(os.path.join(run, "checkpoints"))) <= before:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    next(child for child in children if "RayTrainWorker" in "".join(child.cmdline())).kill()
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said
    assert losses(run) == pytest.approx(undisturbed, rel=1e-5)
    assert said.count("run: the workers begin again from the newest checkpoint; Ray's logs say why\n") == 1
    ours = ("finetune: ", "on Ray: ", "embedded Ray: ", "run: ", "next: ")
    assert [line for line in said.splitlines() if not line.startswith(ours)] == [], "Ray's"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_storage_that_refuses_for_a_while(ray_session, config, undisturbed, request, place):
    """A full disk; a server that no longer answers. Training goes on meanwhile, or waits; nothing is trained
    twice.
    """
    if place == "disk":
        run = os.path.join(request.getfixturevalue("small_disk")("16m"), "run")
    else:
        run = request.getfixturevalue("bucket") + "/run"
        [server] = [p for p in psutil.Process().children() if "moto.server" in p.cmdline()]

    def refuse():
        if place == "disk":
            filler = os.path.join(os.path.dirname(run), "filler")
            try:
                with open(filler, "wb", buffering=0) as stream:
                    while True:
                        stream.write(bytes(65536))
            except OSError:
                time.sleep(30)
            os.unlink(filler)
        else:
            server.suspend()
            time.sleep(30)
            server.resume()

    thread = at_the_first_checkpoint(run, refuse)
    result = run_training(replaced(config, {"runtime.max_failures": 1}), "finetune", run)
    assert not thread.is_alive(), "it was over before storage refused"
    assert result["step"] == STEPS
    assert losses(run) == pytest.approx(undisturbed, rel=1e-5)
    assert step_of(newest_complete(storage.join(run, "checkpoints"))) == STEPS
    assert read_info(export_of(run)).step == result["best_step"]


DRAINED = """
import os, sys, threading, time
import psutil
import ray
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from clickprompt.config import load_config
from clickprompt.runtime.cluster.connect import connect
from clickprompt.runtime.train.train import run_training
from clickprompt.training.checkpoint import newest_complete

config, run = load_config(sys.argv[1]), sys.argv[2]

def workers():
    return [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in "".join(p.cmdline())]

def drain():
    while not newest_complete(os.path.join(run, "checkpoints")):
        time.sleep(0.02)
    # Until the word is on its way to them, workers would be at the end
    for worker in workers():
        worker.suspend()
    context = ray.get_runtime_context()
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int(1000 * time.time()) + 600_000
    client = GcsClient(address=context.gcs_address)
    accepted, why = client.drain_node(context.get_node_id(), reason, "test", deadline)
    assert accepted, why
    time.sleep(5)  # it is asked for every 0.2 s, and nothing tells that it was heard
    for worker in workers():
        worker.resume()

with connect(config.runtime):
    threading.Thread(target=drain, daemon=True).start()
    run_training(config, "finetune", run)
"""


@pytest.mark.slow
def test_a_node_that_is_about_to_go_gets_a_checkpoint_in_time(config, undisturbed, tmp_path):
    """Ray announces it, with ten minutes to go, in which the run ends; all its rows are read by then, as
    nothing starts there any more.
    """
    run, file = str(tmp_path / "run"), str(tmp_path / "run.yaml")
    every = STEPS // 2
    changes = {
        "finetune.checkpoint_every": every,
        "finetune.validate_every": 1000,
        "data.chunk_batches": 200,
    }
    settings = replaced(config, {**changes, "runtime.keep_checkpoints": 9})
    storage.write_bytes(file, dump_config(settings).encode())
    watched = {"ENABLE_PREEMPTION_WATCHER": "1", "PREEMPTION_POLL_INTERVAL_S": "0.2"}  # as on a cluster
    environment = {**os.environ, **{f"RAY_TRAIN_{name}": value for name, value in watched.items()}}
    done = subprocess.run(
        [sys.executable, "-c", DRAINED, file, run],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    made = sorted(step_of(path) for path in glob.glob(os.path.join(run, "checkpoints", "step-*")))
    assert {every, STEPS} < set(made)
    assert len(made) == 3

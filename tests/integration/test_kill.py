"""kill -9 of the whole command: the same command afterwards continues or starts clean, and ends where an
undisturbed run ends.
"""

import contextlib
import glob
import os
import subprocess
import sys
import time

import psutil
import pytest

from clickprompt.config import dump_config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import InputError
from clickprompt.io import storage
from clickprompt.training.checkpoint import newest_complete
from clickprompt.training.metrics_log import read_metrics
from tests.support.engines import losses_of
from tests.support.folders import files_below
from tests.support.raw_movielens import ratings, write_1m
from tests.support.tiny import tiny_config, write_both

pytestmark = [pytest.mark.ray, pytest.mark.chaos]
STEPS = 38


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", "from clickprompt.cli.main import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def losses(run: str) -> list[float]:
    return [line["loss"] for line in read_metrics(run)]


def test_a_killed_command_continues(tmp_path):
    dataset, plm = write_both(str(tmp_path))
    config = str(tmp_path / "run.yaml")
    settings = tiny_config(
        dataset.uri, plm, pretrain__epochs=12, pretrain__max_steps=STEPS, pretrain__micro_batch_size=2
    )
    storage.write_bytes(config, dump_config(settings).encode())
    killed = str(tmp_path / "killed")
    process = start("pretrain", "--config", config, "--run", killed, "--set", "runtime.use_ray=always")
    while not newest_complete(os.path.join(killed, "checkpoints")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    command = psutil.Process(process.pid)
    everything = [command, *command.children(recursive=True)]
    # Suspended first: workers would go on for a while without their command
    for act in (psutil.Process.suspend, psutil.Process.kill):
        for one in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                act(one)
    process.wait()
    assert not os.path.exists(os.path.join(killed, "result.json")), "it was over before it was killed"
    # Half a checkpoint of a later step, as a kill during an upload leaves it, is ignored
    newest = newest_complete(os.path.join(killed, "checkpoints"))
    torn = os.path.join(killed, "checkpoints", f"step-{STEPS - 1:08d}")
    storage.copy_tree(newest, torn)
    with open(os.path.join(torn, "state-00000.safetensors"), "r+b") as stream:
        stream.truncate(1000)
    assert newest_complete(os.path.join(killed, "checkpoints")) == newest

    # On Ray: test_train.py, where a worker of a running command is killed
    process = start("pretrain", "--config", config, "--run", killed, "--set", "runtime.use_ray=never")
    assert process.wait(timeout=300) == 0, process.stderr.read()
    assert len(losses(killed)) == STEPS
    plain = losses_of(replaced(settings, {"pretrain.micro_batch_size": 24}), steps=STEPS)
    assert losses(killed) == pytest.approx(plain, rel=1e-5)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A raw log and what an undisturbed command makes of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    raw = write_1m(str(folder / "raw"), ratings(600_000))
    process = start("prepare", "movielens-1m", "--raw", raw, "--out", str(folder / "out"))
    assert process.wait(timeout=300) == 0, process.stderr.read()
    return raw, str(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["parsed", "coded", "sorted"])
def test_a_killed_prepare_starts_clean(prepared, tmp_path, moment):
    """It never opens, and the same command afterwards gives what an undisturbed one gives and nothing
    else.
    """
    raw, undisturbed = prepared
    killed = str(tmp_path / "killed")
    process = start("prepare", "movielens-1m", "--raw", raw, "--out", killed)
    while not glob.glob(f"{killed}.tmp-*/staging/{moment}/*"):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.kill()
    process.wait()
    [left] = glob.glob(f"{killed}.tmp-*")
    assert not os.path.exists(killed), "it was over before it was killed"
    with pytest.raises(InputError, match="no prepared dataset"):
        Dataset.open(left)

    process = start(
        "prepare", "movielens-1m", "--raw", raw, "--out", killed
    )  # at once: the killed one's Ray may still be ending
    assert process.wait(timeout=300) == 0, process.stderr.read()
    assert sorted(os.listdir(tmp_path)) == ["killed"]
    assert files_below(killed) == files_below(undisturbed)

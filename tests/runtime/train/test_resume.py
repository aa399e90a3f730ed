"""What an interrupted run's leftovers become."""

import os
import socket

import pytest

from clickprompt.errors import DataError
from clickprompt.io import storage
from clickprompt.io.folders import scratch_folder
from clickprompt.runtime.train.resume import clear_checkpoints
from clickprompt.training.checkpoint import checkpoint_name
from tests.support.checkpoints import write_checkpoint

RECORD = "checkpoint_manager_snapshot.json"


def record(run: str, *steps: int) -> None:
    listed = [{"checkpoint_dir_name": checkpoint_name(step)} for step in steps]
    storage.write_json(storage.join(run, "checkpoints", RECORD), {"checkpoint_results": listed})


def steps_of(run: str) -> list[int]:
    return [
        int(name.removeprefix("step-"))
        for name in storage.list_names(storage.join(run, "checkpoints"))
        if name.startswith("step-")
    ]


def test_leftovers_go_and_what_ray_lists_stays(tmp_path, capsys):
    run = str(tmp_path / "run")
    for step in (5, 10, 15, 20):
        write_checkpoint(run, step, tmp_path)
    os.unlink(os.path.join(run, "checkpoints", checkpoint_name(20), "state"))  # torn
    clear_checkpoints(run)
    assert steps_of(run) == [5, 10, 15], "without Ray's record nothing is known of older ones"
    record(run, 10)
    clear_checkpoints(run)
    assert steps_of(run) == [10, 15]
    record(run, 10, 15)
    os.unlink(os.path.join(run, "checkpoints", checkpoint_name(15), "state"))
    clear_checkpoints(run)
    assert steps_of(run) == [10, 15]
    assert (
        "step-00000015: state is missing or was altered; continuing from step-00000010"
        in capsys.readouterr().err
    )
    os.unlink(os.path.join(run, "checkpoints", checkpoint_name(10), "state"))
    with pytest.raises(DataError, match="no other checkpoint is complete; restore it"):
        clear_checkpoints(run)


@pytest.mark.parametrize(
    "content", [b'{"checkpoint_res', b'{"checkpoint_results": [{"checkpoint_dir_name": "step-00000099"}]}']
)
def test_a_record_that_would_end_every_attempt_is_made_anew(tmp_path, content):
    run = str(tmp_path / "run")
    write_checkpoint(run, 5, tmp_path)
    storage.write_bytes(os.path.join(run, "checkpoints", RECORD), content)
    clear_checkpoints(run)
    assert steps_of(run) == [5]
    assert not os.path.exists(os.path.join(run, "checkpoints", RECORD))


def test_scratch_of_the_living_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder("checkpoints") as mine:
        dead = f"{os.path.dirname(mine)}/checkpoints.tmp-{socket.gethostname()}-dead"
        os.makedirs(dead)
        with scratch_folder("checkpoints") as other:
            assert os.path.isdir(mine)
            assert os.path.isdir(other)
            assert not os.path.exists(dead)
    assert os.listdir(os.path.dirname(mine)) == []

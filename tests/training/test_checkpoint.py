"""Which checkpoint counts."""

import socket

import pytest

from clickprompt.errors import InputError, RunError
from clickprompt.io import storage
from clickprompt.training.checkpoint import damage_of, newest_complete, newest_for_all
from tests.support.checkpoints import write_checkpoint
from tests.support.hashed import grow_old, hashed
from tests.support.workers import in_workers


def test_only_complete_ones_count(place, tmp_path):
    run = storage.join(place, "run")
    first, second, third = (write_checkpoint(run, step, tmp_path) for step in (5, 10, 15))
    assert newest_complete(storage.join(run, "checkpoints")) == third
    storage.delete_file(storage.join(third, "state"))
    assert damage_of(third) == "state"
    storage.write_bytes(storage.join(second, "trainer.json"), b"{}")
    assert damage_of(second) == "trainer.json"
    assert newest_complete(storage.join(run, "checkpoints")) == first
    storage.write_bytes(storage.join(first, "manifest.json"), b'{"files')
    assert damage_of(first) == "manifest.json"
    assert newest_complete(storage.join(run, "checkpoints")) is None
    assert newest_complete(storage.join(run, "nowhere")) is None


def test_one_worker_hashes_and_tells_the_others(tmp_path):
    run = str(tmp_path / "run")
    write_checkpoint(run, 5, tmp_path)
    newest = write_checkpoint(run, 10, tmp_path)
    found = in_workers(_look, 2, run)
    assert [one["checkpoint"] for one in found] == [newest] * 2
    assert [len(one["hashed"]) for one in found] == [2, 0]


def _look(rank: int, num_workers: int, run: str) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        read = hashed(patch)
        checkpoint = newest_for_all(f"{run}/checkpoints", rank)
    return {"checkpoint": checkpoint, "hashed": read}


def test_it_is_hashed_once_and_again_if_it_was_altered(tmp_path, monkeypatch):
    run = str(tmp_path / "run")
    first, second = (write_checkpoint(run, step, tmp_path) for step in (5, 10))
    grow_old(run)
    read = hashed(monkeypatch)
    for _ in range(3):
        assert newest_complete(f"{run}/checkpoints") == second
    assert len(read) == 2
    with open(f"{second}/state", "r+b") as stream:
        stream.write(b"1")
    assert newest_complete(f"{run}/checkpoints") == first
    assert storage.read_json(f"{run}/checkpoints/verified.json").keys() == {
        "step-00000005/state",
        "step-00000005/trainer.json",
    }


def test_storage_that_does_not_answer_is_no_reason_for_an_older_one(bucket, tmp_path, monkeypatch):
    newest = write_checkpoint(f"{bucket}/run", 5, tmp_path)
    monkeypatch.setattr(storage, "_PATIENCE_S", 2.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listening: refused
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
        for look in (lambda: newest_complete(f"{bucket}/run/checkpoints"), lambda: damage_of(newest)):
            with pytest.raises(RunError, match=r"tried again for \d+ s"):
                look()


def test_what_is_refused_is_tried_again(tmp_path):
    outcomes = [OSError(28, "no space left"), InputError("full"), "written"]
    outcomes[1].__cause__ = outcomes[0]

    def act():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert storage.patiently(act) == "written"
    for error in (FileNotFoundError("gone"), InputError("not valid JSON"), RunError("no")):
        outcomes[:] = [error]
        with pytest.raises(type(error)):
            storage.patiently(act)

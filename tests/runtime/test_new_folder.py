"""A folder appears whole or not at all; what a killed process left goes, what a living one writes stays."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from clickprompt.errors import InputError
from clickprompt.runtime.new_folder import new_folder

WRITER = """
import sys
from clickprompt.runtime.new_folder import new_folder
with new_folder(sys.argv[1]) as folder:
    open(f"{folder}/half", "w").close()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is writing `out`, and its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process, process.stdout.readline().strip()
    process.kill()
    process.communicate()


def test_it_is_renamed_when_it_is_complete(tmp_path):
    target = str(tmp_path / "deep" / "out")
    with new_folder(target) as folder:
        assert os.path.dirname(folder) == os.path.dirname(target)
        assert os.listdir(tmp_path / "deep") == [os.path.basename(folder)]
        os.makedirs(f"{folder}/below")
    assert os.listdir(tmp_path / "deep") == ["out"]
    assert os.listdir(target) == ["below"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    def fail(folder):
        os.makedirs(f"{folder}/below")
        raise error

    with pytest.raises(error), new_folder(str(tmp_path / "out")) as folder:
        fail(folder)
    assert os.listdir(tmp_path) == []


def test_what_came_to_the_target_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(InputError, match="out"), new_folder(str(tmp_path / "out")):
        os.makedirs(tmp_path / "out" / "theirs")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["theirs"]


def test_a_living_process_keeps_its_folder_and_a_killed_one_does_not(tmp_path, writer):
    process, theirs = writer
    host = socket.gethostname()
    others = [f"out.tmp-elsewhere-{host}-0", f"out.tmp-{host}0-1", "out2"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / f"out.tmp-{host}-file").write_text("")
    os.symlink(tmp_path / "out2", tmp_path / f"out.tmp-{host}-link")
    kept = sorted([*others, f"out.tmp-{host}-file", f"out.tmp-{host}-link"])

    with pytest.raises(ZeroDivisionError), new_folder(str(tmp_path / "out")):
        raise ZeroDivisionError
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, os.path.basename(theirs)])
    assert os.listdir(theirs) == ["half"]

    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert os.path.isdir(theirs)
    with new_folder(str(tmp_path / "out")):
        assert not os.path.exists(theirs)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "out"])

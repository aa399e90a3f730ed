"""A folder appears whole or not at all; what a killed process left goes, what a living one writes stays."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from clickprompt.errors import InputError
from clickprompt.io import storage
from clickprompt.io.folders import clear_unfinished, new_folder

WRITER = """
import sys
from clickprompt.io.folders import new_folder
with new_folder(sys.argv[1]) as folder:
    open(f"{folder}/half", "w").close()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is writing `out`, and its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
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


def test_what_a_killed_writer_was_at_is_not_in_it(tmp_path):
    script = (
        "import os, signal, sys\nfrom clickprompt.io import storage\nwith "
        "storage.open_output(sys.argv[1]) as stream:\n"
    )
    script += "    stream.write(b'half'); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    with new_folder(str(tmp_path / "out")) as folder:
        killed = subprocess.run([sys.executable, "-c", script, f"{folder}/below/part"], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(os.listdir(f"{folder}/below")) == 1
        storage.write_bytes(f"{folder}/below/part", b"whole")
    assert os.listdir(tmp_path / "out" / "below") == ["part"]


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


def test_a_new_folder_is_there_when_it_is_complete(place):
    uri = storage.join(place, "deep", "new")
    with new_folder(uri) as work:
        storage.write_bytes(storage.join(work, "x", "1"), b"one")
        storage.write_bytes(storage.join(work, "2"), b"two")
    assert storage.list_names(storage.join(place, "deep")) == ["new"]
    assert storage.list_names(uri) == ["2", "x"]
    assert not clear_unfinished(uri)
    assert storage.read_bytes(storage.join(uri, "x", "1")) == b"one"


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["new", ""])  # also the bucket itself
def test_nothing_is_left_of_a_new_folder_that_failed(place, name, error):
    uri = storage.join(place, "below") if place.startswith("/") else storage.join(place, name).rstrip("/")

    def fail():
        with new_folder(uri) as work:
            storage.write_bytes(storage.join(work, "x", "1"), b"one")
            raise error("stop")

    with pytest.raises(error, match=r"^stop$"):
        fail()
    assert storage.list_names(place) == []


def test_what_a_killed_process_left_of_a_new_folder_is_known_and_cleared(bucket):
    code = (
        "import os, sys; from clickprompt.io import storage; from clickprompt.io.folders import "
        "new_folder; new = new_folder(sys.argv[1]); "
    )
    code += "storage.write_bytes(new.__enter__() + '/x/1', b'one'); os._exit(9)"
    done = subprocess.run([sys.executable, "-c", code, f"{bucket}/new"], check=False)
    assert done.returncode == 9
    assert storage.read_bytes(f"{bucket}/new/x/1") == b"one"
    assert clear_unfinished(f"{bucket}/new")
    assert not storage.exists(f"{bucket}/new")
    storage.write_bytes(f"{bucket}/mine/1", b"one")
    assert not clear_unfinished(f"{bucket}/mine")
    assert storage.exists(f"{bucket}/mine/1")

"""`make env` and `make env-gpu`: which wheels of PyTorch pip is sent to. pip itself is a script that writes
down its arguments.
"""

import http.server
import os
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
# A Python whose environments write down what pip is asked for.
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"pip install"*) echo "$*" >> pip.log ;;
    *) exec python3 "$@" ;;
esac
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return tmp_path


@pytest.fixture
def index() -> Iterator[str]:
    """The address of an index that has torch and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200 if self.path == "/cpu/torch/" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """In an environment where no proxy stands between us and loopback."""
    dropped = r"MAKE|MFLAGS|DEVICE$|TORCH_INDEX$|(?i:https?_proxy|all_proxy)$"
    environment = {key: value for key, value in os.environ.items() if not re.match(dropped, key)}
    return subprocess.run(
        ["make", f"PYTHON={folder / 'python'}", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def asked(folder: Path) -> list[str]:
    """pip's calls so far."""
    log = folder / "pip.log"
    return log.read_text().splitlines() if log.exists() else []


def test_an_index_that_answers_is_added(folder, index):
    done = make(folder, "env", f"TORCH_INDEX={index}/cpu")
    assert done.returncode == 0, done.stderr
    [call] = asked(folder)
    assert f"-c constraints.txt --extra-index-url {index}/cpu -e .[dev]" in call
    make(folder, "env", f"TORCH_INDEX={index}/cpu")
    assert len(asked(folder)) == 1  # it was up to date


@pytest.mark.parametrize("path", ["elsewhere", "cpu/deeper"])
def test_an_index_that_does_not_answer_is_left_out(folder, index, path):
    done = make(folder, "env", f"TORCH_INDEX={index}/{path}")
    assert done.returncode == 0
    assert f"{index}/{path} doesn't answer" in done.stderr
    assert "--extra-index-url" not in asked(folder)[0]


def test_no_index(folder):
    done = make(folder, "env", "TORCH_INDEX=")
    assert (done.returncode, "doesn't answer" in done.stderr) == (0, False)
    assert "-c constraints.txt -e .[dev]" in asked(folder)[0]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["env"], "https://download.pytorch.org/whl/cpu"),
        (["env-gpu"], "https://download.pytorch.org/whl/cu130"),
    ],
)
def test_the_indexes_are_those_of_a_cluster(folder, arguments, found):
    assert f'index="{found}"' in make(folder, "-n", *arguments).stdout
    assert found in (ROOT / "cluster" / "install.sh").read_text()


def test_another_device_makes_a_new_environment(folder):
    make(folder, "env", "TORCH_INDEX=")
    (folder / ".venv" / "old").touch()
    done = make(folder, "env-gpu", "TORCH_INDEX=")
    assert done.returncode == 0, done.stderr
    assert not (folder / ".venv" / "old").exists()
    make(folder, "env", "TORCH_INDEX=")  # keeps what is there
    assert [call.split()[-1] for call in asked(folder)] == [".[dev]", ".[dev,gpu]"]
    make(folder, "env", "TORCH_INDEX=", "DEVICE=cpu")
    assert asked(folder)[-1].split()[-1] == ".[dev]"


def test_an_unknown_device(folder):
    done = make(folder, "env", "DEVICE=tpu")
    assert done.returncode == 2
    assert "DEVICE=tpu is unknown; use cpu or cuda" in done.stderr
    assert asked(folder) == []

"""Run a command that trains, evaluates or serves in its own process (benchmark/faults/victim.py), and strike
it from outside.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from clickprompt.benchmark.processes import Process, below, end, gone_within
from clickprompt.errors import RunError
from clickprompt.io import storage
from clickprompt.training.metrics_log import read_metrics

__all__ = ["LONGEST", "Command", "losses", "make_writable", "refusing"]

LONGEST = 1800.0
"""seconds that a command may take, unless it is told otherwise"""

_PAUSE = 0.005  # seconds
_SHOWN = 300  # characters of a command's last line in an error


class Command:
    """A command that runs from construction to the end of the context.

    `folder` gets its output and its workers' notes. It may take `longest` seconds.
    """

    def __init__(self, folder: str, *, longest: float = LONGEST, **spec: Any):
        os.makedirs(os.path.join(folder, "strikes"), exist_ok=True)
        self._folder = folder
        number = sum(name.startswith("command-") and name.endswith(".log") for name in os.listdir(folder))
        path = os.path.join(folder, f"command-{number}")
        storage.write_json(f"{path}.json", {"folder": folder, **spec})
        self._log = f"{path}.log"
        self._longest = longest
        self._until = time.monotonic() + longest
        with open(self._log, "wb") as log:
            program = [sys.executable, "-m", "clickprompt.benchmark.faults.victim", f"{path}.json"]
            self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=log, stderr=log)  # noqa: S603 - ours

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the command and all that it has started."""
        started = self.below()
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        end(gone_within(started, 5))

    def below(self) -> list[Process]:
        return below(self._process.pid)

    def processes(self) -> list[Process]:
        """Return the command's process and all that it has started."""
        return [process for process in below(os.getpid()) if process[0] == self._process.pid] + self.below()

    @property
    def over(self) -> bool:
        return self._process.poll() is not None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """Call `what` until it returns something but None, and return that.

        Raises RunError if the command ends before.
        """
        while (found := what()) is None:
            if self._process.poll() is not None:
                raise RunError(f"the command ended before the fault could strike ({self._last_words()})")
            self._in_time()
            time.sleep(_PAUSE)
        return found

    def strike_due(self, index: int) -> dict[str, Any]:
        """Wait until the run reaches strike `index`; return what the worker writes about itself."""
        path = os.path.join(self._folder, "strikes", f"{index}.json")
        return self.wait_for(lambda: storage.read_json(path) if os.path.exists(path) else None)

    def go_on(self, index: int) -> None:
        """Tell the run that strike `index` has been carried out."""
        storage.write_bytes(os.path.join(self._folder, "strikes", f"{index}.done"), b"")

    def ended(self, statuses: Sequence[int] = (0,)) -> None:
        """Wait for the command's end. Raises RunError if its exit status isn't one of `statuses`."""
        while self._process.poll() is None:
            self._in_time()
            time.sleep(_PAUSE)
        if self._process.returncode not in statuses:
            raise RunError(f"the command ended with status {self._process.returncode} ({self._last_words()})")

    def _in_time(self) -> None:
        if time.monotonic() > self._until:
            raise RunError(f"the command wasn't over after {self._longest:.0f} s ({self._last_words()})")

    def _last_words(self) -> str:
        with open(self._log, errors="replace") as log:
            lines = [line.strip() for line in log if line.strip()]
        return f"{lines[-1][-_SHOWN:] if lines else 'it said nothing'}; see {self._log}"


@contextmanager
def refusing(folder: str) -> Iterator[None]:
    """Make `folder` and those below it refuse to write, create, rename or delete; reading still works.

    This is done by permissions or, as these don't keep root out, by making the folders immutable. Raises
    RunError if neither works.
    """
    folders = _folders(folder)
    try:
        for path in folders:
            _set_writable(path, False)
        if (still := next((path for path in folders if _takes_files(path)), None)) is not None:
            raise RunError(
                f"{still}: writing there can't be refused, neither by permissions nor by chattr; put "
                "its folder on ext4 or xfs"
            )
        yield
    finally:
        make_writable(folder)


def make_writable(folder: str) -> None:
    """Make `folder` and those below it writable again, even after a process was killed in between."""
    for path in _folders(folder):
        _set_writable(path, True)


def _folders(folder: str) -> list[str]:
    return [parent for parent, _, _ in os.walk(folder)]


def _set_writable(path: str, writable: bool) -> None:
    if os.getuid():
        os.chmod(path, 0o700 if writable else 0o500)
    else:
        subprocess.run(["chattr", "-i" if writable else "+i", path], check=False, capture_output=True)  # noqa: S603, S607


def _takes_files(path: str) -> bool:
    probe = os.path.join(path, ".probe")
    try:
        storage.write_json(probe, {})
    except (OSError, ValueError):
        return False
    os.unlink(probe)
    return True


def losses(run: str) -> list[float]:
    """Read the loss of every step, in order. Raises RunError if one is missing or there twice."""
    rows = read_metrics(run)
    if [row["step"] for row in rows] != list(range(1, len(rows) + 1)):
        raise RunError(f"{run}/metrics: steps are missing or there twice")
    return [row["loss"] for row in rows]

"""A training by its command in a process of its own, which a test may kill."""

import subprocess
import sys
import time

from clickprompt.training.checkpoint import newest_complete


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "clickprompt", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def at_a_later_checkpoint(process: subprocess.Popen, run: str) -> None:
    before = newest_complete(f"{run}/checkpoints")
    while newest_complete(f"{run}/checkpoints") == before:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)

"""A command in its own process that is asked to stop leaves nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, signal.SIGTERM)])
def test_a_signal_leaves_nothing(tmp_path, number, status):
    command = ["synth", "goodreads", "--rows", "50000000", "--out", str(tmp_path / "log")]
    process = subprocess.Popen(
        [sys.executable, "-m", "clickprompt", *command, "--set", "runtime.use_ray=never"],
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has SIGINT ignored, and Python leaves that as it is
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for _ in range(600):
            if any(names for _, _, names in os.walk(tmp_path)):
                break
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status, said
    assert "Traceback" not in said
    assert os.listdir(tmp_path) == []

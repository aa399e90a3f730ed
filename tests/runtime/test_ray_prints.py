"""What Ray may print on a command's terminal."""

import subprocess
import sys

POOL = (
    "WARNING: 8 PYTHON worker processes have been started on node: a9c9 with address: 192.0.2.2, which is 4x "
    "the maximum expected startup concurrency (2). This could be a result of using a large number of actors"
)
DIED = (
    "A worker died or was killed while executing a task by an unexpected system error. To troubleshoot the "
    "problem, check the logs for the dead worker. Lease ID: 06 Worker ID: 41"
)
TRIED = "Task score failed. There are 3 retries remaining, so the task will be retried. Error: "
MEMORY = (
    "2 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed due to other reasons"
)

PROGRAM = """
import sys
import clickprompt.runtime
from ray._private.worker import print_to_stdstream
for line in sys.argv[1:]:
    print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False)
"""


def test_it_prints_what_one_can_act_on_only_and_without_colour():
    """As a raylet's messages come to the command (ray._private.worker.listen_error_messages)."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, POOL, DIED, TRIED, MEMORY], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"(raylet) {MEMORY}\n"

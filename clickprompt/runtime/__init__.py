"""Everything that runs on Ray. Besides the benchmarks, no other package imports ray."""

import os
import secrets
import sys

from clickprompt.runtime.cluster.home import make_home

make_home()  # Ray's modules need it when they are imported

# What Ray prints on the command's terminal (it reads this when it is imported): without colour, and without
# what nobody can do anything about. That is how many processes it has started, each try of a task, and a page
# on each process that died. Whether a command goes on or fails, it says so itself; Ray's logs keep the page.
os.environ.setdefault("RAY_COLOR_PREFIX", "0")
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX",
    "worker processes have been started on node|A worker died or was killed while executing a task|"
    "task will be retried",
)

# Other users of the machine can reach an embedded Ray's ports, and Ray reads its authentication mode once,
# when it is imported. So an embedded Ray gets a token of this process's own, unless the user chose a mode
# or has a token (which is then also the token of the cluster to connect to). A job's entry point gets what it
# needs from its cluster, which may be no token.
if (
    "ray" not in sys.modules
    and "RAY_AUTH_MODE" not in os.environ
    and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ
):
    os.environ["RAY_AUTH_MODE"] = "token"
    _known = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if not _known and not os.path.exists(os.path.expanduser("~/.ray/auth_token")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

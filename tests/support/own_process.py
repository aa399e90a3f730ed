"""Commands one after the other in a fresh process that must not import Ray."""

import json
import subprocess
import sys

_PROGRAM = """
import json, sys
from clickprompt.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as stopped:
        assert not stopped.code, (arguments, stopped.code)
    assert "ray" not in sys.modules, arguments
"""


def run_without_ray(commands: list[list[str]]) -> tuple[list[dict], str]:
    """What the commands print: the results, and everything else."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps([[*command, "--json"] for command in commands])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

"""The `clickprompt` command. Each command parses its options, makes one call and prints where the result is.

Results go to stdout (one JSON object with --json), progress to stderr. The exit status is 0, 1 (the run
failed) or 2 (bad input, explained in one line). torch and ray are imported only when a command needs them, so
that --help and mistakes answer at once.
"""

import sys
from collections.abc import Sequence

import typer

from clickprompt.cli import cluster, data, results, serving, training
from clickprompt.cli.options import app
from clickprompt.errors import ClickPromptError
from clickprompt.io.progress import say

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = (data, training, results, serving, cluster)
"""Modules with commands, in the order of --help. Importing a module registers its commands."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status."""
    try:
        status = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except ClickPromptError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        usage = getattr(error, "exit_code", None)
        if usage is None or not hasattr(error, "format_message"):
            raise
        say(f"error: {error.format_message()}")  # pyright: ignore[reportAttributeAccessIssue] - click's UsageError
        sys.exit(usage)
    sys.exit(status if isinstance(status, int) else 0)

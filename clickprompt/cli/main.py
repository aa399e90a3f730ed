"""The `clickprompt` command. Each command parses its options, makes one call and prints where the result is.

Results go to stdout (one JSON object with --json), progress to stderr. The exit status is 0, 1 (the run
failed) or 2 (bad input, explained in one line). torch and ray are imported only when a command needs them, so
that --help and mistakes answer at once.
"""

import json
import sys
from collections.abc import Sequence

import typer

from clickprompt.cli import cluster, data, reproducing, results, serving, settings, training
from clickprompt.cli.help import Command
from clickprompt.cli.options import app
from clickprompt.cli.renamed import check_spelling
from clickprompt.errors import ClickPromptError, StoppedError, without_secrets
from clickprompt.io.progress import say

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = (data, training, reproducing, results, serving, cluster, settings)
"""Modules with commands. Importing a module registers its commands; examples.py has their order in --help."""

for _commands in (app, cluster.job_app):
    for _command in _commands.registered_commands:
        _command.cls = Command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        check_spelling(given)
        status = app(args=given, prog_name="clickprompt", standalone_mode=False)
    except ClickPromptError as error:
        _fail(as_json, str(error), error.exit_code, asked=isinstance(error, StoppedError))
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        usage = getattr(error, "exit_code", None)
        if usage is None or not hasattr(error, "format_message"):
            if as_json:
                _print_error(f"{type(error).__name__}: {error}")
            raise
        message: str = error.format_message()  # pyright: ignore[reportAttributeAccessIssue] - click's UsageError
        if message.startswith("Usage: "):  # of a command line without a command: its help
            print(message)
            sys.exit(usage)
        command = getattr(getattr(error, "ctx", None), "command_path", "clickprompt")
        _fail(as_json, f"{message.rstrip('.')}; see {command} -h", usage)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(as_json: bool, message: str, status: int, *, asked: bool = False) -> None:
    """Say why there is no result, and exit; `asked`: because a signal asked for it, which is no error."""
    if as_json:
        _print_error(message)
    say(message if asked else f"error: {message}")
    sys.exit(status)


def _print_error(message: str) -> None:
    print(json.dumps({"error": without_secrets(message)}), flush=True)

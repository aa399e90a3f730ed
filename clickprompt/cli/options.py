"""The application object, the options that several commands share, and the printing of results.

Nothing here, or beside it, imports the configuration's models before a command runs: --help needs none.
"""

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clickprompt import __version__
from clickprompt.cli import complete
from clickprompt.cli.help import Group
from clickprompt.errors import without_secrets
from clickprompt.io.progress import say

if TYPE_CHECKING:
    from clickprompt.config import Config

__all__ = [
    "AddressOption",
    "ConfigOption",
    "JobArgument",
    "JsonOption",
    "RunOption",
    "SetOption",
    "SplitOption",
    "app",
    "finish",
    "load_config",
    "load_run_config",
]


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"clickprompt {__version__}")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version and exit", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Train ClickPrompt on Ray: CTR models as prompt generators for pretrained language models.

    Every command takes --json for one object on stdout; clickprompt COMMAND -h has its options and more
    examples.
    """


def _known_split(split: str) -> str:
    from clickprompt.config import require_split

    return require_split(split)


ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML file, or the name of a preset (clickprompt presets)",
        autocompletion=complete.config_files,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="override one configuration key (clickprompt config); repeatable",
        autocompletion=complete.settings,
    ),
]
RunOption = Annotated[
    str, typer.Option("--run", help="folder or URI of the run; pass the same one again to continue")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
SplitOption = Annotated[
    str,
    typer.Option(
        help="split to read: train, valid or test", callback=_known_split, autocompletion=complete.splits
    ),
]
AddressOption = Annotated[
    str, typer.Option("--address", help="address of the cluster's job server, such as http://HEAD:8265")
]
JobArgument = Annotated[str, typer.Argument(help="job id, as printed by `clickprompt submit`")]


def load_config(config: str | None, overrides: Iterable[str] | None) -> "Config":
    """Read the settings of `--config` and `--set`."""
    from clickprompt import config as configuration

    return configuration.load_config(config, overrides or [])


def load_run_config(run: str, config: str | None, overrides: Iterable[str] | None) -> "Config":
    """Read the settings of a command on a finished run: its own, unless `--config` gives others, changed by
    `--set`. Only where to work, `runtime.address`, is this command's.
    """
    from clickprompt import config as configuration
    from clickprompt.io import storage

    own = storage.join(storage.native(run), "config.yaml")
    if config is None and storage.exists(own):
        return configuration.load_config(own, ["runtime.address=local", *(overrides or [])])
    return configuration.load_config(config, overrides or [])


def finish(as_json: bool, result: dict[str, Any], text: str, then: str = "") -> None:
    """Print a command's result: one JSON object, or `text`, and on stderr the command that comes next."""
    print(without_secrets(json.dumps(result) if as_json else text))
    if then and not as_json:
        sys.stdout.flush()
        say(f"next: {then}")

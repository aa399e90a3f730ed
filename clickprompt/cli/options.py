"""The application object, the options that several commands share, and the printing of results."""

import json
from typing import Annotated, Any

import typer

from clickprompt.config import preset_names, require_split

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
]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train ClickPrompt on Ray.",
)

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", help="YAML file, or the name of a preset: " + ", ".join(preset_names())),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override one configuration key; repeatable"),
]
RunOption = Annotated[
    str, typer.Option("--run", help="folder or URI of the run; pass the same one again to continue")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
SplitOption = Annotated[
    str, typer.Option(help="split to read: train, valid or test", callback=lambda split: require_split(split))
]
AddressOption = Annotated[
    str, typer.Option("--address", help="address of the cluster's job server, such as http://HEAD:8265")
]
JobArgument = Annotated[str, typer.Argument(help="job id, as printed by `clickprompt submit`")]


def finish(as_json: bool, result: dict[str, Any], text: str) -> None:
    """Print a command's result: one JSON object, or `text`."""
    print(json.dumps(result) if as_json else text)

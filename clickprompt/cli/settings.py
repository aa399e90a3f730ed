"""Commands about the configuration: presets, config."""

import re
import textwrap
from typing import Annotated, Any

import typer

from clickprompt.cli.complete import keys as complete_keys
from clickprompt.cli.options import JsonOption, app, finish

_WIDTH = 78


@app.command()
def presets(as_json: JsonOption = False) -> None:
    """List what `--config` takes besides a YAML file."""
    from clickprompt.config.reference import presets as all_presets

    found = [
        {"preset": name, "description": re.split(r"(?<=[.?]) (?=[A-Z])", comment)[0], "comment": comment}
        for name, comment in all_presets().items()
    ]
    lines = [f"{each['preset']}\n{_indented(each['description'])}" for each in found]
    finish(as_json, {"presets": found}, "\n".join(lines))


@app.command("config")
def config_(
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY…]",
            help="keys or sections, such as prompt.num_prompts or pretrain.lr; default: list the sections",
            autocompletion=complete_keys,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Explain configuration keys: what they mean, the values they take, and their defaults."""
    from clickprompt.config.reference import explained

    found = explained(keys or [])
    lines = [f"{each['section']}\n{_indented(each['meaning'])}" for each in found["sections"]]
    lines += [f"{each['key']}\n{_indented(_about(each))}" for each in found["keys"]]
    if not keys:
        lines.append("clickprompt config SECTION explains the keys of a section")
    finish(as_json, found, "\n".join(lines))


def _about(entry: dict[str, Any]) -> str:
    from clickprompt.config.describe import default_words

    return f"{entry['meaning']}\n{entry['type']}; default: {default_words(entry['default'])}"


def _indented(text: str) -> str:
    return "\n".join(
        textwrap.fill(line, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
        for line in text.splitlines()
    )

"""Print docs/config.md, every configuration key, from the models that check it.

Run `python -m clickprompt.config.reference > docs/config.md`.
"""

from collections.abc import Iterable
from importlib import resources
from typing import Any

from pydantic import BaseModel

from clickprompt.config import Config, preset_names
from clickprompt.config.describe import default_words, leaves, sections, type_words

__all__ = ["config_reference", "presets", "section_meaning"]


def config_reference() -> str:
    """Return Markdown: a table of keys for each section, and the presets."""
    lines = [
        "# Configuration reference",
        "",
        "Made by `make docs` from the models in `clickprompt/config/`; don't edit it. A configuration "
        "is a YAML file or a preset",
        "(`--config`), with `--set KEY=VALUE` on top. An unknown key is refused, and the nearest "
        "known one is named. `null` is YAML's word for no value.",
        "`clickprompt config KEY` prints what stands here about a key, or about a section's keys.",
    ]
    lines += ["", "## The whole", "", *_table(leaves(Config))]
    for name, model in sections(Config):
        lines += ["", f"## {name}", "", section_meaning(model), "", *_table(leaves(model, f"{name}."))]
    lines += ["", "## Presets", "", "| `--config` | what it is |", "| --- | --- |"]
    lines += [f"| `{name}` | {_cell(comment)} |" for name, comment in presets().items()]
    return "\n".join([*lines, ""])


def _table(fields: Iterable[tuple[str, Any]]) -> list[str]:
    rows = [
        f"| `{name}` | {_cell(type_words(field))} | {_default(field.default)} | "
        f"{_cell(field.description or '')} |"
        for name, field in fields
    ]
    return ["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows] if rows else []


def _default(value: Any) -> str:
    return default_words(value) if value is None or isinstance(value, bool) else f"`{default_words(value)}`"


def presets() -> dict[str, str]:
    """Return every preset's name → the comment that it begins with."""
    return {name: _preset_comment(name) for name in preset_names()}


def section_meaning(model: type[BaseModel]) -> str:
    """Return what a section is about, in one line."""
    return " ".join((model.__doc__ or "").split())


def _preset_comment(name: str) -> str:
    """Return the comment that a preset begins with."""
    lines = (resources.files("clickprompt.config") / "presets" / f"{name}.yaml").read_text().splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return " ".join(comment)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(config_reference(), end="")

"""Print docs/config.md, every configuration key, from the models that check it; `clickprompt config` and
`clickprompt presets` have their texts from here too.

Run `python -m clickprompt.config.reference > docs/config.md`.
"""

from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

from pydantic import BaseModel

from clickprompt.config import Config, preset_names
from clickprompt.config.describe import default_words, dotted_keys, leaves, sections, type_words, words_of
from clickprompt.config.mistakes import enumerated, unknown_key
from clickprompt.errors import ConfigError

__all__ = ["config_reference", "entries", "explained", "presets", "section_meaning"]


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


def entries(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return what is known of every key below `model` (`explained` says of what)."""
    return [
        _entry(key, field)
        for name, section in [("", model), *sections(model)]
        for key, field in leaves(section, f"{name}." if name else "")
    ]


def explained(wanted: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the sections (`section`, `meaning`) and keys (`key`, `type`, `allowed` words if it takes nothing
    else, `default`, `meaning`) that are `wanted`; all of a section's, if it is one; without any, the sections
    and the keys beside them.

    Raises ConfigError, which names the nearest key, for one that is unknown.
    """
    about = dict(sections(Config))
    known = entries(Config)
    if unknown := [key for key in wanted if key not in dotted_keys(Config)]:
        raise ConfigError(enumerated([unknown_key(key, Config, "config key") for key in unknown]))
    named = [name for name in about if any(f"{name}.".startswith(f"{key}.") for key in wanted or about)]
    keys = [
        entry
        for entry in known
        if any(f"{entry['key']}.".startswith(f"{key}.") for key in wanted)
        or (not wanted and "." not in entry["key"])
    ]
    return {
        "sections": [{"section": name, "meaning": section_meaning(about[name])} for name in named],
        "keys": keys,
    }


def _entry(key: str, field: Any) -> dict[str, Any]:
    return {
        "key": key,
        "type": type_words(field).replace("`", ""),
        "allowed": words_of(field.annotation) or None,
        "default": list(field.default) if isinstance(field.default, tuple) else field.default,
        "meaning": field.description or "",
    }


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

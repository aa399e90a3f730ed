"""Print docs/config.md, every configuration key, from the models that check it.

Run `python -m clickprompt.config.reference > docs/config.md`.
"""

from collections.abc import Iterator
from importlib import resources
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from clickprompt.config import Config, preset_names

__all__ = ["config_reference"]


def config_reference() -> str:
    """Return Markdown: a table of keys for each section, and the presets."""
    lines = [
        "# Configuration reference",
        "",
        "Made by `make docs` from the models in `clickprompt/config/`; don't edit it. A configuration "
        "is a YAML file or a preset",
        "(`--config`), with `--set KEY=VALUE` on top. An unknown key is refused, and the nearest "
        "known one is named.",
    ]
    top = [(name, field) for name, field in Config.model_fields.items() if not _section(field)]
    lines += ["", "## The whole", "", *_table("", top)]
    for name, model in _sections(Config, ""):
        lines += ["", f"## {name}", "", " ".join((model.__doc__ or "").split()), ""]
        lines += _table(
            f"{name}.",
            [
                (key, field)
                for key, field in model.model_fields.items()
                if not _section(field) and not field.exclude
            ],
        )
    lines += ["", "## Presets", "", "| `--config` | what it is |", "| --- | --- |"]
    lines += [f"| `{name}` | {_cell(_preset_comment(name))} |" for name in preset_names()]
    return "\n".join([*lines, ""])


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        if section := _section(field):
            yield f"{prefix}{name}", section
            yield from _sections(section, f"{prefix}{name}.")


def _section(field: Any) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table(prefix: str, fields: list[tuple[str, Any]]) -> list[str]:
    rows = [
        f"| `{prefix}{name}` | {_type(field)} | {_default(field.default)} | "
        f"{_cell(field.description or '')} |"
        for name, field in fields
    ]
    return ["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows] if rows else []


def _type(field: Any) -> str:
    """Return the annotation as a reader of YAML would say it, with its bounds."""
    bounds = [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in _BOUNDS.items()
        if hasattr(rule, name)
    ]
    kinds = [kind for kind in _choices(field.annotation) if kind is not NoneType]
    text = " or ".join(dict.fromkeys(map(_kind, kinds))) + (f" {', '.join(bounds)}" if bounds else "")
    return _cell(f"{text} or none" if NoneType in _choices(field.annotation) else text)


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)


def _kind(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return f"list: {_kind(parts[0])}" if parts[-1] is ... else f"[{', '.join(map(_kind, parts))}]"
    if origin is dict:
        return "key → " + " or ".join(map(_kind, _choices(parts[1])))
    if origin is list:
        return "list"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"{{{', '.join(kind.model_fields)}}}"
    return _WORDS[kind]


_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{list(value) if isinstance(value, tuple) else value}`"


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

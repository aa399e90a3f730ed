"""Say in a reader's words what the keys of a model are: their types, allowed values and defaults.

docs/config.md (reference.py), `clickprompt config` and the errors about values (mistakes.py) use it.
"""

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

__all__ = [
    "choices",
    "default_words",
    "dotted_keys",
    "kind_words",
    "leaves",
    "section_of",
    "sections",
    "type_words",
    "words_of",
]


def section_of(field: Any) -> type[BaseModel] | None:
    """Return the model of a field that is a section of its own, or None for a key that has a value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield (dotted name, model) of every section below `model`."""
    for name, field in model.model_fields.items():
        if section := section_of(field):
            yield f"{prefix}{name}", section
            yield from sections(section, f"{prefix}{name}.")


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, field) of the keys of `model` itself that have a value."""
    for name, field in model.model_fields.items():
        if not section_of(field) and not field.exclude:
            yield f"{prefix}{name}", field


def dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every section and key below `model`."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        if section := section_of(field):
            keys += dotted_keys(section, f"{prefix}{name}.")
    return keys


def choices(kind: Any) -> tuple[Any, ...]:
    """Return the parts of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)


def type_words(field: Any) -> str:
    """Return a field's type as a reader of YAML would say it, with its bounds."""
    kinds = [kind for kind in choices(field.annotation) if kind is not NoneType]
    text = " or ".join(dict.fromkeys(map(kind_words, kinds))) + _bounds(field.metadata)
    return f"{text} or null" if NoneType in choices(field.annotation) else text


def words_of(kind: Any) -> list[str]:
    """Return the words that a key takes, if it takes nothing else."""
    if kind is bool:
        return ["true", "false"]
    parts = [part for part in choices(kind) if part is not NoneType]
    if any(get_origin(part) is not Literal for part in parts):
        return []
    words = [str(word) for part in parts for word in get_args(part)]
    return [*words, "null"] if NoneType in choices(kind) else words


def default_words(value: Any) -> str:
    """Return a default as YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{list(value) if isinstance(value, tuple) else value}"


def kind_words(kind: Any) -> str:
    """Return a type as a reader of YAML would say it."""
    if len(choices(kind)) > 1:
        return " or ".join("null" if part is NoneType else kind_words(part) for part in choices(kind))
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return kind_words(parts[0]) + _bounds(kind.__metadata__).partition(",")[0]
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return (
            f"list: {kind_words(parts[0])}" if parts[-1] is ... else f"[{', '.join(map(kind_words, parts))}]"
        )
    if origin is dict:
        return "key → " + kind_words(parts[1])
    if origin is list:
        return "list"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        names = list(kind.model_fields)
        return f"{{{', '.join(names if len(names) <= 4 else [*names[:3], '…'])}}}"
    return _WORDS[kind]


_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _bounds(rules: Any) -> str:
    """Return the bounds as they follow a type's name: of a number, or of the length of a text or list."""
    numbers, lengths = [], []
    for rule in rules:
        for one in getattr(rule, "metadata", None) or [rule]:  # a Field within Annotated holds its rules
            numbers += [
                f"{sign} {getattr(one, name):g}" for name, sign in _BOUNDS.items() if _is_number(one, name)
            ]
            if _is_number(one, "min_length"):
                lengths.append("not empty" if one.min_length == 1 else f"at least {one.min_length}")
    return (f" {', '.join(numbers)}" if numbers else "") + "".join(
        f", {length}" for length in dict.fromkeys(lengths)
    )


def _is_number(rule: Any, name: str) -> bool:
    return isinstance(getattr(rule, name, None), int | float)

"""Validate what a person has written, and name every mistake in it at once, in words of the file's keys."""

import datetime
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from clickprompt.config.describe import choices, default_words, dotted_keys, kind_words, type_words, words_of
from clickprompt.errors import ConfigError

__all__ = ["enumerated", "mistakes_of", "section_mistake", "unknown_key", "validated"]

_Model = TypeVar("_Model", bound=BaseModel)
_UNKNOWN = ("extra_forbidden", "invalid_key")
_LONGEST = 60  # characters of a value that is shown


def validated(model: type[_Model], values: Mapping[str, Any], earlier: Sequence[str] = ()) -> _Model:
    """Return the settings that `values` are. Raises ConfigError, which names every mistake, those found
    `earlier` too.
    """
    try:
        settings = model.model_validate(values)
    except ValidationError as error:
        found = mistakes_of(error, model, values, "config key")
        raise ConfigError(enumerated([*earlier, *found])) from error
    if earlier:
        raise ConfigError(enumerated(earlier))
    return settings


def enumerated(mistakes: Sequence[str]) -> str:
    """Return the mistakes in one line, numbered if there are several."""
    if len(mistakes) == 1:
        return mistakes[0]
    listed = "; ".join(f"({number}) {mistake}" for number, mistake in enumerate(mistakes, 1))
    return f"{len(mistakes)} mistakes: {listed}"


def mistakes_of(error: ValidationError, model: type[BaseModel], values: Any, what: str = "key") -> list[str]:
    """Return one text per mistake: the key, the value, and what to give instead. `what`: a key's name."""
    items = error.errors(include_url=False)
    places = [_find(model, values, item["loc"]) for item in items]
    texts, meant = [], set()
    for place, item in zip(places, items, strict=True):
        if item["type"] in _UNKNOWN:
            text, near = _unknown(place, model, what)
            texts.append(text)
            meant.add(near)
    for place, item in zip(places, items, strict=True):
        misspelt = item["type"] == "missing" and place.key in meant
        told_below = (place.in_union or item["type"] == "too_short") and any(
            each.key.startswith((f"{place.key}.", f"{place.key} (")) for each in places
        )  # a union's other part, or a list without the entries that are wrong
        if item["type"] not in _UNKNOWN and not misspelt and not told_below:
            texts.append(_text(place, item))
    return list(dict.fromkeys(texts))


def unknown_key(dotted: str, model: type[BaseModel], what: str) -> str:
    """Return the text about a key that `model` doesn't have; it names the nearest one."""
    near = difflib.get_close_matches(dotted.lower(), dotted_keys(model), n=1, cutoff=0.0)
    return f"unknown {what} {dotted}; the nearest known key is {near[0]}"


def section_mistake(given: str, key: str, section: type[BaseModel]) -> str:
    """Return the text about a section that is `given` as if it were a key."""
    example = f"{key}.{next(iter(section.model_fields))}"
    return f"{given}: this is a section; set one of its keys, such as {example}"


@dataclass(frozen=True)
class _Place:
    """Where a mistake is. `key`: as a person writes it; `owner`: the model that has its last part; `kind`:
    the annotation there, in `words`; `whole`: the value there, if pydantic means an entry of it; `dotted`:
    the keys of its model are among `dotted_keys`.
    """

    key: str
    owner: type[BaseModel]
    kind: Any
    words: str
    whole: Any
    dotted: bool
    in_union: bool


_NOTHING = object()


def _find(model: type[BaseModel], values: Any, path: Sequence[Any]) -> _Place:
    """Follow pydantic's path down to the last key that has a name of its own: an entry of a plain list is the
    list's, and the part of a union that was tried is nobody's.
    """
    kind: Any = model
    owner, words, names, rest = model, kind_words(model), [], list(path)
    dotted, in_union = True, False
    while rest:
        kinds = [part for part in choices(kind) if part is not NoneType]
        dotted = dotted and len(kinds) == len(choices(kind))
        if len(kinds) > 1:  # pydantic names the part
            in_union, label = True, rest.pop(0)
            kind = next((part for part in kinds if _names(label, part)), None)
            if kind is None:
                break
            continue
        [kind] = kinds
        origin = get_origin(kind)
        if origin is Annotated:
            kind = get_args(kind)[0]
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            owner, name = kind, str(rest.pop(0))
            field = owner.model_fields.get(name)
            values = _below(values, name)
            names.append(f".{name}" if names else name)
            if field is None:
                break
            kind, words = field.annotation, type_words(field)
        elif origin is dict or (origin is tuple and _has_model(kind)):
            entry = rest.pop(0)
            values = _below(values, entry)
            names.append(f".{entry}" if origin is dict else f" ({_entry_name(values, entry)})")
            kind, dotted = get_args(kind)[origin is dict], False
            words = kind_words(kind)
        else:
            break
    return _Place("".join(names), owner, kind, words, values if rest else _NOTHING, dotted, in_union)


def _names(label: Any, part: Any) -> bool:
    """Whether pydantic's label of a union's part, such as `function-after[…, SearchRange]`, is this one's."""
    return bool(re.search(rf"\b{getattr(part, '__name__', '-')}\b", str(label)))


def _below(values: Any, name: Any) -> Any:
    if isinstance(values, dict):
        return values.get(name, _NOTHING)
    return values[name] if isinstance(values, list | tuple) and isinstance(name, int) else _NOTHING


def _has_model(kind: Any) -> bool:
    part = get_args(kind)[0]
    return isinstance(part, type) and issubclass(part, BaseModel)


def _entry_name(values: Any, number: int) -> str:
    name = values.get("name") if isinstance(values, dict) else None
    return name if isinstance(name, str) and name else f"entry {number + 1}"


def _unknown(place: _Place, model: type[BaseModel], what: str) -> tuple[str, str]:
    """Return (text, key that was meant)."""
    if place.dotted:
        text = unknown_key(place.key, model, what)
        return text, text.rpartition(" ")[2]
    above, _, name = place.key.rpartition(".")
    near = difflib.get_close_matches(name.lower(), place.owner.model_fields, n=1, cutoff=0.0)[0]
    return f"unknown {what} {place.key}; the nearest known key is {near}", f"{above}.{near}"


def _text(place: _Place, item: Any) -> str:
    value = item["input"] if place.whole is _NOTHING else place.whole
    if item["type"] == "missing":
        return f"{place.key} is missing; give {_asked(place)}"
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        if message.startswith((f"{place.key}:", "field ")):
            return message
        shown = "" if isinstance(value, BaseModel | dict) or repr(value) in message else f"={_shown(value)}"
        return f"{place.key}{shown}: {message}" if place.key else message
    part = next((part for part in choices(place.kind) if part is not NoneType), None)
    if isinstance(part, type) and issubclass(part, BaseModel):
        return section_mistake(f"{place.key}={_shown(value)}", place.key, part)
    words = _asked(place)
    if item["type"] == "finite_number":
        words = words.replace("number", "finite number", 1)
    return f"{place.key}={_shown(value)}: give {words}{_meant(place.kind, value)}"


def _asked(place: _Place) -> str:
    """Return what a key takes, to follow "give"."""
    if words := words_of(place.kind):
        return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    return f"a {place.words}" if place.words.startswith(("whole number", "number", "list")) else place.words


def _meant(kind: Any, value: Any) -> str:
    """Return a question about the nearest of the words that a key takes, if one is near."""
    near = difflib.get_close_matches(str(value).lower(), words_of(kind), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _shown(value: Any) -> str:
    """Return a value as YAML has it, cut if it is long."""
    text = _yaml(value, 3)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _yaml(value: Any, depth: int) -> str:
    if value is None or isinstance(value, bool):
        return default_words(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_yaml(one, depth - 1) for one in value) if depth else '…'}]"
    if isinstance(value, dict):
        pairs = (f"{key}: {_yaml(one, depth - 1)}" for key, one in value.items())
        return f"{{{', '.join(pairs) if depth else '…'}}}"
    return str(value) if isinstance(value, datetime.date) else repr(value)

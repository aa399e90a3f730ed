"""Write YAML that a person may edit: texts are quoted only where they need it, whatever characters
they have.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["flow", "scalar", "shown"]

_PLAIN = re.compile(r"[A-Za-z_][\w./*-]*( [\w./*(][\w./*()-]*)*", re.ASCII)
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_SHOWN = 40  # most characters of a value in a comment


def flow(value: Any) -> str:
    """Write a value on one line: {name: Movie ID, column: movieId}."""
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(
                f"{key if key.isidentifier() else scalar(key)}: {flow(one)}" for key, one in value.items()
            )
            + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, float):
        return f"{value:.15g}"
    return scalar(value) if isinstance(value, str) else json.dumps(value)


def scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(map(_sign, text)) + '"'


def shown(value: str) -> str:
    """Write a value on one line for a comment."""
    short = value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…"
    return scalar(short)


def _sign(sign: str) -> str:
    if sign in '"\\':
        return f"\\{sign}"
    if sign == "\t":
        return "\\t"
    code = ord(sign)
    if sign.isprintable() and not 0xD800 <= code < 0xE000 and code not in (0xFFFE, 0xFFFF):
        return sign
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

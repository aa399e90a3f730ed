"""The numbers of a page's text, to hold against those of its JSON."""

import re
from typing import Any

_NUMBER = re.compile(r"(?<![\w.])[−+-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e-?\d+)?")


def numbers(text: str) -> set[float]:
    """The numbers in a text: 1,024 and −.0059 too."""
    return {float(found.replace(",", "").replace("−", "-")) for found in _NUMBER.findall(text)}


def numbers_of(value: Any) -> set[float]:
    """The numbers anywhere in a JSON value, its texts included."""
    if isinstance(value, list):
        return set().union(*map(numbers_of, value))
    if isinstance(value, str):
        return numbers(value)
    return set() if value is None else {float(value)}

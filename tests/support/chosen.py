"""Which parameters of a test are tried each time."""

from collections.abc import Iterable

import pytest


def some(parameters: Iterable, *chosen) -> list:
    """The parameters, all slow tests but for the chosen ones, which stand for the others' ways. A tuple
    is of several arguments.
    """
    listed = list(parameters)
    assert set(chosen) <= set(listed), "a chosen one isn't among them"
    return [
        pytest.param(
            *(one if isinstance(one, tuple) else [one]), marks=() if one in chosen else pytest.mark.slow
        )
        for one in listed
    ]

"""Which parameters of a test are tried each time."""

import zlib
from collections import defaultdict
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


def leave_the_rest_to_slow(items: Iterable[pytest.Item]) -> None:
    """Mark `slow` the cases of tests that are marked `sampled`, but for a few, always the same: so many as
    the mark says, or as few as have each value of each argument once.
    """
    tests = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("slow"):
            tests[item.nodeid.split("[")[0]].append(item)
    for cases in tests.values():
        cases.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))  # or all would have the first values
        [*number] = cases[0].get_closest_marker("sampled").args
        chosen = cases[: number[0]] if number else _covering(cases)
        for item in cases:
            if item not in chosen:
                item.add_marker("slow")


def _covering(cases: list[pytest.Item]) -> list[pytest.Item]:
    """Greedily: the case with the most values that none before it has."""
    values = {item: {(name, repr(value)) for name, value in item.callspec.params.items()} for item in cases}
    missing, chosen = set().union(*values.values()), []
    while missing:
        chosen.append(max(cases, key=lambda item: len(values[item] & missing)))
        missing -= values[chosen[-1]]
    return chosen

"""What the mark `sampled` leaves in the suite that runs each time."""

from itertools import product
from types import SimpleNamespace

import pytest

from tests.support.chosen import leave_the_rest_to_slow

ARGUMENTS = {"family": ["bert", "gpt2", "t5", "bart"], "padded": [False, True], "depth": ["all", "input"]}


class Case:
    """A collected case of a test."""

    def __init__(self, values, mark):
        self.nodeid = f"test_it[{'-'.join(map(str, values))}]"
        self.callspec = SimpleNamespace(params=dict(zip(ARGUMENTS, values, strict=True)))
        self.marks = {"sampled": mark.mark}

    def get_closest_marker(self, name):
        return self.marks.get(name)

    def add_marker(self, name):
        self.marks[name] = True


def left(mark):
    cases = [Case(values, mark) for values in product(*ARGUMENTS.values())]
    leave_the_rest_to_slow(cases)
    return [case for case in cases if "slow" not in case.marks]


def test_each_value_of_each_argument_is_in_a_case():
    chosen = left(pytest.mark.sampled)
    for name, values in ARGUMENTS.items():
        assert {case.callspec.params[name] for case in chosen} == set(values)
    assert len(chosen) == len(ARGUMENTS["family"]), "as many as the longest argument has"
    assert [case.nodeid for case in chosen] == [case.nodeid for case in left(pytest.mark.sampled)]


@pytest.mark.parametrize("number", [1, 3])
def test_so_many(number):
    assert len(left(pytest.mark.sampled(number))) == number

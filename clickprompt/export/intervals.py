"""Turn a numeric rule into intervals of numbers with one id each; their ends are found by the rule itself."""

# pyarrow.compute creates its functions when it is imported, so pyright doesn't see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.transform.buckets import bucket_names
from clickprompt.data.transform.row_transform import FieldRule, field_texts

__all__ = ["Intervals", "intervals_of"]

_LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Intervals:
    """Intervals: the numbers from low to high, both included, have the id.

    lows [V] float64 in increasing order, highs [V], ids [V].
    """

    lows: np.ndarray
    highs: np.ndarray
    ids: np.ndarray


def intervals_of(rule: FieldRule, vocabulary: pa.Array) -> Intervals:
    """Return the intervals of a numeric field.

    Every numeric rule maps a number to its text by a function that increases and is constant on intervals.
    """
    names = vocabulary.slice(1)
    inside = np.array([_number_in(rule, name) for name in names.to_pylist()])

    def is_own(numbers: np.ndarray) -> np.ndarray:
        found = field_texts(rule, pa.array(numbers), ("",))
        return pc.fill_null(pc.equal(found, names), False).to_numpy(zero_copy_only=False)

    assert is_own(inside).all(), rule.schema.name
    lows, highs = (_farthest(inside, np.full(len(inside), end), is_own) for end in (-_LARGEST, _LARGEST))
    order = np.argsort(lows)
    return Intervals(lows[order], highs[order], np.arange(1, len(vocabulary))[order])


def _number_in(rule: FieldRule, name: str) -> float:
    """Return a number in the bucket."""
    edges = rule.schema.edges or rule.edges
    if edges is not None:
        return (-_LARGEST, *edges)[bucket_names(edges).index(name)]
    ends = name.split(" to ")
    return float(ends[1] if len(ends) == 2 and ends[0].startswith("-") else ends[0])


def _farthest(near: np.ndarray, far: np.ndarray, is_own: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return [V] the last float64 between `near` (for which `is_own` holds) and `far` for which it holds.

    It is found by bisection.
    """
    known, beyond = _places(near), _places(far)
    known = np.where(is_own(far), beyond, known)
    for _ in range(64):
        middle = (known >> 1) + (beyond >> 1) + (known & beyond & 1)
        own = is_own(_at(middle))
        known, beyond = np.where(own, middle, known), np.where(own, beyond, middle)
    return _at(known)


def _places(numbers: np.ndarray) -> np.ndarray:
    """Return the numbers' places among all float64 in order, 0 for 0.0: [V] int64."""
    bits = np.ascontiguousarray(numbers, np.float64).view(np.int64)
    return np.where(bits >= 0, bits, np.int64(-(2**63)) - bits)


def _at(places: np.ndarray) -> np.ndarray:
    return np.where(places >= 0, places, np.int64(-(2**63)) - places).view(np.float64)

"""Turn numbers into the texts of numeric fields: buckets between edges, rounded numbers, powers; and find
edges at quantiles.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.transform.spelling import without_exponent

__all__ = ["bucket", "bucket_names", "log_bucket", "quantile_edges", "rounded", "significant"]

_STRING = pa.string()
_POWERS_OF_10 = np.array([float(f"1e{exponent}") for exponent in range(300)])
_HUGE = 1e290
"""from here on pyarrow's rounding overflows; the next float is farther away than the digits that rounding
would cut
"""


def bucket_names(edges: Sequence[float]) -> list[str]:
    """Return [len(edges) + 1] names: below 4, 4 to 10, 10 or more."""
    shown = [_edge(edge) for edge in edges]
    return [
        f"below {shown[0]}",
        *(f"{low} to {high}" for low, high in pairwise(shown)),
        f"{shown[-1]} or more",
    ]


def bucket(numbers: pa.DoubleArray, edges: Sequence[float]) -> pa.StringArray:
    """Return the name of each number's bucket; an edge belongs to the bucket above it."""
    places = np.searchsorted(np.array(edges, np.float64), _filled(numbers), side="right")
    return pa.array(bucket_names(edges), _STRING).take(pa.array(places, mask=_nulls(numbers)))


def rounded(numbers: pa.DoubleArray, digits: int) -> pa.StringArray:
    """Write numbers with `digits` digits after the point (3.50), or rounded to tens and hundreds with -1, -2;
    halves go to the even digit.
    """
    huge = pc.greater(pc.abs(numbers), _HUGE)
    short = pc.round(pc.if_else(huge, 0.0, numbers), ndigits=digits)
    short = pc.add(pc.if_else(huge, numbers, short), 0.0)  # -0.0 + 0.0 is 0.0
    shown = max(digits, 0)
    # Few enough digits for the decimal to be the float's
    if (pc.max(pc.abs(short)).as_py() or 0.0) < 10.0 ** (15 - shown):
        return without_exponent(short.cast(pa.decimal128(38, shown), safe=False).cast(_STRING))
    return _spelled(short.dictionary_encode(), lambda value: f"{value:z.{shown}f}")  # z: no -0


def log_bucket(numbers: pa.DoubleArray, base: float) -> pa.StringArray:
    """Name the powers of `base` that a number lies between: 8 to 16, 0.25 to 0.5, -16 to -8; 0 for 0.

    The power nearer to 0 belongs to the bucket: 8 is in 8 to 16, -8 in -16 to -8. `base` is above 1, and
    large enough for few powers (1.1, say).
    """
    values = _filled(numbers)
    sizes = np.abs(values)
    powers = _powers(base, sizes[sizes > 0])
    places = np.searchsorted(powers, sizes, side="right") - 1
    # 0 for 0, else 1, 2, … or -1, -2, …
    places = np.where(sizes > 0, (places + 1) * np.sign(values).astype(np.int64), 0)
    distinct = pa.array(places, mask=_nulls(numbers)).dictionary_encode()
    shown = [_edge(power) for power in powers]

    def name(place: int) -> str:
        if place == 0:
            return "0"
        return (
            f"{shown[place - 1]} to {shown[place]}"
            if place > 0
            else f"-{shown[-place]} to -{shown[-place - 1]}"
        )

    return _spelled(distinct, name)


def significant(numbers: pa.DoubleArray, digits: int = 5) -> pa.DoubleArray:
    """Round to `digits` significant digits, so that a column has few distinct numbers; rounding twice changes
    nothing.
    """
    values = _filled(numbers)
    sizes = np.abs(values)
    # beyond these sizes powers of ten overflow, and numbers are left as they are
    usual = (sizes > 1e-280) & (sizes < 1e280)
    places = np.floor(np.log10(np.where(usual, sizes, 1.0))).astype(np.int64)
    shift = digits - 1 - places
    whole = np.rint(np.where(usual, values, 0.0) * _power_of_10(shift) / _power_of_10(-shift))
    # 9.996 becomes 10.00: each number has one spelling, so that it is rounded to itself
    up = np.abs(whole) >= 10.0**digits
    whole, shift = np.where(up, whole / 10, whole), np.where(up, shift - 1, shift)
    short = whole / _power_of_10(shift) * _power_of_10(-shift)
    return pa.array(np.where(usual, short, values), mask=_nulls(numbers))


def _power_of_10(exponents: np.ndarray) -> np.ndarray:
    """Return the powers as literals would be (10.0**199 isn't its literal); 1 for a negative exponent."""
    return _POWERS_OF_10[np.maximum(exponents, 0)]


def quantile_edges(values: np.ndarray, counts: np.ndarray, n: int) -> tuple[float, ...]:
    """Return at most n - 1 increasing edges for `bucket`: each is the distinct value before which the rows
    come nearest to i / n of all.

    values [V], distinct; counts [V], their rows. Raises ValueError unless there are two values.
    """
    order = np.argsort(values)
    values, below = values[order], np.cumsum(counts[order])
    if len(values) < 2:
        what = "all numbers are the same to five digits" if len(values) else "training rows have no number"
        raise ValueError(f"{what}, which can't be cut into {n} parts")
    cuts = below[:-1]  # a cut before values[1], values[2], …
    edges = []
    for part in range(1, n):
        target = below[-1] * part / n
        after = min(int(np.searchsorted(cuts, target)), len(cuts) - 1)
        before = max(after - 1, 0)
        edges.append(values[1 + (before if target - cuts[before] <= cuts[after] - target else after)])
    return tuple(sorted({float(edge) for edge in edges}))


@lru_cache(4096)  # of few powers, again for every piece of a column
def _edge(value: float) -> str:
    """Write an edge as short as is exact: 4, 0.5, 1e+06; two edges never look the same."""
    short = f"{value:g}"
    return short if float(short) == value else np.format_float_positional(value, trim="-")


def _powers(base: float, sizes: np.ndarray) -> np.ndarray:
    """Return [P] float64, from a power not above the smallest size to one above the largest; those of a whole
    base are exact to the float.
    """
    low, high = (float(sizes.min()), float(sizes.max())) if len(sizes) else (1.0, 1.0)
    first, last = (math.floor(math.log(size) / math.log(base)) for size in (low, high))
    # A logarithm may be off by one at a power
    powers = [_power(base, exponent) for exponent in range(first - 1, last + 3)]
    return np.array(powers[1:] if powers[1] <= low else powers)


@lru_cache(4096)
def _power(base: float, exponent: int) -> float:
    try:
        return float(Fraction(base) ** exponent) if base == int(base) else base**exponent
    except OverflowError:
        return math.inf


def _filled(numbers: pa.DoubleArray) -> np.ndarray:
    return pc.fill_null(numbers, 0.0).to_numpy(zero_copy_only=False)


def _nulls(numbers: pa.DoubleArray) -> np.ndarray:
    return numbers.is_null().to_numpy(zero_copy_only=False)


def _spelled(distinct: pa.DictionaryArray, spell) -> pa.StringArray:
    return pa.array([spell(value) for value in distinct.dictionary.to_pylist()], _STRING).take(
        distinct.indices
    )

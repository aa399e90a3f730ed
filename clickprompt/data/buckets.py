"""Numbers → the names of their buckets, which are a numeric field's values. Shape legend: N rows."""

# pyarrow.compute makes its functions when it is imported
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["bucket", "bucket_names", "log_bucket", "quantile_edges", "rounded", "significant"]


def bucket_names(edges: Sequence[float]) -> list[str]:
    """Edges as short as they stay apart."""
    digits = next(digits for digits in range(6, 18) if digits == 17 or len({f"{edge:.{digits}g}" for edge in edges}) == len(edges))
    shown = [f"{edge:.{digits}g}" for edge in edges]
    return [f"below {shown[0]}", *(f"{low} to {high}" for low, high in pairwise(shown)), f"{shown[-1]} or more"]


def bucket(numbers: pa.Array, edges: Sequence[float]) -> pa.Array:
    """[N] strings: an edge belongs to the bucket above it; null stays null."""
    values = numbers.to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    places = np.searchsorted(np.array(edges, dtype=np.float64), np.where(missing, 0, values), side="right")
    return pa.array(bucket_names(edges)).take(pa.array(places, mask=missing))


def rounded(numbers: pa.Array, digits: int) -> pa.Array:
    """[N] strings with so many digits after the point, ties to even; negative `digits`: before it."""
    found = pc.round(numbers, ndigits=digits, round_mode="half_to_even").dictionary_encode()
    names = [f"{value + 0.0 if value else 0.0:.{max(digits, 0)}f}" for value in found.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(found.indices)


def log_bucket(numbers: pa.Array, base: float) -> pa.Array:
    """[N] strings: `8 to 16`, between powers of the base, the lower one included; `0`; `-16 to -8`, the same mirrored."""
    values = numbers.to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    sizes = np.abs(np.where(missing | (values == 0), 1, values))
    power = np.floor(np.log(sizes) / np.log(base))
    with np.errstate(over="ignore", under="ignore"):
        power += np.power(base, power + 1) <= sizes  # a logarithm just below a whole number
        power -= np.power(base, power) > sizes
    keys = np.where(missing | (values == 0), 0, np.sign(values) * (power + _SHIFT)).astype(np.int64)
    distinct, places = np.unique(keys, return_inverse=True)
    return pa.array([_log_name(int(key), base) for key in distinct], pa.string()).take(pa.array(places, mask=missing))


_SHIFT = 1 << 20  # so that a power's sign is the number's


def _log_name(key: int, base: float) -> str:
    if key == 0:
        return "0"
    power = abs(key) - _SHIFT
    low, high = (f"{_power(base, exponent):g}" for exponent in (power, power + 1))
    return f"{low} to {high}" if key > 0 else f"-{high} to -{low}"


def _power(base: float, exponent: int) -> float:
    try:
        return float(base**exponent)
    except OverflowError:
        return float("inf")


def significant(numbers: pa.Array, digits: int = 5) -> pa.Array:
    """[N] float64 of so many significant digits, so that there are few distinct ones."""
    values = numbers.to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    sizes = np.abs(np.where(missing | (values == 0), 1, values))
    scale = np.power(10.0, digits - 1 - np.clip(np.floor(np.log10(sizes)), -280, 280))
    return pa.array(np.where(missing, 0, np.rint(np.where(missing, 0, values) * scale) / scale), mask=missing)


def quantile_edges(values: np.ndarray, counts: np.ndarray, n: int) -> tuple[float, ...]:
    """At most n − 1 increasing edges that cut rows with these distinct values into n parts, as equal as equal values allow.

    Raises ValueError where all rows have one value.
    """
    order = np.argsort(values)
    values, below = values[order], np.cumsum(counts[order]) - counts[order]  # rows below each value
    if len(values) < 2:
        raise ValueError("its training rows have one value, or none: there are no quantiles")
    wanted = counts.sum() * np.arange(1, n) / n
    above = np.clip(np.searchsorted(below, wanted), 1, len(values) - 1)
    lower = np.maximum(above - 1, 1)
    nearest = np.where(wanted - below[lower] <= below[above] - wanted, lower, above)
    return tuple(float(edge) for edge in values[np.unique(nearest)])

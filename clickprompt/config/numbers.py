"""Numeric fields whose numbers travel beside their buckets (`learned: true`); data/transform/standard.py
makes them what they are in a row.

Models know of them without knowing a dataset, so this is here, below both.
"""

from collections.abc import Sequence

__all__ = ["MILLION", "MOST_DEVIATIONS", "number_columns"]

MILLION = 1_000_000
"""A number is a column of whole numbers like ids: millionths of a standard deviation above the mean."""
MOST_DEVIATIONS = 2_000
"""standard deviations from the mean; what is farther away counts as this, so that an int32 holds it"""


def number_columns(fields: Sequence[int]) -> list[str]:
    """Return the names of the columns with the numbers of these fields; a field's own begins with f_."""
    return [f"n_{field:02d}" for field in fields]

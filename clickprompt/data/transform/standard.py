"""Standardised numbers of numeric fields with `learned: true`: z = (x − mean) / standard deviation, both of
the training rows, in whole millionths.

Whole numbers travel with a row's ids, everywhere alike to the bit; a millionth of a deviation is less than
any embedding of z tells apart.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.config import MILLION, MOST_DEVIATIONS

__all__ = ["Scale", "standardised"]


class Scale(NamedTuple):
    """What a number is standardised by."""

    mean: float
    deviation: float
    """above 0"""


def standardised(numbers: pa.DoubleArray, scale: Scale) -> np.ndarray:
    """Return [B] int64: millionths of a standard deviation above the mean, 0 for a missing number (whose id 0
    says that it is missing).
    """
    found = pc.fill_null(numbers, scale.mean).to_numpy(zero_copy_only=False)
    deviations = np.clip((found - scale.mean) / scale.deviation, -MOST_DEVIATIONS, MOST_DEVIATIONS)
    return np.rint(deviations * MILLION).astype(np.int64)

"""Columns that know the answer: values that nearly always come with the same label. Shape legend: N rows."""

import numpy as np

__all__ = ["decides_label"]

_REPEATED, _PURE = (
    20,
    0.99,
)  # rows of a value for it to count, and the share of one label among them that is suspicious
_OFTEN = 0.5  # of the rows have to have such a value


def decides_label(codes: np.ndarray, label: np.ndarray) -> bool:
    """Whether the values that come often have nearly always the same label, each its own. codes: [N] whole
    numbers; label: [N] 0 and 1.
    """
    counts = np.bincount(codes)
    clicks = np.bincount(codes, weights=label)
    often = counts >= _REPEATED
    total = counts[often].sum()
    if total < _OFTEN * len(codes) or often.sum() < 2:
        return False
    pure = np.maximum(clicks[often], counts[often] - clicks[often]).sum() / total
    plain = max(clicks[often].sum(), total - clicks[often].sum()) / total
    return bool(pure >= _PURE and plain < _PURE)

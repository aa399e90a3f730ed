"""Find columns that know the answer: values that nearly always come with the same label.

Shape legend: N rows.
"""

import numpy as np

__all__ = ["decides_label"]

# rows that a value needs in order to count, and the share of one label among them that is suspicious
_REPEATED, _PURE = (
    20,
    0.99,
)
_OFTEN = 0.5  # share of the rows that must have such a value


def decides_label(codes: np.ndarray, label: np.ndarray) -> bool:
    """Return whether the values that come often nearly always have the same label, each its own. codes: [N]
    whole numbers; label: [N] 0 and 1.
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

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
    """Return whether the values that come often nearly always have the same label, each its own; or whether
    one value (or none, as for the number of an order) nearly always has one label and all others the other.
    codes: [N] whole numbers; label: [N] 0 and 1.
    """
    counts = np.bincount(codes)
    clicks = np.bincount(codes, weights=label)
    often = counts >= _REPEATED
    if _tells_apart(counts[often], clicks[often], len(codes), label.sum()):
        return True
    total = counts[often].sum()
    if total < _OFTEN * len(codes) or often.sum() < 2:
        return False
    pure = np.maximum(clicks[often], counts[often] - clicks[often]).sum() / total
    plain = max(clicks[often].sum(), total - clicks[often].sum()) / total
    return bool(pure >= _PURE and plain < _PURE)


def _tells_apart(counts: np.ndarray, clicks: np.ndarray, rows: int, all_clicks: float) -> bool:
    """Return whether one of the values, of which there are these counts and clicks, has one label and the
    rest of the rows the other.
    """
    some = rows - counts >= _REPEATED
    rates = clicks[some] / counts[some]
    others = (all_clicks - clicks[some]) / (rows - counts[some])
    apart = (np.maximum(rates, others) >= _PURE) & (np.minimum(rates, others) <= 1 - _PURE)
    return bool(apart.any())

"""The paper's two metrics and the figure its Table 2 compares models by."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clickprompt.errors import DataError

__all__ = ["auc", "log_loss", "relative_improvement"]


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """AUC of §4.1.2: the share of (click, non-click) pairs that the score puts in the right order, a tie counting half.

    Exact: pairs are counted in integers over the sorted scores, O(n log n). Any order-preserving score does;
    logits are better than probabilities, which run into ties where the sigmoid saturates.

    labels: [N], 0 or 1. scores: [N], finite.
    Raises DataError when only one class is present (no pair exists), for another label than 0 and 1, or for a score that isn't finite.
    """
    clicked, values = _checked(labels, scores, "score")
    num_clicked = int(clicked.sum())
    num_pairs = num_clicked * (len(clicked) - num_clicked)
    if num_pairs == 0:
        held = f"all {len(clicked)} rows have label {int(clicked[0])}" if len(clicked) else "there are no rows"
        raise DataError(f"AUC is undefined: {held}; evaluate on rows of both classes")
    order = np.argsort(values)
    values, clicked = values[order], clicked[order]
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])  # where each group of equal scores begins
    clicked_in = np.add.reduceat(clicked.astype(np.int64), starts)
    others_in = np.diff(np.append(starts, len(values))) - clicked_in
    others_below = np.cumsum(others_in) - others_in
    twice_right = int(np.sum(clicked_in * (2 * others_below + others_in)))
    return twice_right / (2 * num_pairs)


def log_loss(labels: ArrayLike, logits: ArrayLike) -> float:
    """Binary cross-entropy of Eq. 2, the mean over rows of −log σ((2y − 1)·logit), in float64.

    From logits, so that no probability is ever rounded to 0 or 1 and nothing is clipped.

    labels: [N], 0 or 1. logits: [N], finite.
    Raises DataError for no rows, another label than 0 and 1, or a logit that isn't finite.
    """
    clicked, values = _checked(labels, logits, "logit")
    if not len(clicked):
        raise DataError("log loss is undefined: there are no rows; evaluate on a split that has some")
    signed = np.where(clicked, -values.astype(np.float64), values.astype(np.float64))
    return float(np.mean(np.logaddexp(0.0, signed)))


def relative_improvement(auc: float, base: float) -> float:
    """Rel.Impr of Table 2: AUC / AUC_base − 1."""
    return auc / base - 1


def _checked(labels: ArrayLike, values: ArrayLike, name: str) -> tuple[NDArray[np.bool_], NDArray]:
    label_array, value_array = np.asarray(labels), np.asarray(values)
    assert label_array.ndim == 1, f"labels have shape {label_array.shape}"
    assert value_array.shape == label_array.shape, f"{name}s have shape {value_array.shape}, labels {label_array.shape}"
    wrong = np.flatnonzero((label_array != 0) & (label_array != 1))
    if len(wrong):
        raise DataError(f"row {wrong[0]} has label {label_array[wrong[0]]}; labels are 0 or 1, check the label rule that prepared the data")
    wrong = np.flatnonzero(~np.isfinite(value_array))
    if len(wrong):
        raise DataError(
            f"row {wrong[0]} has {name} {value_array[wrong[0]]}; the model diverged, train it again with a smaller learning rate"
        )
    return label_array == 1, value_array

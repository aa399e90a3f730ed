"""The paper's two metrics, and the figure by which its Table 2 compares models."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clickprompt.errors import DataError

__all__ = ["auc", "auc_or_none", "checked", "counted", "log_loss", "relative_improvement", "run_starts"]


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """AUC of §4.1.2: the share of (click, non-click) pairs that the score puts in the right order, a tie
    counting half.

    Exact: pairs are counted in integers over the sorted scores, O(n log n). Any order-preserving score will
    do; logits are better than probabilities, which run into ties where the sigmoid saturates.

    labels: [N], 0 or 1. scores: [N], finite. weights: [N], ≥ 0; a pair then counts the product of its rows'
    (in float64), and rows of weight 0 are no rows. Raises DataError if only one class is present (no pair
    exists), for another label than 0 and 1, a score that isn't finite, or another number of scores than
    labels.
    """
    clicked, values = checked(labels, scores, "score")
    if weights is not None:
        weighted = counted(clicked, weights)
        clicked, values = clicked[weighted > 0], values[weighted > 0]
        weighted = weighted[weighted > 0]
    else:
        weighted = None
    num_clicked = int(clicked.sum())
    num_pairs = num_clicked * (len(clicked) - num_clicked)
    if num_pairs == 0:
        held = (
            f"all {len(clicked)} rows have label {int(clicked[0])}" if len(clicked) else "there are no rows"
        )
        raise DataError(f"AUC is undefined: {held}; evaluate on rows of both classes")
    order = np.argsort(values)
    values, clicked = values[order], clicked[order]
    starts = run_starts(values)
    if weighted is not None:
        weighted = weighted[order]
        clicks = np.add.reduceat(np.where(clicked, weighted, 0.0), starts)
        others = np.add.reduceat(np.where(clicked, 0.0, weighted), starts)
        below = np.cumsum(others) - others
        return float(clicks @ (below + others / 2) / (clicks.sum() * others.sum()))
    clicked_in = np.add.reduceat(clicked.astype(np.int64), starts)
    others_in = np.diff(np.append(starts, len(values))) - clicked_in
    others_below = np.cumsum(others_in) - others_in
    twice_right = int(np.sum(clicked_in * (2 * others_below + others_in)))
    return twice_right / (2 * num_pairs)


def auc_or_none(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Return `auc`, or None if there are rows but all that count are of one class. Otherwise raises DataError
    as `auc` does.
    """
    clicked, _ = checked(labels, scores, "score")
    if weights is not None:
        clicked = clicked[counted(clicked, weights) > 0]
    alike = len(clicked) and clicked.all() == clicked.any()
    return None if alike else auc(labels, scores, weights)


def log_loss(labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Binary cross-entropy of Eq. 2, the mean over rows of −log σ((2y − 1)·logit), in float64.

    Computed from logits, so that no probability is ever rounded to 0 or 1 and nothing is clipped.

    labels: [N], 0 or 1. logits: [N], finite. weights: [N], ≥ 0, of the mean. Raises DataError for no rows, or
    none that counts, another label than 0 and 1, a logit that isn't finite, or another number of logits than
    labels.
    """
    clicked, values = checked(labels, logits, "logit")
    if not len(clicked):
        raise DataError("log loss is undefined: there are no rows; evaluate on a split that has some")
    signed = np.where(clicked, -values.astype(np.float64), values.astype(np.float64))
    losses = np.logaddexp(0.0, signed)
    if weights is None:
        return float(np.mean(losses))
    weighted = counted(clicked, weights)
    if not weighted.any():
        raise DataError("log loss is undefined: all rows have the weight 0; evaluate on a split that counts")
    return float(weighted @ losses / weighted.sum())


def counted(clicked: NDArray, weights: ArrayLike) -> NDArray[np.float64]:
    """Return the weights of rows, [N] float64. Raises DataError unless there is one ≥ 0 for each."""
    found = np.asarray(weights, dtype=np.float64)
    if found.shape != clicked.shape or not np.all((found >= 0) & np.isfinite(found)):
        raise DataError(
            f"weights have shape {found.shape}, labels {clicked.shape}; give a finite weight from 0 up for "
            "every label"
        )
    return found


def relative_improvement(auc: float | None, base: float | None) -> float | None:
    """Rel.Impr of Table 2: AUC / AUC_base − 1; None if an AUC is undefined, or the base's is 0."""
    return auc / base - 1 if auc is not None and base else None


def run_starts(*columns: NDArray) -> NDArray[np.int64]:
    """Return where each run of equal lines begins, in columns [N] that are sorted together; [0] if N = 0."""
    changes = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


def checked(labels: ArrayLike, values: ArrayLike, name: str) -> tuple[NDArray[np.bool_], NDArray]:
    """Return (label is 1, values), each [N], as every metric takes them; `name` is what a message calls a
    value.

    Raises DataError for another label than 0 and 1, a value that isn't finite, or another number of values
    than labels.
    """
    label_array, value_array = np.asarray(labels), np.asarray(values)
    if label_array.ndim != 1 or value_array.shape != label_array.shape:
        raise DataError(
            f"labels have shape {label_array.shape}, {name}s {value_array.shape}; give one {name} for "
            "every label, of the same rows"
        )
    wrong = np.flatnonzero((label_array != 0) & (label_array != 1))
    if len(wrong):
        raise DataError(
            f"row {wrong[0]} has label {label_array[wrong[0]]}; labels are 0 or 1, check the label "
            "rule that prepared the data"
        )
    wrong = np.flatnonzero(~np.isfinite(value_array))
    if len(wrong):
        raise DataError(
            f"row {wrong[0]} has {name} {value_array[wrong[0]]}; the model diverged, train it again "
            "with a smaller learning rate"
        )
    return label_array == 1, value_array

"""Parts of a split by how often its users and items occur in training: the long tail (Table 6) and cold
start.

Shape legend: N rows, S ids of a field (0 = unknown).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.evaluation.significance import auc_interval

__all__ = ["READINGS", "TailSubset", "cold_rows", "figures_of", "judged", "tail_ids", "tail_subsets", "tails"]

Reading = Literal["seen", "with_unseen"]
READINGS: tuple[Reading, ...] = ("seen", "with_unseen")
_ENOUGH = 10  # fewest rows of each class for which an AUC means something


def tail_ids(train_count: NDArray[np.int64], share: float, reading: Reading) -> NDArray[np.bool_]:
    """Return which ids [S] are long-tail: the ⌊share · n⌋ rarest of the n ids with a training row, ties by id
    (the paper says only "the bottom 10% in terms of frequency"). Reading `with_unseen`: the ids without a
    training row, too.

    Ties matter in small subsets: on MovieLens-1M 13 test rows (60 `with_unseen`) have a tail user and a tail
    item. If the share were rounded up and ties taken from the largest id down, there would be 11 (59), with
    the same counts at the edge (20 rows a user, 5 an item).

    The unknown id 0 stands for values that are too rare to have an id or were never seen, so it is in the
    tail only with `with_unseen`.

    train_count: [S], training rows of each id.
    """
    seen = np.flatnonzero(train_count[1:] > 0) + 1
    rarest = seen[np.lexsort((seen, train_count[seen]))][: int(share * len(seen))]
    tail = np.zeros(len(train_count), dtype=bool)
    tail[rarest] = True
    if reading == "with_unseen":
        tail |= train_count == 0
        tail[0] = True
    return tail


@dataclass(frozen=True)
class TailSubset:
    """One of Table 6's four subsets."""

    tail_user: bool
    tail_item: bool
    rows: NDArray[np.bool_]
    """[N]"""


Tails = dict[Reading, tuple[NDArray[np.bool_], NDArray[np.bool_]]]


def tails(user_counts: NDArray[np.int64], item_counts: NDArray[np.int64], share: float) -> Tails:
    """Return, by reading, `tail_ids` of the users and of the items; user_counts, item_counts: [S] training
    rows of each id.
    """
    return {
        reading: (tail_ids(user_counts, share, reading), tail_ids(item_counts, share, reading))
        for reading in READINGS
    }


def tail_subsets(
    users: NDArray[np.int64], items: NDArray[np.int64], tails: Tails
) -> dict[Reading, list[TailSubset]]:
    """Return Table 6's subsets by reading, in the paper's order (long-tail user and item, item only, user
    only, neither).

    users, items: [N] ids.
    """
    subsets: dict[Reading, list[TailSubset]] = {}
    for reading, (tail_users, tail_items) in tails.items():
        user_tail, item_tail = tail_users[users], tail_items[items]
        kinds = [(tail_user, tail_item) for tail_item in (True, False) for tail_user in (True, False)]
        subsets[reading] = [
            TailSubset(user, item, (user_tail == user) & (item_tail == item)) for user, item in kinds
        ]
    return subsets


def cold_rows(
    ids: Mapping[str, NDArray[np.int64]], train_counts: Mapping[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.bool_]]:
    """Return, per field [N], which rows have a value that never occurs in training, and under "none" those
    without any such value.

    ids: field → [N]; train_counts: field → [S].
    """
    cold = {name: train_counts[name][values] == 0 for name, values in ids.items()}
    return {**cold, "none": ~np.any(list(cold.values()), axis=0)}


def figures_of(
    labels: NDArray,
    logits: NDArray,
    clusters: NDArray,
    rows: NDArray[np.bool_],
    weights: NDArray | None = None,
) -> dict[str, Any]:
    """Return {"rows", "clicks", "auc", "auc_bound", "auc_interval", "log_loss"} of the chosen rows; the AUC
    is None for fewer than ten rows of either class. The bound is the largest error of the AUC (0: it is
    exact), the interval that of `auc_interval`. With weights [N], rows of weight 0 are no rows.
    """
    rows = rows if weights is None else rows & (weights > 0)
    of_rows = None if weights is None else weights[rows]
    chosen, clicks = int(rows.sum()), int(labels[rows].sum())
    enough = judged(chosen, clicks)
    return {
        "rows": chosen,
        "clicks": clicks,
        "auc": auc(labels[rows], logits[rows], of_rows) if enough else None,
        "auc_bound": 0.0 if enough else None,
        "auc_interval": auc_interval(clusters[rows], labels[rows], logits[rows], of_rows) if enough else None,
        "log_loss": log_loss(labels[rows], logits[rows], of_rows) if chosen else None,
    }


def judged(rows: int, clicks: int) -> bool:
    """Return whether an AUC of so many rows means anything."""
    return min(clicks, rows - clicks) >= _ENOUGH

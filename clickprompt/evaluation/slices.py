"""Parts of a split by how often its users and items occur in training: the long tail (Table 6) and cold start.

Shape legend: N rows, S ids of a field (0 = unknown).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clickprompt.evaluation.metrics import auc, log_loss

__all__ = ["READINGS", "TailSubset", "cold_start", "figures_of", "tail_ids", "tail_subsets"]

Reading = Literal["seen", "with_unseen"]
READINGS: tuple[Reading, ...] = ("seen", "with_unseen")
_ENOUGH = 10  # rows of each class, below which an AUC says nothing


def tail_ids(train_count: NDArray[np.int64], share: float, reading: Reading) -> NDArray[np.bool_]:
    """[S] which ids are long-tail: the ⌊share · n⌋ rarest of the n ids with a training row, ties by id (the paper says no more than
    "the bottom 10% in terms of frequency"). Reading `with_unseen`: the ids without a training row, too.

    The unknown id 0 stands for values that are too rare to have an id or were never seen, so it is in the tail of `with_unseen` only.

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
    """One of Table 6's four."""

    tail_user: bool
    tail_item: bool
    rows: NDArray[np.bool_]
    """[N]"""


def tail_subsets(
    users: NDArray[np.int64], items: NDArray[np.int64], user_counts: NDArray[np.int64], item_counts: NDArray[np.int64], share: float
) -> dict[Reading, list[TailSubset]]:
    """Table 6's subsets by reading, in the paper's order (long-tail user and item, item only, user only, neither).

    users, items: [N] ids; user_counts, item_counts: [S] training rows of each id.
    """
    subsets: dict[Reading, list[TailSubset]] = {}
    for reading in READINGS:
        user_tail, item_tail = (tail_ids(counts, share, reading)[ids] for counts, ids in ((user_counts, users), (item_counts, items)))
        kinds = [(tail_user, tail_item) for tail_item in (True, False) for tail_user in (True, False)]
        subsets[reading] = [TailSubset(user, item, (user_tail == user) & (item_tail == item)) for user, item in kinds]
    return subsets


def cold_start(
    labels: NDArray, logits: NDArray, ids: Mapping[str, NDArray[np.int64]], train_counts: Mapping[str, NDArray[np.int64]]
) -> dict[str, dict[str, Any]]:
    """Per field the figures of the rows whose value never occurs in training; under "none" of those without any such value.

    ids: field → [N]; train_counts: field → [S].
    """
    cold = {name: train_counts[name][values] == 0 for name, values in ids.items()}
    figures = {name: figures_of(labels, logits, rows) for name, rows in cold.items() if rows.any()}
    return {**figures, "none": figures_of(labels, logits, ~np.any(list(cold.values()), axis=0))}


def figures_of(labels: NDArray, logits: NDArray, rows: NDArray[np.bool_]) -> dict[str, Any]:
    """{"rows", "clicks", "auc", "log_loss"} of the chosen rows; an AUC of fewer than ten rows of either class is None."""
    chosen, clicks = int(rows.sum()), int(labels[rows].sum())
    return {
        "rows": chosen,
        "clicks": clicks,
        "auc": auc(labels[rows], logits[rows]) if min(clicks, chosen - clicks) >= _ENOUGH else None,
        "log_loss": log_loss(labels[rows], logits[rows]) if chosen else None,
    }

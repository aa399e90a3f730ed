"""How well the rows of each group, such as a user's, are ranked: NDCG@k, hit rate@k and MRR.

Rows with equal scores stand in no order, so every figure is its expected value over all orders of the ties.
No figure depends on the order in which the rows are read. Groups without a click, or with only clicks, can't
be ranked well or badly; they are left out and counted.

Shape legend: N rows, R runs of rows of a group with equal scores, G groups that count.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.metrics import checked, run_starts
from clickprompt.evaluation.significance import paired_t_test

__all__ = ["Ranked", "compare_ranking", "figures_of_groups", "in_order", "merged", "ranking"]


class Ranked(NamedTuple):
    figures: dict[str, float | None]
    """"ndcg@k" and "hit_rate@k" for each k, and "mrr": means over the groups; None if no group counts"""
    groups: int
    """groups that count, with their `rows`"""
    rows: int
    groups_left_out: int
    """groups with rows of one class only"""
    rows_left_out: int


def ranking(groups: ArrayLike, labels: ArrayLike, scores: ArrayLike, top_k: Sequence[int]) -> Ranked:
    """Compute the means over the groups of

    - NDCG@k = Σ_{i ≤ k} y_i / log₂(i + 1), divided by its largest possible value, y_i the label at rank i;
    - hit rate@k: whether there is a click among the k first rows; 1 for a group of at most k rows;
    - MRR: 1 / rank of the first click.

    groups: [N], ids of any kind. labels: [N], 0 or 1. scores: [N], finite. Raises DataError as `metrics.auc`
    does, one class excepted.
    """
    names, values, rows = figures_of_groups(groups, labels, scores, top_k)
    every = len(np.unique(np.asarray(groups)))
    return Ranked(
        {name: float(of.mean()) if len(names) else None for name, of in values.items()},
        len(names),
        int(rows.sum()),
        every - len(names),
        len(np.asarray(labels)) - int(rows.sum()),
    )


def merged(parts: Sequence[Ranked]) -> Ranked:
    """Return the figures of all groups from those of parts that have no group in common."""
    counts = zip(*(part[1:] for part in parts), strict=True)
    groups, rows, groups_left_out, rows_left_out = (sum(of_parts) for of_parts in counts)
    means = {
        name: math.fsum(value * part.groups for part in parts if (value := part.figures[name]) is not None)
        / groups
        if groups
        else None
        for name in parts[0].figures
    }
    return Ranked(means, groups, rows, groups_left_out, rows_left_out)


def compare_ranking(
    groups: ArrayLike, labels: ArrayLike, scores: ArrayLike, base_scores: ArrayLike, top_k: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Return, for each figure of `ranking`, the other model's mean under "value", and Student's paired t-test
    of the differences over the groups under "t_test"; None where fewer than two groups count.
    """
    _, ours, _ = figures_of_groups(groups, labels, scores, top_k)
    _, theirs, _ = figures_of_groups(groups, labels, base_scores, top_k)
    return {
        name: {
            "value": float(theirs[name].mean()) if len(theirs[name]) else None,
            "t_test": _tested(ours[name], theirs[name]),
        }
        for name in ours
    }


def _tested(values: NDArray, base_values: NDArray) -> dict[str, Any] | None:
    try:
        return paired_t_test(values.tolist(), base_values.tolist())._asdict()
    except InputError:  # fewer than two groups, or the same difference in all
        return None


def figures_of_groups(
    groups: ArrayLike, labels: ArrayLike, scores: ArrayLike, top_k: Sequence[int]
) -> tuple[NDArray, dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Return the groups that count, [G], each figure of theirs, [G], and their rows, [G]; arguments as for
    `ranking`.
    """
    clicked, values = checked(labels, scores, "score")
    ids = np.asarray(groups)
    if ids.shape != values.shape:
        raise DataError(f"groups have shape {ids.shape}, scores {values.shape}; give every row's group")
    names, members = np.unique(ids, return_inverse=True)
    clicks_of = np.bincount(members, clicked, len(names)).astype(np.int64)
    rows_of = np.bincount(members, minlength=len(names))
    counts = (clicks_of > 0) & (clicks_of < rows_of)
    kept = counts[members]
    if not kept.any():
        empty = np.zeros(0)
        return names[:0], dict.fromkeys(_names(top_k), empty), np.zeros(0, np.int64)
    members, values, clicked = members[kept], values[kept], clicked[kept]
    order = np.lexsort((-values, members))
    members, values, clicked = members[order], values[order], clicked[order]
    starts = run_starts(members, values)
    clicks = np.add.reduceat(clicked.astype(np.int64), starts)
    rows = np.diff(np.append(starts, len(values)))
    first_runs = run_starts(members[starts])
    # rows of the same group above the run
    above = starts - np.repeat(starts[first_runs], np.diff(np.append(first_runs, len(starts))))

    found: dict[str, NDArray[np.float64]] = {}
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, max(top_k) + 2)))])
    for k in top_k:
        held = discounts[np.minimum(k, above + rows)] - discounts[np.minimum(k, above)]
        gained = np.add.reduceat(clicks / rows * held, first_runs)
        found[f"ndcg@{k}"] = gained / discounts[np.minimum(k, clicks_of[counts])]
    with_click = np.flatnonzero(clicks)
    first = with_click[run_starts(members[starts][with_click])]  # each group's highest run with a click
    ranks, same = np.unique(np.stack([above, rows, clicks])[:, first], axis=1, return_inverse=True)
    kinds = [_first_click(a, n, c, top_k) for a, n, c in ranks.T.tolist()]
    of_first = np.array(kinds)[same.ravel()]
    found |= {f"hit_rate@{k}": of_first[:, place] for place, k in enumerate(top_k)}
    found["mrr"] = of_first[:, -1]
    return names[counts], {name: found[name] for name in _names(top_k)}, rows_of[counts]


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names of figures, which files of results have in another order."""
    kinds = ["ndcg", "hit_rate", "mrr"]
    return sorted(
        names, key=lambda name: (kinds.index(name.partition("@")[0]), int(name.partition("@")[2] or 0))
    )


def _names(top_k: Sequence[int]) -> list[str]:
    return [*(f"ndcg@{k}" for k in top_k), *(f"hit_rate@{k}" for k in top_k), "mrr"]


def _first_click(above: int, rows: int, clicks: int, top_k: Sequence[int]) -> list[float]:
    """Return P(rank of the first click ≤ k) for each k, and E(1 / rank), where the first click is one of
    `clicks` among `rows` in random order, below `above` others.
    """
    place = np.arange(1, rows - clicks + 1)
    # The first click is the r-th row with probability C(rows − r, clicks − 1) / C(rows, clicks)
    ratios = (rows - place - clicks + 1) / (rows - place)
    probability = clicks / rows * np.concatenate([[1.0], np.cumprod(ratios)])
    hits = [float(probability[: max(k - above, 0)].sum()) for k in top_k]
    return [*hits, float(probability @ (1 / (above + np.arange(1, rows - clicks + 2))))]

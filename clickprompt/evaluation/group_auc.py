"""AUC within groups of rows: per user (GAUC), and for each value of any field."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clickprompt.errors import DataError
from clickprompt.evaluation.metrics import checked, counted, run_starts
from clickprompt.evaluation.significance import auc_interval

__all__ = ["Gauc", "auc_by_value", "gauc", "gauc_and_weight"]


class Gauc(NamedTuple):
    value: float | None
    """None if no user has rows of both classes"""
    users: int
    """users that count, with their `rows`"""
    rows: int
    users_left_out: int
    """users with rows of one class only, so that none of their pairs can be ordered"""
    rows_left_out: int


def gauc(users: ArrayLike, labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> Gauc:
    """Per-user AUC (Zhu et al. 2017, "Optimized Cost per Click in Taobao Display Advertising"), each user
    weighted by their rows: Σ_u rows_u · AUC_u / Σ_u rows_u, over the users who have both clicks and other
    rows.

    Only the order within each user's rows counts; a model gains nothing from knowing that some users click
    more than others.

    users: [N], ids of any kind. labels: [N], 0 or 1. scores: [N], finite. weights: [N], ≥ 0: a user then
    counts the sum of its rows', and the user's AUC is weighted as `metrics.auc`. Raises DataError as that
    does, one class excepted.
    """
    return gauc_and_weight(users, labels, scores, weights)[0]


def gauc_and_weight(
    users: ArrayLike, labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> tuple[Gauc, float]:
    """Return `gauc`, and what the users that count weigh together, by which parts without a user in common
    can be joined.
    """
    _, rows, _, aucs, weight = _by_group(users, labels, scores, weights)
    defined = np.isfinite(aucs)
    total = weight[defined].sum()
    counted_rows = int(rows[defined].sum())
    found = Gauc(
        value=float(weight[defined] @ aucs[defined] / total) if total else None,
        users=int(defined.sum()),
        rows=counted_rows,
        users_left_out=int((~defined).sum()),
        rows_left_out=int(rows.sum()) - counted_rows,
    )
    return found, float(total)


def auc_by_value(
    values: ArrayLike,
    labels: ArrayLike,
    scores: ArrayLike,
    clusters: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> list[dict[str, Any]]:
    """Return {"value", "rows", "clicks", "auc", "auc_interval"} for each value of a field, in the values'
    order; AUC and interval are None if a value has one class only.

    values: [N]. labels: [N], 0 or 1. scores: [N], finite. clusters: [N], ids of what makes rows depend on
    each other, such as users, by which the interval is taken (`auc_interval`); default: no intervals.
    weights: [N], ≥ 0, of the AUCs; rows and clicks are those of a weight above 0. Raises DataError as
    `metrics.auc` does, one class excepted.
    """
    if weights is not None:
        kept = np.asarray(weights) > 0
        values, labels, scores, weights = (
            np.asarray(column)[kept] for column in (values, labels, scores, weights)
        )
        clusters = None if clusters is None else np.asarray(clusters)[kept]
    figures = [
        {"value": value, "rows": rows, "clicks": clicks, "auc": auc if 0 < clicks < rows else None}
        for value, rows, clicks, auc, _ in zip(
            *(column.tolist() for column in _by_group(values, labels, scores, weights)), strict=True
        )
    ]
    if clusters is None:
        return [{**of_value, "auc_interval": None} for of_value in figures]
    order = np.argsort(np.asarray(values), kind="stable")
    of_rows = [np.asarray(column)[order] for column in (clusters, labels, scores)]
    of_rows += [] if weights is None else [np.asarray(weights)[order]]
    ends = np.cumsum([of_value["rows"] for of_value in figures])
    return [
        {
            **of_value,
            "auc_interval": None
            if of_value["auc"] is None
            else auc_interval(*(column[end - of_value["rows"] : end] for column in of_rows)),
        }
        for of_value, end in zip(figures, ends.tolist(), strict=True)
    ]


def _by_group(
    groups: ArrayLike, labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
    """Return (group, rows, clicks, AUC or NaN, weight), each [G]. Pairs are counted over one sort by group
    and score, in integers unless there are weights; a group's weight is then their sum, else its rows.
    """
    clicked, values = checked(labels, scores, "score")
    ids = np.asarray(groups)
    if ids.shape != values.shape:
        raise DataError(
            f"groups have shape {ids.shape}, scores {values.shape}; give every row's user or value"
        )
    if weights is not None:
        weight = counted(clicked, weights)
        kept = weight > 0
        ids, values, clicked, weight = ids[kept], values[kept], clicked[kept], weight[kept]
    else:
        weight = np.ones(len(ids), dtype=np.int64)
    if not len(ids):
        return ids, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    names, members = np.unique(ids, return_inverse=True)
    order = np.lexsort((values, members))
    members, values, clicked, weight = members[order], values[order], clicked[order], weight[order]
    starts = run_starts(members, values)
    run_clicks, run_others = (np.add.reduceat(weight * of, starts) for of in (clicked, ~clicked))
    first_runs = run_starts(members[starts])  # where each group's runs begin
    # Other rows of the same group
    others_below = _before(run_others, first_runs)
    twice_right = np.add.reduceat(run_clicks * (2 * others_below + run_others), first_runs)
    clicks, others = np.add.reduceat(run_clicks, first_runs), np.add.reduceat(run_others, first_runs)
    pairs = 2 * clicks * others
    aucs = np.divide(twice_right, pairs, out=np.full(len(names), np.nan), where=pairs > 0)
    if weights is None:
        return names, clicks + others, clicks, aucs, clicks + others
    rows = np.bincount(members, minlength=len(names))
    return names, rows, np.bincount(members[clicked], minlength=len(names)), aucs, clicks + others


def _before(values: NDArray, firsts: NDArray[np.int64]) -> NDArray:
    """Return the sum of the values before each one, [N], counted anew from each of `firsts`."""
    before = np.cumsum(values) - values
    return before - np.repeat(before[firsts], np.diff(np.append(firsts, len(values))))

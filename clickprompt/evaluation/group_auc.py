"""AUC within groups of rows: per user (GAUC), and for each value of any field."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clickprompt.errors import DataError
from clickprompt.evaluation.metrics import checked, run_starts
from clickprompt.evaluation.significance import auc_interval

__all__ = ["Gauc", "auc_by_value", "gauc"]


class Gauc(NamedTuple):
    value: float | None
    """None if no user has rows of both classes"""
    users: int
    """users that count, with their `rows`"""
    rows: int
    users_left_out: int
    """users with rows of one class only, so that none of their pairs can be ordered"""
    rows_left_out: int


def gauc(users: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> Gauc:
    """Per-user AUC (Zhu et al. 2017, "Optimized Cost per Click in Taobao Display Advertising"), each user
    weighted by their rows: Σ_u rows_u · AUC_u / Σ_u rows_u, over the users who have both clicks and other
    rows.

    Only the order within each user's rows counts; a model gains nothing from knowing that some users click
    more than others.

    users: [N], ids of any kind. labels: [N], 0 or 1. scores: [N], finite. Raises DataError as `metrics.auc`
    does, one class excepted.
    """
    _, rows, _, aucs = _by_group(users, labels, scores)
    defined = np.isfinite(aucs)
    counted = int(rows[defined].sum())
    return Gauc(
        value=float(rows[defined] @ aucs[defined] / counted) if counted else None,
        users=int(defined.sum()),
        rows=counted,
        users_left_out=int((~defined).sum()),
        rows_left_out=int(rows.sum()) - counted,
    )


def auc_by_value(
    values: ArrayLike, labels: ArrayLike, scores: ArrayLike, clusters: ArrayLike | None = None
) -> list[dict[str, Any]]:
    """Return {"value", "rows", "clicks", "auc", "auc_interval"} for each value of a field, in the values'
    order; AUC and interval are None if a value has one class only.

    values: [N]. labels: [N], 0 or 1. scores: [N], finite. clusters: [N], ids of what makes rows depend on
    each other, such as users, by which the interval is taken (`auc_interval`); default: no intervals. Raises
    DataError as `metrics.auc` does, one class excepted.
    """
    figures = [
        {"value": value, "rows": rows, "clicks": clicks, "auc": auc if 0 < clicks < rows else None}
        for value, rows, clicks, auc in zip(
            *(column.tolist() for column in _by_group(values, labels, scores)), strict=True
        )
    ]
    if clusters is None:
        return [{**of_value, "auc_interval": None} for of_value in figures]
    order = np.argsort(np.asarray(values), kind="stable")
    of_rows = [np.asarray(column)[order] for column in (clusters, labels, scores)]
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
    groups: ArrayLike, labels: ArrayLike, scores: ArrayLike
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Return (group, rows, clicks, AUC or NaN), each [G]. Pairs are counted in integers over one sort by
    group and score.
    """
    clicked, values = checked(labels, scores, "score")
    ids = np.asarray(groups)
    if ids.shape != values.shape:
        raise DataError(
            f"groups have shape {ids.shape}, scores {values.shape}; give every row's user or value"
        )
    if not len(ids):
        return ids, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    names, members = np.unique(ids, return_inverse=True)
    order = np.lexsort((values, members))
    members, values, clicked = members[order], values[order], clicked[order]
    starts = run_starts(members, values)
    run_clicks = np.add.reduceat(clicked.astype(np.int64), starts)
    run_others = np.diff(np.append(starts, len(values))) - run_clicks
    first_runs = run_starts(members[starts])  # where each group's runs begin
    others_before = np.cumsum(run_others) - run_others
    # Other rows of the same group
    others_below = others_before - others_before[first_runs][members[starts]]
    twice_right = np.add.reduceat(run_clicks * (2 * others_below + run_others), first_runs)
    clicks, others = np.add.reduceat(run_clicks, first_runs), np.add.reduceat(run_others, first_runs)
    pairs = 2 * clicks * others
    return (
        names,
        clicks + others,
        clicks,
        np.divide(twice_right, pairs, out=np.full(len(names), np.nan), where=pairs > 0),
    )

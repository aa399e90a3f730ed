"""The reliability curve and the expected calibration error: are 30% of the rows predicted at 30% clicked?

Both come from sums per bin of the predicted probability, which add up over shards. Bins are [lower edge,
upper edge), the last one closed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clickprompt.errors import DataError
from clickprompt.evaluation.metrics import checked

__all__ = [
    "NUM_BINS",
    "calibration_sums",
    "equal_mass_edges",
    "equal_width_edges",
    "expected_calibration_error",
    "joined_bins",
    "reliability_curve",
]

NUM_BINS = 15  # as in Guo et al. 2017
_Z = 1.959963984540054  # 97.5% of the normal distribution


def equal_width_edges(num_bins: int = NUM_BINS) -> NDArray[np.float64]:
    """Return [num_bins + 1], 0 to 1 in equal steps: the usual bins. If clicks are rare, nearly all rows are
    in the first few.
    """
    return np.linspace(0, 1, num_bins + 1)


def equal_mass_edges(logits: ArrayLike, num_bins: int = NUM_BINS) -> NDArray[np.float64]:
    """Return [≤ num_bins + 1], quantiles of the predicted probability, so that bins have about equally many
    rows. Rows with equal predictions stay together, and bins left empty by that are dropped.

    logits: [N], those that are to be binned or, if histograms are merged, an agreed sample of them. Raises
    DataError for no rows.
    """
    values = np.asarray(logits)
    if not len(values):
        raise DataError("calibration is undefined: there are no rows; evaluate on a split that has some")
    firsts = np.arange(1, num_bins) * len(values) // num_bins  # ranks of the bins' first rows
    inner = np.partition(_probability(values), firsts)[firsts]
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def calibration_sums(
    labels: ArrayLike, logits: ArrayLike, edges: NDArray[np.float64], importance: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return [bins, 3]: rows, clicks and the sum of predicted probabilities of each bin; with `importance`,
    the rows' weights [N], these by weight, then the rows that count and Σ weight², [bins, 5]. Those of
    several shards can be added.

    labels: [N], 0 or 1. logits: [N], finite. edges: [bins + 1], ascending from 0 to 1. Raises DataError for
    another label than 0 and 1, a logit that isn't finite, or another number of logits than labels.
    """
    clicked, values = checked(labels, logits, "logit")
    probability = _probability(values)
    place = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, len(edges) - 2)
    weights: tuple[Any, ...] = (None, clicked, probability)
    if importance is not None:
        weight = np.asarray(importance, dtype=np.float64)
        weights = (weight, weight * clicked, weight * probability, weight > 0, weight**2)
    return np.stack(
        [np.bincount(place, weights=weight, minlength=len(edges) - 1) for weight in weights], axis=1
    ).astype(np.float64)


def expected_calibration_error(sums: NDArray[np.float64]) -> float:
    """ECE (Naeini et al. 2015): Σ_bins (rows / all rows) · |mean prediction − share of clicks|, in [0, 1]. It
    depends on the bins.

    sums: [bins, 3 or 5] of `calibration_sums`. Raises DataError for no rows.
    """
    rows, clicks, predicted = sums.T[:3]
    if not rows.any():
        raise DataError("calibration is undefined: there are no rows; evaluate on a split that has some")
    return float(np.abs(predicted - clicks).sum() / rows.sum())


def reliability_curve(sums: NDArray[np.float64], edges: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return for each bin with rows: `lower` and `upper` edge, `rows`, mean `prediction`, `click_rate` and
    its 95% `interval`, which is Wilson's (1927): never outside [0, 1], and usable for few rows and for rates
    near 0. It treats rows as independent of each other. With weights w there is also `weight` = Σ w, and
    the interval is that of Kish's (1965) (Σ w)² / Σ w² rows.
    """
    curve = []
    for lower, upper, (weight, clicks, predicted, *more) in zip(
        edges[:-1].tolist(), edges[1:].tolist(), sums.tolist(), strict=True
    ):
        if weight:
            rows, effective = (more[0], weight**2 / more[1]) if more else (weight, weight)
            line = {"lower": lower, "upper": upper, "rows": int(rows), "prediction": predicted / weight}
            line |= {"weight": weight, "effective_rows": effective} if more else {}
            rate = clicks / weight
            curve.append({**line, "click_rate": rate, "interval": _wilson(rate, effective)})
    return curve


def joined_bins(curve: Sequence[Mapping[str, Any]], fewest: int) -> list[dict[str, Any]]:
    """Join neighbouring bins of a reliability curve, from the left, until each has at least `fewest` rows;
    what is left over at the right joins the last. Of too few rows in all there are no bins.

    curve: as `reliability_curve` returns it, and so is the result.
    """
    groups: list[list[Mapping[str, Any]]] = [[]]
    for line in curve:
        if sum(one["rows"] for one in groups[-1]) >= fewest:
            groups.append([])
        groups[-1].append(line)
    if len(groups) > 1 and sum(one["rows"] for one in groups[-1]) < fewest:
        rest = groups.pop()
        groups[-1] += rest
    joined = []
    for group in groups:
        rows = sum(one["rows"] for one in group)
        if rows < max(fewest, 1):
            continue
        weights = [one.get("weight", one["rows"]) for one in group]
        predicted, clicked = (
            sum(weight * one[key] for weight, one in zip(weights, group, strict=True)) / sum(weights)
            for key in ("prediction", "click_rate")
        )
        line = {"lower": group[0]["lower"], "upper": group[-1]["upper"], "rows": rows}
        effective = rows
        if "weight" in group[0]:
            squares = sum(one["weight"] ** 2 / one["effective_rows"] for one in group)
            effective = sum(weights) ** 2 / squares
            line |= {"weight": sum(weights), "effective_rows": effective}
        interval = _wilson(clicked, effective)
        joined.append({**line, "prediction": predicted, "click_rate": clicked, "interval": interval})
    return joined


def _wilson(rate: float, rows: float) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927)."""
    middle, half = (
        rate + _Z**2 / (2 * rows),
        _Z * np.sqrt(rate * (1 - rate) / rows + (_Z / (2 * rows)) ** 2),
    )
    return (
        max(0.0, float((middle - half) / (1 + _Z**2 / rows))),
        min(1.0, float((middle + half) / (1 + _Z**2 / rows))),
    )


def _probability(logits: NDArray) -> NDArray[np.float64]:
    # σ without overflow at large negative logits
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))

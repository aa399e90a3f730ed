"""Tests of two models on the same rows or over the same seeds, and intervals for dependent rows."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.metrics import checked, counted, run_starts

__all__ = [
    "DeLong",
    "PairedT",
    "UserBootstrap",
    "auc_interval",
    "cluster_interval",
    "delong",
    "paired_t_test",
    "user_bootstrap",
]

RESAMPLES = 2000
_Z = 1.959963984540054  # 97.5% of the normal distribution
_ROUNDING = 1e-12  # relative rounding error of a metric
_DRAWS_PER_STEP = 1 << 22  # bounds the memory


def cluster_interval(
    clusters: ArrayLike, gains: ArrayLike, counts: ArrayLike, *, seed: int = 0
) -> tuple[float, float] | None:
    """95% percentile interval of Σ gains / Σ counts by the cluster bootstrap (Efron and Tibshirani 1993, §8):
    clusters are drawn with replacement, as many as there are, `RESAMPLES` times.

    Rows of the same user are not independent evidence, but whole users are. Few clusters make the interval
    too narrow.

    clusters, gains, counts: [N], what each line belongs to, what it adds to the numerator and to the
    denominator (counts > 0). Returns None if there are fewer than two clusters to estimate from.
    """
    names, members = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        return None
    # [C, 2]
    sums = np.stack(
        [np.bincount(members, weights=np.asarray(values, dtype=np.float64)) for values in (gains, counts)],
        axis=1,
    )
    generator = np.random.default_rng(seed)
    step = max(1, _DRAWS_PER_STEP // len(names))
    means = []
    for start in range(0, RESAMPLES, step):
        drawn = generator.integers(len(names), size=(min(step, RESAMPLES - start), len(names)))
        resampled = sums[drawn].sum(axis=1)
        means.append(resampled[:, 0] / resampled[:, 1])
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def auc_interval(
    clusters: ArrayLike, labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> tuple[float, float] | None:
    """95% interval of one AUC whose rows come in clusters, such as users: DeLong's variance with the rows'
    placements summed within each cluster (Obuchowski 1997, "Nonparametric analysis of clustered ROC curve
    data"), on the logit scale, so that it stays within [0, 1].

    Var(AUC) = c₁/(c₁−1) Σ u² / clicks² + c₀/(c₀−1) Σ v² / others² + 2 c/(c−1) Σ u·v / (clicks·others) over
    the clusters. u and v are the placements of a cluster's clicks and of its other rows in excess of the AUC;
    of the c clusters, c₁ have clicks and c₀ have others. If every cluster is one row, this is DeLong's
    variance. It takes one sort and no resampling.

    clusters: [N], ids of any kind. labels: [N], 0 or 1. scores: [N], finite. weights: [N], ≥ 0: sums and
    placements are then by weight. Returns None if fewer than two clusters have clicks or have others, the AUC
    is 0 or 1, or the variance is 0.
    """
    clicked, values = checked(labels, scores, "score")
    of_rows = np.asarray(clusters)
    weight: NDArray[np.float64] | None = None
    if weights is not None:
        weight = counted(clicked, weights)
        kept = weight > 0
        clicked, values, of_rows, weight = clicked[kept], values[kept], of_rows[kept], weight[kept]
    names, members = np.unique(of_rows, return_inverse=True)
    clicks_of = np.bincount(members, weights=clicked, minlength=len(names))
    others_of = np.bincount(members, minlength=len(names)) - clicks_of
    if min(np.count_nonzero(clicks_of), np.count_nonzero(others_of)) < 2:
        return None
    placements = _placements(clicked, values, weight)
    if weight is None:
        auc, of_clicks, of_others = float(placements[clicked].mean()), clicks_of.sum(), others_of.sum()
        beyond = placements - auc
    else:
        of_clicks, of_others = weight[clicked].sum(), weight[~clicked].sum()
        auc = float(weight[clicked] @ placements[clicked] / of_clicks)
        beyond = weight * (placements - auc)
    # [C], each a share of the class
    u = np.bincount(members, weights=np.where(clicked, beyond, 0), minlength=len(names)) / of_clicks
    v = np.bincount(members, weights=np.where(clicked, 0, beyond), minlength=len(names)) / of_others
    terms = (
        (np.count_nonzero(clicks_of), u @ u),
        (np.count_nonzero(others_of), v @ v),
        (len(names), 2 * u @ v),
    )
    variance = sum(number / (number - 1) * float(term) for number, term in terms)
    if not 0 < auc < 1 or variance <= _ROUNDING**2:
        return None
    middle, half = math.log(auc / (1 - auc)), _Z * math.sqrt(variance) / (auc * (1 - auc))
    return 1 / (1 + math.exp(half - middle)), 1 / (1 + math.exp(-half - middle))


class DeLong(NamedTuple):
    difference: float
    """AUC of the scores minus AUC of the base scores"""
    standard_error: float
    z: float
    p_value: float
    """two-sided"""
    interval: tuple[float, float]
    """95%"""


def delong(labels: ArrayLike, scores: ArrayLike, base_scores: ArrayLike) -> DeLong:
    """DeLong's test of two AUCs on the same rows (DeLong, DeLong and Clarke-Pearson 1988), by ranks in O(n
    log n) as in Sun and Xu (2014).

    A click's placement is the share of other rows below it, another row's the share of clicks above it, ties
    counting half; the AUC is the mean of either. Var(difference) = Var(clicks' differences of placement) /
    clicks + Var(the others') / others.

    It treats rows as independent of each other; if users have several, use `user_bootstrap`, which doesn't.

    labels: [N], 0 or 1. scores, base_scores: [N], finite. Raises DataError as `metrics.auc` does, with fewer
    than two rows of a class, or if the variance is 0.
    """
    clicked, values, base_values = _paired(labels, scores, base_scores)
    num_clicks = int(clicked.sum())
    if min(num_clicks, len(clicked) - num_clicks) < 2:
        raise DataError(
            f"DeLong's test needs two rows of each class, these {len(clicked)} have {num_clicks} "
            "clicks; evaluate on more rows"
        )
    gains = _placements(clicked, values) - _placements(clicked, base_values)
    difference = float(gains[clicked].mean())
    error = math.sqrt(sum(float(gains[of].var(ddof=1)) / int(of.sum()) for of in (clicked, ~clicked)))
    if np.ptp(gains[clicked]) == np.ptp(gains[~clicked]) == 0:
        if difference:
            raise DataError(
                f"DeLong's test is undefined: every row gains the same {difference:g}; evaluate on more rows"
            )
        return DeLong(0.0, 0.0, 0.0, 1.0, (0.0, 0.0))  # both order the rows alike
    z = difference / error
    return DeLong(
        difference,
        error,
        z,
        math.erfc(abs(z) / math.sqrt(2)),
        (difference - _Z * error, difference + _Z * error),
    )


class UserBootstrap(NamedTuple):
    difference: float
    """AUC of the scores minus (mean) AUC of the base scores, over all rows"""
    standard_error: float
    p_value: float
    """two-sided: twice the share of resampled differences at or beyond 0 on the rarer side, counting in the
    observed one
    """
    interval: tuple[float, float]
    """95%, percentiles"""
    users: int
    resamples: int
    """number of resamples with rows of both classes"""


def user_bootstrap(
    users: ArrayLike,
    labels: ArrayLike,
    scores: ArrayLike,
    base_scores: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> UserBootstrap:
    """Paired bootstrap by user of the difference of two AUCs on the same rows: users are drawn with
    replacement, as many as there are, with all their rows (as `cluster_interval`), and both models are judged
    by the same draw.

    A drawn user's rows count as often as the user was drawn, so rows are sorted once and not in every
    resample.

    users: [N], ids of any kind. labels: [N], 0 or 1. scores, base_scores: [N], finite; base_scores may be
    [R, N], of several models, whose AUCs count by their mean. weights: [N], ≥ 0, of the AUCs. Raises
    DataError as `metrics.auc` does, and for fewer than two users.
    """
    clicked, values = checked(labels, scores, "score")
    bases = [checked(labels, each, "base score")[1] for each in np.atleast_2d(np.asarray(base_scores))]
    names, members = np.unique(np.asarray(users), return_inverse=True)
    if members.shape != clicked.shape:
        raise DataError(f"users have shape {members.shape}, labels {clicked.shape}; give every row's user")
    if len(names) < 2:
        raise DataError(
            f"a bootstrap by user needs two users, these {len(members)} rows have {len(names)}; "
            "evaluate on more rows"
        )
    of_rows = None if weights is None else counted(clicked, weights)
    model, *base_models = (_Presorted(members, clicked, each, of_rows) for each in (values, *bases))

    def gain(times: NDArray[np.int64]) -> float:
        return model.auc(times) - sum(base.auc(times) for base in base_models) / len(base_models)

    observed = gain(np.ones(len(names), dtype=np.int64))
    if math.isnan(observed):
        raise DataError(
            f"AUC is undefined: all {len(clicked)} rows have the same label; evaluate on rows of both classes"
        )
    generator = np.random.default_rng(seed)
    drawn = (
        np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        for _ in range(resamples)
    )
    all_differences = np.array([gain(times) for times in drawn])
    differences = all_differences[np.isfinite(all_differences)]
    if len(differences) < 2:
        raise DataError(
            f"a bootstrap by user needs rows of both classes in its resamples, {len(differences)} of "
            f"{resamples} have; add users"
        )
    rarer = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    low, high = np.percentile(differences, [2.5, 97.5])
    return UserBootstrap(
        difference=observed,
        standard_error=float(differences.std(ddof=1)),
        p_value=min(1.0, 2 * (rarer + 1) / (len(differences) + 1)),
        interval=(float(low), float(high)),
        users=len(names),
        resamples=len(differences),
    )


class PairedT(NamedTuple):
    difference: float
    """mean of values − base_values"""
    t: float
    degrees_of_freedom: int
    p_value: float
    """two-sided"""
    interval: tuple[float, float]
    """95%"""


def paired_t_test(values: Sequence[float], base_values: Sequence[float]) -> PairedT:
    """Student's paired t-test over seeds: t = mean difference / (its standard deviation / √n) on n − 1
    degrees of freedom.

    values, base_values: [n], a metric of two models; equal places belong to the same seed. Raises InputError
    for fewer than two pairs, unequal lengths, or differences that are all the same but not 0.
    """
    if len(values) != len(base_values):
        raise InputError(
            f"{len(values)} values against {len(base_values)}: a paired test needs both models' runs "
            "of the same seeds"
        )
    if len(values) < 2:
        raise InputError(
            f"{len(values)} pair of runs: a t-test over seeds needs two or more; train both models "
            "with further seeds"
        )
    differences = np.asarray(values, dtype=np.float64) - np.asarray(base_values, dtype=np.float64)
    degrees = len(differences) - 1
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(differences))
    if np.ptp(differences) < _ROUNDING:
        if abs(mean) > _ROUNDING:
            raise InputError(
                f"all {len(differences)} pairs differ by the same {mean:g}, t is undefined; are these "
                "runs of different seeds?"
            )
        return PairedT(0.0, 0.0, degrees, 1.0, (0.0, 0.0))
    t = mean / error
    half = _t_of(0.05, degrees) * error
    return PairedT(mean, t, degrees, _t_p_value(t, degrees), (mean - half, mean + half))


def _paired(
    labels: ArrayLike, scores: ArrayLike, base_scores: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray, NDArray]:
    clicked, values = checked(labels, scores, "score")
    return clicked, values, checked(labels, base_scores, "base score")[1]


def _placements(
    clicked: NDArray[np.bool_], scores: NDArray, weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return [N]: for a click the share of other rows below it, for another row the share of clicks above it;
    a tie is half below and half above. With weights, shares are by weight.
    """
    order = np.argsort(scores)
    starts = run_starts(scores[order])
    sizes = np.diff(np.append(starts, len(scores)))
    of_rows = np.ones(len(scores), dtype=np.int64) if weights is None else weights[order]
    clicks, others = (np.add.reduceat(of_rows * of, starts) for of in (clicked[order], ~clicked[order]))
    below = (np.cumsum(others) - others + others / 2) / others.sum()
    above = (clicks.sum() - np.cumsum(clicks) + clicks / 2) / clicks.sum()
    placements = np.empty(len(scores))
    placements[order] = np.where(clicked[order], np.repeat(below, sizes), np.repeat(above, sizes))
    return placements


class _Presorted:
    """One model's rows in the order of their scores: its AUC for any multiplicities of users, without sorting
    again.
    """

    def __init__(
        self,
        members: NDArray,
        clicked: NDArray[np.bool_],
        scores: NDArray,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        order = np.argsort(scores)
        self._weights = None if weights is None else weights[order]
        self._members, self._clicked = members[order], clicked[order]
        self._starts = run_starts(scores[order])

    def auc(self, times: NDArray[np.int64]) -> float:
        """Compute `metrics.auc` with every row of user u repeated times[u] times; NaN if one class is
        missing.
        """
        weights = times[self._members]
        if self._weights is not None:
            weights = weights * self._weights
        clicks = np.where(self._clicked, weights, 0)
        if len(self._starts) < len(weights):  # there are ties
            clicks, weights = np.add.reduceat(clicks, self._starts), np.add.reduceat(weights, self._starts)
        others = weights - clicks
        others_below = np.cumsum(others)
        # As Python's numbers: whole ones can't overflow
        pairs = clicks.sum().item() * others_below[-1].item()
        return (clicks @ (2 * others_below - others)).item() / (2 * pairs) if pairs else math.nan


def _t_p_value(t: float, degrees: int) -> float:
    """P(|T| ≥ |t|) of Student's distribution: the incomplete beta function I_x(ν/2, 1/2) at x = ν / (ν + t²)
    (DLMF 8.17).
    """
    x = degrees / (degrees + t * t)
    a, b = degrees / 2, 0.5
    if x < (a + 1) / (a + b + 2):  # where the continued fraction converges fast
        return _beta_fraction(x, a, b)
    return 1 - _beta_fraction(t * t / (degrees + t * t), b, a)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22), evaluated from the 200th term back."""
    if not x:
        return 0.0
    tail = 1.0
    for term in range(200, 0, -1):
        m, odd = divmod(term, 2)
        numerator = -(a + m) * (a + b + m) if odd else m * (b - m)
        tail = 1 + numerator * x / ((a + term - 1) * (a + term)) / tail
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / (a * tail)


def _t_of(p_value: float, degrees: int) -> float:
    """Return the t whose two-sided p-value this is, by bisection."""
    low, high = 0.0, 1.0
    while _t_p_value(high, degrees) > p_value:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_p_value(middle, degrees) > p_value else (low, middle)
    return high

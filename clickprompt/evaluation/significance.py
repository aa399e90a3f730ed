"""Is a difference more than chance? Intervals for rows that are not independent of each other."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["cluster_interval"]

RESAMPLES = 2000
_DRAWS_PER_STEP = 1 << 22  # bounds the memory


def cluster_interval(clusters: ArrayLike, gains: ArrayLike, counts: ArrayLike, *, seed: int = 0) -> tuple[float, float] | None:
    """95% percentile interval of Σ gains / Σ counts by the cluster bootstrap (Efron and Tibshirani 1993, §8): clusters are drawn
    with replacement, as many as there are, `RESAMPLES` times.

    A user's rows share the user, so they are no independent evidence; whole users are. Few clusters make the interval too narrow.

    clusters, gains, counts: [N], what each line belongs to, what it adds to the numerator and to the denominator (counts > 0).
    Returns None where fewer than two clusters leave nothing to estimate from.
    """
    names, members = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        return None
    sums = np.stack([np.bincount(members, weights=np.asarray(values, dtype=np.float64)) for values in (gains, counts)], axis=1)  # [C, 2]
    generator = np.random.default_rng(seed)
    step = max(1, _DRAWS_PER_STEP // len(names))
    means = []
    for start in range(0, RESAMPLES, step):
        drawn = generator.integers(len(names), size=(min(step, RESAMPLES - start), len(names)))
        resampled = sums[drawn].sum(axis=1)
        means.append(resampled[:, 0] / resampled[:, 1])
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)

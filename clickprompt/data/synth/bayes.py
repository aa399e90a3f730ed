"""Compute AUC and log loss of the true click probability from histograms that can be merged.

They hold exact sums over any number of rows in constant memory.
"""

from dataclasses import dataclass

import numpy as np

from clickprompt.errors import DataError

__all__ = ["ScoreHistogram"]

_BINS = 1 << 16
_RANGE = 16.0  # logits lie within ±_RANGE


@dataclass
class ScoreHistogram:
    """Expected labels under the true probabilities: clicks p and non-clicks 1 − p, summed per logit bin."""

    clicks: np.ndarray  # [_BINS] float64
    others: np.ndarray  # [_BINS] float64
    both: float  # Σ p(1 − p): the pairs of a row with itself, which don't count
    entropy: float  # nats
    rows: int

    @classmethod
    def empty(cls) -> "ScoreHistogram":
        return cls(np.zeros(_BINS), np.zeros(_BINS), 0.0, 0.0, 0)

    @classmethod
    def of(cls, logits: np.ndarray) -> "ScoreHistogram":
        """Count logits: [N] float64, within ±16."""
        assert len(logits) == 0 or np.abs(logits).max() < _RANGE, "a logit out of the histogram's range"
        bins = ((logits + _RANGE) * (_BINS / (2 * _RANGE))).astype(np.int64)
        p = 1 / (1 + np.exp(-logits))
        entropy = np.logaddexp(0.0, logits) - p * logits
        return cls(
            np.bincount(bins, weights=p, minlength=_BINS),
            np.bincount(bins, weights=1 - p, minlength=_BINS),
            float(np.sum(p * (1 - p))),
            float(np.sum(entropy)),
            len(logits),
        )

    def add(self, other: "ScoreHistogram") -> None:
        self.clicks += other.clicks
        self.others += other.others
        self.both += other.both
        self.entropy += other.entropy
        self.rows += other.rows

    def auc(self) -> tuple[float, float]:
        """Return the Bayes AUC as (value, largest error): expected pairs (click, non-click of another row) in
        the right order / expected pairs.

        Between bins the order is known. Within a bin a click lies above a non-click in at least half of the
        pairs, because p grows with the logit, and in at most all of them: the value is the middle of the two
        bounds.

        Raises DataError if no pair is to be expected.
        """
        pairs = self.clicks.sum() * self.others.sum() - self.both
        if not pairs > 0:
            raise DataError(
                f"the Bayes AUC of {self.rows} rows is undefined: no pair of a click and a non-click "
                "is to be expected"
            )
        others_below = np.cumsum(self.others) - self.others
        between = float(np.sum(self.clicks * others_below))
        within = max(float(np.sum(self.clicks * self.others)) - self.both, 0.0)
        return (between + 0.75 * within) / pairs, 0.25 * within / pairs

    def log_loss(self) -> float:
        """Return the mean entropy of the labels: the expected log loss of the true probability."""
        return self.entropy / self.rows

    def positive_rate(self) -> float:
        """Return the expected share of clicks."""
        return float(self.clicks.sum()) / self.rows

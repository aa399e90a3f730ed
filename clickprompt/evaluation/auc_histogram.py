"""AUC from histograms that can be merged. Memory doesn't grow with the rows, nothing is sorted, and the
largest possible error is known.

Every finite float32 first becomes an integer of the same order (−0.0 and 0.0 the same one): a bucket, its top
16 bits, and a place in it, its low 16 bits. A bucket is cut into as many equal bins as `LogitBins` says; the
finest bins hold one value.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clickprompt.errors import DataError

__all__ = ["NUM_BINS", "AucHistogram", "LogitBins"]

NUM_BINS = 1 << 20
_BUCKETS = 1 << 16
_VALUES = 1 << 16  # float32 values in a bucket
_ROWS_PER_STEP = 1 << 16  # small enough that temporaries stay in the processor's cache


class LogitBins:
    """An order-preserving map of the finite float32 numbers to at most 2^20 bins. Histograms can be merged if
    they were made with the same map.
    """

    def __init__(self, bins_of: NDArray[np.int64]) -> None:
        """bins_of: [65,536], bins of each bucket, 1 to 65,536."""
        self.bins_of = bins_of
        # The bucket's first bin and its number of bins in one look-up
        self._packed = (np.cumsum(bins_of) - bins_of) << 32 | bins_of

    @classmethod
    def even(cls) -> "LogitBins":
        """Return bins of the top 20 bits: sign, exponent and 11 bits of the mantissa, whatever the logits
        are.
        """
        return cls(np.full(_BUCKETS, NUM_BINS // _BUCKETS, dtype=np.int64))

    @classmethod
    def of_sample(cls, logits: ArrayLike) -> "LogitBins":
        """Return bins that hold about equally many rows each, judged by a sample of a million logits or so,
        and agreed on before rows are counted.

        Then AUC is certain to ≤ about 5e-7: `AucHistogram.auc`'s bound is at most half the share of rows in
        the fullest bin of several values. (With a bin's shares x of the clicks, y of the others and μ of all
        rows, of which a share c are clicks: μ = cx + (1 − c)y and xy ≤ μ(cy + (1 − c)x), whose last factor
        sums to 1 over the bins.) Logits unlike the sample loosen the bound but never break it.

        logits: [N] float32, finite. Raises DataError for a logit that isn't finite.
        """
        sample = _ordered(_float32(logits))
        rows = np.bincount((sample >> 16) + _BUCKETS // 2, minlength=_BUCKETS)
        return cls(np.minimum(1 + rows * (NUM_BINS - _BUCKETS) // max(1, len(sample)), _VALUES))

    def __call__(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the bin of each logit, [N]. Raises DataError for a logit that isn't finite."""
        value = _ordered(logits)
        packed = self._packed[(value >> 16) + _BUCKETS // 2]
        return (packed >> 32) + ((value & (_VALUES - 1)) * (packed & 0xFFFFFFFF) >> 16)

    def of_one_value(self) -> NDArray[np.bool_]:
        """Return whether each bin, [bins], is as fine as float32: rows in such a bin are ties."""
        return np.repeat(self.bins_of == _VALUES, self.bins_of)


class AucHistogram:
    """Clicks and other rows per bin of the logit, for any number of rows below 2^32; 16 MiB at most."""

    def __init__(self, bins: LogitBins | None = None, *, weighted: bool = False) -> None:
        self.bins = bins or LogitBins.even()
        self.counts = np.zeros((int(self.bins.bins_of.sum()), 2), np.float64 if weighted else np.int64)
        """[bins, 2]: rows with label 0 and with label 1; if weighted, the sums of their weights"""

    def add(self, labels: ArrayLike, logits: ArrayLike, weights: ArrayLike | None = None) -> None:
        """Count rows. This takes 8 bytes per row while it runs.

        labels: [N], 0 or 1. logits: [N] float32, finite. weights: [N], ≥ 0, if weighted. Raises DataError for
        another label, a logit that isn't finite, or another number of logits than labels; then nothing is
        counted.
        """
        assert (weights is not None) == (self.counts.dtype == np.float64), "weighted, or not"
        clicked, values = np.asarray(labels), _float32(logits)
        if clicked.shape != values.shape:
            raise DataError(
                f"labels have shape {clicked.shape}, logits {values.shape}; give one logit for every "
                "label, of the same rows"
            )
        cells = self._cells(clicked, values)
        if len(cells) < self.counts.size // 16:  # np.bincount would make all bins anew for a few rows
            np.add.at(self.counts.reshape(-1), cells, 1 if weights is None else np.asarray(weights))
        else:
            self.counts += np.bincount(cells, weights, minlength=self.counts.size).reshape(-1, 2)

    def _cells(self, labels: NDArray, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the place of each row in the flattened counts, [N]."""
        cells = np.empty(len(logits), dtype=np.int64)
        for start in range(0, len(logits), _ROWS_PER_STEP):
            part = slice(start, start + _ROWS_PER_STEP)
            clicked = labels[part] == 1
            if not np.all(clicked | (labels[part] == 0)):
                raise DataError("a label is neither 0 nor 1; check the label rule that prepared the data")
            cells[part] = 2 * self.bins(logits[part]) + clicked
        return cells

    def merge(self, other: "AucHistogram") -> None:
        """Add the other's rows, as if they had been counted here. Raises DataError if it was made with other
        bins.
        """
        if not np.array_equal(self.bins.bins_of, other.bins.bins_of):
            raise DataError("these histograms have different bins; make all of them with the same LogitBins")
        self.counts += other.counts

    def auc(self) -> tuple[float, float]:
        """Return (estimate, bound): the AUC of all rows (evaluation/metrics.py) is within `bound` of the
        estimate.

        Pairs of one bin count half. Each can be wrong by a half, so the bound is Σ clicks·others / (2·all
        clicks·all others) over the bins of more than one value. Raises DataError if only one class is
        present.
        """
        occupied = np.flatnonzero(self.counts.any(axis=1))
        others, clicks = self.counts[occupied].T
        num_others, num_clicks = others.sum().item(), clicks.sum().item()
        if self.counts.dtype == np.int64:
            assert num_others + num_clicks < 1 << 32, "twice the pairs overflow int64"
        if not num_others * num_clicks:
            raise DataError(
                f"AUC is undefined: {num_others:,} rows have label 0 and {num_clicks:,} label 1; "
                "evaluate on rows of both classes"
            )
        below = np.cumsum(others) - others
        twice_right = np.sum(clicks * (2 * below + others)).item()
        uncertain = np.sum((clicks * others)[~self.bins.of_one_value()[occupied]]).item()
        return twice_right / (2 * num_others * num_clicks), uncertain / (2 * num_others * num_clicks)


def _float32(logits: ArrayLike) -> NDArray[np.float32]:
    values = np.asarray(logits)
    assert values.dtype == np.float32, (
        f"logits are {values.dtype}; rounding them to float32 would make ties that no bound knows of"
    )
    assert values.ndim == 1, values.shape
    return values


def _ordered(logits: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the place of each logit among the float32 numbers as an integer, [N]; 0 for both zeros.

    Computed from the bits alone, because float arithmetic would lose denormal numbers in a process that
    flushes them.
    """
    bits = np.ascontiguousarray(logits).view(np.int32)
    magnitude = bits & 0x7FFFFFFF
    if magnitude.max(initial=0) >= 0x7F800000:
        raise DataError(
            f"a logit is {logits[np.argmax(magnitude)]}; the model diverged, train it again with a "
            "smaller learning rate"
        )
    sign = bits >> 31
    return (magnitude ^ sign) - sign

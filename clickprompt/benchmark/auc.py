"""`clickprompt benchmark auc`: AUC from merged histograms (evaluation/auc_histogram.py) against
scikit-learn's over all rows at once.

- histogram: sample each shard's logits for the bins, then make a histogram per shard and merge them; AUC and
  its bound.
- sklearn: `roc_auc_score` on the shards' rows, joined beforehand.

Both are measured in CPU time, of one process each. The logits are made up: normal, mean −1 and deviation 1.5,
with clicks drawn by their probability.
"""

import contextlib
import importlib.util
import time

import numpy as np

from clickprompt.benchmark.measure import Figures, arm, figure, interleaved
from clickprompt.config import Config
from clickprompt.errors import InputError
from clickprompt.evaluation.auc_histogram import AucHistogram, LogitBins
from clickprompt.io.progress import say

__all__ = ["measure_auc"]

_ROWS, _SHARDS = 1 << 24, 8
_SAMPLE = 1 << 20
_REPEATS = 5


def measure_auc(config: Config) -> tuple[Figures, list[str]]:
    """Return figures and remarks. Raises InputError without scikit-learn."""
    if not importlib.util.find_spec("sklearn"):
        raise InputError("benchmark auc needs scikit-learn; pip install -c constraints.txt scikit-learn")
    with contextlib.ExitStack() as stack:
        arms = {
            name: stack.enter_context(arm(name, 1, work, config.seed, _ROWS, _SHARDS))
            for name, work in {"histogram": _Histogram, "sklearn": _Sklearn}.items()
        }
        (estimate, bound), (exact, _) = (one.call("auc") for one in arms.values())
        say(
            f"auc: {estimate:.9f} ± {bound:.1e}, scikit-learn {exact:.9f}; timing {_REPEATS} readings of each"
        )
        seconds = interleaved(arms, "cpu_seconds", _REPEATS)
    figures = {
        "speedup": figure(
            [slow / fast for fast, slow in zip(seconds["histogram"], seconds["sklearn"], strict=True)],
            "x CPU time",
        ),
        **{f"cpu_seconds_{name}": figure(values, "s") for name, values in seconds.items()},
        "error": figure([abs(estimate - exact)], "of AUC"),
        "bound": figure([bound], "of AUC"),
    }
    note = f"AUC {estimate:.9f} within {bound:.2e}, {abs(estimate - exact):.2e} from scikit-learn's"
    return figures, [f"{_ROWS:,} rows in {_SHARDS} shards; {note}"]


class _Work:
    """One arm, in its process."""

    def __init__(self, seed: int, num_rows: int, num_shards: int) -> None:
        self.shards = [
            _shard(np.random.default_rng((seed, shard)), num_rows // num_shards)
            for shard in range(num_shards)
        ]

    def auc(self) -> tuple[float, float]:
        raise NotImplementedError

    def cpu_seconds(self) -> float:
        started = time.process_time()
        self.auc()
        return time.process_time() - started


class _Histogram(_Work):
    def auc(self) -> tuple[float, float]:
        step = max(1, sum(len(logits) for _, logits in self.shards) // _SAMPLE)
        bins = LogitBins.of_sample(np.concatenate([logits[::step] for _, logits in self.shards]))
        merged = AucHistogram(bins)
        for labels, logits in self.shards:
            histogram = AucHistogram(bins)
            histogram.add(labels, logits)
            merged.merge(histogram)
        return merged.auc()


class _Sklearn(_Work):
    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self._labels, self._logits = (np.concatenate(column) for column in zip(*self.shards, strict=True))
        self.shards = []

    def auc(self) -> tuple[float, float]:
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(self._labels, self._logits)), 0.0


def _shard(generator: np.random.Generator, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels [N] int8 and logits [N] float32."""
    logits = (1.5 * generator.standard_normal(num_rows, dtype=np.float32) - 1).astype(np.float32)
    return (generator.random(num_rows, dtype=np.float32) < 1 / (1 + np.exp(-logits))).astype(np.int8), logits

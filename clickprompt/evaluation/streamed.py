"""Compute the figures of figures.py for a split that doesn't fit in memory, from a few row groups of its
prediction files at a time.

Memory grows with the vocabulary and not with the rows: every AUC comes from an `AucHistogram` (16 MiB at
most), certain to its bound. GAUC and the figures of users' rankings are exact: rows wait in temporary
files, 9 bytes each (17 with weights), until all of a user's are there. Intervals of AUCs and AUC by value are
left out, because they need all rows sorted or a histogram per value.
"""

import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clickprompt.config import EvaluateConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.evaluation.auc_histogram import AucHistogram, LogitBins
from clickprompt.evaluation.calibration import (
    calibration_sums,
    equal_mass_edges,
    equal_width_edges,
    expected_calibration_error,
    reliability_curve,
)
from clickprompt.evaluation.group_auc import Gauc, gauc_and_weight
from clickprompt.evaluation.metrics import log_loss
from clickprompt.evaluation.predictions import part_uri, read_part, rows_of
from clickprompt.evaluation.ranking import Ranked, merged, ranking
from clickprompt.evaluation.slices import cold_rows, judged, tail_subsets, tails
from clickprompt.io import storage

__all__ = ["streamed_figures"]

_AT_ONCE = 1 << 17  # rows in memory
# Rows of one group of users, about so many, sorted in memory
_USERS_ROWS = 1 << 22
# Logits that decide the edges of the histograms and of the bins of equal mass
_SAMPLE = 1 << 20


class _Sums:
    """Sums of a subset's rows."""

    def __init__(self, bins: LogitBins, *, weighted: bool) -> None:
        self._histogram = AucHistogram(bins, weighted=weighted)
        self._rows = self._clicks = 0
        self._loss = self._weight = 0.0

    def add(self, labels: NDArray, logits: NDArray, weights: NDArray | None) -> None:
        if weights is not None:
            counted = weights > 0
            labels, logits, weights = labels[counted], logits[counted], weights[counted]
        if len(labels):
            self._histogram.add(labels, logits, weights)
            self._rows += len(labels)
            self._clicks += int(labels.sum())
            weight = len(labels) if weights is None else float(weights.sum(dtype=np.float64))
            self._weight += weight
            self._loss += weight * log_loss(labels, logits, weights)

    def figures(self, *, always: bool = False) -> dict[str, Any]:
        """Return the figures as `figures_of` of slices.py. `always`: with an AUC however few rows there are,
        if both classes are there.
        """
        auc, bound = (
            self._histogram.auc()
            if (0 < self._clicks < self._rows if always else judged(self._rows, self._clicks))
            else (None, None)
        )
        return {
            "rows": self._rows,
            "clicks": self._clicks,
            "auc": auc,
            "auc_bound": bound,
            "auc_interval": None,
            "log_loss": self._loss / self._weight if self._rows else None,
        }


class _ByUser:
    """Rows in files by user, so that figures of users need only some of the users at a time."""

    _ROW = (("user", "<i4"), ("label", "i1"), ("logit", "<f4"))
    _WEIGHT = ("weight", "<f8")

    def __init__(self, folder: str, rows: int, *, weighted: bool) -> None:
        self._row = np.dtype([*self._ROW, *([self._WEIGHT] if weighted else [])])
        self._paths = [os.path.join(folder, str(part)) for part in range(math.ceil(rows / _USERS_ROWS))]

    def add(self, users: NDArray, labels: NDArray, logits: NDArray, weights: NDArray | None) -> None:
        rows = np.empty(len(users), dtype=self._row)
        rows["user"], rows["label"], rows["logit"] = users, labels, logits
        if weights is not None:
            rows["weight"] = weights
        part = users % len(self._paths)
        for number, path in enumerate(self._paths):
            with storage.user_errors(path), open(path, "ab") as stream:
                stream.write(rows[part == number].tobytes())

    def figures(self, top_k: Sequence[int]) -> tuple[Gauc, Ranked]:
        parts, ranked = [], []
        total, weighted = 0.0, []
        for path in self._paths:
            rows = np.fromfile(path, self._row)
            columns = rows["user"], rows["label"], rows["logit"]
            weights = rows["weight"] if "weight" in (self._row.names or ()) else None
            part, weight = gauc_and_weight(*columns, weights)
            parts.append(part)
            if part.value is not None:
                total += weight
                weighted.append(part.value * weight)
            ranked.append(ranking(*columns, top_k))
        counted = sum(part.rows for part in parts)
        value = math.fsum(weighted) / total if weighted else None
        users, left_out = sum(part.users for part in parts), sum(part.users_left_out for part in parts)
        rows_left_out = sum(part.rows_left_out for part in parts)
        return Gauc(value, users, counted, left_out, rows_left_out), merged(ranked)


def streamed_figures(
    folder: str,
    dataset: Dataset,
    split: str,
    settings: EvaluateConfig,
    *,
    user: str,
    item: str,
    few: list[str],
) -> dict[str, Any]:
    """Compute `split_figures` of figures.py from the prediction files in `folder`, one per row group of the
    split.

    user, item: fields of the long tail. few: fields whose values are listed. Raises DataError if the files
    don't have the split's rows.
    """
    groups = dataset.row_group_counts(split)
    sample = _sample(folder, groups)
    bins = LogitBins.of_sample(sample)
    edges = {"equal_width": equal_width_edges(), "equal_mass": equal_mass_edges(sample)}
    counts = {
        name: dataset.vocabulary(number)["train_count"].to_numpy()
        for number, name in enumerate(dataset.field_names)
    }
    tail = tails(counts[user], counts[item], settings.tail_share)
    calibration = {name: np.zeros((len(of) - 1, 5 if dataset.weighted else 3)) for name, of in edges.items()}
    values = {name: np.zeros((len(counts[name]), 2), dtype=np.int64) for name in few}  # rows, clicks
    weighted = dataset.weighted

    def sums_of_none() -> _Sums:
        return _Sums(bins, weighted=weighted)

    whole = sums_of_none()
    subsets: dict[tuple[str, bool, bool], _Sums] = defaultdict(sums_of_none)
    cold: dict[str, _Sums] = defaultdict(sums_of_none)
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as scratch:
        by_user = _ByUser(scratch, int(groups.sum()), weighted=weighted)
        for rows, predictions in _chunks(folder, dataset, split, groups):
            ids = {
                name: rows[column].to_numpy()
                for name, column in zip(dataset.field_names, dataset.columns, strict=True)
            }
            labels, logits = predictions["label"].to_numpy(), predictions["logit"].to_numpy()
            weights = rows["importance"].to_numpy().astype(np.float64) if weighted else None
            whole.add(labels, logits, weights)
            by_user.add(ids[user], labels, logits, weights)
            for name, of in edges.items():
                calibration[name] += calibration_sums(labels, logits, of, weights)
            for reading, four in tail_subsets(ids[user], ids[item], tail).items():
                for subset in four:
                    subsets[reading, subset.tail_user, subset.tail_item].add(
                        labels[subset.rows],
                        logits[subset.rows],
                        None if weights is None else weights[subset.rows],
                    )
            for name, chosen in cold_rows(ids, counts).items():
                if chosen.any() or name == "none":
                    of_chosen = None if weights is None else weights[chosen]
                    cold[name].add(labels[chosen], logits[chosen], of_chosen)
            counted = slice(None) if weights is None else weights > 0
            for name, sums in values.items():
                of_value = (
                    np.bincount(ids[name][counted], of, minlength=len(sums)) for of in (None, labels[counted])
                )
                sums += np.stack(list(of_value), axis=1).astype(np.int64)
        users, ranked = by_user.figures(settings.top_k)
    readings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (reading, tail_user, tail_item), sums in subsets.items():
        readings[reading].append({"tail_user": tail_user, "tail_item": tail_item, **sums.figures()})
    return {
        **{name: figure for name, figure in whole.figures(always=True).items() if name != "clicks"},
        "rows": int(groups.sum()),
        "gauc": users._asdict(),
        "ranking": ranked._asdict(),
        "calibration": {
            name: {"error": expected_calibration_error(sums), "curve": reliability_curve(sums, edges[name])}
            for name, sums in calibration.items()
        },
        "long_tail": {"user": user, "item": item, "share": settings.tail_share, **readings},
        "cold_start": {name: cold[name].figures() for name in (*dataset.field_names, "none") if name in cold},
        "by_value": {
            name: _by_value(sums, dataset.vocabulary(dataset.field_names.index(name)))
            for name, sums in values.items()
        },
    }


def _by_value(sums: NDArray[np.int64], vocabulary: pa.Table) -> list[dict[str, Any]]:
    return [
        {
            "value": vocabulary["value"][number].as_py(),
            "rows": int(sums[number, 0]),
            "clicks": int(sums[number, 1]),
            "auc": None,
            "auc_interval": None,
        }
        for number in np.flatnonzero(sums[:, 0]).tolist()
    ]


def _sample(folder: str, groups: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the logits of whole row groups, evenly spread over the split."""
    step = max(1, int(groups.sum()) // _SAMPLE)
    return np.concatenate(
        [read_part(part_uri(folder, group))["logit"].to_numpy() for group in range(0, len(groups), step)]
    )


def _chunks(
    folder: str, dataset: Dataset, split: str, groups: NDArray[np.int64]
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield (rows, their predictions), both sorted by row_id, some row groups at a time."""
    ends = np.cumsum(groups)
    first = 0
    while first < len(groups):
        within = int(np.searchsorted(ends, ends[first] - groups[first] + _AT_ONCE, side="right"))
        after = max(first + 1, within)
        some = range(first, after)
        predictions = pa.concat_tables([read_part(part_uri(folder, group)) for group in some]).sort_by(
            "row_id"
        )
        yield rows_of(predictions, dataset.read_row_groups(split, some)), predictions
        first = after

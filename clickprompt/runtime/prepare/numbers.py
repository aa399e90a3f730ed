"""Fit what learned numbers are standardised by (data/transform/standard.py): mean and standard deviation of
the training rows, file by file.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from clickprompt.config import number_columns
from clickprompt.data.prepared import staging
from clickprompt.data.sources.raw import Source
from clickprompt.data.transform.row_transform import FieldRule
from clickprompt.data.transform.standard import Scale
from clickprompt.errors import DataError
from clickprompt.runtime.prepare.coded_log import CodedLog
from clickprompt.runtime.prepare.fan_out import FanOut
from clickprompt.runtime.prepare.tasks import Ordering, split_numbers

__all__ = ["fit_scales", "with_scales"]


def fit_scales(work: FanOut, source: Source, log: CodedLog, ordering: Ordering) -> dict[int, Scale]:
    """Return field → scale of the fields with learned numbers. Raises DataError for a field with fewer than
    two numbers among the training rows.
    """
    fields = source.learned
    if not fields:
        return {}
    calls = ((file, number_columns(fields), ordering) for file in log.files)
    # In the order of the files, so the sums are the same on any number of machines
    moments = reduce(_merged, work.each(_moments, calls, "standardising numbers"))
    scales = {}
    for field, (count, mean, squares) in zip(fields, moments.T, strict=True):
        if not squares > 0:
            what = (
                "training rows have no number" if not count else "all numbers of training rows are the same"
            )
            raise DataError(f"field {source.fields[field]}: {what}; leave learned out")
        scales[field] = Scale(float(mean), float(np.sqrt(squares / count)))
    return scales


def with_scales(rules: Sequence[FieldRule], scales: dict[int, Scale]) -> list[FieldRule]:
    return [replace(rule, scale=scales.get(number)) for number, rule in enumerate(rules)]


def _moments(file: str, columns: Sequence[str], ordering: Ordering) -> np.ndarray:
    """Return [3, K] float64: of each column's numbers in a file's training rows their count, their mean and
    the sum of squares about it.
    """
    rows = staging.read_rows(file)
    key, row_id = (rows.column(name).to_numpy() for name in ("split_key", "row_id"))
    train = split_numbers(key, row_id, ordering) == 0
    found = np.zeros((3, len(columns)))
    for place, name in enumerate(columns):
        values = rows.column(name).to_numpy()[train]
        values = values[~np.isnan(values)]
        if len(values):
            mean = values.mean()
            found[:, place] = len(values), mean, np.square(values - mean).sum()
    return found


def _merged(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Merge the moments of two sets of rows (Chan, Golub, LeVeque 1983)."""
    (left, mean, squares), (right, its_mean, its_squares) = one, other
    count = left + right
    share = right / np.maximum(count, 1)
    apart = its_mean - mean
    return np.stack([count, mean + apart * share, squares + its_squares + np.square(apart) * left * share])

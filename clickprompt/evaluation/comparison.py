"""Test whether one model's AUC exceeds another's on the same rows by more than chance."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clickprompt.errors import DataError
from clickprompt.evaluation.metrics import auc_or_none, log_loss, relative_improvement
from clickprompt.evaluation.significance import delong, user_bootstrap

__all__ = ["compare", "paired_logits"]


def paired_logits(predictions: pa.Table, base: pa.Table) -> NDArray[np.float32]:
    """Return the base model's logits, [N], in the order of `predictions` (both as read_predictions gives
    them).

    Raises DataError if the two don't have the same rows with the same labels.
    """
    rows, base_rows = (set(table["row_id"].to_numpy().tolist()) for table in (predictions, base))
    if rows != base_rows:
        raise DataError(
            f"the two runs were scored on different rows ({len(rows):,} and {len(base_rows):,}, "
            f"{len(rows & base_rows):,} in both); evaluate both on the same split of the same dataset"
        )
    different = predictions["label"].to_numpy() != base["label"].to_numpy()
    if different.any():
        first = predictions["row_id"][int(np.flatnonzero(different)[0])].as_py()
        raise DataError(
            f"the two runs' labels differ in {different.sum():,} rows (row_id {first} is the first); "
            "evaluate both again"
        )
    return base["logit"].to_numpy()


def compare(
    users: NDArray | None,
    labels: NDArray,
    logits: NDArray,
    base_logits: NDArray,
    weights: NDArray | None = None,
) -> dict[str, Any]:
    """Return {"auc", "log_loss"} of the base model, "relative_improvement" over it (Table 2's Rel.Impr), and
    two tests of the difference: "delong", which treats rows as independent, and "user_bootstrap", which
    doesn't; None if there are too few rows of a class, or too few users, to test. If all rows are of one
    class, only "log_loss" isn't None.

    All [N]; users are ids of any kind, None if none are known ("user_bootstrap" is then None). weights: how
    much a row counts; DeLong's test, which is for rows that count alike, is then None. Raises DataError as
    `auc_or_none` does.
    """
    base_auc = auc_or_none(labels, base_logits, weights)
    weighted = {} if weights is None else {"weights": weights}
    return {
        "auc": base_auc,
        "log_loss": log_loss(labels, base_logits, weights),
        "relative_improvement": relative_improvement(auc_or_none(labels, logits, weights), base_auc),
        "delong": _tested(delong, labels, logits, base_logits) if weights is None else None,
        "user_bootstrap": None
        if users is None
        else _tested(user_bootstrap, users, labels, logits, base_logits, **weighted),
    }


def _tested(test: Callable[..., Any], *arrays: NDArray, **options: Any) -> dict[str, Any] | None:
    try:
        return test(*arrays, **options)._asdict()
    except DataError:  # the arrays have been checked, so there are too few rows or users
        return None

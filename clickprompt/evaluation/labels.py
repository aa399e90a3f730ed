"""Figures of labels beside the click: over the rows in which the label is known."""

from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.config import label_columns
from clickprompt.errors import DataError
from clickprompt.evaluation.calibration import (
    calibration_sums,
    equal_mass_edges,
    expected_calibration_error,
)
from clickprompt.evaluation.group_auc import gauc
from clickprompt.evaluation.metrics import auc_or_none, log_loss
from clickprompt.evaluation.predictions import labels_of
from clickprompt.evaluation.significance import auc_interval

__all__ = ["figures_of_labels", "scores_of_label"]


def scores_of_label(
    labels: np.ndarray, logits: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, float | None]:
    """Return {"auc", "log_loss"} of rows' labels (0, 1, −1 where it isn't known) and logits, [N]. weights:
    [N], ≥ 0. None if no row counts, and an AUC of rows of one class.
    """
    known = labels >= 0 if weights is None else (labels >= 0) & (weights > 0)
    if not known.any():
        return {"auc": None, "log_loss": None}
    rows = labels[known], logits[known], None if weights is None else weights[known]
    return {"auc": auc_or_none(*rows), "log_loss": log_loss(*rows)}


def figures_of_labels(
    predictions: pa.Table,
    rows: pa.Table,
    users: np.ndarray,
    clusters: np.ndarray,
    weights: np.ndarray | None,
) -> dict[str, dict[str, Any]]:
    """Return the figures of each further label of the predictions, by name: "rows" that have it, the
    "positive_rate" among them, "auc", its "auc_interval", "log_loss", "gauc" and the "calibration_error" (in
    bins of equal mass). What isn't defined is None.

    rows: the dataset's, in the order of the predictions; users, clusters: [N] ids, the latter
    of what the interval is by. Raises DataError if their labels
    aren't those of the predictions.
    """
    found = {}
    names = labels_of(predictions.column_names)
    for name, column in zip(names, label_columns(names), strict=True):
        labels, logits = rows[column].to_numpy(), predictions[f"logit_{name}"].to_numpy()
        if not np.array_equal(labels, predictions[column].fill_null(-1).to_numpy()):
            raise DataError(
                f"the predictions are with other labels {name} than the dataset has: it was prepared anew or "
                "files were mixed; evaluate the run again"
            )
        known = labels >= 0 if weights is None else (labels >= 0) & (weights > 0)
        found[name] = _figures(
            labels[known],
            logits[known],
            users[known],
            clusters[known],
            None if weights is None else weights[known],
        )
    return found


def _figures(
    labels: np.ndarray,
    logits: np.ndarray,
    users: np.ndarray,
    clusters: np.ndarray,
    weights: np.ndarray | None,
) -> dict[str, Any]:
    scores = scores_of_label(labels, logits, weights)
    figures: dict[str, Any] = {"rows": len(labels), "positive_rate": None, **scores, "auc_interval": None}
    figures |= {"gauc": None, "calibration_error": None}
    if not len(labels):
        return figures
    figures["positive_rate"] = float(np.average(labels, weights=weights))
    figures["calibration_error"] = expected_calibration_error(
        calibration_sums(labels, logits, equal_mass_edges(logits), weights)
    )
    if scores["auc"] is not None:
        figures["auc_interval"] = auc_interval(clusters, labels, logits, weights)
        figures["gauc"] = gauc(users, labels, logits, weights)._asdict()
    return figures

"""The click rate alone: what a model has to beat."""

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["click_rate_of", "click_rate_only"]


def click_rate_of(manifest: Mapping[str, Any], split: str) -> dict[str, Any] | None:
    """Return `click_rate_only` of a prepared dataset's split, by the rows' weights if they have some, and as
    if no training row had been left out (`keep_negatives`); None if the manifest is of a version that didn't
    count clicks.
    """
    if not {"train", split} <= (manifest.get("clicks") or {}).keys():
        return None
    counts, clicks = manifest["counts"], manifest["clicks"]
    if manifest.get("weighted"):
        counts, clicks = ({name: of[place] for name, of in manifest["weights"].items()} for place in (0, 1))
    kept = manifest.get("options", {}).get("keep_negatives", 1.0)
    train_rows = (
        counts["train"] if kept == 1 else clicks["train"] + (counts["train"] - clicks["train"]) / kept
    )
    return click_rate_only(train_rows, clicks["train"], counts[split], clicks[split])


def click_rate_only(train_rows: float, train_clicks: float, rows: float, clicks: float) -> dict[str, Any]:
    """Return the figures of predicting the training click rate p for every one of `rows`, `clicks` of which
    are clicked, at a rate of r:

    - "prediction": p = train_clicks / train_rows;
    - "auc": ½, since all rows are tied; None if all are of one class;
    - "log_loss": −r log p − (1 − r) log(1 − p), which is infinite if p is 0 or 1 and r is not;
    - "calibration_error": |p − r|, whatever the bins, because all predictions fall into one of them.
    """
    prediction, rate = train_clicks / train_rows, clicks / rows
    terms = [
        share * math.log(predicted) if predicted else -math.inf
        for share, predicted in ((rate, prediction), (1 - rate, 1 - prediction))
        if share
    ]
    return {
        "prediction": prediction,
        "auc": 0.5 if 0 < clicks < rows else None,
        "log_loss": 0.0 - sum(terms),
        "calibration_error": abs(prediction - rate),
    }

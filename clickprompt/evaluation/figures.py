"""All that a finetuned run's predictions say: of the split as a whole, of its long tail and of its cold start."""

from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.config import EvaluateConfig
from clickprompt.data.dataset import Dataset
from clickprompt.errors import ConfigError
from clickprompt.evaluation.calibration import (
    calibration_sums,
    equal_mass_edges,
    equal_width_edges,
    expected_calibration_error,
    reliability_curve,
)
from clickprompt.evaluation.comparison import compare, paired_logits
from clickprompt.evaluation.group_auc import auc_by_value, gauc
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.evaluation.slices import TailSubset, cold_start, figures_of, tail_subsets

__all__ = ["check_fields", "split_figures"]

_MANY = 1000


def check_fields(dataset: Dataset, settings: EvaluateConfig) -> tuple[int, int]:
    """The numbers of the user's and the item's field. Raises ConfigError for a field that the dataset doesn't have."""
    names = dataset.field_names
    for key, name in (("user", settings.user), ("item", settings.item)):
        if name is not None and name not in names:
            raise ConfigError(f"evaluate.{key}={name}: {dataset.uri} has no such field; its fields are {', '.join(names)}")
    user = names.index(settings.user) if settings.user is not None else 0
    if settings.item is not None:
        item = names.index(settings.item)
    else:
        item = max((number for number in range(len(names)) if number != user), key=lambda number: dataset.field_sizes[number], default=user)
    return user, item


def split_figures(
    predictions: pa.Table, dataset: Dataset, split: str, settings: EvaluateConfig, base: pa.Table | None = None
) -> dict[str, Any]:
    """Of the predictions (read_predictions) of a whole split: {"rows", "auc", "log_loss", "gauc", "calibration", "long_tail", "cold_start",
    "by_value"}; the last has, field by field, each value's rows, clicks and AUC, where the field has at most `_MANY` values.

    base: another model's predictions of the same rows. Then there is "against" (comparison.py), too, also in the subsets of the long tail.
    Raises DataError where they aren't of the same rows.
    """
    labels, logits = predictions["label"].to_numpy(), predictions["logit"].to_numpy()
    base_logits = None if base is None else paired_logits(predictions, base)
    ids = _ids(predictions, dataset, split)
    counts = {name: dataset.vocabulary(number)["train_count"].to_numpy() for number, name in enumerate(dataset.field_names)}
    user, item = (dataset.field_names[number] for number in check_fields(dataset, settings))

    def of_subset(subset: TailSubset) -> dict[str, Any]:
        figures = {"tail_user": subset.tail_user, "tail_item": subset.tail_item, **figures_of(labels, logits, subset.rows)}
        if base_logits is not None:
            chosen = (values[subset.rows] for values in (ids[user], labels, logits, base_logits))
            figures["against"] = None if figures["auc"] is None else compare(*chosen)
        return figures

    tail = tail_subsets(ids[user], ids[item], counts[user], counts[item], settings.tail_share)
    return {
        "rows": len(labels),
        "auc": auc(labels, logits),
        "log_loss": log_loss(labels, logits),
        "gauc": gauc(ids[user], labels, logits)._asdict(),
        "calibration": {
            name: _calibration(labels, logits, edges)
            for name, edges in (("equal_width", equal_width_edges()), ("equal_mass", equal_mass_edges(logits)))
        },
        "long_tail": {
            "user": user,
            "item": item,
            "share": settings.tail_share,
            **{reading: [of_subset(subset) for subset in subsets] for reading, subsets in tail.items()},
        },
        "cold_start": cold_start(labels, logits, ids, counts),
        "by_value": {
            name: _named(auc_by_value(ids[name], labels, logits), dataset.vocabulary(number)["value"])
            for number, name in enumerate(dataset.field_names)
            if dataset.field_sizes[number] <= _MANY
        },
        **({} if base_logits is None else {"against": compare(ids[user], labels, logits, base_logits)}),
    }


def _calibration(labels: np.ndarray, logits: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    sums = calibration_sums(labels, logits, edges)
    return {"error": expected_calibration_error(sums), "curve": reliability_curve(sums, edges)}


def _named(figures: list[dict[str, Any]], values: pa.ChunkedArray) -> list[dict[str, Any]]:
    return [{**of_value, "value": values[of_value["value"]].as_py()} for of_value in figures]


def _ids(predictions: pa.Table, dataset: Dataset, split: str) -> dict[str, np.ndarray]:
    """Each field's ids in the order of the predictions, which are sorted by row_id."""
    rows = pa.concat_tables(dataset.shard_tables(split, ["row_id", *dataset.columns])).sort_by("row_id")
    assert rows["row_id"].equals(predictions["row_id"]), "predictions of other rows than the split's"
    return {name: rows[column].to_numpy() for name, column in zip(dataset.field_names, dataset.columns, strict=True)}

"""All that a finetuned run's predictions say: of the split as a whole, of its long tail and of its cold start."""

from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.config import EvaluateConfig
from clickprompt.data.dataset import Dataset
from clickprompt.errors import ConfigError
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.evaluation.slices import cold_start, long_tail

__all__ = ["check_fields", "split_figures"]


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


def split_figures(predictions: pa.Table, dataset: Dataset, split: str, settings: EvaluateConfig) -> dict[str, Any]:
    """{"rows", "auc", "log_loss", "long_tail", "cold_start"} of the predictions (read_predictions) of a whole split."""
    labels, logits = predictions["label"].to_numpy(), predictions["logit"].to_numpy()
    ids = _ids(predictions, dataset, split)
    counts = {name: dataset.vocabulary(number)["train_count"].to_numpy() for number, name in enumerate(dataset.field_names)}
    user, item = (dataset.field_names[number] for number in check_fields(dataset, settings))
    return {
        "rows": len(labels),
        "auc": auc(labels, logits),
        "log_loss": log_loss(labels, logits),
        "long_tail": {
            "user": user,
            "item": item,
            "share": settings.tail_share,
            **long_tail(labels, logits, ids[user], ids[item], counts[user], counts[item], settings.tail_share),
        },
        "cold_start": cold_start(labels, logits, ids, counts),
    }


def _ids(predictions: pa.Table, dataset: Dataset, split: str) -> dict[str, np.ndarray]:
    """Each field's ids in the order of the predictions, which are sorted by row_id."""
    rows = pa.concat_tables(dataset.shard_tables(split, ["row_id", *dataset.columns])).sort_by("row_id")
    assert rows["row_id"].equals(predictions["row_id"]), "predictions of other rows than the split's"
    return {name: rows[column].to_numpy() for name, column in zip(dataset.field_names, dataset.columns, strict=True)}

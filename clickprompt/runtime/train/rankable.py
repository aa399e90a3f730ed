"""Whether a ranking loss has something to order: pairs of a click and another row of the same group."""

import numpy as np

from clickprompt.config import Config, FinetuneConfig, StageConfig
from clickprompt.data.prepared.dataset import Dataset, columns_of
from clickprompt.data.prepared.order import SENTINEL_STEP, Order, read_chunk
from clickprompt.errors import ConfigError, DataError
from clickprompt.evaluation.figures import check_fields

__all__ = ["check_rankable", "group_column"]


def group_column(dataset: Dataset, config: Config, stage: StageConfig) -> str | None:
    """Return the column of the groups that the stage's ranking loss orders: of the rows shown together if the
    log says which, else of the user (`check_fields`). None if it has no such loss.

    Raises ConfigError for a user's field that the dataset doesn't have, and for what a ranking loss can't be
    combined with.
    """
    if not isinstance(stage, FinetuneConfig) or stage.loss == "bce":
        return None
    if dataset.weighted:
        raise ConfigError(
            f"finetune.loss={stage.loss}: the rows of {dataset.uri} have weights, and by whose a pair counts "
            "(its click's, both rows', the group's) is not agreed on; set finetune.loss=bce, or prepare "
            "without weight"
        )
    if config.runtime.compile != "off" and stage.with_plm:
        raise ConfigError(
            f"finetune.loss={stage.loss} can't be combined with runtime.compile={config.runtime.compile}: "
            "its two passes must draw the same dropout, and compiled ones may differ; set runtime.compile to "
            "off"
        )
    return "group" if dataset.grouped else dataset.columns[check_fields(dataset, config.evaluate)[0]]


def check_rankable(dataset: Dataset, order: Order, key: str) -> str:
    """Count the pairs in the global batches of the first chunk, and return a sentence about them.

    key: the setting that asks for a ranking loss. Raises DataError if there are none, for nothing would be
    learned.
    """
    assert order.group_column is not None
    rows = columns_of(read_chunk(dataset, order, 0, 0, 1, 0))
    steps = rows["step"]
    pairs = [
        count_pairs(*(rows[name][chosen] for name in (order.group_column, "label")))
        for step in np.unique(steps[steps != SENTINEL_STEP])
        for chosen in [(steps == step) & (rows["weight"] > 0)]
    ]
    what = "request" if order.group_column == "group" else "user"
    if not sum(pairs):
        raise DataError(
            f"{key}: none of the first {len(pairs)} batches has a click and another row of the same {what} "
            f"({order.group_column}), so there is no order to learn; set a larger data.chunk_batches or "
            f"global_batch_size, or {key}=bce"
        )
    without = f"; {pairs.count(0)} of them have none" if 0 in pairs else ""
    return (
        f"{key}: {sum(pairs) / len(pairs):,.0f} pairs of a click and another row of the same {what} in each "
        f"of the first {len(pairs)} batches{without}"
    )


def count_pairs(groups: np.ndarray, labels: np.ndarray) -> int:
    """Count the pairs of a click and another row of the same group: groups, labels [N]."""
    _, members = np.unique(groups, return_inverse=True)
    clicks, rows = np.bincount(members, labels), np.bincount(members)
    return int(clicks @ (rows - clicks)) if len(members) else 0

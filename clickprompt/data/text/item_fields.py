"""Which fields are the item's and which the user's, for a model that reads them as two texts (CTR-BERT)."""

from collections.abc import Sequence

import numpy as np

from clickprompt.config import Config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.sources.registry import SOURCES
from clickprompt.data.transform.row_transform import FieldRule
from clickprompt.errors import ConfigError

__all__ = ["find_item_fields", "item_mask"]


def find_item_fields(dataset: Dataset, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Return the item's fields: `chosen` (ctr_bert.item_fields) if given, else a known log's, or in one's own
    log its item and the fields that are joined by it. Context, such as the hour, is the user's.

    Raises ConfigError for an unknown field, if the user's text has none, or if the dataset doesn't know the
    item's fields: in a log of one table nothing tells them.
    """
    names = dataset.field_names
    known = f"the fields of {dataset.uri} are {', '.join(names)}"
    source = SOURCES.get(dataset.manifest["source"])
    if chosen is None and source is not None:
        chosen = source.item_fields()
    if chosen is None:
        rules = [FieldRule.from_json(rule) for rule in dataset.manifest["transform"]["fields"]]
        item = dataset.manifest.get("roles", {}).get("item")
        key = rules[names.index(item)].column if item in names else None
        chosen = [name for name, rule in zip(names, rules, strict=True) if rule.column == key]
        if not any(rule.table for name, rule in zip(names, rules, strict=True) if name in chosen):
            raise ConfigError(
                "ctr_bert.item_fields is not set, and the dataset has no table of items that would tell; "
                f"set it to the item's fields: {known}"
            )
    for name in chosen:
        if name not in names:
            raise ConfigError(f"ctr_bert.item_fields: no field {name!r}; {known}")
    if len(set(chosen)) == len(names):
        raise ConfigError(f"ctr_bert.item_fields leaves the user's text without a field; {known}")
    return tuple(name for name in names if name in chosen)


def item_mask(config: Config, field_names: Sequence[str]) -> np.ndarray | None:
    """Return [F] bool, the item's fields by a checked configuration; None if rows are one text."""
    if config.baseline != "ctr_bert":
        return None
    assert config.ctr_bert.item_fields is not None, "check_training sets it"
    return np.isin(field_names, config.ctr_bert.item_fields)

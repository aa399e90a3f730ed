"""Checks of `ctr.numeric` before a training starts."""

from typing import Any

from clickprompt.config import Config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import ConfigError

__all__ = ["check_numbers", "check_same_numbers"]


def check_numbers(config: Config, stage_name: str, dataset: Dataset) -> None:
    """Raise ConfigError if the tower is to embed numbers that rows don't have, or ids are to be replaced by
    others, whose numbers aren't known.
    """
    if config.ctr.numeric == "buckets":
        return
    what = f"ctr.numeric={config.ctr.numeric}"
    if not dataset.numbers:
        raise ConfigError(
            f"{what}: {dataset.uri} has no learned numbers; set learned: true in a numeric field of its "
            "schema and prepare it in a new place, or set ctr.numeric=buckets"
        )
    if stage_name == "pretrain" and config.pretrain.id_objective == "replaced":
        raise ConfigError(
            f"{what}: pretrain.id_objective=replaced puts other buckets into rows, and they have no numbers; "
            "set it to masked or none, or set ctr.numeric=buckets"
        )


def check_same_numbers(what: str, config: Config, earlier: Dataset, dataset: Dataset) -> None:
    """Raise ConfigError if a run starts from one whose numbers were standardised by others' rows."""
    if config.ctr.numeric != "buckets" and _scales(earlier) != _scales(dataset):
        raise ConfigError(
            f"{what}: its numbers were standardised by the mean and deviation of another dataset, so their "
            "embeddings would mean others; use that dataset, or set ctr.numeric=buckets in both runs"
        )


def _scales(dataset: Dataset) -> list[Any]:
    return [rule.get("scale") for rule in dataset.manifest["transform"]["fields"]]

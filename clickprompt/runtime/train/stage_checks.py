"""Checks of what only one of the stages needs."""

from clickprompt.config import Config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import ConfigError, DataError

__all__ = ["check_ids", "check_validation"]


def check_validation(dataset: Dataset) -> None:
    """Check that the validation AUC, by which finetuning chooses its best weights, is defined.

    Raises DataError if it isn't.
    """
    rows = dataset.counts["valid"]
    clicks = dataset.manifest["clicks"]["valid"]
    if clicks in (0, rows):
        raise DataError(
            f"{dataset.uri}: its valid split has {rows:,} rows, {'all' if clicks else 'none'} of them "
            "clicks, and the best weights are those of the highest validation AUC, which needs both classes; "
            "prepare again with --split hash, or with more rows"
        )


def check_ids(config: Config) -> None:
    """Raise ConfigError for settings of ids that would have no effect, or leave the CTR tower untrained."""
    pretrain, prompted = config.pretrain, config.prompt.num_prompts > 0
    if config.masking.hide_ids and not (pretrain.with_plm and (prompted or pretrain.id_objective != "none")):
        raise ConfigError(
            f"masking.hide_ids={config.masking.hide_ids:g} hides the ids of masked values from the CTR "
            f"tower, and {'without prompts' if pretrain.with_plm else 'with pretrain.with_plm=false'} "
            "nothing is restored from them; set it to 0"
        )
    if pretrain.text_id_weight and not prompted and pretrain.id_objective == "none":
        raise ConfigError(
            f"pretrain.text_id_weight={pretrain.text_id_weight:g} without prompts would train the embeddings "
            "and leave the rest of the CTR tower untrained; set prompt.num_prompts to at least 1, or "
            "pretrain.id_objective"
        )

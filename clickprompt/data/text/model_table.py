"""Open a token table as a model reads it; models' texts come from here, so that none differs from another."""

from typing import TYPE_CHECKING

from clickprompt.config import PLMConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.click_text import ClickText, find_click_text
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["click_text_of", "open_model_table"]


def open_model_table(dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", config: PLMConfig) -> TokenTable:
    """Open the dataset's token table, with the click at the end of its texts if the settings want that.

    Raises DataError as TokenTable.open does, and ConfigError if the click can't be written (click_text.py) or
    leaves no room for anything else.
    """
    table = TokenTable.open(dataset, tokenizer)
    click = click_text_of(dataset, tokenizer, config)
    if click is None:
        return table
    table = table.with_click(click)
    if config.max_length is not None and config.max_length <= table.fixed_length:
        raise ConfigError(
            f"plm.max_length={config.max_length}: the click and the tokens around a text take "
            f"{table.fixed_length}, which leaves no room for a field; set more, or plm.click_text=false"
        )
    return table


def click_text_of(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", config: PLMConfig
) -> ClickText | None:
    """Return what the click adds to the dataset's texts; None if the settings leave it out."""
    if not config.click_text:
        return None
    return find_click_text(tokenizer, dataset.field_names, dataset.template)

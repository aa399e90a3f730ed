"""Open a token table as a model reads it; models' texts come from here, so that none differs from another."""

from typing import TYPE_CHECKING

from clickprompt.config import PLMConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.click_text import ClickText, find_click_text
from clickprompt.data.text.history_text import history_of, sampled_ids, with_tokens
from clickprompt.data.text.segments import SegmentEncoder
from clickprompt.data.text.template import tokenizer_json
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["click_text_of", "open_model_table", "open_with_history"]


def open_model_table(dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", config: PLMConfig) -> TokenTable:
    """Open the dataset's token table, with the row's history and the click at the end of its texts if the
    settings want them.

    Raises DataError as TokenTable.open does, and ConfigError if histories (history_text.py) or the click
    (click_text.py) can't be written, or the click leaves no room for anything else.
    """
    table = open_with_history(dataset, tokenizer, config)
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


def open_with_history(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", config: PLMConfig
) -> TokenTable:
    """Open the dataset's token table, for texts with the row's history if the settings want it. Raises what
    `open_model_table` does.
    """
    history = history_of(dataset, config)
    table = TokenTable.open(dataset, tokenizer)
    if history is None:
        return table
    encoder = SegmentEncoder(dataset, tokenizer_json(tokenizer))
    segments = table.encoded(history.field, sampled_ids(dataset, history.field))
    return table.with_history(with_tokens(history, dataset, encoder, segments))


def click_text_of(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", config: PLMConfig
) -> ClickText | None:
    """Return what the click adds to the dataset's texts; None if the settings leave it out."""
    if not config.click_text:
        return None
    return find_click_text(tokenizer, dataset.field_names, dataset.template)

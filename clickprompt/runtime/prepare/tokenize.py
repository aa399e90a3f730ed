"""Build a token table, in this process or, where there are many values, on all of Ray's CPUs."""

from typing import TYPE_CHECKING

from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.token_table import TokenTable
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.runtime.by_size import here
from clickprompt.runtime.in_process import connected

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["tokenize"]

_FEW_VALUES = 200_000  # so many values are tokenized in the seconds that Ray takes to start


def tokenize(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", runtime: RuntimeConfig | None = None
) -> TokenTable:
    """Run `build_token_table`, distributed if that is worth starting Ray."""
    runtime = runtime or RuntimeConfig()
    values = sum(dataset.field_sizes)
    if (not connected() and values < _FEW_VALUES) or here(runtime, values, _FEW_VALUES, "values"):
        return build_token_table(dataset, tokenizer)
    # Ray takes seconds to import
    from clickprompt.runtime.cluster.connect import connect
    from clickprompt.runtime.prepare.encoders import encode_on_ray

    with connect(runtime):
        return build_token_table(dataset, tokenizer, encode_on_ray)

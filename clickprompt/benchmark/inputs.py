"""The data that a benchmark runs on: the configured dataset and tokenizer, or MovieLens-100K and
GPT-2's BPE.
"""

from clickprompt.config import Config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.sources.fetch import fetch
from clickprompt.data.text.template import load_tokenizer
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.prepare.tokenize import tokenize

__all__ = ["benchmark_inputs"]

_SOURCE, _TOKENIZER = "movielens-100k", "gpt2-bpe"


def benchmark_inputs(config: Config) -> tuple[Config, Dataset]:
    """Return the configuration with a tokenizer in `plm.path`, and the dataset with its token table.

    Uses `data.path` and `plm.path` if set; otherwise they are fetched into `pipeline.downloads`.
    """
    downloads = config.pipeline.downloads
    if config.plm.path is None:
        config = replaced(
            config, {"plm.path": fetch(_TOKENIZER, storage.join(downloads, _TOKENIZER), say).path}
        )
    if config.data.path is None:
        raw = fetch(_SOURCE, storage.join(downloads, _SOURCE), say).path
        dataset = prepare(
            _SOURCE, raw, storage.join(downloads, f"{_SOURCE}-prepared"), runtime=config.runtime
        )
    else:
        dataset = Dataset.open(config.data.path, config.data.version)
    tokenize(dataset, load_tokenizer(config.plm.path))
    return config, dataset

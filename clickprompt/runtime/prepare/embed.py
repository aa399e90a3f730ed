"""Embed the texts of a dataset's values by a frozen PLM, in this process or, where there are many, on all of
Ray's CPUs.

H is the size of a vector.
"""

from collections.abc import Iterator

import numpy as np

from clickprompt.config import Config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import load_tokenizer, tokenizer_fingerprint
from clickprompt.data.text.text_vectors import TextVectors, write_text_vectors
from clickprompt.errors import ConfigError
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.runtime.by_size import here
from clickprompt.runtime.in_process import connected
from clickprompt.runtime.prepare.value_embedder import ValueEmbedder, as_embedder

__all__ = ["embed_values", "open_text_vectors", "vectors_fingerprint"]

_FEW_VALUES = 20_000  # of MiniLM so many are embedded in the seconds that Ray takes to start
_FORMAT = 1  # part of the fingerprint

_OFF = {"history": "none", "numeric": "buckets"}


def embed_values(dataset: Dataset, config: Config, size: int) -> TextVectors:
    """Run `write_text_vectors` by plm.path, distributed if that is worth starting Ray; size: H."""
    values, runtime = sum(dataset.field_sizes), config.runtime
    say(
        f"{dataset.uri}: no text vectors by {config.plm.path} yet; embedding {values:,} values once, "
        f"{2 * size * values / 2**20:,.1f} MiB"
    )
    arguments = dataset, vectors_fingerprint(config), str(config.plm.path), size
    if (not connected() and values < _FEW_VALUES) or here(runtime, values, _FEW_VALUES, "values"):

        def embed_here(chunks: Iterator[list[str]]) -> Iterator[np.ndarray]:
            return map(ValueEmbedder(config.plm, config.seed), chunks)

        return write_text_vectors(*arguments, embed_here)
    # Ray takes seconds to import
    from clickprompt.runtime.cluster.connect import connect
    from clickprompt.runtime.prepare.embedders import embed_on_ray

    with connect(runtime):
        return write_text_vectors(*arguments, lambda chunks: embed_on_ray(config.plm, config.seed, chunks))


def open_text_vectors(dataset: Dataset, config: Config) -> TextVectors:
    """Open what `embed_values` has stored. Raises DataError as TextVectors.open does, and ConfigError for a
    field of several values, and for histories and numbers that the tower is to read.
    """
    # An export's table has the texts folded in, without which the history's items were trained, and which a
    # number's embedding doesn't read
    for key, there in (("history", dataset.history is not None), ("numeric", bool(dataset.numbers))):
        value = getattr(config.ctr, key)
        if there and value != _OFF[key]:
            raise ConfigError(
                f"ctr.text_embeddings={config.ctr.text_embeddings} can't be combined with "
                f"ctr.{key}={value}; set ctr.{key}={_OFF[key]}, or ctr.text_embeddings=none"
            )
    if dataset.multi:
        raise ConfigError(
            f"ctr.text_embeddings={config.ctr.text_embeddings} is for fields of one value, and "
            f"{dataset.field_names[dataset.multi[0].field]} has several; set ctr.text_embeddings=none"
        )
    return TextVectors.open(dataset, vectors_fingerprint(config), str(config.plm.path))


def vectors_fingerprint(config: Config) -> str:
    """Return 16 hex digits over all that decides on the vectors: architecture, weights and tokenizer."""
    from clickprompt.models.plm_loading import plm_fingerprint

    plm = as_embedder(config.plm)
    parts = [
        _FORMAT,
        plm_fingerprint(plm, config.seed),
        tokenizer_fingerprint(load_tokenizer(plm.path)),
        plm.max_length,
    ]
    return storage.sha256_bytes(repr(parts).encode())[:16]

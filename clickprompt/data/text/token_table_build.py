"""Build a token table. Every distinct value of a dataset is tokenized once, piece by piece; the pieces go to
the table's files as they come, and only a few numbers per value stay in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clickprompt.config import multi_columns
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.segments import Encoded, SegmentEncoder, find_encoder
from clickprompt.data.text.token_table import TokenTable
from clickprompt.data.text.token_table_files import ARRAYS, META, array_file, table_facts, table_uri
from clickprompt.io import storage
from clickprompt.io.folders import new_folder
from clickprompt.io.progress import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EncodeAll", "build_token_table"]

EncodeAll = Callable[[SegmentEncoder, Sequence[tuple[int, int]]], Iterable[Encoded]]
"""(encoder, (field, piece) of the vocabularies) → `encoder.encode` of each, in order"""


def encode_here(encoder: SegmentEncoder, pieces: Sequence[tuple[int, int]]) -> Iterator[Encoded]:
    return (encoder.encode(field, piece) for field, piece in pieces)


def build_token_table(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", encode_all: EncodeAll = encode_here
) -> TokenTable:
    """Tokenize every distinct value of `dataset` once and store the result beside it. A table that exists
    already is returned.

    Raises DataError if joining the segments' tokens does not give the sentence's tokens for this tokenizer.
    """
    uri = table_uri(dataset, tokenizer)
    if storage.exists(storage.join(uri, META)):
        return TokenTable.open(dataset, tokenizer)
    encoder = find_encoder(dataset, tokenizer)
    with new_folder(uri) as target:
        longest = _write_arrays(target, dataset, encoder, encode_all)
        facts = table_facts(dataset, tokenizer)
        around = len(facts["prefix"]) + len(facts["suffix"])
        meta = {**facts, "max_length": around + longest}
        storage.write_json(storage.join(target, META), meta)
    return TokenTable.open(dataset, tokenizer)


def _write_arrays(target: str, dataset: Dataset, encoder: SegmentEncoder, encode_all: EncodeAll) -> int:
    """Return the tokens of the longest row that the vocabularies allow, without the special tokens
    around it.
    """
    pieces = [
        (field, piece)
        for field in range(len(dataset.columns))
        for piece in range(dataset.vocabulary_pieces(field))
    ]
    longest = np.zeros(len(dataset.columns), dtype=np.int64)
    lengths, spans = [], []
    with (
        Task("tokenizing the values of the vocabularies", sum(dataset.field_sizes)) as task,
        storage.open_output(array_file(target, "tokens")) as stream,
    ):
        for (field, _), encoded in zip(pieces, encode_all(encoder, pieces), strict=True):
            stream.write(encoded.tokens.astype(ARRAYS["tokens"]).tobytes())
            lengths.append(encoded.lengths)
            spans.append(encoded.value_spans)
            longest[field] = max(longest[field], encoded.lengths.max())
            task.update(sum(map(len, lengths)))
    offsets = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *lengths]))
    for name, array in (("offsets", offsets), ("value_spans", np.concatenate(spans))):
        with storage.open_output(array_file(target, name)) as stream:
            stream.write(array.astype(ARRAYS[name], copy=False).data)
    return int(longest.sum()) + sum(int(longest[field]) for field in multi_columns(dataset.multi).values())

"""Tokenize values once instead of rows: a sentence is a join of one segment per field, such as "field is
value." (Eq. 4); the dataset says by which template.

This needs the tokens of the segments, each with its leading separator, to join to the tokens of the sentence,
as byte-level BPE and WordPiece do. SentencePiece puts a dummy separator before every text, so its segments
after the first are tokenized without their own.

Shape legend: V values, T tokens of their segments.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import (
    SEPARATOR,
    UNKNOWN,
    field_template,
    segment,
    sentence,
    tokenizer_json,
    tokenizing,
)
from clickprompt.data.text.value_texts import ValueTexts
from clickprompt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Encoded", "SegmentEncoder", "find_encoder"]

_DUMMY = "▁"  # SentencePiece's separator
_VALUES_PER_CALL = 8192
_SAMPLED_ROWS = 256


@dataclass(frozen=True)
class Encoded:
    """Tokens of one field's segments, one after the other.

    `tokens` [T] int32; `lengths` [V] int64; `value_spans` [V, 2] int32: where the value's tokens start and
    stop in its segment.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    value_spans: np.ndarray


class SegmentEncoder:
    """Tokenizer of one piece of a vocabulary at a time. It can be sent to a process without transformers."""

    def __init__(self, dataset: Dataset, tokenizer: str, separated: bool = True) -> None:
        """tokenizer: its JSON; separated: whether segments after the first are tokenized with their leading
        separator.
        """
        self.separated = separated
        self._dataset, self._texts = dataset, ValueTexts(dataset)
        # A pattern may leave fields out
        self._first = next(
            field for field, name in enumerate(dataset.field_names) if field_template(name, dataset.template)
        )
        self._json = tokenizer
        self._backend = _plain_backend(tokenizer)
        self._dummy = self._backend.token_to_id(_DUMMY)

    def __reduce__(self) -> tuple[Any, ...]:
        return SegmentEncoder, (self._dataset, self._json, self.separated)

    def encode(self, field: int, piece: int) -> Encoded:
        """Encode the segments of the values in one piece of the field's vocabulary
        (`Dataset.vocabulary_pieces`).
        """
        values = self._texts.of(field, self._dataset.vocabulary_piece(field, piece).column("value"))
        if piece == 0:
            values[0] = UNKNOWN
        parts = [
            self.segments(field, values[start : start + _VALUES_PER_CALL])
            for start in range(0, len(values), _VALUES_PER_CALL)
        ]
        return Encoded(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.value_spans for part in parts]),
        )

    def segments(self, field: int, values: Sequence[str]) -> Encoded:
        name, first = self._dataset.field_names[field], field == self._first or not self.separated
        template = self._dataset.template
        encodings = self._encodings([segment(name, value, first, template) for value in values])
        lengths = np.fromiter((len(encoding) for encoding in encodings), dtype=np.int64, count=len(encodings))
        tokens = np.fromiter(
            chain.from_iterable(encoding.ids for encoding in encodings),
            dtype=np.int32,
            count=int(lengths.sum()),
        )
        flat = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings))
        characters = np.fromiter(flat, dtype=np.int64, count=2 * len(tokens)).reshape(-1, 2)
        behind = field_template(name, template).partition("{value}")[2]
        begin = len(segment(name, "", first, template).removesuffix(behind))
        end = begin + np.repeat([len(value) for value in values], lengths)
        # the tokens whose characters overlap the value's
        overlap = (
            (characters[:, 0] < end) & (characters[:, 1] > begin) & (characters[:, 0] < characters[:, 1])
        )
        if field != self._first and not self.separated:
            # A separator that the tokenizer has put before the segment has the first character's place, which
            # is the value's if the template begins with it
            starts = (np.cumsum(lengths) - lengths)[lengths > 0]
            overlap[starts[tokens[starts] == self._dummy]] = False
        hits = np.flatnonzero(overlap)
        spans = np.zeros((len(values), 2), dtype=np.int32)
        found, first_hits = np.unique(np.repeat(np.arange(len(values)), lengths)[hits], return_index=True)
        bases = (np.cumsum(lengths) - lengths)[found]
        spans[found, 0] = hits[first_hits] - bases
        spans[found, 1] = hits[np.append(first_hits[1:], len(hits)) - 1] + 1 - bases if len(hits) else 0
        return Encoded(tokens, lengths, spans)

    def whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of whole sentences."""
        return [encoding.ids for encoding in self._encodings(texts)]

    def _encodings(self, texts: Sequence[str]) -> list[Any]:
        with tokenizing():
            return self._backend.encode_batch(list(texts), add_special_tokens=False)


def find_encoder(dataset: Dataset, tokenizer: "PreTrainedTokenizerBase") -> SegmentEncoder:
    """Return the encoder whose segments join to sentences: with their leading separators, or without.

    Whole sentences decide: of real rows, and of random values, which meet rare ones more often. Raises
    DataError if neither way joins.
    """
    generator = np.random.default_rng(0)
    drawn = np.stack([generator.integers(0, size, _SAMPLED_ROWS) for size in dataset.field_sizes], axis=1)
    rows = dataset.read_row_groups("train", [0]).slice(0, _SAMPLED_ROWS)
    real = np.stack([rows.column(column).to_numpy() for column in dataset.columns], axis=1)
    field_ids = np.concatenate([np.zeros_like(drawn[:1]), drawn, real])
    columns, texts_of = [], ValueTexts(dataset)
    for field in range(len(dataset.columns)):
        values = texts_of.of(field, dataset.vocabulary(field).column("value").take(field_ids[:, field]))
        columns.append(
            [value if i else UNKNOWN for value, i in zip(values, field_ids[:, field], strict=True)]
        )
    texts = [sentence(dataset.field_names, values, dataset.template) for values in zip(*columns, strict=True)]
    failed = None
    for separated in (True, False):
        encoder = SegmentEncoder(dataset, tokenizer_json(tokenizer), separated)
        parts = []
        for field, values in enumerate(columns):
            encoded = encoder.segments(field, values)
            parts.append(np.split(encoded.tokens, np.cumsum(encoded.lengths)[:-1]))
        joined = [np.concatenate(row).tolist() for row in zip(*parts, strict=True)]
        different = [
            text for text, ids, whole in zip(texts, joined, encoder.whole(texts), strict=True) if ids != whole
        ]
        if not different:
            return encoder
        failed = failed or different[0]
    assert failed is not None
    shown = failed if len(failed) <= 120 else failed[:120] + "…"
    raise DataError(
        f"{type(tokenizer).__name__}: tokens of the parts of {shown!r} don't join to the tokens of "
        "the whole; use a PLM with a WordPiece or byte-level BPE tokenizer"
    )


def _plain_backend(tokenizer: str) -> Any:
    """Return the tokenizer's own pipeline for text only, with the offsets of whole tokens, because some
    post-processors cut spaces off those.
    """
    from tokenizers import Tokenizer  # comes with transformers; see load_tokenizer

    backend: Any = Tokenizer.from_str(tokenizer)
    backend.no_truncation()
    backend.no_padding()
    backend.post_processor = None
    backend.encode_special_tokens = (
        True  # as `encode` of template.py: special tokens spelled in a text stay plain text
    )
    description = json.loads(tokenizer)
    if description["model"]["type"] == "Unigram":
        special = {token["content"] for token in description["added_tokens"] if token["special"]}
        backend.model = _without_special_pieces(description["model"], special)
    return backend


def _without_special_pieces(model: dict[str, Any], special: set[str]) -> Any:
    """Return the Unigram model with the same ids, but without special tokens among the pieces of a text.
    Their score is the best, so they would always be chosen.

    SentencePiece itself leaves them out, too. Here they get a name with a space, which can't occur in text
    that reaches the model, because it has "▁" instead.
    """
    from tokenizers.models import Unigram

    vocabulary = [
        (SEPARATOR + piece if piece in special else piece, score) for piece, score in model["vocab"]
    ]
    return Unigram(vocabulary, model["unk_id"], model["byte_fallback"])

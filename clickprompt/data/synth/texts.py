"""Build the titles and names of the synthetic logs from words and ids."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.data.keyed_random import random_bits
from clickprompt.data.synth import words

__all__ = [
    "AUTHOR_PIECES",
    "CLOSINGS",
    "LIKING",
    "NOUNS",
    "OPENINGS",
    "PUBLISHER_PIECES",
    "TITLE_PIECES",
    "any_of",
    "id_text",
    "join_pieces",
    "number_text",
    "word_texts",
]


def number_text(codes: np.ndarray) -> pa.Array:
    return pa.array(codes).cast(pa.string())


def id_text(numbers: np.ndarray, stream: int) -> pa.Array:
    """Return ids whose order has no meaning: an odd multiplier is a bijection modulo 2^27."""
    multiplier = int(random_bits(stream)[0]) % (1 << 27) | 1
    return number_text((numbers * multiplier & ((1 << 27) - 1)) + 1)


def any_of(pieces: tuple[pa.Array, ...], bits: np.ndarray) -> np.ndarray:
    """Choose a code for join_pieces by random bits."""
    return (bits % np.uint64(math.prod(len(piece) for piece in pieces))).astype(np.int64)


def join_pieces(codes: np.ndarray, *pieces: pa.Array) -> pa.Array:
    """Join one of each of the pieces, chosen by the code."""
    chosen = np.unravel_index(codes, [len(piece) for piece in pieces])
    texts = [piece.take(pa.array(index)) for piece, index in zip(pieces, chosen, strict=True)]
    return pc.binary_join_element_wise(*texts, "")  # pyright: ignore[reportAttributeAccessIssue]


def word_texts(*words: Sequence[str]) -> pa.Array:
    """Return all combinations of the words, joined."""
    return pa.array(["".join(choice) for choice in itertools.product(*words)])


# Titles and names are made of few, long pieces, because joining takes time
OPENINGS = word_texts(words.TITLE_STARTS, words.ADJECTIVES, [" "])
NOUNS = word_texts([noun for nouns in words.NOUNS for noun in nouns])
CLOSINGS = word_texts(words.TITLE_LINKS, words.PLACES)
TITLE_PIECES = (OPENINGS, NOUNS, CLOSINGS)
AUTHOR_PIECES = (word_texts(words.FIRST_NAMES, [" "], words.INITIALS, [". "]), word_texts(words.SURNAMES))
PUBLISHER_PIECES = (word_texts(words.SURNAMES, [" & "]), word_texts(words.SURNAMES, [" "], words.PUBLISHERS))

LIKING = np.linspace(1, -1, len(words.ADJECTIVES))

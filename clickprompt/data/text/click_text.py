"""The click as one more field of the text, its last: "Clicked is yes." (`plm.click_text`).

Shape legend: B rows, Z tokens of the longest row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clickprompt.data.keyed_random import random_uniform
from clickprompt.data.text.template import TEMPLATE, UNKNOWN, encode, is_pattern, segment, sentence
from clickprompt.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ANSWERS", "ClickText", "find_click_text", "write_clicks"]

NAME = "Clicked"
ANSWERS = ("no", "yes")  # by label
_CLICK = 13  # stream of the keyed generator; data/prepared/labelled.py has 12
# Values of the field before, on which the segment's tokens must not depend
_BEFORE = (UNKNOWN, "7", "a")


@dataclass(frozen=True)
class ClickText:
    """Tokens of the click's segment, with its leading separator and [MASK] in the answer's place."""

    tokens: tuple[int, ...]
    place: int
    """of [MASK], in `tokens`"""
    answers: tuple[int, int]
    """tokens of no and yes, by label"""


def find_click_text(
    tokenizer: "PreTrainedTokenizerBase", field_names: Sequence[str], template: str
) -> ClickText:
    """Find what the click adds to the tokens of a text by writing texts with and without it.

    Raises ConfigError if the tokenizer has no mask token, if the click changes the tokens before it, or if
    yes and no aren't a single token each in the same place.
    """
    kind, mask = type(tokenizer).__name__, tokenizer.mask_token_id
    remedy = "use another PLM, or set plm.click_text=false"
    if mask is None:
        raise ConfigError(f"plm.click_text=true: {kind} has no mask token to stand for the click; {remedy}")
    assert isinstance(mask, int)
    texts = [sentence(field_names, [value] * len(field_names), template) for value in _BEFORE]
    before = encode(tokenizer, texts, special_tokens=False)
    added: list[list[int]] = []
    for answer in ANSWERS:
        last = segment(NAME, answer, False, TEMPLATE if is_pattern(template) else template)
        whole = encode(tokenizer, [text + last for text in texts], special_tokens=False)
        tails = [ids[len(start) :] for start, ids in zip(before, whole, strict=True)]
        joins = all(ids[: len(start)] == start for start, ids in zip(before, whole, strict=True))
        if not joins or any(tail != tails[0] for tail in tails):
            raise ConfigError(
                f"plm.click_text=true: the tokens of {last.strip()!r} by {kind} depend on the text before "
                f"it, and must always be the same; {remedy}"
            )
        added.append(tails[0])
    no, yes = added
    places = [place for place, pair in enumerate(zip(no, yes, strict=False)) if pair[0] != pair[1]]
    special = set(tokenizer.all_special_ids)
    if len(no) != len(yes) or len(places) != 1 or {no[places[0]], yes[places[0]]} & special:
        raise ConfigError(
            f"plm.click_text=true: {kind} writes the click's sentence as {_shown(tokenizer, yes)} or "
            f"{_shown(tokenizer, no)}; yes and no must be a token each, and all others the same; {remedy}"
        )
    [place] = places
    return ClickText((*no[:place], mask, *no[place + 1 :]), place, (no[place], yes[place]))


def write_clicks(
    masked_input_ids: np.ndarray,
    mlm_labels: np.ndarray,
    positions: np.ndarray,
    answers: np.ndarray,
    row_ids: np.ndarray,
    usable: np.ndarray,
    *,
    seed: int,
    epoch: int,
    mask_rate: float,
) -> None:
    """Give PA-MLM's text and targets [B, Z], which have [MASK] and no target at `positions` [B], the clicks:
    `answers` [B] are their tokens, `usable` [B] bool says whose may be used.

    At `mask_rate`, drawn by (seed, epoch, row), the click stays [MASK] and becomes a target. There is no
    8:1:1: a finetuned model only ever reads [MASK] there, and one of two tokens can't be told from noise.
    Otherwise the text shows it.
    """
    drawn = random_uniform(_CLICK, seed, epoch, row_ids) < mask_rate
    for to, which in ((mlm_labels, usable & drawn), (masked_input_ids, usable & ~drawn)):
        rows = np.flatnonzero(which)
        to[rows, positions[rows]] = answers[rows]


def _shown(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(ids))

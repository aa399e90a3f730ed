"""Choose the targets of language modelling. PA-MLM (§3.5.1): a share of the tokens; of those, 8:1:1 become
[MASK], become a random token, or stay.

Every draw is a function of (seed, epoch, row_id, position or field), so the masks change every epoch and
don't depend on the number of workers, the batch, its padding or its order.

Shape legend: B rows, Z tokens of the longest row.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from clickprompt.data.keyed_random import random_bits, random_uniform

__all__ = ["IGNORED", "mask_tokens", "next_token_labels", "restoring_labels"]

IGNORED = -100  # mlm_labels of a token that is not a target
# streams that keep the draws of a row apart; 5 is collate.py's
_CHOOSE, _KIND, _TOKEN, _CHOOSE_FIELD = 2, 3, 4, 6


def mask_tokens(
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    row_ids: np.ndarray,
    *,
    seed: int,
    epoch: int,
    mask_rate: float,
    mask_id: int,
    special_ids: Sequence[int],
    vocab_size: int,
    scope: Literal["tokens", "values", "field"] = "tokens",
    value_fields: np.ndarray | None = None,
    always_mask: bool = False,
    vocabulary: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Map input_ids, attention_mask [B, Z] and row_ids [B] to masked_input_ids, mlm_labels [B, Z] int64.

    At `mask_rate` it draws each token (`scope` tokens), each token of a value (values), or each value as a
    whole (field); the last two need `value_fields` [B, Z] of TokenTable. With `always_mask` every target
    becomes [MASK] instead of 8:1:1, to test recovery. Special tokens are never a target and never drawn as
    the random token, which is one of `vocabulary` [V] if that is given.
    """
    special = np.unique(np.asarray(special_ids, dtype=np.int64))
    special = special[special < vocab_size]
    maskable = _text_tokens(input_ids, attention_mask, special)
    stream, drawn_by = _CHOOSE, np.arange(input_ids.shape[1])
    if scope != "tokens":
        assert value_fields is not None, f"scope {scope} needs value_fields"
        maskable &= value_fields >= 0
        if scope == "field":
            stream, drawn_by = _CHOOSE_FIELD, value_fields
    target = maskable & (
        random_uniform(stream, seed, epoch, np.asarray(row_ids)[:, None], drawn_by) < mask_rate
    )
    rows, positions = np.nonzero(target)
    original = input_ids[rows, positions]
    masked_input_ids = input_ids.astype(np.int64)
    masked_input_ids[rows, positions] = mask_id
    if not always_mask:
        keys = (seed, epoch, np.asarray(row_ids)[rows], positions)
        kind = random_uniform(_KIND, *keys)
        choices = vocab_size - len(special) if vocabulary is None else len(vocabulary)
        drawn = (random_bits(_TOKEN, *keys) % np.uint64(choices)).astype(np.int64)
        if vocabulary is not None:
            drawn = vocabulary[drawn]
        else:
            for (
                token
            ) in special:  # ascending, to number the ordinary tokens 0, 1, … and skip the special ones
                drawn += drawn >= token
        masked_input_ids[rows, positions] = np.where(
            kind < 0.8, mask_id, np.where(kind < 0.9, drawn, original)
        )
    mlm_labels = np.full(input_ids.shape, IGNORED, dtype=np.int64)
    mlm_labels[rows, positions] = original
    return masked_input_ids, mlm_labels


def restoring_labels(
    input_ids: np.ndarray, attention_mask: np.ndarray, special_ids: Sequence[int]
) -> np.ndarray:
    """Return mlm_labels [B, Z] int64 of denoising: every text token at its own place, whether it is corrupted
    or not.
    """
    return np.where(_text_tokens(input_ids, attention_mask, special_ids), input_ids, IGNORED)


def next_token_labels(
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    special_ids: Sequence[int],
    value_fields: np.ndarray | None = None,
) -> np.ndarray:
    """Return mlm_labels [B, Z] int64 of PA-CLM: at each token the one after it, if that is a text token (with
    `value_fields`: a token of a value).
    """
    target = _text_tokens(input_ids, attention_mask, special_ids)
    if value_fields is not None:
        target &= value_fields >= 0
    labels = np.full(input_ids.shape, IGNORED, dtype=np.int64)
    labels[:, :-1] = np.where(target[:, 1:], input_ids[:, 1:], IGNORED)
    return labels


def _text_tokens(
    input_ids: np.ndarray, attention_mask: np.ndarray, special_ids: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Return [B, Z] bool: tokens that are neither padding nor special."""
    return (attention_mask == 1) & ~np.isin(input_ids, np.asarray(special_ids, dtype=np.int64))

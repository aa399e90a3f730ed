"""Token masking of PA-MLM (§3.5.1): a share of the tokens are targets; of those 8:1:1 become [MASK], a random token, or stay.

Every draw is a function of (seed, epoch, row_id, position), so the masks change every epoch and depend on neither the number of
workers, the batch, its padding nor its order. Shape legend: B rows, Z tokens of the longest row.
"""

from collections.abc import Sequence

import numpy as np

from clickprompt.data.keyed_random import random_bits, random_uniform

__all__ = ["IGNORED", "mask_tokens"]

IGNORED = -100  # mlm_labels of a token that is no target
_CHOOSE, _KIND, _TOKEN = 2, 3, 4  # streams: set the three draws of a token apart


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
) -> tuple[np.ndarray, np.ndarray]:
    """input_ids, attention_mask [B, Z] and row_ids [B] → masked_input_ids, mlm_labels [B, Z] int64.

    Special tokens are never a target and never drawn as the random token.
    """
    special = np.unique(np.asarray(special_ids, dtype=np.int64))
    special = special[special < vocab_size]
    keys = (seed, epoch, np.asarray(row_ids)[:, None], np.arange(input_ids.shape[1]))
    maskable = (attention_mask == 1) & ~np.isin(input_ids, special)
    target = maskable & (random_uniform(_CHOOSE, *keys) < mask_rate)
    rows, positions = np.nonzero(target)
    chosen_keys = (seed, epoch, np.asarray(row_ids)[rows], positions)
    kind = random_uniform(_KIND, *chosen_keys)
    drawn = (random_bits(_TOKEN, *chosen_keys) % np.uint64(vocab_size - len(special))).astype(np.int64)
    for token in special:  # ascending: number the ordinary tokens 0, 1, …, skipping the special ones
        drawn += drawn >= token
    original = input_ids[rows, positions]
    masked_input_ids = input_ids.astype(np.int64)
    masked_input_ids[rows, positions] = np.where(kind < 0.8, mask_id, np.where(kind < 0.9, drawn, original))
    mlm_labels = np.full(input_ids.shape, IGNORED, dtype=np.int64)
    mlm_labels[rows, positions] = original
    return masked_input_ids, mlm_labels

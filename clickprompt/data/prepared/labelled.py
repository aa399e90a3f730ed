"""Choose the training rows of a few-label training (`finetune.label_share`)."""

from dataclasses import dataclass

import numpy as np

from clickprompt.data.keyed_random import random_uniform

__all__ = ["LabelledRows", "labelled_draws"]

_LABELLED = 12  # stream of the keyed generator; data/id_corruption.py has those up to 11


@dataclass(frozen=True)
class LabelledRows:
    """Which training rows a few-label training has (`Dataset.only_labelled`)."""

    share: float
    seed: int
    row_group_counts: tuple[int, ...]


def labelled_draws(row_ids: np.ndarray, seed: int) -> np.ndarray:
    """Return each row's draw in [0, 1)."""
    return random_uniform(_LABELLED, seed, row_ids)

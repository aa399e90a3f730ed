"""Choose which ids the CTR tower doesn't see in pretraining, what it sees in their place, and among which ids
they are restored.

Every draw is a function of (seed, epoch, row_id, field), that of candidates of (seed, step, field): the same
for any number of workers, micro-batches or restarts.

Shape legend: B rows, F fields, C candidates of all fields.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clickprompt.config import IdObjective, MaskingConfig, PretrainConfig
from clickprompt.data.keyed_random import random_uniform
from clickprompt.data.prepared.dataset import Dataset

__all__ = ["Candidates", "CorruptedIds", "IdCorruption"]

# streams that keep the draws apart; masking.py and collate.py have 2 to 6
_HIDE, _CORRUPT, _REPLACE, _CANDIDATE, _CHOOSE = 7, 8, 9, 10, 11


@dataclass(frozen=True)
class CorruptedIds:
    """What the tower sees of a batch's ids, and which cells are targets; all [B, F]."""

    field_ids: np.ndarray  # int64
    id_targets: np.ndarray  # bool, cells of the id objective
    text_id_targets: np.ndarray  # bool, cells whose id is restored from their text


@dataclass(frozen=True)
class Candidates:
    """The ids among which hidden ids are restored in a step.

    A field's softmax runs over its candidates and the target itself, each logit less its log Q, the logarithm
    of how often the id is expected among the drawn ones (sampled softmax; Bengio, Senécal 2008). Where all
    values of a field are candidates, log Q is 0 and the softmax is the full one.
    """

    ids: np.ndarray  # [C] int64
    fields: np.ndarray  # [C] int64, ascending
    log_q: np.ndarray  # [C] float32
    complete: np.ndarray  # [F] bool: all values of the field that training has, in order


class IdCorruption:
    """The draws of one pretraining run.

    - Hidden: `hide_ids` of the values whose text is masked get id 0, so the PLM can't read them off the
      prompts.
    - Corrupted: of the other values, `id_rate` are replaced by a value of their field, drawn by its frequency
      in training (`id_objective: replaced`), or get id 0.

    Targets of `replaced` are all cells that the tower sees; of `masked`, the hidden and the corrupted ones;
    of restoring ids from text, the corrupted ones, whose text the PLM reads. A missing or unknown value
    (id 0) is never a target.
    """

    def __init__(
        self, counts: Sequence[np.ndarray], masking: MaskingConfig, pretrain: PretrainConfig, seed: int
    ) -> None:
        """counts: of each field, how often each id occurs in training, [size of the field]."""
        self.hide_ids = masking.hide_ids
        self.mask_rate = masking.mask_rate
        self.objective: IdObjective = pretrain.id_objective
        self.from_text = pretrain.text_id_weight > 0
        self.id_rate = pretrain.id_rate if pretrain.reads_ids else 0.0
        self.restores = self.objective == "masked" or self.from_text
        self._seed = seed
        self._num_candidates = pretrain.id_candidates
        self._counts = [np.concatenate([[0], count[1:]]) for count in counts]  # id 0 is never drawn
        self._cumulative = [np.cumsum(count, dtype=np.float64) for count in self._counts]
        occurring = [np.flatnonzero(count) for count in self._counts]
        # all candidates of a field that has few values; None: they are drawn
        self._all = [ids if len(ids) <= pretrain.id_candidates else None for ids in occurring]

    @classmethod
    def of(
        cls, dataset: Dataset, masking: MaskingConfig, pretrain: PretrainConfig, seed: int
    ) -> "IdCorruption | None":
        """Build the draws of a run on `dataset`; None if its settings leave all ids as they are."""
        if not pretrain.reads_ids and not (pretrain.with_plm and masking.hide_ids):
            return None
        return cls(dataset.train_counts(), masking, pretrain, seed)

    def chosen(self, row_ids: np.ndarray, num_fields: int, epoch: int) -> np.ndarray:
        """Return the values that count as masked where the text hides none of them (PA-CLM), drawn at
        mask_rate: [B, F] bool.
        """
        keys = (self._seed, epoch, np.asarray(row_ids)[:, None], np.arange(num_fields))
        return random_uniform(_CHOOSE, *keys) < self.mask_rate

    def apply(
        self,
        seen_ids: np.ndarray,
        true_ids: np.ndarray,
        row_ids: np.ndarray,
        real: np.ndarray,
        epoch: int,
        *,
        masked: np.ndarray | None = None,
        in_text: np.ndarray | None = None,
    ) -> CorruptedIds:
        """Corrupt the ids `seen_ids` [B, F], which are `true_ids` except where they were dropped already.

        real [B] bool: rows that aren't padding; masked, in_text [B, F] bool: values with a token that is a
        target, and with any token (None: there is no text).
        """
        keys = (self._seed, epoch, np.asarray(row_ids)[:, None], np.arange(true_ids.shape[1]))
        none = np.zeros(true_ids.shape, dtype=bool)
        masked = none if masked is None else masked
        in_text = none if in_text is None else in_text
        hidden = masked & (random_uniform(_HIDE, *keys) < self.hide_ids)
        corrupted = ~masked & (random_uniform(_CORRUPT, *keys) < self.id_rate)
        ids = np.where(hidden, 0, seen_ids)
        if self.objective == "replaced":
            ids = np.where(corrupted & (ids > 0), self._replacements(keys), ids)
        else:
            ids = np.where(corrupted, 0, ids)
        real = real[:, None] & (true_ids > 0)
        if self.objective == "replaced":
            targets = real & (seen_ids > 0) & ~hidden
        elif self.objective == "masked":
            targets = real & (hidden | corrupted)
        else:
            targets = none
        text_targets = real & corrupted & in_text if self.from_text else none
        return CorruptedIds(ids, targets, text_targets)

    def candidates(self, step: int) -> Candidates:
        """Return the candidates of a step: all values of fields that have few, and drawn ones of the others.
        A field's id may come twice.
        """
        ids, fields, log_q = [], [], []
        for field, chosen in enumerate(self._all):
            if chosen is None:
                draws = random_uniform(_CANDIDATE, self._seed, step, field, np.arange(self._num_candidates))
                chosen = self._drawn(field, draws)
            ids.append(chosen)
            fields.append(np.full(len(chosen), field))
            log_q.append(self._log_q(field, chosen))
        complete = np.array([chosen is not None for chosen in self._all])
        return Candidates(np.concatenate(ids), np.concatenate(fields), np.concatenate(log_q), complete)

    def log_q(self, true_ids: np.ndarray) -> np.ndarray:
        """Return log Q of each id, [B, F] float32."""
        return np.stack(
            [self._log_q(field, true_ids[:, field]) for field in range(true_ids.shape[1])], axis=1
        )

    def _log_q(self, field: int, ids: np.ndarray) -> np.ndarray:
        if self._all[field] is not None:
            return np.zeros(len(ids), dtype=np.float32)
        share = np.maximum(self._counts[field][ids], 1) / self._cumulative[field][-1]
        return np.log(share * self._num_candidates).astype(np.float32)

    def _replacements(self, keys: tuple[int | np.ndarray, ...]) -> np.ndarray:
        draws = random_uniform(_REPLACE, *keys)
        return np.stack([self._drawn(field, draws[:, field]) for field in range(draws.shape[1])], axis=1)

    def _drawn(self, field: int, draws: np.ndarray) -> np.ndarray:
        """Map draws in [0, 1) to ids of the field, each as likely as it is frequent in training."""
        cumulative = self._cumulative[field]
        found = np.searchsorted(cumulative, draws * cumulative[-1], side="right")
        return np.minimum(found, len(cumulative) - 1)  # of a field that training has no value of

"""Hold a trained model and score row groups with it, in whatever process that is."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from clickprompt.config import ScoringPrecision
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.evaluation.attention import AttentionSums
from clickprompt.evaluation.latency import time_per_batch
from clickprompt.evaluation.predictions import part_uri, write_predictions
from clickprompt.evaluation.recovery import write_recovery
from clickprompt.export.format import weights_checksum
from clickprompt.io import storage
from clickprompt.scoring.attention import PromptAttention
from clickprompt.scoring.attribution import Attributions
from clickprompt.scoring.permuted import PermutedField
from clickprompt.scoring.recovery import Recovery
from clickprompt.scoring.rows import RowScorer

__all__ = ["Scorer"]

_Model = TypeVar("_Model", RowScorer, Recovery, PromptAttention)
LATENCY_BATCH = 128  # rows, as in Table 8


class Scorer:
    """Holds one model at a time and scores row groups with it, on one thread."""

    def __init__(self, dataset: Dataset, device: str, precision: ScoringPrecision):
        torch.set_num_threads(1)  # as many actors as cores share the machine
        self._dataset = dataset
        self._device = torch.device(device)
        self._precision: ScoringPrecision = precision
        self._loaded: tuple[str, Any] | None = None
        self._permuted: tuple[tuple[Any, ...], PermutedField] | None = None

    def logits(
        self, export: str, split: str, group: int
    ) -> tuple[int, np.ndarray, np.ndarray, np.ndarray | None]:
        """Return (group, labels, logits, weights [N] if rows have them) of a row group; retry if storage
        refuses. Labels and logits are [N], or with further labels [N, 1 + T].
        """
        rows = storage.patiently(lambda: self._dataset.read_row_groups(split, [group]))
        scores = storage.patiently(lambda: self._held(RowScorer, export)).score(rows)
        return group, scores.all_labels, scores.all_logits, scores.weights

    def score(self, export: str, split: str, group: int, folder: str) -> int:
        rows = self._dataset.read_row_groups(split, [group])
        write_predictions(part_uri(folder, group), self._held(RowScorer, export).score(rows))
        return len(rows)

    def permuted(self, export: str, split: str, group: int, of: tuple[int, int, int] | None) -> np.ndarray:
        """Return the logits [N] of a row group, in its own order; of: a field, repeat and seed, by which the
        field's values are permuted among the split's rows.
        """
        rows = self._dataset.read_row_groups(split, [group])
        if of is not None:
            # One at a time: row groups come one after the other
            if self._permuted is None or self._permuted[0] != (split, *of):
                self._permuted = (split, *of), PermutedField(self._dataset, split, *of)
            rows = self._permuted[1].of(group, rows)
        scores = self._held(RowScorer, export).score(rows)
        logits = np.empty_like(scores.logits)
        logits[np.argsort(rows.column("row_id").to_numpy())] = scores.logits[np.argsort(scores.row_ids)]
        return logits

    def attribute(self, export: str, split: str, rows: int) -> Attributions | None:
        """Attribute the CTR logits of the split's first rows to their fields."""
        found = self._held(RowScorer, export).attribute(self._dataset.first_rows(split, rows))
        if found is None:
            return None
        return Attributions(found.logits.cpu(), found.baseline_logit, found.of_fields.cpu())

    def recover(self, export: str, split: str, group: int, folder: str) -> int:
        rows = self._dataset.read_row_groups(split, [group])
        write_recovery(part_uri(folder, group), self._held(Recovery.load, export).score(rows))
        return len(rows)

    def attend(self, export: str, split: str, group: int, rows: int) -> AttentionSums:
        """Sum the attention on the prompts over the row group's first `rows` rows."""
        return self._held(PromptAttention.load, export).score(
            self._dataset.read_row_groups(split, [group]).slice(0, rows)
        )

    def time(self, exports: list[str], split: str) -> list[dict[str, float]]:
        rows = self._dataset.read_row_groups(split, [0]).slice(0, LATENCY_BATCH)
        calls = {}
        for export in exports:
            # A single model is kept for scoring; only timing holds several models at once
            scorer = self._held(RowScorer, export) if len(exports) == 1 else self._load(RowScorer, export)
            batch = scorer.batch(rows)
            calls[export] = lambda scorer=scorer, batch=batch: scorer.run(batch)
        times = time_per_batch(calls)
        return [
            {
                "ms_per_batch": times[export]["median"],
                "ms_per_batch_p99": times[export]["p99"],
                "batch": len(rows),
            }
            for export in exports
        ]

    def _held(self, load: Callable[..., _Model], export: str) -> _Model:
        # The export's name isn't enough: a run that goes back a few steps writes the same name again
        key = f"{load.__qualname__} {weights_checksum(export)}"
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # frees the old model first, so that there is never room needed for two
            self._loaded = key, self._load(load, export)
        return self._loaded[1]

    def _load(self, load: Callable[..., _Model], export: str) -> _Model:
        # What the prompts do is always looked at in fp32
        precision: tuple[Any, ...] = (self._precision,) if load is RowScorer else ()
        return load(export, self._dataset, self._device, *precision)

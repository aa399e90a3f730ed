"""Score rows with an export: what an evaluation actor needs, without Ray."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from clickprompt.config import ScoringPrecision, stored_config
from clickprompt.data.batch import Batch
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset, columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.item_fields import item_mask
from clickprompt.evaluation.predictions import Scores
from clickprompt.export.checks import token_table
from clickprompt.export.format import ExportInfo, load_export
from clickprompt.models.baselines.ctr_bert import CTRBert
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.objectives import model_inputs
from clickprompt.scoring.attribution import Attributions, integrated_gradients
from clickprompt.scoring.precision import lower, matmuls_at

__all__ = ["RowScorer", "filled_up", "load_scorer"]


class RowScorer:
    """A trained model and the columns that it reads, with its token table if it has a PLM."""

    def __init__(
        self,
        export: str,
        dataset: Dataset,
        device: torch.device | None = None,
        precision: ScoringPrecision = "fp32",
    ):
        self._device = device or torch.device("cpu")
        self._precision: ScoringPrecision = precision
        self._model, info = load_scorer(export, self._device, precision)
        config = stored_config(info.config)
        self._batch_size = config.finetune.eval_batch_size
        self._collator = Collator(
            replace(layout_of(dataset), labels=self._model.tasks),
            token_table(export, info, dataset),
            None,
            max_length=config.plm.max_length,
            item_fields=item_mask(config, dataset.field_names),
        )

    @torch.no_grad()
    def score(self, rows: pa.Table, scored: Callable[[int], None] | None = None) -> Scores:
        """Return the rows' scores; meanwhile, call `scored` with the number of rows of each batch."""
        columns = columns_of(rows)
        if self._model.plm is None:
            columns = filled_up(columns, self._batch_size)
        batches = self._collator.micro_batches(columns, self._batch_size, epoch=0)
        towers = []
        with matmuls_at(self._precision):
            for batch in batches:
                towers.append(self._model.tower_logits(*model_inputs(batch.to(self._device))))
                if scored is not None:
                    scored(int((batch.row_weight > 0).sum()))
        counted = torch.cat([batch.row_weight for batch in batches]) > 0

        tasks = self._model.tasks

        def column(parts: list[torch.Tensor]) -> np.ndarray:
            return torch.cat(parts).float().cpu()[counted].numpy()

        def of_click(parts: list[torch.Tensor]) -> np.ndarray:
            return column([part[:, 0] for part in parts] if tasks else parts)

        ctr, plm = ([logits for logits in tower if logits is not None] for tower in zip(*towers, strict=True))
        joined = [self._model.joined(*logits) for logits in towers]
        return Scores(
            torch.cat([batch.row_ids for batch in batches])[counted].numpy(),
            column([batch.labels for batch in batches]),
            of_click(joined),
            of_click(ctr) if ctr else None,
            of_click(plm) if plm else None,
            column([one for batch in batches if (one := batch.importance) is not None])
            if batches[0].importance is not None
            else None,
            tasks,
            column([one for batch in batches if (one := batch.more_labels) is not None]) if tasks else None,
            column([part[:, 1:] for part in joined]) if tasks else None,
        )

    def batch(self, rows: pa.Table) -> Batch:
        """Return all the rows as one batch, on the model's device."""
        columns = columns_of(rows)
        return self._collator(columns, epoch=0).to(self._device)

    def attribute(self, rows: pa.Table) -> Attributions | None:
        """Attribute the rows' CTR logits to their fields; None if the model has no CTR tower, or one that
        reads histories, which are no field, or whose click logit is one of several tasks' (MMoE).
        """
        ctr = self._model.ctr
        if ctr is None or ctr.history is not None or ctr.prediction is None:
            return None
        return integrated_gradients(ctr, self.batch(rows).field_ids)

    @torch.no_grad()
    def run(self, batch: Batch) -> None:
        """Run one forward pass, for timing."""
        with matmuls_at(self._precision):
            self._model(*model_inputs(batch))


def load_scorer(
    export: str, device: torch.device, precision: ScoringPrecision
) -> tuple[ClickPrompt, ExportInfo]:
    """Load an export's model for scoring on a device: CTR-BERT keeps its items' vectors."""
    model, info = load_export(export)
    model.to(device)
    lower(model, precision, device)
    if isinstance(model, CTRBert):
        model.keep_items()
    return model, info


def filled_up(columns: dict[str, np.ndarray], batch_size: int) -> dict[str, np.ndarray]:
    """Add rows of weight 0 until the last batch is full.

    A matrix product of fewer rows may be summed in another order. In full batches a row's logit has the same
    bits whatever rows are scored with it, however a split is cut into row groups and new rows into files.
    (This doesn't hold with a PLM, whose batches are as long as their texts.)
    """
    rows = len(columns["row_id"])
    weight = np.ones(rows, dtype=np.float32)
    return {
        name: np.pad(values, (0, -rows % batch_size))
        for name, values in (columns | {"weight": weight}).items()
    }

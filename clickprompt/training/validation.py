"""The validation split scored by the training workers themselves: each takes every W-th row, all of them get the same exact AUC."""

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from clickprompt.config import FinetuneConfig
from clickprompt.data.collate import Collator
from clickprompt.data.dataset import columns_of
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.training.engine import Engine

__all__ = ["ShardedValidation"]


class ShardedValidation:
    """AUC and log loss of the model as it stands, over a whole table of rows."""

    def __init__(self, engine: Engine, collator: Collator, rows: pa.Table, stage: FinetuneConfig):
        self.every = stage.validate_every
        self.patience = stage.patience
        self._engine = engine
        columns = columns_of(rows)
        # Every worker scores equally many rows, the surplus with weight 0: collectives need equal shapes
        share = -(-len(rows) // engine.world_size)
        own = np.arange(share) * engine.world_size + engine.rank
        columns = {name: values[own % len(rows)] for name, values in columns.items()}
        columns["weight"] = (own < len(rows)).astype(np.float32)
        pieces = range(0, share, stage.eval_batch_size)
        self._batches = [
            batch
            for start in pieces
            for batch in collator.micro_batches(
                {name: values[start : start + stage.eval_batch_size] for name, values in columns.items()}, stage.eval_batch_size, epoch=0
            )
        ]

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        model, device = self._engine.model, self._engine.device
        model.eval()
        logits = torch.cat([self._engine.objective(batch.to(device), scores=True).cpu() for batch in self._batches])
        model.train()
        labels = torch.cat([batch.labels for batch in self._batches])
        weights = torch.cat([batch.row_weight for batch in self._batches])
        scored = _gather(torch.stack([logits, labels, weights]).to(device), self._engine.world_size).cpu().numpy()
        logits, labels, weights = scored
        counted = weights > 0
        return {"valid_auc": auc(labels[counted], logits[counted]), "valid_log_loss": log_loss(labels[counted], logits[counted])}


def _gather(values: torch.Tensor, world_size: int) -> torch.Tensor:
    """[C, n] of every worker → [C, W·n]."""
    if not dist.is_initialized():
        return values
    parts = [torch.empty_like(values) for _ in range(world_size)]
    dist.all_gather(parts, values)
    return torch.cat(parts, dim=1)

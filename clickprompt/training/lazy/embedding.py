"""Embedding tables that read and write only the rows of a step's global batch (`embedding_optimizer: lazy`).

Every worker holds a replica of the tables (training/lazy/tables.py). A step:

    begin     ids of the global batch from all workers → its distinct rows, caught up (deferred_adamw.py)
              → leaves [n, d] of the graph
    forward   looks up in the leaves; backward sums the gradient of all micro-batches there
    exchange  one all-reduce of [n, d]: the mean over the workers, as for every other gradient
    step      AdamW on the n rows, after the engine clipped dense parameters and leaves by their joint norm

As rows and gradients are the same everywhere, the replicas stay equal to the bit.
"""

import os

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from clickprompt.config import StageConfig
from clickprompt.data.batch import Batch
from clickprompt.models.layers import gather_rows
from clickprompt.training.lazy.route import rank_and_workers
from clickprompt.training.lazy.tables import BLOCK_ROWS, Tables, distinct

__all__ = ["LazyEmbedding"]

_FILE = "lazy-embedding.safetensors"


class LazyEmbedding(Tables):
    """Tables of which every worker holds all rows."""

    def __init__(
        self, model: nn.Module, stage: StageConfig, *, total_steps: int, device: torch.device
    ) -> None:
        super().__init__(model, stage, total_steps=total_steps, device=device)
        self._positions = torch.full_like(self._touched, -1)  # positions of the step's rows in the leaves

    def begin(self, micro_batches: list[Batch], step: int) -> None:
        ids = torch.cat([self._read_by(batch) for batch in micro_batches])
        self._rows = distinct(_gather(ids))
        self._step = step
        self._positions.index_copy_(
            0, self._rows, torch.arange(len(self._rows), dtype=torch.int32, device=ids.device)
        )
        self._state = self._caught_up(self._rows, step)
        self._set_leaves(self._state[0])

    def lookup(self, ids: Tensor, table: int) -> Tensor:
        positions = self._positions.index_select(0, ids.flatten())
        return gather_rows(self.leaves[table], positions).view(*ids.shape, -1)

    @torch.no_grad()
    def current(self, ids: Tensor, table: int) -> Tensor:
        return self._weights_now(ids.flatten()).split(self._widths, dim=1)[table].view(*ids.shape, -1)

    @torch.no_grad()
    def exchange(self) -> None:
        for leaf in self.leaves:
            if leaf.grad is None:
                leaf.grad = torch.zeros_like(leaf)
            if dist.is_initialized():
                dist.all_reduce(leaf.grad)
                leaf.grad /= dist.get_world_size()
        self._gradients = [leaf.grad for leaf in self.leaves if leaf.grad is not None]

    def norm(self) -> Tensor:
        return nn.utils.get_total_norm(self._gradients)

    def end(self) -> None:
        self._positions.index_fill_(0, self._rows, -1)
        super().end()

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        if rank_and_workers()[0]:
            return {}
        whole = {
            name: torch.empty(len(self._weight), width)
            for name, width in zip(self._names, self._widths, strict=True)
        }
        for rows in torch.arange(len(self._weight), device=self._weight.device).split(BLOCK_ROWS):
            for table, part in zip(
                whole.values(), self._weights_now(rows).split(self._widths, dim=1), strict=True
            ):
                table[rows[0] : rows[-1] + 1] = part.cpu()
        return whole

    def save(self, folder: str) -> None:
        """Write the state on rank 0; it is the same on every worker."""
        if rank_and_workers()[0] == 0:
            tensors = {name: tensor.cpu() for name, tensor in self._tensors().items()}
            save_file({**tensors, "step": torch.tensor([self._step])}, os.path.join(folder, _FILE))

    def load(self, folder: str) -> None:
        with safe_open(os.path.join(folder, _FILE), "pt") as file:
            for name, tensor in self._tensors().items():
                tensor.copy_(file.get_tensor(name))
            self._step = int(file.get_tensor("step"))


def _gather(ids: Tensor) -> Tensor:
    """Gather [n] from every worker → [W·n]; the shares of a global batch are equally large."""
    if not dist.is_initialized():
        return ids
    parts = [torch.empty_like(ids) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, ids)
    return torch.cat(parts)

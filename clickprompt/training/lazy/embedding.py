"""Embedding tables that read and write only the rows of a step's global batch (`embedding_optimizer: lazy`).

The tables of a model (embeddings and linear terms, all indexed by the same ids) become one array outside of
it, beside two arrays of moments and one of the step that last touched each row. Every worker holds a replica.
The tables are no parameters of the model, because DeepSpeed would broadcast and partition these, and
DistributedDataParallel would exchange whole gradients. A step:

    begin     ids of the global batch from all workers → its distinct rows, caught up (deferred_adamw.py)
              → leaves [n, d] of the graph
    forward   looks up in the leaves; backward sums the gradient of all micro-batches there
    exchange  one all-reduce of [n, d]: the mean over the workers, as for every other gradient
    step      AdamW on the n rows, after the engine clipped dense parameters and leaves by their joint norm

As rows and gradients are the same everywhere, the replicas stay equal to the bit. Outside of training, rows
are read as they would be now and nothing is written: validation and export leave no trace in a run.
"""

import os

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from clickprompt.config import StageConfig
from clickprompt.data.batch import Batch
from clickprompt.models.layers import PackedEmbedding, gather_rows, starts
from clickprompt.models.parameter_groups import settings_of
from clickprompt.training.lazy.deferred_adamw import DeferredAdamW
from clickprompt.training.optimizers import rate_at

__all__ = ["LazyEmbedding"]

_FILE = "lazy-embedding.safetensors"
_BLOCK_ROWS = 2**18  # rows of a table that are read at a time


class LazyEmbedding:
    """The packed tables taken out of `model`, which then looks up its rows here."""

    def __init__(
        self, model: nn.Module, stage: StageConfig, *, total_steps: int, device: torch.device
    ) -> None:
        tables = {
            name: module for name, module in model.named_modules() if isinstance(module, PackedEmbedding)
        }
        weights = [table.weight.detach() for table in tables.values()]
        assert weights, "a model without embeddings"
        self.leaves: list[Tensor] = []  # the current step's rows, one tensor per table
        self._names = [f"{name}.weight" for name in tables]
        self._widths = [weight.shape[1] for weight in weights]
        self._weight = (weights[0] if len(weights) == 1 else torch.cat(weights, 1)).to(device)
        self._first = torch.zeros_like(self._weight)
        self._second = torch.zeros_like(self._weight)
        self._touched = torch.zeros(len(self._weight), dtype=torch.int32, device=device)
        self._step = 0  # steps done
        self._positions = torch.full_like(self._touched, -1)  # positions of the step's rows in the leaves
        self._rows = torch.empty(0, dtype=torch.int64, device=device)
        self._state: tuple[Tensor, Tensor, Tensor] | None = None  # weight and moments of the step's rows
        [own] = {settings_of(name, 2, stage) for name in self._names}  # one for all tables
        rates = [rate_at(own.rate, own.frozen, step, total_steps, stage) for step in range(total_steps)]
        self._adamw = DeferredAdamW(rates, own.decay, device)
        for index, (name, table) in enumerate(tables.items()):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, _Lookup(self, index, table.offsets))
        self._offsets = next(iter(tables.values())).offsets.to(device)

    def begin(self, micro_batches: list[Batch], step: int) -> None:
        """Prepare the rows of step `step` (from 0), before its first forward pass.

        Every worker calls this, with all of its micro-batches.
        """
        ids = torch.cat([self._read_by(batch) for batch in micro_batches])
        self._rows = _distinct(_gather(ids))
        self._step = step
        self._positions.index_copy_(
            0, self._rows, torch.arange(len(self._rows), dtype=torch.int32, device=ids.device)
        )
        self._state = self._read(self._rows)
        weight, first, second = self._state
        self._adamw.catch_up(weight, first, second, self._touched.index_select(0, self._rows), step)
        self.leaves = [
            part.detach().contiguous().requires_grad_() for part in weight.split(self._widths, dim=1)
        ]

    def _read_by(self, batch: Batch) -> Tensor:
        """Return the rows that a batch's forward pass may look up, with repetitions: [n]."""
        ids = [(batch.field_ids + self._offsets).flatten()]
        if batch.candidate_ids is not None:
            assert batch.true_ids is not None
            assert batch.candidate_fields is not None
            ids.append((batch.true_ids + self._offsets).flatten())
            ids.append(batch.candidate_ids + self._offsets[batch.candidate_fields])
        return torch.cat(ids)

    def lookup(self, ids: Tensor, table: int) -> Tensor:
        """Look up the step's rows of a table, any shape → [..., d].

        Raises IndexError for ids that `begin` wasn't given.
        """
        positions = self._positions.index_select(0, ids.flatten())
        return gather_rows(self.leaves[table], positions).view(*ids.shape, -1)

    @torch.no_grad()
    def current(self, ids: Tensor, table: int) -> Tensor:
        """Look up rows of a table as they are after the steps done, any shape → [..., d]; change nothing."""
        return self._weights_now(ids.flatten()).split(self._widths, dim=1)[table].view(*ids.shape, -1)

    @torch.no_grad()
    def exchange(self) -> None:
        """Average the leaves' gradients over the workers; called before the step is clipped."""
        for leaf in self.leaves:
            if leaf.grad is None:
                leaf.grad = torch.zeros_like(leaf)
            if dist.is_initialized():
                dist.all_reduce(leaf.grad)
                leaf.grad /= dist.get_world_size()

    @torch.no_grad()
    def unscale(self, factor: float) -> None:
        """Take fp16's loss scale off the leaves' gradients."""
        for leaf in self.leaves:
            if leaf.grad is not None:
                leaf.grad /= factor

    def norm(self) -> Tensor:
        """Return the norm of the leaves' gradients, a scalar."""
        return nn.utils.get_total_norm([leaf.grad for leaf in self.leaves if leaf.grad is not None])

    def clip(self, norm: Tensor | float, max_norm: float) -> None:
        """Clip the leaves' gradients by `norm`, the joint norm with all other gradients."""
        nn.utils.clip_grads_with_norm_(self.leaves, max_norm, torch.as_tensor(norm))

    @torch.no_grad()
    def step(self) -> None:
        """Apply the leaves' gradients."""
        assert self._state is not None
        gradients = [leaf.grad for leaf in self.leaves if leaf.grad is not None]
        gradient = gradients[0] if len(gradients) == 1 else torch.cat(gradients, 1)
        self._step += 1
        self._adamw.update(*self._state, gradient, self._step)
        for table, rows in zip((self._weight, self._first, self._second), self._state, strict=True):
            table.index_copy_(0, self._rows, rows)
        self._touched.index_fill_(0, self._rows, self._step)
        self.end()

    def end(self) -> None:
        """Forget the current step, after it was applied or instead of applying it."""
        self._positions.index_fill_(0, self._rows, -1)
        self._state = None
        self.leaves = []

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """Return the tables after the steps done, whole and on the CPU, by their names in the model."""
        whole = {
            name: torch.empty(len(self._weight), width)
            for name, width in zip(self._names, self._widths, strict=True)
        }
        for rows in torch.arange(len(self._weight), device=self._weight.device).split(_BLOCK_ROWS):
            for table, part in zip(
                whole.values(), self._weights_now(rows).split(self._widths, dim=1), strict=True
            ):
                table[rows[0] : rows[-1] + 1] = part.cpu()
        return whole

    def save(self, folder: str) -> None:
        """Write the state on rank 0; it is the same on every worker."""
        if not dist.is_initialized() or dist.get_rank() == 0:
            tensors = {name: tensor.cpu() for name, tensor in self._tensors().items()}
            save_file({**tensors, "step": torch.tensor([self._step])}, os.path.join(folder, _FILE))

    def load(self, folder: str) -> None:
        with safe_open(os.path.join(folder, _FILE), "pt") as file:
            for name, tensor in self._tensors().items():
                tensor.copy_(file.get_tensor(name))
            self._step = int(file.get_tensor("step"))

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "weight": self._weight,
            "first_moment": self._first,
            "second_moment": self._second,
            "touched": self._touched,
        }

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            F.embedding(rows, self._weight),
            F.embedding(rows, self._first),
            F.embedding(rows, self._second),
        )

    def _weights_now(self, rows: Tensor) -> Tensor:
        return self._adamw.weights_at(*self._read(rows), self._touched.index_select(0, rows), self._step)


class _Lookup(nn.Module):
    """Stand-in for a PackedEmbedding that reads from the lazy tables."""

    offsets: Tensor

    def __init__(self, tables: LazyEmbedding, index: int, offsets: Tensor) -> None:
        super().__init__()
        self._tables = tables
        self._index = index
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, field_ids: Tensor, fields: Tensor | None = None) -> Tensor:
        """Look up as PackedEmbedding does."""
        read = self._tables.lookup if self.training else self._tables.current
        return read(field_ids + starts(self.offsets, fields), self._index)


def _gather(ids: Tensor) -> Tensor:
    """Gather [n] from every worker → [W·n]; the shares of a global batch are equally large."""
    if not dist.is_initialized():
        return ids
    parts = [torch.empty_like(ids) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, ids)
    return torch.cat(parts)


def _distinct(ids: Tensor) -> Tensor:
    """Sort the ids and drop duplicates.

    The ascending order is the same on every worker, and memory is read in order.
    """
    if ids.device.type != "cpu":
        return torch.unique(ids)
    ordered = np.sort(ids.numpy())  # several times faster than torch.unique
    return torch.from_numpy(ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])])

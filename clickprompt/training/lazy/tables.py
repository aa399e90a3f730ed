"""The tables of a model outside of it, each row stepped when it is used: what lazy and sharded ones share.

The tables (embeddings and linear terms, all indexed by the same ids) become one array outside of the model,
beside two arrays of moments and one of the step that last touched each row. They are no parameters of the
model, because DeepSpeed would broadcast and partition these, and DistributedDataParallel would exchange whole
gradients. Outside of training, rows are read as they would be now and nothing is written: validation and
export leave no trace in a run.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clickprompt.config import StageConfig
from clickprompt.data.batch import Batch
from clickprompt.models.layers import PackedEmbedding, starts
from clickprompt.models.parameter_groups import settings_of
from clickprompt.training.lazy.deferred_adamw import DeferredAdamW
from clickprompt.training.optimizers import rate_at

__all__ = ["BLOCK_ROWS", "Tables", "distinct"]

BLOCK_ROWS = 2**18  # rows of a table that are read at a time


class Tables(ABC):
    """The packed tables taken out of `model`, which then looks up its rows here.

    A step calls `begin`, then (through the model) `lookup`, `exchange`, `norm`, `unscale`, `clip`, and at
    last `step` or `end`. Every worker calls all of them.
    """

    def __init__(
        self, model: nn.Module, stage: StageConfig, *, total_steps: int, device: torch.device
    ) -> None:
        tables = {
            name: module for name, module in model.named_modules() if isinstance(module, PackedEmbedding)
        }
        assert tables, "a model without embeddings"
        self.leaves: list[Tensor] = []  # the current step's rows, one tensor per table
        self._names = [f"{name}.weight" for name in tables]
        self._widths = [table.weight.shape[1] for table in tables.values()]
        weights = [self._own(table) for table in tables.values()]
        self._weight = (weights[0] if len(weights) == 1 else torch.cat(weights, 1)).to(device)
        self._first = torch.zeros_like(self._weight)
        self._second = torch.zeros_like(self._weight)
        self._touched = torch.zeros(len(self._weight), dtype=torch.int32, device=device)
        self._step = 0  # steps done
        self._gradients: list[Tensor] = []  # of the rows that this worker steps, once they are exchanged
        # Which rows of the arrays the step writes, and their weight and moments
        self._rows = torch.empty(0, dtype=torch.int64, device=device)
        self._state: tuple[Tensor, Tensor, Tensor] | None = None
        [own] = {settings_of(name, 2, stage) for name in self._names}  # one for all tables
        rates = [rate_at(own.rate, own.frozen, step, total_steps, stage) for step in range(total_steps)]
        self._adamw = DeferredAdamW(rates, own.decay, device)
        for index, (name, table) in enumerate(tables.items()):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, _Lookup(self, index, table.offsets))
        self._offsets = next(iter(tables.values())).offsets.to(device)

    @abstractmethod
    def begin(self, micro_batches: list[Batch], step: int) -> None:
        """Prepare the rows of step `step` (from 0), before its first forward pass, with all of this worker's
        micro-batches.
        """

    @abstractmethod
    def lookup(self, ids: Tensor, table: int) -> Tensor:
        """Look up the step's rows of a table, any shape → [..., d].

        Raises IndexError for ids that `begin` wasn't given.
        """

    @abstractmethod
    def current(self, ids: Tensor, table: int) -> Tensor:
        """Look up rows of a table as they are after the steps done, any shape → [..., d]; change nothing."""

    @abstractmethod
    def exchange(self) -> None:
        """Average the leaves' gradients over the workers; called before the step is clipped."""

    @abstractmethod
    def norm(self) -> Tensor:
        """Return the norm of all tables' exchanged gradients, a scalar."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Return the tables after the steps done, whole and on the CPU, by their names in the model.

        Only rank 0 is sure to get them; elsewhere the result may be empty.
        """

    @abstractmethod
    def save(self, folder: str) -> None:
        """Write this worker's part of the state into a local folder."""

    @abstractmethod
    def load(self, folder: str) -> None:
        """Read back what `save` wrote, with any number of workers."""

    @torch.no_grad()
    def unscale(self, factor: float) -> None:
        """Take fp16's loss scale off the exchanged gradients."""
        for gradient in self._gradients:
            gradient /= factor

    @torch.no_grad()
    def clip(self, norm: Tensor | float, max_norm: float) -> None:
        """Clip the exchanged gradients by `norm`, the joint norm with all other gradients."""
        factor = torch.clamp(max_norm / (torch.as_tensor(norm) + 1e-6), max=1.0)  # as torch's clipping has it
        for gradient in self._gradients:
            gradient *= factor.to(gradient)

    @torch.no_grad()
    def step(self) -> None:
        """Apply the exchanged gradients."""
        assert self._state is not None
        gradient = self._gradients[0] if len(self._gradients) == 1 else torch.cat(self._gradients, 1)
        self._step += 1
        self._adamw.update(*self._state, gradient, self._step)
        for table, rows in zip((self._weight, self._first, self._second), self._state, strict=True):
            table.index_copy_(0, self._rows, rows)
        self._touched.index_fill_(0, self._rows, self._step)
        self.end()

    def end(self) -> None:
        """Forget the current step, after it was applied or instead of applying it."""
        self._state = None
        self._gradients = []
        self.leaves = []

    def _own(self, table: PackedEmbedding) -> Tensor:
        """Return the rows of a table of the model that this worker keeps."""
        return table.weight.detach()

    def _set_leaves(self, weight: Tensor) -> None:
        """Make the step's rows [n, D] leaves of the graph."""
        self.leaves = [
            part.detach().contiguous().requires_grad_() for part in weight.split(self._widths, dim=1)
        ]

    def _caught_up(self, rows: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Read rows of the arrays, weight and moments, as they are before `step`."""
        state = self._read(rows)
        self._adamw.catch_up(*state, self._touched.index_select(0, rows), step)
        return state

    def _weights_now(self, rows: Tensor) -> Tensor:
        return self._adamw.weights_at(*self._read(rows), self._touched.index_select(0, rows), self._step)

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            F.embedding(rows, self._weight),
            F.embedding(rows, self._first),
            F.embedding(rows, self._second),
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "weight": self._weight,
            "first_moment": self._first,
            "second_moment": self._second,
            "touched": self._touched,
        }

    def _read_by(self, batch: Batch) -> Tensor:
        """Return the ids that a batch's forward pass may look up, with repetitions: [n]."""
        # numbers of fields are behind the ids
        ids = [(batch.field_ids[:, : len(self._offsets)] + self._offsets).flatten()]
        if batch.candidate_ids is not None:
            assert batch.true_ids is not None
            assert batch.candidate_fields is not None
            ids.append((batch.true_ids + self._offsets[: batch.true_ids.shape[1]]).flatten())
            ids.append(batch.candidate_ids + self._offsets[batch.candidate_fields])
        return torch.cat(ids)


class _Lookup(nn.Module):
    """Stand-in for a PackedEmbedding that reads from the tables."""

    offsets: Tensor

    def __init__(self, tables: Tables, index: int, offsets: Tensor) -> None:
        super().__init__()
        self._tables = tables
        self._index = index
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, field_ids: Tensor, fields: Tensor | None = None) -> Tensor:
        """Look up as PackedEmbedding does."""
        read = self._tables.lookup if self.training else self._tables.current
        return read(field_ids + starts(self.offsets, fields), self._index)


def distinct(ids: Tensor) -> Tensor:
    """Sort the ids and drop duplicates.

    The ascending order is the same on every worker, and memory is read in order.
    """
    if ids.device.type != "cpu":
        return torch.unique(ids)
    ordered = np.sort(ids.numpy())  # several times faster than torch.unique
    return torch.from_numpy(ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])])

"""Embedding tables divided among the workers (`embedding_optimizer: sharded`).

Of W workers, worker r keeps the rows r, r + W, r + 2W, …, with their moments (training/lazy/tables.py). A
step:

    begin     distinct ids of this worker's share of the global batch → told to the workers that keep them
              (all-to-all), which catch the rows up (deferred_adamw.py) and send them → leaves [n, d]
    forward   looks up in the leaves; backward sums the gradient of all micro-batches there
    exchange  gradients go back the same way; the owners sum them and divide by W: the mean over the workers
    step      AdamW on the rows that each worker keeps, clipped by their joint norm with all other gradients

So a worker's memory for tables falls as 1 / W, and what is sent depends on the batch, not on the tables. The
losses are those of whole tables up to the rounding of sums. Reading rows outside of a step is an exchange
too: every worker takes part.
"""

import json
import math
import os
import tempfile

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clickprompt.data.batch import Batch
from clickprompt.errors import DataError
from clickprompt.models.layers import PackedEmbedding, gather_rows
from clickprompt.models.tensor_file import write_tensors
from clickprompt.training.lazy.route import Route, rank_and_workers
from clickprompt.training.lazy.tables import BLOCK_ROWS, Tables, distinct

__all__ = ["ShardedEmbedding"]


class ShardedEmbedding(Tables):
    """Tables of which every worker keeps its share of the rows."""

    _ids: Tensor  # the distinct rows that this worker's step uses, ascending
    _route: Route
    _places: Tensor  # where the rows that others asked for are among those that the step writes

    def begin(self, micro_batches: list[Batch], step: int) -> None:
        self._ids = distinct(torch.cat([self._read_by(batch) for batch in micro_batches]))
        self._route = Route(self._ids)
        self._rows, self._places = torch.unique(self._route.asked, return_inverse=True)
        self._step = step
        self._state = self._caught_up(self._rows, step)
        self._set_leaves(self._route.fetch(self._state[0].index_select(0, self._places)))

    def lookup(self, ids: Tensor, table: int) -> Tensor:
        return gather_rows(self.leaves[table], _find(ids.flatten(), self._ids)).view(*ids.shape, -1)

    @torch.no_grad()
    def current(self, ids: Tensor, table: int) -> Tensor:
        own = distinct(ids.flatten())
        route = Route(own)
        rows = route.fetch(self._weights_now(route.asked)).split(self._widths, dim=1)[table]
        return rows.index_select(0, _find(ids.flatten(), own)).view(*ids.shape, -1)

    @torch.no_grad()
    def exchange(self) -> None:
        gradients = [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in self.leaves]
        came = self._route.give_back(gradients[0] if len(gradients) == 1 else torch.cat(gradients, 1))
        summed = came.new_zeros(len(self._rows), came.shape[1]).index_add_(0, self._places, came)
        self._gradients = [summed / rank_and_workers()[1]]

    def norm(self) -> Tensor:
        [gradient] = self._gradients
        squares = torch.linalg.vector_norm(gradient).square()
        if dist.is_initialized():
            dist.all_reduce(squares)
        return squares.sqrt()

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """Gather the tables on rank 0, in nameless files that are mapped into its memory."""
        rank, workers = rank_and_workers()
        longest = _length(self._num_rows, 0, workers)
        whole = {
            name: _mapped(self._num_rows, width)
            for name, width in zip(self._names, self._widths, strict=True)
            if rank == 0
        }
        block = max(BLOCK_ROWS // workers, 1)
        for begin in range(0, longest, block):
            end = min(begin + block, longest)
            rows = torch.arange(begin, min(end, len(self._weight)), device=self._weight.device)
            own = self._weight.new_zeros(end - begin, self._weight.shape[1])  # the last row may be padding
            own[: len(rows)] = self._weights_now(rows)
            parts = [torch.empty_like(own) for _ in range(workers)] if rank == 0 else None
            if workers > 1:
                dist.gather(own, parts)
            else:
                parts = [own]
            if parts is None:
                continue
            in_order = torch.stack(parts, 1).flatten(0, 1)[: self._num_rows - begin * workers].cpu()
            for table, part in zip(whole.values(), in_order.split(self._widths, dim=1), strict=True):
                table[begin * workers : begin * workers + len(part)] = part
        return whole

    def save(self, folder: str) -> None:
        rank, workers = rank_and_workers()
        about = {"workers": workers, "rows": self._num_rows, "step": self._step}
        write_tensors(_file(folder, rank), self._tensors(), {"about": json.dumps(about)})

    @torch.no_grad()
    def load(self, folder: str) -> None:
        """Read this worker's rows from the files that have some of them. Raises DataError if a file can't be
        read, or holds other tables.
        """
        rank, workers = rank_and_workers()
        about = _about(folder)
        if about["rows"] != self._num_rows:
            raise DataError(
                f"{folder}: has tables of {about['rows']} rows, and this model {self._num_rows}; continue "
                "with the configuration that began the run"
            )
        self._step = about["step"]
        for writer in range(about["workers"]):
            # Row i is in file i % writers; this worker keeps those with i % workers = rank
            if (writer - rank) % math.gcd(about["workers"], workers) == 0:
                self._load_from(_file(folder, writer), writer, about["workers"])

    def _load_from(self, path: str, writer: int, writers: int) -> None:
        rank, workers = rank_and_workers()
        try:
            with safe_open(path, "pt") as file:
                views = {name: file.get_slice(name) for name in self._tensors()}
                for begin in range(0, _length(self._num_rows, writer, writers), BLOCK_ROWS):
                    parts = {name: view[begin : begin + BLOCK_ROWS] for name, view in views.items()}
                    ids = writer + writers * torch.arange(begin, begin + len(parts["touched"]))
                    mine = torch.nonzero(ids % workers == rank).squeeze(1)
                    rows = (ids[mine] // workers).to(self._weight.device)
                    for name, tensor in self._tensors().items():
                        tensor.index_copy_(0, rows, parts[name][mine].to(tensor.device))
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error

    def _own(self, table: PackedEmbedding) -> Tensor:
        rank, workers = rank_and_workers()
        self._num_rows = table.num_rows
        weight = table.weight.detach()
        if len(weight) == self._num_rows:  # the whole table
            weight = weight[rank::workers].clone()
        assert len(weight) == _length(self._num_rows, rank, workers), "the model has another worker's rows"
        return weight


def _find(ids: Tensor, among: Tensor) -> Tensor:
    """Return where `ids` are in `among`, ascending; -1 for those that aren't, which no table has."""
    places = torch.searchsorted(among, ids).clamp_(max=len(among) - 1)
    return torch.where(among.index_select(0, places) == ids, places, -1)


def _length(num_rows: int, rank: int, workers: int) -> int:
    """Count the rows that a worker keeps."""
    return (num_rows - rank + workers - 1) // workers


def _mapped(rows: int, width: int) -> Tensor:
    """Make a float32 tensor whose memory is a file's: the system can write it out where it is needed."""
    with tempfile.NamedTemporaryFile(prefix="clickprompt-") as file:
        return torch.from_file(file.name, shared=True, size=rows * width).view(rows, width)


def _file(folder: str, rank: int) -> str:
    return os.path.join(folder, f"tables-{rank:05d}.safetensors")


def _about(folder: str) -> dict[str, int]:
    path = _file(folder, 0)  # as every file has it
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["about"])
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(
        f"{path}: can't be read ({error}); delete this checkpoint, and the one before it is continued"
    )

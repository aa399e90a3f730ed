"""The way of table rows between the worker that keeps them and the one that uses them, and of gradients back.

Row i of the packed tables is row i // W of what worker i % W keeps.
"""

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Route", "rank_and_workers"]


def rank_and_workers() -> tuple[int, int]:
    """Return this worker's rank, and how many there are: (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


class Route:
    """The rows that every worker uses, each told to the worker that keeps it. Every worker makes one at the
    same time, and calls the same methods.
    """

    def __init__(self, ids: Tensor) -> None:
        """ids: the distinct rows that this worker uses, [n] int64."""
        _, workers = rank_and_workers()
        owners = ids % workers
        self._order = torch.argsort(owners, stable=True)
        counts = torch.bincount(owners, minlength=workers)
        asked = torch.empty_like(counts)
        if workers > 1:
            dist.all_to_all_single(asked, counts)
        else:
            asked.copy_(counts)
        # The only wait for the device: NCCL is told the sizes by the host
        self._used, self._kept = torch.stack([counts, asked]).tolist()
        self.asked = self._send((ids // workers)[self._order], self._used, self._kept)
        """rows of what this worker keeps that others (and itself) use, [m], by worker; several may use one"""

    def fetch(self, rows: Tensor) -> Tensor:
        """Map the rows that `asked` names, [m, D], on their owners → those of `ids`, [n, D], where they are
        used.
        """
        came = self._send(rows, self._kept, self._used)
        return torch.empty_like(came).index_copy_(0, self._order, came)

    def give_back(self, gradients: Tensor) -> Tensor:
        """Map gradients of `ids`, [n, D], → gradients of `asked`, [m, D], on the owners."""
        return self._send(gradients[self._order], self._used, self._kept)

    @staticmethod
    def _send(values: Tensor, to: list[int], of: list[int]) -> Tensor:
        """Send the first to[0] values to worker 0, and so on; return what came, of[r] from each worker r."""
        if len(to) == 1:
            return values
        came = values.new_empty(sum(of), *values.shape[1:])
        dist.all_to_all_single(came, values.contiguous(), of, to)
        return came

"""Losses that no micro-batch can compute alone, because they compare rows of the whole global batch.

First every worker computes representations of its rows (in a ranking loss: the logits) without a graph, and
gathers those of all workers. The loss and its gradient with respect to the representations follow from these.
Then each micro-batch runs again, with a graph, and the gradient goes on into the model: it is that of
Σ representation · gradient (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup"). So the loss depends neither on the number of workers nor on the micro-batches, and no more
than one micro-batch's graph is in memory.

Shape legend: n rows of a worker's share, N rows of the global batch, D size of a representation, C columns.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from clickprompt.data.batch import Batch
from clickprompt.training.engine import Engine

__all__ = ["FirstPass", "first_pass", "is_needed"]


@dataclass(frozen=True)
class FirstPass:
    """What all workers found; the micro-batches are this worker's."""

    micro_batches: list[Batch]
    """with `joint_gradient`, for the second pass"""
    loss_sum: Tensor
    """of the joint term over the global batch, a scalar; the same on every worker"""
    targets: Tensor
    """of the joint term in the global batch"""


def is_needed(engine: Engine, micro_batches: list[Batch]) -> bool:
    """Whether the objective has a joint term and one micro-batch isn't the whole global batch."""
    return engine.objective.joint is not None and (engine.world_size > 1 or len(micro_batches) > 1)


@torch.no_grad()
def first_pass(engine: Engine, micro_batches: list[Batch]) -> FirstPass:
    """Compute the joint term of the objective and its gradient; every worker calls it, after `engine.begin`.

    The second pass draws the same dropout, and moves what a batch norm remembers; this one leaves both alone.
    """
    joint = engine.objective.joint
    assert joint is not None
    with _unchanged(engine):
        parts = [engine.objective(batch, represent=True) for batch in micro_batches]
    representations = _gathered(torch.cat(parts))
    rows = _gathered(torch.cat([joint.rows(batch) for batch in micro_batches]))
    with torch.enable_grad():
        representations.requires_grad_()
        loss_sum = joint.loss(representations, rows)
        [gradient] = torch.autograd.grad(loss_sum, representations)
    sizes = [len(part) for part in parts]
    own = gradient[engine.rank * sum(sizes) :][: sum(sizes)].split(sizes)
    return FirstPass(
        [replace(batch, joint_gradient=part) for batch, part in zip(micro_batches, own, strict=True)],
        loss_sum.detach(),
        joint.count(rows),
    )


@contextlib.contextmanager
def _unchanged(engine: Engine) -> Iterator[None]:
    """Leave the random state as it is at the beginning, and what batch norms remember."""
    norms = [module for module in engine.model.modules() if isinstance(module, _BatchNorm)]
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    with torch.random.fork_rng(devices=[engine.device] if engine.device.type == "cuda" else []):
        yield
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def _gathered(own: Tensor) -> Tensor:
    """Gather [n, …] from every worker, in the order of their ranks → [N, …]; the shares are equally large."""
    if not dist.is_initialized():
        return own
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.contiguous())
    return torch.cat(parts)

"""The interface through which the loop computes and applies gradients, and its plain torch implementation."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from clickprompt.config import Precision, StageConfig
from clickprompt.data.batch import Batch
from clickprompt.models.clickprompt import ClickPrompt, unique_tensors
from clickprompt.objectives import Objective
from clickprompt.training.eight_bit import EightBitAdamW
from clickprompt.training.lazy.embedding import LazyEmbedding
from clickprompt.training.lazy.sharded import ShardedEmbedding
from clickprompt.training.lazy.tables import Tables
from clickprompt.training.masters import Masters
from clickprompt.training.optimizers import build_optimizer
from clickprompt.training.precision import LossScale, at_precision
from clickprompt.training.slices import Slice, load_slices, save_slices

__all__ = [
    "Engine",
    "Targets",
    "TorchEngine",
    "all_reduce_sum",
    "buffers_of",
    "lazy_embedding",
    "weighted_mean",
    "weights_of",
    "whole_parameters",
]


Targets = Tensor | Sequence[float]
"""numbers of targets, [terms]"""


class Engine(Protocol):
    """The owner of the objective's parameters, gradients and optimizer; every rank calls every method."""

    rank: int
    world_size: int
    device: torch.device
    objective: Objective  # call it for losses without gradients: a submodule alone would miss ZeRO-3's hooks
    model: ClickPrompt

    @property
    def optimizer(self) -> Optimizer: ...

    @property
    def may_overflow(self) -> bool:
        """Whether a gradient norm that isn't finite may be due to the loss scale, so the step is skipped."""
        ...

    @property
    def guards_itself(self) -> bool:
        """Whether it has `step_if_finite`."""
        ...

    def begin(self, micro_batches: list[Batch], step: int) -> None:
        """Announce all micro-batches of this worker's step `step` (from 0), before its first forward pass."""
        ...

    def accumulate(self, batch: Batch, num_targets: Targets, *, last: bool) -> Tensor:
        """Run forward and backward on one micro-batch, and return the loss sum of each term, [terms],
        detached.

        `num_targets` counts each term's targets in the whole global batch, on the device.
        """
        ...

    def gradient_norm(self) -> Tensor:
        """Return the global batch's gradient norm before clipping: a scalar on the device.

        It is the same on every rank, and may be inf or NaN. Called after the step's last micro-batch and
        before `step` or `skip`.
        """
        ...

    def step(self) -> None:
        """Clip the gradient of the global batch and apply it."""
        ...

    def step_if_finite(self, numbers: Tensor) -> None:
        """As `step`, if these numbers on the device are finite, and those of all calls before were.

        The device decides: nothing waits for it.
        """
        ...

    def skip(self) -> None:
        """Drop the gradient of the global batch; weights and optimizer stay as they are."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Return the model's tensors by name, whole and on the CPU, as an export holds them.

        Only rank 0 is sure to get them; elsewhere the result may be empty.
        """
        ...

    def save(self, folder: str) -> None:
        """Write this rank's part of the resume state into a local folder."""
        ...

    def load(self, folder: str) -> None:
        """Read back what `save` wrote, with any number of workers and any engine."""
        ...


def weighted_mean(loss_sums: Tensor, objective: Objective, num_targets: Targets, scale: float) -> Tensor:
    """Return scale · Σ_terms weight · loss sum / targets, a scalar: what is minimised."""
    counts = torch.as_tensor(num_targets, dtype=torch.float64, device=loss_sums.device)
    # A factor in float64 would make the loss float64, and one in bf16 would lose digits
    dtype = torch.promote_types(loss_sums.dtype, torch.float32)
    means = [
        loss_sum * (scale / targets * weight).to(dtype)
        for loss_sum, targets, weight in zip(
            loss_sums.unbind(), counts.unbind(), objective.terms.values(), strict=True
        )
    ]
    return torch.stack(means).sum()


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum over the workers in place; without a process group, return the values as they are."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copy a whole model's tensors to the CPU, tied ones once.

    DeepSpeed makes parameters views into flat buffers; the copies are independent of these.
    """
    return {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in unique_tensors(model).items()
    }


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of the state dict that aren't parameters."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {
        name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if name not in parameters
    }


def whole_parameters(model: nn.Module) -> list[Slice]:
    """Return every trained parameter as one slice, for engines that keep all of them on each worker."""
    return [
        Slice(name, 0, value.numel(), value)
        for name, value in model.named_parameters()
        if value.requires_grad
    ]


def lazy_embedding(
    model: ClickPrompt, stage: StageConfig, total_steps: int | None, device: torch.device
) -> Tables | None:
    """Take the tables out of the model, if its stage asks for lazy or sharded embeddings and it has tables;
    else None.

    Called before the optimizer is built.
    """
    if stage.embedding_optimizer == "dense" or model.ctr is None:
        return None
    assert total_steps is not None, "lazy embeddings need the number of steps"
    tables = ShardedEmbedding if stage.embedding_optimizer == "sharded" else LazyEmbedding
    return tables(model, stage, total_steps=total_steps, device=device)


def _replicated(objective: nn.Module) -> DistributedDataParallel:
    """Average gradients over the workers, in the buckets in which they travel (a copy of all less).

    Buffers are sent only if training changes them, which batch norm's does.
    """
    changing = any(isinstance(module, _BatchNorm) for module in objective.modules())
    return DistributedDataParallel(objective, gradient_as_bucket_view=True, forward_sync_buffers=changing)


class TorchEngine:
    """AdamW on a replica per worker, gradients averaged by DistributedDataParallel when there are several."""

    def __init__(
        self,
        objective: nn.Module,
        stage: StageConfig,
        *,
        device: torch.device,
        precision: Precision = "fp32",
        total_steps: int | None = None,
        master_weights: bool = False,
        optimizer_bits: int = 32,
    ):
        """`total_steps` is the run's: lazy embeddings need the learning rates of the steps they waited.
        master_weights: whether AdamW steps fp32 copies of bf16 weights. optimizer_bits: of each moment of the
        PLM's matrices, 32 or 8.
        """
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.device = device
        self._max_grad_norm = stage.max_grad_norm
        self.objective: Any = at_precision(objective.to(device), precision, device)
        self.model: ClickPrompt = self.objective.model
        self._lazy = lazy_embedding(self.model, stage, total_steps, device)
        self.optimizer = build_optimizer(self.model, stage, optimizer_bits)
        self._loss_scale = LossScale() if precision == "fp16" else None
        self._replica: Any = _replicated(self.objective) if self.world_size > 1 else self.objective
        self._masters = Masters(self.model, self.optimizer) if master_weights else None
        self._trainable = [
            self._masters.of(parameter) if self._masters else parameter
            for parameter in self.model.parameters()
            if parameter.requires_grad
        ]
        self._norm: Tensor | None = None
        self._not_finite = torch.zeros((), device=device)  # 1 once a step's numbers weren't finite

    @property
    def may_overflow(self) -> bool:
        return self._loss_scale is not None and self._loss_scale.factor > 1

    @property
    def guards_itself(self) -> bool:
        # The host moves a loss scale by these numbers, and keeps what is due of lazy tables; bitsandbytes has
        # no way to have the device leave weights and state alone
        eight_bit = isinstance(self.optimizer, EightBitAdamW)
        return self._loss_scale is None and self._lazy is None and not eight_bit

    def begin(self, micro_batches: list[Batch], step: int) -> None:
        if self._lazy:
            self._lazy.begin(micro_batches, step)

    def accumulate(self, batch: Batch, num_targets: Targets, *, last: bool) -> Tensor:
        wait = isinstance(self._replica, DistributedDataParallel) and not last
        scale = self._loss_scale.factor if self._loss_scale else 1.0
        with self._replica.no_sync() if wait else contextlib.nullcontext():
            loss_sums = self._replica(batch)
            # DDP averages over the workers, but the loss is a sum over them
            weighted_mean(loss_sums, self.objective, num_targets, scale * self.world_size).backward()
        return loss_sums.detach()

    def gradient_norm(self) -> Tensor:
        if self._masters:
            self._masters.take_gradients()
        gradients = [tensor.grad for tensor in self._trainable if tensor.grad is not None]
        if self._loss_scale:
            for gradient in gradients:
                gradient /= self._loss_scale.factor
        if self._lazy:
            self._lazy.exchange()
            if self._loss_scale:
                self._lazy.unscale(self._loss_scale.factor)
            gradients.append(self._lazy.norm())  # the norm of a norm is itself
        self._norm = nn.utils.get_total_norm(gradients)
        return self._norm

    def step(self) -> None:
        norm = self.gradient_norm() if self._norm is None else self._norm
        nn.utils.clip_grads_with_norm_(self._trainable, self._max_grad_norm, norm)
        self.optimizer.step()
        if self._masters:
            self._masters.round()
        if self._lazy:
            self._lazy.clip(norm, self._max_grad_norm)
            self._lazy.step()
        self._end(overflow=False)

    def step_if_finite(self, numbers: Tensor) -> None:
        not_finite = torch.logical_not(numbers.isfinite().all()).to(self._not_finite)
        torch.maximum(self._not_finite, not_finite, out=self._not_finite)
        # torch.amp.GradScaler's way to have a fused optimizer leave weights and state alone
        self.optimizer.found_inf = self._not_finite  # pyright: ignore[reportAttributeAccessIssue]
        self.step()

    def skip(self) -> None:
        if self._lazy:
            self._lazy.end()
        self._end(overflow=self._norm is not None and not bool(self._norm.isfinite()))

    def _end(self, *, overflow: bool) -> None:
        self.optimizer.zero_grad()
        self._norm = None
        if self._loss_scale:
            self._loss_scale.update(overflow=overflow)

    def _slices(self) -> list[Slice]:
        """Return what AdamW steps, by parameter."""
        whole = whole_parameters(self.model)
        if self._masters is None:
            return whole
        return [replace(one, holder=self._masters.of(one.holder)) for one in whole]

    def weights(self) -> dict[str, Tensor]:
        tables = self._lazy.weights() if self._lazy else {}
        return {} if self.rank else weights_of(self.model) | tables

    def save(self, folder: str) -> None:
        if self._lazy:
            self._lazy.save(folder)
        if self.rank:  # the rest of the state is the same on every worker
            return
        extra = {"loss_scale": vars(self._loss_scale)} if self._loss_scale else {}
        save_slices(folder, 0, 1, self._slices(), self.optimizer, buffers_of(self.model), extra)

    def load(self, folder: str) -> None:
        if isinstance(self.optimizer, EightBitAdamW):
            self.optimizer.allocate()
        extra = load_slices(folder, self._slices(), self.optimizer, buffers_of(self.model))
        if self._masters:
            self._masters.round()
        if self._loss_scale:
            vars(self._loss_scale).update(extra.get("loss_scale", {}))
        if self._lazy:
            self._lazy.load(folder)

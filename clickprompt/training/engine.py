"""What the loop needs of whatever computes and applies gradients, and the plain torch implementation of it."""

import contextlib
import os
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from clickprompt.config import StageConfig
from clickprompt.data.batch import Batch
from clickprompt.models.clickprompt import ClickPrompt, unique_tensors
from clickprompt.training.optimizers import build_optimizer

__all__ = ["Engine", "TorchEngine", "all_reduce_sum", "weights_of"]

_STATE_FILE = "torch-state.safetensors"


class Engine(Protocol):
    """Owns the objective's parameters, their gradients and the optimizer; every rank calls every method."""

    rank: int
    world_size: int
    device: torch.device
    model: ClickPrompt

    @property
    def optimizer(self) -> Optimizer: ...

    def accumulate(self, batch: Batch, num_targets: float, *, last: bool) -> Tensor:
        """Forward and backward one micro-batch; the loss sum, detached. `num_targets` counts the whole global batch."""
        ...

    def step(self) -> None:
        """Clip the gradient of the global batch and apply it."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The model's tensors by name, whole and on the CPU, as an export holds them; on rank 0, elsewhere possibly empty."""
        ...

    def save(self, folder: str) -> None:
        """Write this rank's part of the resume state into a local folder."""
        ...

    def load(self, folder: str) -> None:
        """Read back what `save` wrote with the same number of workers."""
        ...


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum over the workers; the identity without a process group."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a whole model's tensors on the CPU; tied ones once. DeepSpeed makes parameters views into flat buffers, these aren't."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in unique_tensors(model).items()}


class TorchEngine:
    """AdamW on a replica per worker, gradients averaged by DistributedDataParallel when there are several."""

    def __init__(self, objective: nn.Module, stage: StageConfig, *, device: torch.device, bf16: bool = False):
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.device = device
        self._bf16 = bf16
        self._max_grad_norm = stage.max_grad_norm
        objective = objective.to(device)
        self.model: ClickPrompt = objective.model  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer = build_optimizer(self.model, stage)
        self._replica: Any = DistributedDataParallel(objective) if self.world_size > 1 else objective
        self._trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def accumulate(self, batch: Batch, num_targets: float, *, last: bool) -> Tensor:
        wait = isinstance(self._replica, DistributedDataParallel) and not last
        with self._replica.no_sync() if wait else contextlib.nullcontext():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
                loss_sum = self._replica(batch)
            # DDP averages over the workers, the loss is a sum over them
            (loss_sum * (self.world_size / num_targets)).backward()
        return loss_sum.detach()

    def step(self) -> None:
        nn.utils.clip_grad_norm_(self._trainable, self._max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self) -> dict[str, Tensor]:
        return {} if self.rank else weights_of(self.model)

    def save(self, folder: str) -> None:
        if self.rank:  # the state is the same on every worker
            return
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, os.path.join(folder, _STATE_FILE))

    def load(self, folder: str) -> None:
        model_state, slots = {}, {}
        for key, value in load_file(os.path.join(folder, _STATE_FILE)).items():
            part, _, name = key.partition(".")
            if part == "model":
                model_state[name] = value
            else:
                index, _, slot = name.partition(".")
                slots.setdefault(int(index), {})[slot] = value
        self.model.load_state_dict(model_state)
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})

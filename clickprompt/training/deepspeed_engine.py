"""The same engine through DeepSpeed ZeRO 0–2. The only file that imports deepspeed."""

import copyreg
import os
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils import logger
from deepspeed.utils.tensor_fragment import fragment_address
from torch import Tensor, nn
from torch.optim import Optimizer

from clickprompt.config import StageConfig
from clickprompt.data.batch import Batch
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.training.engine import weights_of
from clickprompt.training.optimizers import build_optimizer

__all__ = ["DeepSpeedEngine"]

_TAG = "deepspeed"

logger.setLevel("WARNING")

# Early releases of Python 3.11 pickle an enum by way of getattr, which a weights-only loader rightly refuses; so by its value
copyreg.pickle(ZeroStageEnum, lambda stage: (ZeroStageEnum, (stage.value,)))


class _WeightsOnlyCheckpoints(TorchCheckpointEngine):
    """DeepSpeed's own unpickles whatever lies in the file; this reads tensors, containers and the few classes its state names."""

    def load(self, path: str, map_location: Any = None) -> Any:
        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
            return torch.load(path, map_location=map_location, weights_only=True)


class DeepSpeedEngine:
    """ZeRO stage 0, 1 or 2 over an initialised process group, stepping a client-side torch AdamW."""

    def __init__(
        self, objective: nn.Module, stage: StageConfig, *, zero_stage: int, micro_batches: int, device: torch.device, bf16: bool = False
    ):
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = device
        self._bf16 = bf16
        # The shared-memory op would be compiled at start-up with a compiler the machine may not have; gloo serves
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
        self.model: ClickPrompt = objective.model  # pyright: ignore[reportAttributeAccessIssue]
        self._engine, _, _, _ = deepspeed.initialize(
            model=objective,
            optimizer=build_optimizer(self.model, stage),  # pyright: ignore[reportArgumentType]
            config={
                "train_micro_batch_size_per_gpu": stage.micro_batch_size,
                "gradient_accumulation_steps": micro_batches,
                "gradient_clipping": stage.max_grad_norm,
                "zero_optimization": {"stage": zero_stage, "overlap_comm": device.type == "cuda"},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "steps_per_print": 2**31 - 1,
            },
        )
        self._engine.checkpoint_engine = _WeightsOnlyCheckpoints()

    @property
    def optimizer(self) -> Optimizer:
        return self._engine.optimizer  # pyright: ignore[reportReturnType]

    def accumulate(self, batch: Batch, num_targets: float, *, last: bool) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            loss_sum = self._engine(batch)
        # DeepSpeed averages over the workers, the loss is a sum over them
        self._engine.backward(loss_sum * (self.world_size / num_targets), scale_wrt_gas=False)
        if not last:
            self._engine.step()  # counts the micro-batch; only the last one of a step updates
        return loss_sum.detach()

    def step(self) -> None:
        self._engine.step()

    def weights(self) -> dict[str, Tensor]:
        return {} if self.rank else weights_of(self.model)

    def save(self, folder: str) -> None:
        self._engine.save_checkpoint(folder, tag=_TAG)

    def load(self, folder: str) -> None:
        path, _ = self._engine.load_checkpoint(folder, tag=_TAG)
        assert path is not None, f"DeepSpeed found nothing in {os.path.join(folder, _TAG)}"

"""The engine on DeepSpeed ZeRO 0–3. No other file imports deepspeed.

It has run on one GPU (tests/training/test_gpu.py), not yet on several over NCCL or with offload to a disk.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.utils import combine_grad_norm_groups
from deepspeed.utils import logger
from torch import Tensor, nn
from torch.optim import Optimizer

from clickprompt.config import RuntimeConfig, StageConfig
from clickprompt.data.batch import Batch
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.training.engine import (
    Targets,
    all_reduce_sum,
    buffers_of,
    lazy_embedding,
    weighted_mean,
    weights_of,
    whole_parameters,
)
from clickprompt.training.footprint import GPU_BUCKET
from clickprompt.training.optimizers import build_optimizer
from clickprompt.training.precision import LossScale, at_precision
from clickprompt.training.slices import Slice, load_slices, save_slices

__all__ = ["PRIVATE_NAMES", "DeepSpeedEngine", "division"]

PRIVATE_NAMES = {
    "deepspeed.runtime.engine:DeepSpeedEngine": (
        "basic_optimizer",
        "clip_fp32_gradients",
        "micro_steps",
        "was_step_applied",
    ),
    "deepspeed.runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer": (
        "averaged_gradients",
        "copy_grads_in_partition",
        "cpu_offload",
        "override_loss_scale",
        "scaled_global_norm",
        "update_lp_params",
    ),
    "deepspeed.runtime.zero.stage3:DeepSpeedZeroOptimizer_Stage3": (
        "_get_norm_groups",
        "_reassign_or_swap_out_partitioned_parameters",
        "checkpoint_event_epilogue",
        "checkpoint_event_prologue",
        "fp16_groups",
        "fp32_partitioned_groups_flat",
        "get_param_id",
        "grad_position",
        "override_loss_scale",
    ),
}
"""DeepSpeed class → the private names that this file uses of it; a test checks that they exist"""

# Up to this number of elements ZeRO 3 leaves a parameter whole on every rank (DeepSpeed's default)
_PERSISTENT = 100_000

# Bucket size on a CPU, in elements. DeepSpeed copies gradients into a bucket that it allocates anew for every
# micro-batch, and out of it again; on a CPU that costs as much as the reduction. A gradient larger than the
# bucket is reduced in place.
_CPU_BUCKET = 2**17

logger.setLevel("WARNING")


class DeepSpeedEngine:
    """ZeRO over an initialised process group, stepping a torch AdamW that is built here.

    In stage 0 every rank has everything. Stage 1 divides the optimizer's state, stage 2 the gradients too,
    and stage 3 the parameters too, which module hooks gather for a forward or backward pass.
    """

    def __init__(
        self,
        objective: nn.Module,
        stage: StageConfig,
        runtime: RuntimeConfig,
        *,
        micro_batches: int,
        device: torch.device,
        total_steps: int | None = None,
    ):
        """`total_steps` as in TorchEngine."""
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = device
        # A single worker (which is here only for offload) has no others to divide gradients with. Stage 2
        # would still pass every micro-batch's gradients through its bucket; stage 1 leaves them where
        # autograd sums them, and is otherwise the same
        self._zero_stage = 1 if runtime.zero_stage == 2 and self.world_size == 1 else runtime.zero_stage
        self._max_grad_norm = stage.max_grad_norm
        self._loss_scale = LossScale() if runtime.precision == "fp16" else None
        _join()
        self.objective: Any = at_precision(objective, runtime.precision, device)
        self.model: ClickPrompt = self.objective.model
        self._lazy = lazy_embedding(self.model, stage, total_steps, device)
        self._engine, _, _, _ = deepspeed.initialize(
            model=self.objective,
            optimizer=build_optimizer(self.model, stage),  # pyright: ignore[reportArgumentType]
            config=_options(self._zero_stage, stage, runtime, micro_batches, device),
        )
        self._norm: Tensor | None = None  # norm of the step's gradients, loss scale included
        self._own_norm = self._take_over_norm()

    @property
    def optimizer(self) -> Optimizer:
        return self._engine.optimizer  # pyright: ignore[reportReturnType]

    @property
    def may_overflow(self) -> bool:
        return self._loss_scale is not None and self._loss_scale.factor > 1

    @property
    def guards_itself(self) -> bool:
        return False  # its optimizers decide on the host

    def begin(self, micro_batches: list[Batch], step: int) -> None:
        if self._lazy:
            self._lazy.begin(micro_batches, step)

    def accumulate(self, batch: Batch, num_targets: Targets, *, last: bool) -> Tensor:
        loss_sums = self._engine(batch)
        scale = 1.0
        if self._zero_stage and self._loss_scale:
            self._zero.override_loss_scale(self._loss_scale.factor)
        else:  # without ZeRO there is plain AdamW, which doesn't know the scale
            scale = self._factor
        # DeepSpeed averages over the workers, but the loss is a sum over them
        loss = weighted_mean(loss_sums, self.objective, num_targets, scale * self.world_size)
        self._engine.backward(loss, scale_wrt_gas=False)
        if not last:
            self._engine.step()  # counts the micro-batch; only the last one of a step updates
        return loss_sums.detach()

    def gradient_norm(self) -> Tensor:
        norms = [self._own_norm()]
        if self._lazy:
            self._lazy.exchange()
            norms.append(self._lazy.norm())
            if self._loss_scale:
                self._lazy.unscale(self._factor)
        self._norm = combine_grad_norm_groups(norms)
        return self._norm / self._factor

    def step(self) -> None:
        norm = self.gradient_norm() if self._norm is None else self._norm / self._factor
        self._engine.step()
        if self._lazy and self._engine.was_step_applied():
            self._lazy.clip(norm, self._max_grad_norm)
            self._lazy.step()
        elif self._lazy:
            self._lazy.end()
        self._end(overflow=False)

    def step_if_finite(self, numbers: Tensor) -> None:
        raise NotImplementedError("DeepSpeed's optimizers decide on the host")

    def skip(self) -> None:
        overflow = self._norm is not None and not bool(self._norm.isfinite())
        if self._zero_stage:
            # ZeRO drops a step whose norm is infinite
            self._norm = torch.tensor(float("inf"), device=self.device)
            self._engine.step()
        else:
            self._engine.zero_grad()
            self._engine.micro_steps += 1  # the only counter of its `step` that is needed here
        if self._lazy:
            self._lazy.end()
        self._end(overflow=overflow)

    def _end(self, *, overflow: bool) -> None:
        self._norm = None
        if self._loss_scale:
            self._loss_scale.update(overflow=overflow)

    def _take_over_norm(self) -> Callable[[], Tensor]:
        """Make DeepSpeed clip by `self._norm`, and return how it computes the norm of its own gradients.

        The loop has computed the norm already, and it includes the rows of lazy tables, which DeepSpeed
        doesn't know. ZeRO's optimizers get the norm from one method each; without ZeRO the engine clips, in a
        method of its own.
        """
        if self._zero_stage == 0:
            parameters = list(self.objective.parameters())

            def clip() -> None:
                assert self._norm is not None
                if self._loss_scale:
                    for parameter in parameters:
                        if parameter.grad is not None:
                            parameter.grad /= self._factor
                nn.utils.clip_grads_with_norm_(parameters, self._max_grad_norm, self._norm / self._factor)

            self._engine.clip_fp32_gradients = clip
            return lambda: nn.utils.get_total_norm(
                [parameter.grad for parameter in parameters if parameter.grad is not None]
            )
        if self._zero_stage == 3:
            norm_groups = self._zero._get_norm_groups
            self._zero._get_norm_groups = lambda: [self._norm]
            return lambda: combine_grad_norm_groups(norm_groups())
        scaled_global_norm = self._zero.scaled_global_norm
        self._zero.scaled_global_norm = lambda: self._norm
        if self._zero.cpu_offload:
            return scaled_global_norm
        if self.device.type == "cpu":
            self._leave_large_gradients()
        return self._norm_of_shares

    def _leave_large_gradients(self) -> None:
        """Keep DeepSpeed from copying gradients that aren't in the bucket out of it."""
        copy = self._zero.copy_grads_in_partition

        def copy_small(parameter: Tensor, group: int | None = None) -> None:
            if parameter.numel() <= _CPU_BUCKET:
                copy(parameter, group)

        self._zero.copy_grads_in_partition = copy_small

    def _norm_of_shares(self) -> Tensor:
        """Compute the norm without DeepSpeed's own method, which copies every gradient to float64."""
        gradients = [gradient for group in self._zero.averaged_gradients.values() for gradient in group]
        return all_reduce_sum(nn.utils.get_total_norm(gradients).square()).sqrt()

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        tables = self._lazy.weights() if self._lazy else {}
        if self._zero_stage < 3:
            return {} if self.rank else weights_of(self.model) | tables
        # As in weights_of, but one parameter at a time: each is whole only between two collectives
        named: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            named.setdefault(id(tensor), (name, tensor))
        tensors = tables
        for name, tensor in named.values():
            with deepspeed.zero.GatheredParameters([tensor], enabled=isinstance(tensor, nn.Parameter)):
                if not self.rank:
                    tensors[name] = tensor.detach().cpu().contiguous().clone()
        return tensors

    def save(self, folder: str) -> None:
        if self._lazy:
            self._lazy.save(folder)
        if self._zero_stage == 0 and self.rank:  # the rest of the state is the same on every worker
            return
        extra = {"loss_scale": vars(self._loss_scale)} if self._loss_scale else {}
        num_files = self.world_size if self._zero_stage else 1
        save_slices(folder, self.rank, num_files, self._slices(), self._inner, buffers_of(self.model), extra)

    def load(self, folder: str) -> None:
        if self._zero_stage == 3:
            # Small parameters may be whole; they are gathered again below
            self._zero.checkpoint_event_prologue()
        extra = load_slices(folder, self._slices(), self._inner, buffers_of(self.model))
        if self._loss_scale:
            vars(self._loss_scale).update(extra.get("loss_scale", {}))
        # The slices belong to the optimizer's own fp32 copies; the module's parameters follow
        if self._zero_stage in (1, 2):
            self._zero.update_lp_params()
        elif self._zero_stage == 3:
            for sub_group in range(len(self._zero.fp16_groups)):
                self._zero._reassign_or_swap_out_partitioned_parameters(sub_group)
            self._zero.checkpoint_event_epilogue()
        if self._lazy:
            self._lazy.load(folder)

    @property
    def _factor(self) -> float:
        """Factor by which the loss, and so the gradients, are scaled up."""
        return self._loss_scale.factor if self._loss_scale else 1.0

    @property
    def _zero(self) -> Any:
        """DeepSpeed's ZeRO optimizer, in stages 1–3."""
        return self._engine.optimizer

    @property
    def _inner(self) -> Any:
        """The torch AdamW below ZeRO."""
        return self._engine.basic_optimizer

    def _slices(self) -> Iterator[Slice]:
        """Yield what this rank's AdamW steps, by parameter."""
        if self._zero_stage == 0:
            yield from whole_parameters(self.model)
            return
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            value: Any = parameter
            if self._zero_stage == 3:
                group, offset, share = self._zero.grad_position[self._zero.get_param_id(value)]
                start = self.rank * share
                holder = self._zero.fp32_partitioned_groups_flat[group]
                length = min(share, value.ds_numel - start)  # the rest is padding
            elif value._hp_mapping is None:  # it belongs to other ranks
                continue
            else:
                mapping = value._hp_mapping
                holder = self._inner.param_groups[mapping.param_group_index]["params"][0]
                start, length = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
                offset = mapping.hp_fragment_address.start
            if length > 0:
                yield Slice(name, start, length, holder, offset)


@contextmanager
def division(
    stage: StageConfig, runtime: RuntimeConfig, *, micro_batches: int, device: torch.device
) -> Iterator[None]:
    """A context in which ZeRO 3 divides the parameters of new modules, each once its constructor is done."""
    _join()
    options = _options(3, stage, runtime, micro_batches, device)
    # Whole tensors come and go between shares that stay. In glibc's heap they would leave gaps, so that a
    # worker would take up to twice its share
    _map_from(2**20)
    # Without overrides: they would cast every new tensor to one dtype, buffers too
    with deepspeed.zero.Init(config_dict_or_path=options, dtype=torch.float32, tensor_overrides=[]):
        try:
            yield
        finally:
            _map_from(2**25)


def _map_from(size: int) -> None:
    """Have glibc take allocations from this size in bytes on from the system, and give them back when freed.

    By itself it raises the size with what is freed, up to 2**25.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, size)  # M_MMAP_THRESHOLD


def _join() -> None:
    """Let DeepSpeed use the process group that there is."""
    # The shared-memory op would be compiled at start-up, with a compiler that the machine may not have;
    # gloo does the job
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)


def _options(
    zero_stage: int, stage: StageConfig, runtime: RuntimeConfig, micro_batches: int, device: torch.device
) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": stage.micro_batch_size,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": stage.max_grad_norm,
        "zero_optimization": _zero_options(zero_stage, runtime, device),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
        # It would wait for the device twice in every micro-batch
        "timers": {"throughput": {"enabled": False}},
    }


def _zero_options(stage: int, runtime: RuntimeConfig, device: torch.device) -> dict[str, Any]:
    options: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": device.type == "cuda",
        "reduce_bucket_size": _CPU_BUCKET if device.type == "cpu" else GPU_BUCKET,
        "stage3_param_persistence_threshold": _PERSISTENT,
    }
    if runtime.offload != "none":
        memory = {"device": "cpu", "pin_memory": device.type == "cuda"}
        # The optimizer's state stays in memory even with nvme: a checkpoint couldn't read it if it were
        # swapped out
        options["offload_optimizer"] = memory
        if stage == 3:
            options["offload_param"] = {
                **memory,
                "device": runtime.offload,
                "nvme_path": runtime.offload_path,
            }
    return options

"""AdamW over groups with learning rates of their own, and the schedule as a function of the step.

The learning rate at a step is computed, never stored: a resumed run needs no scheduler state.
"""

import math

from torch.optim import AdamW, Optimizer

from clickprompt.config import StageConfig
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.models.parameter_groups import parameter_groups
from clickprompt.training.eight_bit import EightBitAdamW, eight_bit_parameters

__all__ = ["build_optimizer", "rate_at", "schedule_factor", "set_learning_rates"]


def build_optimizer(model: ClickPrompt, stage: StageConfig, plm_bits: int = 32) -> Optimizer:
    """AdamW over the model's parameter groups (models/parameter_groups.py), each at its peak rate.

    plm_bits: of each moment of the PLM's matrices, 32 or 8 (training/eight_bit.py).
    """
    groups = [{**group, "lr": group["base_lr"]} for group in parameter_groups(model, stage)]
    if plm_bits == 8 and (in_8_bits := eight_bit_parameters(model)):
        return EightBitAdamW(groups, in_8_bits)
    return AdamW(groups, fused=True)


def schedule_factor(step: int, total_steps: int, stage: StageConfig) -> float:
    """Factor on the peak learning rates at `step` (from 0).

    Linear warmup over ⌈warmup_ratio · total_steps⌉ steps, then linear decay to 0 after the last step, or no
    decay (`schedule: constant`).
    """
    warmup = math.ceil(stage.warmup_ratio * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if stage.schedule == "constant":
        return 1.0
    return (total_steps - step) / max(total_steps - warmup, 1)


def rate_at(rate: float, frozen: float, step: int, total_steps: int, stage: StageConfig) -> float:
    """Return the learning rate at `step` of what has the peak rate `rate` and stays frozen (rate 0) over the
    first ⌈frozen · total_steps⌉ steps.
    """
    if step < math.ceil(frozen * total_steps):
        return 0.0
    return rate * schedule_factor(step, total_steps, stage)


def set_learning_rates(optimizer: Optimizer, step: int, total_steps: int, stage: StageConfig) -> None:
    """Set every group's learning rate to that of `step` (from 0)."""
    for group in optimizer.param_groups:
        group["lr"] = rate_at(group["base_lr"], group["frozen"], step, total_steps, stage)

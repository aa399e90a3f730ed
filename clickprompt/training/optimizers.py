"""AdamW over four learning-rate groups, and the schedule as a function of the step.

The learning rate at a step is computed, never stored: a resumed run needs no scheduler state.
"""

import math
from typing import Any

from torch.optim import AdamW, Optimizer

from clickprompt.config import StageConfig
from clickprompt.models.clickprompt import ClickPrompt

__all__ = ["build_optimizer", "parameter_groups", "schedule_factor", "set_learning_rates"]


def parameter_groups(model: ClickPrompt, stage: StageConfig) -> list[dict[str, Any]]:
    """The model's trainable parameters by group (ctr, projector, plm, heads) and by whether they decay.

    Biases, norms and ctr_weight never decay; the CTR embeddings and linear terms do unless `decay_embeddings`
    is off.
    """
    groups = []
    for name, parameters in model.parameter_groups().items():
        decayed = {True: [], False: []}
        for parameter_name, parameter in parameters:
            is_matrix = parameter.ndim > 1 and not parameter_name.endswith(
                "bias"
            )  # the projector's biases are stacked
            is_embedding = parameter_name.startswith(("ctr.embedding.", "ctr.linear_terms."))
            decayed[is_matrix and (stage.decay_embeddings or not is_embedding)].append(parameter)
        for decays, members in decayed.items():
            if members:
                decay = stage.weight_decay if decays else 0.0
                groups.append(
                    {
                        "params": members,
                        "weight_decay": decay,
                        "name": name,
                        "base_lr": getattr(stage.lr, name),
                    }
                )
    return groups


def build_optimizer(model: ClickPrompt, stage: StageConfig) -> AdamW:
    groups = parameter_groups(model, stage)
    return AdamW([{**group, "lr": group["base_lr"]} for group in groups], fused=True)


def schedule_factor(step: int, total_steps: int, stage: StageConfig) -> float:
    """Linear warmup over ⌈warmup_ratio · total⌉ steps, then linear decay to 0 after the last step (or
    none).
    """
    warmup = math.ceil(stage.warmup_ratio * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if stage.schedule == "constant":
        return 1.0
    return (total_steps - step) / max(total_steps - warmup, 1)


def set_learning_rates(optimizer: Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor

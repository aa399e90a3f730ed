"""Derive each parameter's group, learning rate and weight decay; this is the only place that does."""

from typing import Any

from torch import nn

from clickprompt.config import StageConfig

__all__ = ["GROUPS", "group_of", "parameter_groups", "rate_and_decay", "trainable_by_group"]

GROUPS = ("ctr", "projector", "plm", "heads")
"""The groups with a learning rate of their own, the fields of `LearningRates`"""

_PREFIXES = {
    "prompt_projector.": "projector",
    "plm.backbone.": "plm",
    "plm.lm_head.": "heads",
    "click_head.": "heads",
}
_TABLES = ("ctr.embedding.", "ctr.linear_terms.")


def group_of(name: str) -> str:
    """Return the group of a ClickPrompt parameter, by its name in `named_parameters`."""
    return next((group for prefix, group in _PREFIXES.items() if name.startswith(prefix)), "ctr")


def rate_and_decay(name: str, ndim: int, stage: StageConfig) -> tuple[float, float]:
    """Return the peak learning rate and weight decay of a parameter with `ndim` dimensions.

    Biases, norms and ctr_weight never decay; the CTR embeddings and linear terms do unless
    `decay_embeddings` is off.
    """
    is_matrix = ndim > 1 and not name.endswith("bias")  # the projector's biases are stacked
    decays = is_matrix and (stage.decay_embeddings or not name.startswith(_TABLES))
    return getattr(stage.lr, group_of(name)), stage.weight_decay if decays else 0.0


def trainable_by_group(model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Return every trainable parameter once, with its name, by group."""
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {group: [] for group in GROUPS}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[group_of(name)].append((name, parameter))
    return groups


def parameter_groups(model: nn.Module, stage: StageConfig) -> list[dict[str, Any]]:
    """Return the trainable parameters for an optimizer: "params", "weight_decay", "name", "base_lr".

    A group has up to two entries: the parameters that decay, then those that don't.
    """
    groups = []
    for group, parameters in trainable_by_group(model).items():
        by_decay: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in parameters:
            _, decay = rate_and_decay(name, parameter.ndim, stage)
            by_decay[decay > 0].append(parameter)
        for decays, members in by_decay.items():
            if members:
                groups.append(
                    {
                        "params": members,
                        "weight_decay": stage.weight_decay if decays else 0.0,
                        "name": group,
                        "base_lr": getattr(stage.lr, group),
                    }
                )
    return groups

"""Derive each parameter's group, learning rate and weight decay; this is the only place that does."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from clickprompt.config import FinetuneConfig, StageConfig
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.models.divided import shape_of

__all__ = ["GROUPS", "Settings", "group_of", "parameter_groups", "settings_of", "trainable_by_group"]

GROUPS = ("ctr", "projector", "plm", "heads")
"""The groups with a learning rate of their own, the fields of `LearningRates`"""

_PREFIXES = {
    "prompt_projector.": "projector",
    "plm.backbone.": "plm",
    "plm.lm_head.": "heads",
    "click_head.": "heads",
    "id_head.": "heads",
    "text_id_head.": "heads",
    "contrast.": "heads",
}
_TABLES = ("ctr.embedding.", "ctr.linear_terms.")


def group_of(name: str) -> str:
    """Return the group of a ClickPrompt parameter, by its name in `named_parameters`."""
    return next((group for prefix, group in _PREFIXES.items() if name.startswith(prefix)), "ctr")


@dataclass(frozen=True)
class Settings:
    """How the optimizer treats a parameter."""

    rate: float
    """peak learning rate"""
    decay: float
    """weight decay"""
    frozen: float
    """share of the steps, at the start, in which the rate is 0"""


def settings_of(name: str, ndim: int, stage: StageConfig, layers_above: int = 0) -> Settings:
    """Return the settings of a ClickPrompt parameter with `ndim` dimensions.

    Biases, norms, frequencies of numbers and ctr_weight never decay. layers_above: for a parameter of the
    PLM, what PromptedPLM.layers_above says; its rate is lr.plm · plm_layer_decay^layers_above.
    """
    group = group_of(name)
    table = name.startswith(_TABLES)
    rate, decay, frozen = getattr(stage.lr, group), stage.weight_decay, 0.0
    if table:
        rate = rate if stage.lr.tables is None else stage.lr.tables
        decay = decay if stage.tables_weight_decay is None else stage.tables_weight_decay
        frozen = stage.freeze_tables if isinstance(stage, FinetuneConfig) else 0.0
    elif group == "plm":
        rate *= stage.plm_layer_decay**layers_above
        decay = decay if stage.plm_weight_decay is None else stage.plm_weight_decay
    # the projector's biases are stacked, and so are the fields' frequencies
    is_matrix = ndim > 1 and not name.endswith(("bias", "frequencies"))
    return Settings(rate, decay if is_matrix else 0.0, frozen)


def trainable_by_group(model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Return every trainable parameter once, with its name, by group."""
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {group: [] for group in GROUPS}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[group_of(name)].append((name, parameter))
    return groups


def parameter_groups(model: ClickPrompt, stage: StageConfig) -> list[dict[str, Any]]:
    """Return the trainable parameters for an optimizer: "params", "weight_decay", "name", "base_lr" and
    "frozen".

    A group has an entry for each of its settings: those that decay, then those that don't, each in the order
    of their first parameters.
    """
    above = model.plm.layers_above() if model.plm is not None else {}
    groups = []
    for group, parameters in trainable_by_group(model).items():
        by_settings: dict[Settings, list[nn.Parameter]] = {}
        for name, parameter in parameters:
            settings = settings_of(name, len(shape_of(parameter)), stage, above.get(parameter, 0))
            by_settings.setdefault(settings, []).append(parameter)
        for settings in sorted(by_settings, key=lambda settings: settings.decay == 0):
            groups.append(
                {
                    "params": by_settings[settings],
                    "weight_decay": settings.decay,
                    "name": group,
                    "base_lr": settings.rate,
                    "frozen": settings.frozen,
                }
            )
    return groups

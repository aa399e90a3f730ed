"""Low-rank adapters of a PLM (`plm.lora`; Hu et al. 2022): W x becomes W x + α / r · B A x, with W frozen.

peft puts the adapters in and computes with them; merging is done here, so that what was trained with
adapters is scored and served without peft. A [r, in] and B [out, r] are fp32 in a PLM of any dtype, and B = 0
at first.

A linear map `query` with an adapter has the tensors query.base_layer.weight (and bias),
query.lora_A.default.weight and query.lora_B.default.weight.
"""

import importlib.util
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from clickprompt.config import LoRAConfig
from clickprompt.errors import ConfigError
from clickprompt.models.plm_families import PLMFamily, get_family

__all__ = [
    "adapter_config",
    "adapter_tensors",
    "add_adapters",
    "base_tensors",
    "check_adapters",
    "fit_adapters",
    "merged",
]

_BASE, _A, _B = "base_layer.", "lora_A.default.", "lora_B.default."


def check_adapters(hf_config: PreTrainedConfig, family: PLMFamily, config: LoRAConfig) -> None:
    """Raise ConfigError if peft isn't installed, or an architecture has none of a target. Reads no
    weights.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            f"plm.lora.rank={config.rank}: peft isn't installed; run pip install 'clickprompt[lora]', or "
            "leave it out"
        )
    with torch.device("meta"):
        _targets(AutoModel.from_config(hf_config), family, config)


def _targets(backbone: nn.Module, family: PLMFamily, config: LoRAConfig) -> list[str]:
    """Return the paths of the linear maps that get adapters. Raises ConfigError for an unknown target."""
    layers = tuple(f"{path}." for path in family.layers)
    linear = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(layers)
    ]
    found: list[str] = []
    for target in config.targets or family.adapted:
        of_target = [name for name in linear if name.endswith(f".{target}")]
        if not of_target:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ConfigError(
                f"plm.lora.targets: the layers of this PLM have no linear map {target!r}; they have {known}"
            )
        found += of_target
    return found


def add_adapters(backbone: nn.Module, family: PLMFamily, config: LoRAConfig) -> None:
    """Put adapters into a backbone and freeze the rest of it. A is drawn from torch's global random state."""
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import

    options = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=config.dropout,
        target_modules=_targets(backbone, family, config),
        fan_in_fan_out=family.transposed,
    )
    inject_adapter_in_model(options, backbone)
    for parameter in backbone.parameters():
        if parameter.requires_grad:  # bf16 would lose most of an AdamW step
            parameter.data = parameter.data.float()


def merged(tensors: dict[str, Tensor], config: LoRAConfig, model_type: str) -> dict[str, Tensor]:
    """Return a model's tensors by the names that they have without adapters, with W + α / r · B A for W.

    The sum is taken in fp32 at least.
    """
    transposed = get_family(model_type, "export").transposed
    result = {}
    for name, tensor in tensors.items():
        if _A in name or _B in name:
            continue
        if name.endswith(f".{_BASE}weight"):
            stem, wide = name.removesuffix(f"{_BASE}weight"), torch.promote_types(tensor.dtype, torch.float32)
            low, high = (tensors[f"{stem}{part}weight"].to(wide) for part in (_A, _B))
            added = config.scale * (high @ low)
            tensor = (tensor.to(wide) + (added.T if transposed else added)).to(tensor.dtype)
        result[name.replace(f".{_BASE}", ".")] = tensor
    return result


def fit_adapters(
    tensors: dict[str, Tensor], earlier: LoRAConfig, model_type: str, own: LoRAConfig, names: Iterable[str]
) -> dict[str, Tensor]:
    """Return the tensors of an export, trained with the adapters `earlier`, for a model with the tensors
    `names` and the adapters `own`.

    The same adapters are trained on. Otherwise they are merged into what is frozen, or trained whole, now.
    """
    if earlier.rank and earlier.model_copy(update={"dropout": own.dropout}) == own:
        return tensors
    if earlier.rank:
        tensors = merged(tensors, earlier, model_type)
    based = {name.replace(f".{_BASE}", "."): name for name in names}
    return {based.get(name, name): tensor for name, tensor in tensors.items()}


def base_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what is frozen, by the names that it has without adapters."""
    return {
        name.replace(f".{_BASE}", "."): tensor
        for name, tensor in tensors.items()
        if _A not in name and _B not in name
    }


def adapter_tensors(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the adapters among tensors whose names begin with `prefix`, under the names of peft's files."""
    return {
        f"base_model.model.{name.removeprefix(prefix).replace('.default.', '.')}": tensor
        for name, tensor in tensors.items()
        if _A in name or _B in name
    }


def adapter_config(config: LoRAConfig, model_type: str, path: str | None) -> dict[str, Any]:
    """Return peft's adapter_config.json for the backbone of plm.path."""
    family = get_family(model_type, "export")
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": path,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(config.targets or family.adapted),
        "fan_in_fan_out": family.transposed,
        "bias": "none",
        "inference_mode": True,
    }

"""Build a PLM whose parameters ZeRO 3 divides among the workers as they come into being.

Each module's parameters are divided once its constructor is done (deepspeed.zero.Init), so no worker ever
holds more than its share of the PLM and a few whole tensors. The result is what a worker alone would build:
all of them draw the same numbers, and weights are read tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel, initialization, modeling_utils
from transformers.integrations import deepspeed as hf_deepspeed

from clickprompt.models.divided import Division, whole

__all__ = ["drawn", "read", "stored_dtypes", "tensors_of"]


@contextmanager
def drawn(division: Division) -> Iterator[None]:
    """A context in which `from_config` builds a model with divided parameters."""
    initialize = PreTrainedModel.initialize_weights
    PreTrainedModel.initialize_weights = _initialize
    try:
        with division():
            yield
    finally:
        PreTrainedModel.initialize_weights = initialize


@contextmanager
def read(division: Division) -> Iterator[None]:
    """A context in which `from_pretrained`, given a `state_dict`, builds a model with divided parameters."""
    zero3 = _ZeRO3()
    hf_deepspeed.set_hf_deepspeed_config(zero3)
    try:
        # transformers would divide parameters with options of its own, which cast buffers too
        with modeling_utils.set_zero3_state(), initialization.no_init_weights(), division():
            yield
    finally:
        hf_deepspeed.unset_hf_deepspeed_config()


class _ZeRO3:
    """What transformers asks of its HfDeepSpeedConfig, which needs accelerate."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}

    def is_zero3(self) -> bool:
        return True


def _initialize(self: PreTrainedModel) -> None:
    """PreTrainedModel.initialize_weights, with a module's parameters whole while they are drawn.

    transformers' own (initialize_weights_zero3) draws on the first worker only, whose random state would
    then differ from the others'.
    """

    def apply(module: nn.Module, draw: Callable[[nn.Module], None]) -> None:
        for child in module.children():
            apply(child, child._initialize_weights if isinstance(child, PreTrainedModel) else draw)
        if getattr(module, "_is_hf_initialized", False):
            return
        # It may also draw the parameters of its direct children (T5)
        near = [p for one in (module, *module.children()) for p in one.parameters(recurse=False)]
        with whole(near):
            devices = [parameter.device for parameter in near]
            for parameter in near:  # a GPU's generator would draw other numbers
                parameter.data = parameter.data.cpu()
            draw(module)
            for parameter, device in zip(near, devices, strict=True):
                parameter.data = parameter.data.to(device)

    with torch.no_grad(), initialization.guard_torch_init_functions():
        apply(self, self._initialize_weights)


def stored_dtypes(files: list[str]) -> set[torch.dtype]:
    """Return the dtypes of the tensors in safetensors files."""
    return {tensor.dtype for tensor in tensors_of(files).values()}


class _InFile(Tensor):
    """A tensor in a safetensors file, which is read when an operation needs its values, and not kept."""

    _place: tuple[Any, str]

    @staticmethod
    def __new__(cls, file: Any, name: str) -> _InFile:
        piece = file.get_slice(name)
        made = torch.Tensor._make_wrapper_subclass(
            cls, piece.get_shape(), dtype=modeling_utils.str_to_torch_dtype[piece.get_dtype()]
        )
        made._place = file, name
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(_InFile, _values, (args, kwargs or {}))
        return func(*args, **kwargs)


def _values(tensor: _InFile) -> Tensor:
    file, name = tensor._place
    return file.get_tensor(name)


def tensors_of(files: list[str]) -> dict[str, Tensor]:
    """Return the tensors of safetensors files, by name, of which none is read yet."""
    # Pages of a mapped file would stay in memory
    opened = [safe_open(file, framework="pt", backend="pread") for file in files]
    return {name: _InFile(file, name) for file in opened for name in file.keys()}  # noqa: SIM118 (no dict)

"""Check what `export.json` says of the model's size against its weights, before memory is taken for it.

Both may be a stranger's. The header of a safetensors file names each tensor with its shape, and the library
refuses a header that the file's length doesn't bear out. So a model is first built without memory (on
torch's meta device), and must have these tensors in these shapes.

Even that takes memory for each layer and each column of ids. So no whole number that shapes the model may be
larger than the number of weights in the file (or than 65,536), and no more parameters are made than the file
can be of.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from clickprompt.errors import DataError
from clickprompt.models.clickprompt import unique_tensors

__all__ = ["check_claims"]

# Parameters are also made for heads that a model then drops, for tied tables, and again around adapters
_MADE_FOR_EACH, _MADE_BESIDES = 4, 64
_HARMLESS = 2**16  # a small model may have settings that it doesn't use


def check_claims(uri: str, path: str, said: Any, build: Callable[[], nn.Module]) -> None:
    """Raise DataError if the model isn't that of the weights in the file `path`; uri: the export.

    said: JSON values of what shapes the model; build: makes it, on the meta device.
    """
    with safe_open(path, "pt") as file:
        names = file.keys()  # an open file is no mapping, so it can't be iterated itself
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    for place, number in _numbers(said, ""):
        if number > max(total, _HARMLESS):
            raise DataError(
                f"{uri}: export.json says {place[1:]}={number}, but its weights are {total:,} numbers; "
                "copy the export again"
            )
    with _at_most(_MADE_FOR_EACH * len(shapes) + _MADE_BESIDES, uri), torch.device("meta"):
        own = {name: tuple(tensor.shape) for name, tensor in unique_tensors(build()).items()}
    if other := sorted(shapes.keys() ^ own.keys()):
        raise DataError(
            f"{uri}: {other[0]} is either lacking or too much in its weights; copy the export again"
        )
    for name, shape in own.items():
        if shapes[name] != shape:
            raise DataError(
                f"{uri}: {name} has the shape {shapes[name]}, by export.json {shape}; copy the export again"
            )


def _numbers(said: Any, place: str) -> Iterator[tuple[str, int]]:
    """Yield each whole number in JSON values with the keys that lead to it, each behind a dot."""
    if isinstance(said, Mapping):
        for key, value in said.items():
            yield from _numbers(value, f"{place}.{key}")
    elif isinstance(said, list | tuple):
        for index, value in enumerate(said):
            yield from _numbers(value, f"{place}.{index}")
    elif isinstance(said, int):
        yield place, said


@contextmanager
def _at_most(number: int, uri: str) -> Iterator[None]:
    """Let this thread make so many parameters; the next one raises DataError."""
    thread, made = threading.get_ident(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += parameter is not None and threading.get_ident() == thread
        if made > number:
            raise DataError(
                f"{uri}: export.json says more layers than its weights have; copy the export again"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()

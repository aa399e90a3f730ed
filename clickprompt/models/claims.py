"""Bounds for a model that a file describes, while it is built: the file may be a stranger's.

Built on torch's meta device, a model takes no memory for its numbers, but still some for each layer and each
column of ids. So what is made is counted, and whole numbers are compared with a bound before that.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from clickprompt.errors import ClickPromptError

__all__ = ["at_most", "number_of_weights", "stored_shapes", "whole_numbers"]

# Parameters are also made for heads that a model then drops, for tied tables, and again around adapters
_MADE_FOR_EACH, _MADE_BESIDES = 4, 64


def stored_shapes(files: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in safetensors files, as their headers have it; the library refuses a
    header that the file's length doesn't bear out.
    """
    shapes = {}
    for path in files:
        with safe_open(path, "pt") as file:
            names = file.keys()  # an open file is no mapping, so it can't be iterated itself
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
    return shapes


def number_of_weights(shapes: Mapping[str, Sequence[int]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def whole_numbers(said: Any, place: str = "") -> Iterator[tuple[str, int]]:
    """Yield each whole number in JSON values with the keys that lead to it, each behind a dot."""
    if isinstance(said, Mapping):
        for key, value in said.items():
            yield from whole_numbers(value, f"{place}.{key}")
    elif isinstance(said, list | tuple):
        for index, value in enumerate(said):
            yield from whole_numbers(value, f"{place}.{index}")
    elif isinstance(said, int):
        yield place[1:], said


@contextmanager
def at_most(stored: int, refusal: ClickPromptError) -> Iterator[None]:
    """Let this thread make the parameters that a file of `stored` tensors can be of; the next one raises
    `refusal`.
    """
    thread, made = threading.get_ident(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += parameter is not None and threading.get_ident() == thread
        if made > _MADE_FOR_EACH * stored + _MADE_BESIDES:
            raise refusal

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()

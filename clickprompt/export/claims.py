"""Check what `export.json` says of the model's size against its weights, before memory is taken for it.

Both may be a stranger's. So a model is first built without memory, and must have the tensors of the weights
in their shapes. No whole number that shapes the model may be larger than the number of weights in the file
(or than 65,536), and no more parameters are made than the file can be of (models/claims.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from clickprompt.errors import DataError
from clickprompt.models.claims import at_most, number_of_weights, stored_shapes, whole_numbers
from clickprompt.models.clickprompt import unique_tensors

__all__ = ["check_claims"]

_HARMLESS = 2**16  # a small model may have settings that it doesn't use


def check_claims(uri: str, path: str, said: Any, build: Callable[[], nn.Module]) -> None:
    """Raise DataError if the model isn't that of the weights in the file `path`; uri: the export.

    said: JSON values of what shapes the model; build: makes it, on the meta device.
    """
    shapes = stored_shapes([path])
    total = number_of_weights(shapes)
    for place, number in whole_numbers(said):
        if number > max(total, _HARMLESS):
            raise DataError(
                f"{uri}: export.json says {place}={number}, but its weights are {total:,} numbers; copy the "
                "export again"
            )
    refusal = DataError(f"{uri}: export.json says more layers than its weights have; copy the export again")
    with at_most(len(shapes), refusal), torch.device("meta"):
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

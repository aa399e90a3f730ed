"""Parameters that ZeRO 3 has divided among the workers while the model was built.

DeepSpeed leaves an empty tensor in such a parameter's place. It keeps the shape as `ds_shape`, and the
parameter has methods that gather and divide it (deepspeed.zero.Init).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["Division", "shape_of", "whole"]

Division = Callable[[], AbstractContextManager[Any]]
"""() → a context in which the parameters of new modules are divided (training/deepspeed_engine.py)"""


def shape_of(tensor: Tensor) -> torch.Size:
    """Return a parameter's shape, also if it is divided."""
    return getattr(tensor, "ds_shape", tensor.shape)


@contextmanager
def whole(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Gather those tensors that are divided, and at the end divide them again as they are then.

    Every worker must do the same with them. Other tensors are left alone. deepspeed.zero.GatheredParameters
    would send one worker's values to all, which have the same already, and takes seconds to import.
    """
    divided: list[Any] = [tensor for tensor in tensors if hasattr(tensor, "ds_id")]
    if divided:
        divided[0].all_gather(divided)
    yield
    if divided:
        divided[0].partition(divided, has_been_updated=True)

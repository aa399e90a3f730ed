"""Operators that wait for a device, which a CPU doesn't show."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Notes the operators that would wait for a device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        waiting = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "equal")
        if by_mask or name in waiting:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))

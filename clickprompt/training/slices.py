"""Save and load resume state independently of the number of workers.

Each worker writes the slices of parameters and optimizer state that it owns, and where they begin in the
flattened parameter, to `state-<rank>.safetensors`. A worker that loads reads the slices that *it* owns from
all these files. So any number of workers and any engine or ZeRO stage can continue what any other wrote, with
nothing gathered, converted or unpickled. DeepSpeed's own format holds one rank's flat buffers, which only the
same number of ranks can read; its universal format needs a conversion that unpickles.

State of 8 bits (training/eight_bit.py) has a vector of magnitudes besides, for a whole parameter; only an
engine that keeps parameters whole has it.

Frozen parameters aren't saved: they are what the run began with, and the probe (training/probe.py) notices if
they have changed.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from clickprompt.errors import DataError
from clickprompt.models.tensor_file import write_tensors

__all__ = ["Slice", "load_slices", "save_slices"]

_WEIGHT, _BUFFER = "weight", "buffer"
_TABLES = ("qmap1", "qmap2")  # constants in bitsandbytes' state: what its codes mean


@dataclass(frozen=True)
class Slice:
    """Elements `start` … `start + length` of a flattened parameter, kept by this worker.

    They begin at `offset` in `holder`, the tensor that the optimizer steps and has state for: the parameter
    itself, or a flat tensor of many parameters' slices.
    """

    name: str
    start: int
    length: int
    holder: Tensor
    offset: int = 0

    def of(self, tensor: Tensor) -> Tensor:
        """View this slice in the holder, or in optimizer state of the holder's shape."""
        return tensor.detach().view(-1)[self.offset : self.offset + self.length]


def save_slices(
    folder: str,
    rank: int,
    num_files: int,
    slices: Iterable[Slice],
    optimizer: Optimizer,
    buffers: dict[str, Tensor],
    extra: dict[str, Any],
) -> None:
    """Write one worker's part, of `num_files`; only rank 0's has the buffers and `extra` (JSON values)."""
    # Buffers are stored flat, as slices are
    tensors = {f"{_BUFFER}|0|{name}": buffer.reshape(-1) for name, buffer in buffers.items() if not rank}
    for piece in slices:
        tensors[f"{_WEIGHT}|{piece.start}|{piece.name}"] = piece.of(piece.holder)
        for slot, value in optimizer.state.get(piece.holder, {}).items():
            if slot in _TABLES:
                continue
            # State that is a single number, such as AdamW's step, is the same for all of a parameter's slices
            tensor = torch.as_tensor(value)
            tensors[f"{slot}|{piece.start}|{piece.name}"] = (
                piece.of(tensor) if tensor.shape == piece.holder.shape else tensor
            )
    write_tensors(_file(folder, rank), tensors, {"files": str(num_files), "extra": json.dumps(extra)})


def load_slices(
    folder: str, slices: Iterable[Slice], optimizer: Optimizer, buffers: dict[str, Tensor]
) -> dict[str, Any]:
    """Read this worker's slices in place from what all workers wrote, and return rank 0's `extra`.

    Raises DataError if a part is missing.
    """
    source = _Source(folder)
    with torch.no_grad():
        for name, buffer in buffers.items():
            source.read(_BUFFER, name, 0, buffer.detach().view(-1))
        for piece in slices:
            source.read(_WEIGHT, piece.name, piece.start, piece.of(piece.holder))
            state = optimizer.state[piece.holder]  # empty in a fresh optimizer
            for slot in source.slots(piece.name):
                if (number := source.number(slot, piece.name)) is not None:
                    counts = isinstance(state.get(slot), int)
                    state[slot] = int(number) if counts else number.to(piece.holder.device)
                    continue
                if slot not in state:
                    state[slot] = torch.zeros_like(piece.holder.detach())
                of_elements = state[slot].shape == piece.holder.shape
                target = piece.of(state[slot]) if of_elements else state[slot]
                source.read(slot, piece.name, piece.start, target)
    return source.extra


class _Source:
    """All workers' files as one: any range of any parameter."""

    def __init__(self, folder: str):
        self._folder = folder
        # (slot, name) → (start, key, file)
        self._parts: dict[tuple[str, str], list[tuple[int, str, Any]]] = {}
        first = self._open(0)
        self.extra: dict[str, Any] = json.loads(first.metadata()["extra"])
        # The folder may have more files: a larger number of workers may have begun this checkpoint before
        for file in [first, *(self._open(rank) for rank in range(1, int(first.metadata()["files"])))]:
            for key in file.keys():  # noqa: SIM118 (no dict)
                slot, start, name = key.split("|", 2)
                self._parts.setdefault((slot, name), []).append((int(start), key, file))

    def _open(self, rank: int) -> Any:
        path = _file(self._folder, rank)
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{path}: can't be read ({error}); delete this checkpoint, and the one before it is continued"
            ) from error

    def slots(self, name: str) -> Iterator[str]:
        """Names of a parameter's optimizer state."""
        return (slot for slot, owner in self._parts if owner == name and slot not in (_WEIGHT, _BUFFER))

    def number(self, slot: str, name: str) -> Tensor | None:
        """Read state that is one number for the whole parameter; None if it isn't."""
        _, key, file = self._parts[slot, name][0]
        return None if file.get_slice(key).get_shape() else file.get_tensor(key)

    def read(self, slot: str, name: str, start: int, target: Tensor) -> None:
        """Copy the elements from `start` on into `target`, 1-D."""
        found = 0
        for begin, key, file in self._parts.get((slot, name), []):
            view = file.get_slice(key)
            [length] = view.get_shape()
            low, high = max(start, begin), min(start + len(target), begin + length)
            if low < high:
                target[low - start : high - start].copy_(view[low - begin : high - begin])
                found += high - low
        if found != len(target):
            raise DataError(
                f"{self._folder}: has {found} of the {len(target)} elements of {name} ({slot}) from {start} "
                "on that this worker needs; it is of another model: continue with the configuration that "
                "began the run"
            )


def _file(folder: str, rank: int) -> str:
    return os.path.join(folder, f"state-{rank:05d}.safetensors")

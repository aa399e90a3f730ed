"""The mean of a finetuning's last validations' weights (`finetune.average_validations`).

With n = average_validations and w_t the weights after step t, a validation after it scores, and may export,

    w̄ = Σ w_s / m,  over s = t and the steps of the n − 1 validations before it, as far as there are so many,

summed in float64, oldest first; m is their number. Counters, such as a batch normalisation's number of
batches, are those of w_t. Training itself goes on with w_t.

The weights of earlier validations are files in storage. Which ones a step needs follows from the step alone,
so a continued run averages what an undisturbed one does.
"""

import os
import tempfile
from collections.abc import Sequence

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from clickprompt.io import storage

__all__ = ["mean_with", "steps_before", "write_snapshot"]


def steps_before(step: int, every: int, number: int) -> list[int]:
    """Return the steps of the last `number` validations before `step`, in order; there may be fewer."""
    newest = (step - 1) // every * every
    return [past for past in range(newest - (number - 1) * every, step, every) if past > 0]


def write_snapshot(uri: str, weights: dict[str, Tensor]) -> None:
    """Write the weights into one file; an earlier one is replaced."""
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        path = os.path.join(folder, "weights.safetensors")
        save_file(weights, path)
        storage.copy_file(path, uri)


def mean_with(weights: dict[str, Tensor], snapshots: Sequence[str]) -> dict[str, Tensor]:
    """Return the mean of `weights` and the files `snapshots`, oldest first. Raises InputError if one can't be
    read.
    """
    if not snapshots:
        return weights
    sums = {
        name: torch.zeros_like(tensor, dtype=torch.float64)
        for name, tensor in weights.items()
        if tensor.is_floating_point()
    }
    for uri in snapshots:
        with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
            path = storage.resolve(uri)[1]
            if not storage.is_local(uri):
                path = os.path.join(folder, "weights.safetensors")
                storage.copy_file(uri, path)
            with safe_open(path, "pt") as file:
                for name, total in sums.items():
                    total += file.get_tensor(name)
    means = {
        name: ((total + weights[name]) / (len(snapshots) + 1)).to(weights[name].dtype)
        for name, total in sums.items()
    }
    return weights | means

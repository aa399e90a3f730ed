"""Keep bad updates from the weights: a loss or gradient that isn't finite and, optionally, a spike."""

import math
from typing import Any

import numpy as np
import torch.distributed as dist

from clickprompt.errors import RunError
from clickprompt.training.checkpoint import TrainState

__all__ = ["NonFiniteError", "is_spike", "refuse_non_finite"]

_WINDOW = 100  # steps over which the gradient norm's running mean is taken
_FIRST_STEPS = 20  # steps before the mean is good enough to call anything a spike


class NonFiniteError(RunError):
    """A loss or gradient norm is infinite or NaN.

    `report` has the step, its loss and gradient norm as text, and its global batch's row ids by worker.
    """

    def __init__(self, message: str, report: dict[str, Any] | None = None):
        super().__init__(message)
        self.report = report or {}


def refuse_non_finite(step: int, loss: float, gradient_norm: float, columns: dict[str, np.ndarray]) -> None:
    """Raise NonFiniteError, on every worker alike, if the global batch's loss or gradient norm isn't finite.

    `step` counts from 1; `columns` holds this worker's rows.
    """
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    row_ids = columns["row_id"]
    if "weight" in columns:
        row_ids = row_ids[columns["weight"] > 0]  # the others are padding
    gathered: list[list[int]] = [row_ids.tolist()]
    if dist.is_initialized():
        gathered = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(gathered, row_ids.tolist())
    raise NonFiniteError(
        f"step {step}: loss {loss:.6g}, gradient norm {gradient_norm:.6g}; both must be finite, so the step "
        "was not applied",
        {"step": step, "loss": str(loss), "gradient_norm": str(gradient_norm), "row_ids": gathered},
    )


def is_spike(gradient_norm: float, state: TrainState, factor: float) -> bool:
    """Whether a step's gradient norm is more than `factor` times the running mean; update the mean with it.

    A spike counts in the mean as that limit only: one outlier moves the mean little, but it follows a lasting
    change. The mean covers about the last 100 steps and is part of the state, so a resumed run decides as an
    undisturbed one would.
    """
    limit = factor * state.mean_gradient_norm
    spike = state.norms_seen >= _FIRST_STEPS and gradient_norm > limit
    state.norms_seen += 1
    weight = max(1 / state.norms_seen, 1 / _WINDOW)
    state.mean_gradient_norm += weight * ((limit if spike else gradient_norm) - state.mean_gradient_norm)
    return spike

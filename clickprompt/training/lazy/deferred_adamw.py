"""AdamW for table rows of which a step needs few: a row's updates without a gradient wait until its next use.

Dense AdamW moves every row at every step, even one with gradient 0. At step s (from 1), with moments m and v,
learning rate η_s, weight decay λ and a_s = 1 − η_s λ:

    m_s = β1 m_{s−1},   v_s = β2 v_{s−1},
    w_s = a_s w_{s−1} − η_s / (1 − β1^s) · m_s / (√(v_s / (1 − β2^s)) + ε).

Over the steps u+1 … t this gives, with ρ = β1 / √β2 and c_s = √(1 − β2^s) / (1 − β1^s):

    m_t = β1^(t−u) m_u,   v_t = β2^(t−u) v_u,   w_t = A w_u − B m_u / (√v_u + ε E),
    A = Π_{s=u+1..t} a_s,   B = Σ_{s=u+1..t} ρ^(s−u) η_s c_s Π_{j=s+1..t} a_j.

A and B depend on u and t only. As the learning rate is a function of the step, they follow from tables over
the run's steps:

    A = exp(L_t − L_u),   L_s = Σ_{j≤s} ln a_j;
    B = A R_u − ρ^(t−u) R_t,   R_s = ρ / a_{s+1} · (η_{s+1} c_{s+1} + R_{s+1}),   R_T = 0.

This is exact but for ε. Each skipped step has an E of its own, √(1 − β2^s) / β2^((s−u)/2). Here E = B / B'
stands for all, with B' = Σ β1^(s−u) η_s / (1 − β1^s) Π a_j, which comes from a table as B does. With it the
result is exact for √v ≫ ε and for √v ≪ ε. A row that was never touched (u = 0, moments 0) only decays. So the
rows equal those of dense AdamW up to rounding, and a step costs what its rows cost, however large the table.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

__all__ = ["DeferredAdamW"]

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # torch.optim.AdamW's defaults, which the other parameters have
_LOG_RHO = math.log(BETA1) - math.log(BETA2) / 2

_SMALLEST_E, _LARGEST_E = math.sqrt(1 - BETA2), 10.0


class DeferredAdamW:
    """Update rows in place, each tensor [n, d] float32; `learning_rates` are those of steps 1, 2, …, T."""

    def __init__(self, learning_rates: Sequence[float], weight_decay: float, device: torch.device) -> None:
        self._learning_rates = learning_rates
        self._weight_decay = weight_decay
        rates = torch.tensor([0.0, *learning_rates], dtype=torch.float64)
        decays = 1 - rates * weight_decay
        steps = torch.arange(len(rates), dtype=torch.float64)
        unbiased = rates / (1 - BETA1 ** steps.clamp(min=1))
        remaining = _discounted(unbiased * torch.sqrt(1 - BETA2**steps), math.exp(_LOG_RHO) / decays)
        remaining_small = _discounted(unbiased, BETA1 / decays)
        self._tables = torch.stack([torch.log(decays).cumsum(0), remaining, remaining_small], 1).to(device)

    def catch_up(self, weight: Tensor, first: Tensor, second: Tensor, touched: Tensor, step: int) -> None:
        """Bring rows that were last touched at the steps `touched` [n] to their state after `step`."""
        decay, move, eps, gap = self._coefficients(touched, step)
        _move(weight, first, second, decay, move, eps)
        first.mul_(torch.exp(gap * math.log(BETA1)).float())
        second.mul_(torch.exp(gap * math.log(BETA2)).float())

    def weights_at(self, weight: Tensor, first: Tensor, second: Tensor, touched: Tensor, step: int) -> Tensor:
        """Return the weights that `catch_up` would give; `weight` is overwritten, the moments are not."""
        return _move(weight, first, second, *self._coefficients(touched, step)[:3])

    def update(self, weight: Tensor, first: Tensor, second: Tensor, gradient: Tensor, step: int) -> None:
        """Apply step `step` (from 1) to rows that are caught up to the step before."""
        adamw(
            [weight],
            [gradient],
            [first],
            [second],
            [],
            [torch.tensor(step - 1.0, device=weight.device)],  # steps done
            fused=True,
            lr=self._learning_rates[step - 1],
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=self._weight_decay,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )

    def _coefficients(self, touched: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute A, B, ε E and t − u, each [n, 1]."""
        log_decay, remaining, remaining_small = self._tables.index_select(0, touched).split(1, dim=1)
        log_decay_now, remaining_now, remaining_small_now = self._tables[step].tolist()
        gap = (step - touched).double().unsqueeze(1)
        decay = torch.exp(log_decay_now - log_decay)
        move = decay * remaining - torch.exp(gap * _LOG_RHO) * remaining_now
        move_small = decay * remaining_small - torch.exp(gap * math.log(BETA1)) * remaining_small_now
        # E of a single step lies between these limits; if there is nothing to move, B and B' are both
        # rounding errors
        eps = EPS * torch.nan_to_num(move / move_small, nan=1.0).clamp(_SMALLEST_E, _LARGEST_E)
        return decay.float(), move.float(), eps.float(), gap


def _discounted(values: Tensor, factors: Tensor) -> Tensor:
    """Compute x_s = factors_{s+1} · (values_{s+1} + x_{s+1}), with x = 0 at the end."""
    found = [0.0] * len(values)
    pairs = list(zip(values.tolist(), factors.tolist(), strict=True))
    for step in range(len(found) - 1, 0, -1):
        value, factor = pairs[step]
        found[step - 1] = factor * (value + found[step])
    return torch.tensor(found, dtype=torch.float64)


def _move(weight: Tensor, first: Tensor, second: Tensor, decay: Tensor, move: Tensor, eps: Tensor) -> Tensor:
    direction = torch.sqrt(second).add_(eps)
    torch.div(first, direction, out=direction)
    return weight.mul_(decay).sub_(direction.mul_(move))

"""Fast dropout for CPUs; other devices use torch's own.

torch draws a CPU mask number by number, which takes a sixth of a TinyBERT-size PA-MLM step, and its fast CPU
attention has no dropout. Here four elements share one random word.

Shape legend: B rows, A heads, Z queries, T keys, C/A size of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["CPUDropout", "cpu_dropout", "sdpa_attention", "use_cpu_dropout"]

# A rate is rounded to a multiple of 1 / _STEPS; the kept elements are scaled for the rounded rate
_STEPS = 2**16


def cpu_dropout(x: Tensor, rate: float) -> Tensor:
    """Zero each element of x with probability `rate`, and divide the others by 1 − rate.

    The random bits come from torch's default generator.
    """
    dropped = round(rate * _STEPS)
    if dropped == 0:
        return x
    if dropped == _STEPS:
        return torch.zeros_like(x)
    draw = _kept_in_graphs if torch.compiler.is_compiling() else _kept
    return x * draw(x.detach(), dropped)


def _kept(like: Tensor, dropped: int) -> Tensor:
    """Draw the factors of a dropout at rate dropped / _STEPS, in the shape and dtype of `like`."""
    words = torch.empty((like.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = (words.view(torch.int16)[: like.numel()] >= dropped - _STEPS // 2).view(like.shape)
    return kept.to(like.dtype).mul_(_STEPS / (_STEPS - dropped))


# An operator, so that a compiler neither takes it apart nor runs it twice; elsewhere it would cost time
_kept_in_graphs = torch.library.custom_op(
    "clickprompt::kept",
    _kept,
    mutates_args=(),
    device_types="cpu",
    tags=(torch.Tag.nondeterministic_seeded,),
)


@_kept_in_graphs.register_fake
def _(like: Tensor, dropped: int) -> Tensor:
    return like.new_empty(like.shape)


class CPUDropout(nn.Dropout):
    """nn.Dropout that uses `cpu_dropout` on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or input.device.type != "cpu":
            return super().forward(input)
        return cpu_dropout(input, self.p)


def use_cpu_dropout(module: nn.Module) -> None:
    """Replace every nn.Dropout below `module` by CPUDropout."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, CPUDropout(child.p))


def sdpa_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute transformers' sdpa attention.

    query [B, A, Z, C/A], key, value [B, A or fewer, T, C/A], additive mask and bias [1, A, Z, T] → [B, Z, A,
    C/A].

    With dropout on a CPU it is written out: softmax(q·kᵀ·scaling + bias + mask), dropout, times v. torch's
    own would do just that.
    """
    if not dropout or query.device.type != "cpu":
        options = {"dropout": dropout, "scaling": scaling, "position_bias": position_bias}
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options, **kwargs)
        return output, None
    if (group := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.mT
    for added in (position_bias, attention_mask):
        if added is not None:
            scores = scores + added
    weights = cpu_dropout(F.softmax(scores, dim=-1), dropout)
    return (weights @ value).transpose(1, 2).contiguous(), None

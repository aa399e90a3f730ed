"""fp32 copies of bf16 weights, which AdamW steps (`plm.master_weights`; Micikevicius et al. 2018).

A bf16 weight has 8 bits of precision: an AdamW step below a 256th of it would be lost. The copy gathers such
steps; the model computes with the copy rounded to bf16.
"""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Masters"]


class Masters:
    """The copies of a model's trained bf16 parameters, put in their place in an optimizer without state."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._pairs = [
            (parameter, nn.Parameter(parameter.detach().float()))
            for parameter in model.parameters()
            if parameter.requires_grad and parameter.dtype == torch.bfloat16
        ]
        self._of = {id(parameter): master for parameter, master in self._pairs}
        for group in optimizer.param_groups:
            group["params"] = [self.of(parameter) for parameter in group["params"]]

    def of(self, parameter: Tensor) -> Tensor:
        """Return what is stepped for a parameter: its copy, or itself."""
        return self._of.get(id(parameter), parameter)

    def take_gradients(self) -> None:
        """Move the parameters' gradients to the copies."""
        for parameter, master in self._pairs:
            if parameter.grad is not None:
                master.grad = parameter.grad.float()
                parameter.grad = None

    @torch.no_grad()
    def round(self) -> None:
        """Give the parameters their copies' values."""
        for parameter, master in self._pairs:
            parameter.copy_(master)

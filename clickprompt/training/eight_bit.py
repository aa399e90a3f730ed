"""AdamW with the PLM's moments in 8 bits (`plm.optimizer_bits`; Dettmers et al. 2022, arXiv 2110.02861).

bitsandbytes keeps each moment as a code of 8 bits an element, and for each 256 elements their largest
magnitude in fp32; a step decodes them, updates them as AdamW does and encodes them again. It does so for the
PLM's matrices. In fp32 stay the moments of

- embeddings, as in the paper (§2.3). Most rows have no gradient in a step. A second moment that is small
  beside its block's largest becomes 0, and a first moment over 0 a step of many times the learning rate.
- parameters of fewer than 4,096 elements, as is bitsandbytes' default.

Checkpoints have the codes and magnitudes themselves. Decoded moments would not do: the first moment's codes
mean -0.993 to 1, so a block whose largest element is negative would have another magnitude once it is encoded
again, and a continued run other bits.
"""

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from clickprompt.errors import ConfigError
from clickprompt.models.parameter_groups import trainable_by_group

__all__ = ["EightBitAdamW", "check_eight_bit", "eight_bit_parameters", "moment_bytes"]

_SMALL, _BLOCK = 4096, 256  # elements


def check_eight_bit() -> None:
    """Raise ConfigError if bitsandbytes isn't installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "plm.optimizer_bits=8: bitsandbytes isn't installed; run pip install 'clickprompt[eightbit]', or "
            "leave it out"
        )


def eight_bit_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the trained parameters whose moments `plm.optimizer_bits: 8` keeps in 8 bits."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [
        parameter
        for _, parameter in trainable_by_group(model)["plm"]
        if parameter.numel() >= _SMALL and id(parameter) not in embeddings
    ]


def moment_bytes(elements: int) -> int:
    """Bytes of both moments of a parameter in 8 bits: codes and magnitudes."""
    return 2 * (elements + 4 * math.ceil(elements / _BLOCK))


class EightBitAdamW(Optimizer):
    """bitsandbytes' AdamW for some parameters and torch's for the others, as one optimizer.

    A group that has both kinds is divided in two.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], in_8_bits: Sequence[Tensor]):
        """in_8_bits: at least one of the groups' parameters."""
        from bitsandbytes.optim.adamw import AdamW8bit  # takes a second or more to import

        chosen = set(map(id, in_8_bits))
        parts: tuple[list[dict[str, Any]], ...] = ([], [])
        divided = []
        for group in groups:
            for is_chosen, part in enumerate(parts):
                own = [one for one in group["params"] if (id(one) in chosen) == is_chosen]
                if own:
                    part.append({**group, "params": own})
                    divided.append(part[-1])
        self._eight_bit = AdamW8bit(parts[1], min_8bit_size=_SMALL)
        self._parts = [self._eight_bit, *([AdamW(parts[0], fused=True)] if parts[0] else [])]
        super().__init__(divided, {})  # the parts keep the same dictionaries
        for part in self._parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step all parameters that have a gradient."""
        for part in self._parts:
            part.step()

    def allocate(self) -> None:
        """Make moments of 0 in 8 bits, into which a checkpoint's can be read."""
        for index, group in enumerate(self._eight_bit.param_groups):
            for place, parameter in enumerate(group["params"]):
                self._eight_bit.init_state(group, parameter, index, place)

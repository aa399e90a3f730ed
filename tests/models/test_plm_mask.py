"""The attention mask is made once in a forward pass, with the prompts' columns and in the number format of
attention; and all layers' prompts are taken apart at once.
"""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clickprompt.config import PLMConfig, PromptConfig
from clickprompt.models.plm_loading import load_plm
from tests.support.tiny_plms import VARIANTS

KINDS = {"modernbert": 2, "qwen2-window": 2, "bart": 2, "t5": 6}
"""of self-attention with masks of their own; other PLMs have one. T5 also has two biases with gradients"""


class Operators(TorchDispatchMode):
    """Counts operators, and casts of what has a mask's shape."""

    def __init__(self, width):
        super().__init__()
        self.seen, self.casts, self.width = Counter(), 0, width

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.seen[name] += 1
        if name == "_to_copy" and args[0].ndim == 4 and args[0].shape[-1] == self.width:
            self.casts += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.sampled
def test_prompts_are_put_before_a_mask_once(tiny, tokens, variant, attention):
    plm = load_plm(PLMConfig(path=tiny(variant), attn_implementation=attention), PromptConfig(num_prompts=2))
    layers, width = plm.prompt_shape
    prompts = torch.randn(2, layers, 2, width, requires_grad=True)
    with Operators(11) as operators:
        plm(*tokens([4, 9]), prompts).sum().backward()
    assert layers > 2
    assert operators.seen["constant_pad_nd"] == KINDS.get(variant, 1)
    assert operators.seen["select_backward"] == 0
    assert prompts.grad.abs().amin((0, 2, 3)).max() > 0


def test_autocast_casts_no_mask(tiny, tokens):
    plm = load_plm(PLMConfig(path=tiny("bert")), PromptConfig(num_prompts=2)).eval()
    prompts = torch.randn(2, 3, 2, 16)
    inputs = tokens([4, 9])
    with torch.autocast("cpu", torch.bfloat16), Operators(11) as operators:
        found = plm(*inputs, prompts)
    assert operators.casts == 0
    torch.testing.assert_close(found, plm(*inputs, prompts), rtol=0.1, atol=0.1)

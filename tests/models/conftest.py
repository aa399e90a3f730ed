"""Tiny random PLMs, saved the way the hub has them, and token batches."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.tiny_plms import PAD, VOCAB, save_plm


@pytest.fixture
def save_tiny(tmp_path: Path) -> Callable[..., str]:
    """(variant, **config changes) → folder with config.json and model.safetensors: 3 layers, 4 heads, hidden
    size 16, no dropout.
    """
    return lambda variant, **changes: save_plm(tmp_path / variant, variant, **changes)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """variant → a folder as of `save_tiny`, one for all tests, which only read it."""
    return cache(lambda variant: save_plm(tmp_path_factory.mktemp("plm") / variant, variant))


@pytest.fixture
def tokens() -> Callable[..., tuple[Tensor, Tensor]]:
    """Lengths of the rows → random input_ids and attention_mask [B, Z], padded on the right."""

    def make(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
        attention_mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        input_ids = torch.randint(
            4, VOCAB, attention_mask.shape, generator=torch.Generator().manual_seed(seed)
        )
        return torch.where(attention_mask.bool(), input_ids, PAD), attention_mask

    return make

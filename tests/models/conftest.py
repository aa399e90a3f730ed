"""Tiny random PLMs, saved the way the hub has them, and token batches."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

FAMILIES = {"bert": (BertConfig, BertForMaskedLM), "roberta": (RobertaConfig, RobertaForMaskedLM)}
VOCAB, PAD = 50, 1


@pytest.fixture
def save_tiny(tmp_path: Path) -> Callable[..., str]:
    """(family, **config changes) → folder with config.json and model.safetensors: 3 layers, 4 heads, hidden size 16, no dropout."""

    def save(family: str, **changes) -> str:
        config_class, model_class = FAMILIES[family]
        sizes = {
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 24,
            "max_position_embeddings": 40,
            "pad_token_id": PAD,
            "initializer_range": 0.3,  # large enough for attention to be far from uniform
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        folder = tmp_path / family
        with torch.random.fork_rng():
            torch.manual_seed(5)
            model_class(config_class(**sizes | changes)).save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture
def tokens() -> Callable[..., tuple[Tensor, Tensor]]:
    """Lengths of the rows → random input_ids and attention_mask [B, Z], padded on the right."""

    def make(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
        attention_mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        input_ids = torch.randint(4, VOCAB, attention_mask.shape, generator=torch.Generator().manual_seed(seed))
        return torch.where(attention_mask.bool(), input_ids, PAD), attention_mask

    return make

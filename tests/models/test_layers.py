"""A table of which only some rows are built has those of the whole one, and leaves a model's rest alone."""

import pytest
import torch

from clickprompt.config import load_config, replaced
from clickprompt.models import layers
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import unique_tensors
from clickprompt.models.layers import NO_ROWS
from clickprompt.training.carry_over import tables_of
from tests.support.layouts import made_up


@pytest.mark.parametrize("sizes", [[40, 3, 50], [64, 33], [1, 1], [16, 16], [30, 2]])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_shares_of_tables_are_rows_of_the_whole_ones(monkeypatch, sizes, workers):
    monkeypatch.setattr(layers, "_BLOCK_ROWS", 16)  # several blocks, the last one of few rows
    config = replaced(
        load_config(None),
        {"ctr.backbone": "deepfm", "ctr.embedding_dim": 4, "ctr.hidden_dim": 8, "ctr.num_layers": 1},
    )
    model = build_model(config, made_up(sizes), objective="without_plm")
    whole, tables = unique_tensors(model), tables_of(model)
    assert len(tables) == 2
    for rank in range(workers):
        rows = slice(rank, None, workers)
        part = unique_tensors(build_model(config, made_up(sizes), objective="without_plm", table_rows=rows))
        for name, tensor in whole.items():
            assert part[name].equal(tensor[rows] if name in tables else tensor), (name, rank)


def test_no_rows_are_for_weights_that_are_set_next():
    state = torch.get_rng_state()
    assert layers.PackedEmbedding([3, 4], 5, NO_ROWS).weight.shape == (0, 5)
    assert torch.get_rng_state().equal(state)

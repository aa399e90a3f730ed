"""Embeddings for another dataset: against a loop over values, and what has no table stays as it is."""

import random

import numpy as np
import pyarrow as pa
import pytest
import torch

from clickprompt.config import CTRConfig
from clickprompt.models.ctr import CTRModel
from clickprompt.training.carry_over import carry_rows, match_values, tables_of


def random_vocabulary(draw):
    """Texts of ids; "unknown" may also be a value of the log."""
    values = draw.sample(["unknown", "", "ä", *map(str, range(30))], draw.randint(0, 20))
    return ["unknown", *values]


@pytest.mark.parametrize("seed", range(20))
def test_rows_of_every_value_equal_a_loop(seed):
    draw = random.Random(seed)
    before, now = ({name: random_vocabulary(draw) for name in ("User", "Item", "Hue")} for _ in range(2))
    model = CTRModel(
        [len(values) for values in before.values()], CTRConfig(backbone="deepfm", embedding_dim=3)
    )
    tables = tables_of(model)
    assert tables == ["embedding.weight", "linear_terms.weight"]
    weights = model.state_dict()
    rows, carried = match_values(
        *({name: pa.array(values) for name, values in texts.items()} for texts in (before, now))
    )
    found = carry_rows(weights, tables, rows)

    for table in tables:
        expected, start = [], 0
        for name, values in now.items():
            known = {value: start + number for number, value in enumerate(before[name]) if number}
            expected.append(weights[table][start])
            expected += [weights[table][known.get(value, start)] for value in values[1:]]
            start += len(before[name])
        assert torch.equal(found[table], torch.stack(expected))
    for field in carried:
        old, new = set(before[field.field][1:]), set(now[field.field][1:])
        assert (field.kept, field.new, field.gone) == (len(old & new), len(new - old), len(old - new))
    assert found.keys() == weights.keys()
    assert all(found[name] is tensor for name, tensor in weights.items() if name not in tables)


def test_a_table_that_was_not_trained_yet_is_not_made_up():
    weights = {"embedding.weight": torch.ones(3, 2)}
    assert (
        carry_rows(weights, ["embedding.weight", "linear_terms.weight"], np.array([0, 2])).keys()
        == weights.keys()
    )

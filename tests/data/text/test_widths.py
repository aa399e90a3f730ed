"""Batches whose widths are multiples: fewer widths, the same texts, the same losses."""

import pickle

import numpy as np
import pytest
import torch

from clickprompt.config import load_config
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.training.compiled import width_multiple
from tests.support.objectives import CASES, config_of_cases, objective_and_batch
from tests.support.synthetic import write_dataset
from tests.support.tokenizers_made_up import wordpiece

WITH_TEXT = [case for case, (name, _) in CASES.items() if name in ("pretrain", "with_plm")]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    dataset = write_dataset(str(tmp_path_factory.mktemp("widths") / "d"))
    part = dataset.read_split("train")
    return build_token_table(dataset, wordpiece()), np.stack(
        [part[column].to_numpy() for column in dataset.columns], axis=1
    )


@pytest.mark.parametrize("max_length", [None, 23])
def test_a_batch_is_its_texts_and_padding_to_a_multiple(rows, max_length):
    table, field_ids = rows
    wide = pickle.loads(pickle.dumps(table.with_widths(8)))
    limit = min(table.max_length, max_length or 10**9)
    widths = set()
    for start in range(0, 400, 5):
        part = field_ids[start : start + 5]
        input_ids, attention_mask = table.assemble(part, None, max_length)
        wide_ids, wide_mask = wide.assemble(part, None, max_length)
        [longest, width] = input_ids.shape[1], wide_ids.shape[1]
        assert width == max(longest, min(-(-longest // 8) * 8, limit))
        np.testing.assert_array_equal(wide_ids[:, :longest], input_ids)
        np.testing.assert_array_equal(wide_mask[:, :longest], attention_mask)
        assert not wide_mask[:, longest:].any()
        assert (wide_ids[:, longest:] == table.pad_id).all()
        fields = wide.value_fields(part, None, max_length)
        np.testing.assert_array_equal(fields[:, :longest], table.value_fields(part, None, max_length))
        assert (fields[:, longest:] == -1).all()
        widths.add(width)
    assert all(width % 8 == 0 or width == limit for width in widths)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return config_of_cases(tmp_path_factory.mktemp("widths"))


@pytest.mark.parametrize("case", WITH_TEXT)
def test_losses_are_the_same(config, case):
    (objective, plain), (_, wide) = (
        objective_and_batch(config, *CASES[case], width_multiple=multiple) for multiple in (1, 20)
    )
    assert wide.input_ids.shape[1] > plain.input_ids.shape[1]
    objective.eval()
    torch.testing.assert_close(objective(wide), objective(plain), rtol=1e-5, atol=1e-6)
    assert objective.count_targets(wide).equal(objective.count_targets(plain))


def test_which_runs_have_them():
    for compiled, multiple in {'"off"': 1, "default": 1, "max-autotune": 16}.items():
        assert width_multiple(load_config(None, [f"runtime.compile={compiled}"]).runtime) == multiple

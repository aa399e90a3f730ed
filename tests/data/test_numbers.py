"""A batch has the numbers of the fields that the tower sees, and of no other."""

import numpy as np
import pytest

from clickprompt.config import MaskingConfig, PretrainConfig
from clickprompt.data.collate import Collator
from clickprompt.data.id_corruption import IdCorruption
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.data.prepared.layout import layout_of
from tests.support.numbers import write_with_numbers


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_with_numbers(str(tmp_path_factory.mktemp("numbers")))[0]


def collated(dataset, **options):
    columns = columns_of(dataset.read_split("train"))
    return columns, Collator(layout_of(dataset), **options)(columns).field_ids.numpy()


def test_they_come_behind_the_ids(dataset):
    columns, ids = collated(dataset)
    assert dataset.id_columns == [*dataset.columns, "n_01", "n_03"]
    np.testing.assert_array_equal(ids, np.stack([columns[name] for name in dataset.id_columns], axis=1))


@pytest.mark.parametrize("way", ["dropped", "masked"])
def test_a_field_that_is_hidden_has_none(dataset, way):
    """In what `data.id_dropout` drops, and what pretraining on ids hides."""
    options = {"id_dropout": 0.4}
    if way == "masked":
        pretrain = PretrainConfig(id_objective="masked", id_rate=0.4)
        options = {"corruption": IdCorruption.of(dataset, MaskingConfig(), pretrain, 0)}
    columns, ids = collated(dataset, **options)
    for place, field in ((4, 1), (5, 3)):
        own, hidden = columns[dataset.id_columns[place]], ids[:, field] == 0
        assert 0.25 < hidden.mean() < 0.6
        np.testing.assert_array_equal(ids[:, place], np.where(hidden, 0, own))
        assert (own[hidden] != 0).any()

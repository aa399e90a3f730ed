"""Columns → batches: text, masks, dropped ids, padding rows and micro-batches."""

import numpy as np
import pytest
import torch

from clickprompt.config import MaskingConfig
from clickprompt.data.collate import Collator
from clickprompt.data.masking import IGNORED
from clickprompt.data.text import build_token_table
from clickprompt.errors import ConfigError
from tests.synthetic import write_dataset
from tests.tokenizers_made_up import metaspace, wordpiece


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(str(tmp_path_factory.mktemp("collate") / "d"))


@pytest.fixture(scope="module")
def table(dataset):
    return build_token_table(dataset, wordpiece())


def columns_of(dataset, rows, padding=0):
    table = dataset.read_split("train").slice(0, rows)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    if padding:
        columns = {name: np.concatenate([values, np.zeros(padding, values.dtype)]) for name, values in columns.items()}
        columns["row_id"][rows:] = -1
        columns["weight"] = np.array([1] * rows + [0] * padding, dtype=np.float32)
    return columns


def test_ids_only(dataset):
    columns = columns_of(dataset, 9)
    batch = Collator(dataset.columns)(columns)
    assert batch.field_ids.dtype == batch.row_ids.dtype == torch.int64
    assert batch.labels.dtype == batch.row_weight.dtype == torch.float32
    assert batch.row_ids.tolist() == columns["row_id"].tolist()
    assert batch.labels.tolist() == columns["label"].tolist()
    assert batch.row_weight.tolist() == [1] * 9
    for index, column in enumerate(dataset.columns):
        assert batch.field_ids[:, index].tolist() == columns[column].tolist()
    assert batch.input_ids is None
    assert batch.mlm_labels is None


def test_text_and_masks(dataset, table):
    columns = columns_of(dataset, 50)
    text = Collator(dataset.columns, table)(columns)
    assert text.masked_input_ids is None
    pretrain = Collator(dataset.columns, table, MaskingConfig(), seed=1)
    first, second = pretrain(columns, epoch=0), pretrain(columns, epoch=1)
    assert torch.equal(first.input_ids, text.input_ids)
    targets = first.mlm_labels != IGNORED
    assert targets.any()
    assert torch.equal(first.mlm_labels[targets], first.input_ids[targets])
    assert not torch.equal(first.mlm_labels, second.mlm_labels)
    assert torch.equal(first.mlm_labels, pretrain(columns, epoch=0).mlm_labels)


def test_padding_rows_have_no_text_and_no_targets(dataset, table):
    batch = Collator(dataset.columns, table, MaskingConfig(mask_rate=0.9))(columns_of(dataset, 5, padding=3))
    assert batch.row_weight.tolist() == [1] * 5 + [0] * 3
    assert batch.attention_mask[5:].sum(dim=1).tolist() == [2, 2, 2]
    assert (batch.mlm_labels[5:] == IGNORED).all()
    assert (batch.mlm_labels[:5] != IGNORED).any(dim=1).all()


def test_micro_batches_hold_the_same_rows_longest_first_and_padded_to_their_own(dataset, table):
    columns = columns_of(dataset, 50, padding=6)
    collator = Collator(dataset.columns, table, MaskingConfig(), seed=1)
    whole = collator(columns, epoch=3)
    parts = collator.micro_batches(columns, 16, epoch=3)
    assert [len(part) for part in parts] == [16, 16, 16, 8]
    lengths = [part.attention_mask.sum(dim=1) for part in parts]
    real = torch.cat(lengths)[:50]
    assert torch.equal(real, real.sort(descending=True).values)
    position = {row: index for index, row in enumerate(whole.row_ids.tolist()) if row >= 0}
    seen = []
    for part, length in zip(parts, lengths, strict=True):
        width = part.input_ids.shape[1]
        assert width == length.max()
        for row, row_id in enumerate(part.row_ids.tolist()):
            if part.row_weight[row] == 0:
                continue
            seen.append(row_id)
            for name in ("input_ids", "attention_mask", "masked_input_ids", "mlm_labels"):
                assert torch.equal(getattr(part, name)[row], getattr(whole, name)[position[row_id], :width]), name
            for name in ("field_ids", "labels"):
                assert torch.equal(getattr(part, name)[row], getattr(whole, name)[position[row_id]])
    assert sorted(seen) == sorted(position)
    assert parts[-1].row_weight.tolist() == [1, 1] + [0] * 6


def test_number_of_micro_batches_depends_on_the_number_of_rows_only(dataset, table):
    empty = columns_of(dataset, 48)
    empty["weight"] = np.zeros(48, dtype=np.float32)
    for collator in (Collator(dataset.columns), Collator(dataset.columns, table)):
        assert len(collator.micro_batches(columns_of(dataset, 48), 16)) == len(collator.micro_batches(empty, 16)) == 3


def test_id_dropout_replaces_ids_but_not_their_text(dataset, table):
    columns = columns_of(dataset, 400)
    plain = Collator(dataset.columns, table)(columns)
    dropping = Collator(dataset.columns, table, seed=2, id_dropout=0.2)
    batch = dropping(columns, epoch=1)
    dropped = batch.field_ids != plain.field_ids
    assert (batch.field_ids[dropped] == 0).all()
    assert abs(dropped.float().mean().item() - 0.2) < 3 * (0.2 * 0.8 / dropped.numel()) ** 0.5
    assert torch.equal(batch.input_ids, plain.input_ids)
    assert not torch.equal(dropping(columns, epoch=2).field_ids, batch.field_ids)
    shuffled = {name: values[::-1] for name, values in columns.items()}
    assert torch.equal(dropping(shuffled, epoch=1).field_ids.flip(0), batch.field_ids)


def test_masking_that_cant_be_done_is_refused(dataset):
    with pytest.raises(ConfigError, match="masking needs text"):
        Collator(dataset.columns, None, MaskingConfig())
    assert metaspace().mask_token_id is None

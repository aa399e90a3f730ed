"""Columns → batches: text, masks, dropped ids, padding rows and micro-batches."""

import numpy as np
import pytest
import torch

from clickprompt.config import MaskingConfig
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.masking import IGNORED
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import ConfigError
from tests.support.synthetic import write_dataset
from tests.support.tokenizers_made_up import gpt2, unigram_words, wordpiece


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(str(tmp_path_factory.mktemp("collate") / "d"))


@pytest.fixture(scope="module")
def table(dataset):
    return build_token_table(dataset, wordpiece())


@pytest.fixture(scope="module")
def decoder_table(dataset):
    return build_token_table(dataset, gpt2())


def columns_of(dataset, rows, padding=0):
    table = dataset.read_split("train").slice(0, rows)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    if padding:
        columns = {
            name: np.concatenate([values, np.zeros(padding, values.dtype)])
            for name, values in columns.items()
        }
        columns["row_id"][rows:] = -1
        columns["weight"] = np.array([1] * rows + [0] * padding, dtype=np.float32)
    return columns


def test_ids_only(dataset):
    columns = columns_of(dataset, 9)
    batch = Collator(layout_of(dataset))(columns)
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
    text = Collator(layout_of(dataset), table)(columns)
    assert text.masked_input_ids is None
    pretrain = Collator(layout_of(dataset), table, MaskingConfig(), seed=1)
    first, second = pretrain(columns, epoch=0), pretrain(columns, epoch=1)
    assert torch.equal(first.input_ids, text.input_ids)
    targets = first.mlm_labels != IGNORED
    assert targets.any()
    assert torch.equal(first.mlm_labels[targets], first.input_ids[targets])
    assert not torch.equal(first.mlm_labels, second.mlm_labels)
    assert torch.equal(first.mlm_labels, pretrain(columns, epoch=0).mlm_labels)


def test_padding_rows_have_no_text_and_no_targets(dataset, table):
    batch = Collator(layout_of(dataset), table, MaskingConfig(mask_rate=0.9))(
        columns_of(dataset, 5, padding=3)
    )
    assert batch.row_weight.tolist() == [1] * 5 + [0] * 3
    assert batch.attention_mask[5:].sum(dim=1).tolist() == [2, 2, 2]
    assert (batch.mlm_labels[5:] == IGNORED).all()
    assert (batch.mlm_labels[:5] != IGNORED).any(dim=1).all()


def test_micro_batches_hold_the_same_rows_longest_first_and_padded_to_their_own(dataset, table):
    columns = columns_of(dataset, 50, padding=6)
    collator = Collator(layout_of(dataset), table, MaskingConfig(), seed=1)
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
                assert torch.equal(
                    getattr(part, name)[row], getattr(whole, name)[position[row_id], :width]
                ), name
            for name in ("field_ids", "labels"):
                assert torch.equal(getattr(part, name)[row], getattr(whole, name)[position[row_id]])
    assert sorted(seen) == sorted(position)
    assert parts[-1].row_weight.tolist() == [1, 1] + [0] * 6


def test_number_of_micro_batches_depends_on_the_number_of_rows_only(dataset, table):
    empty = columns_of(dataset, 48)
    empty["weight"] = np.zeros(48, dtype=np.float32)
    for collator in (Collator(layout_of(dataset)), Collator(layout_of(dataset), table)):
        assert (
            len(collator.micro_batches(columns_of(dataset, 48), 16))
            == len(collator.micro_batches(empty, 16))
            == 3
        )


def test_id_dropout_replaces_ids_but_not_their_text(dataset, table):
    columns = columns_of(dataset, 400)
    plain = Collator(layout_of(dataset), table)(columns)
    dropping = Collator(layout_of(dataset), table, seed=2, id_dropout=0.2)
    batch = dropping(columns, epoch=1)
    dropped = batch.field_ids != plain.field_ids
    assert (batch.field_ids[dropped] == 0).all()
    assert abs(dropped.float().mean().item() - 0.2) < 3 * (0.2 * 0.8 / dropped.numel()) ** 0.5
    assert torch.equal(batch.input_ids, plain.input_ids)
    assert not torch.equal(dropping(columns, epoch=2).field_ids, batch.field_ids)
    shuffled = {name: values[::-1] for name, values in columns.items()}
    assert torch.equal(dropping(shuffled, epoch=1).field_ids.flip(0), batch.field_ids)


def test_masking_that_cant_be_done_is_refused(dataset, decoder_table):
    with pytest.raises(ConfigError, match="masking needs text"):
        Collator(layout_of(dataset), None, MaskingConfig())
    for lm, needed_by in (("masked", "PA-MLM"), ("denoising", "denoising")):
        with pytest.raises(
            ConfigError, match=f"has no mask token, which {needed_by} needs; use a masked language model"
        ):
            Collator(layout_of(dataset), decoder_table, MaskingConfig(), lm=lm)
    Collator(layout_of(dataset), decoder_table)


def values_of(dataset, table, columns):
    return table.value_fields(
        np.stack([columns[column] for column in dataset.columns], axis=1),
        columns.get("weight", np.ones(1)) > 0,
    )


@pytest.mark.parametrize("scope", ["tokens", "values", "field"])
@pytest.mark.parametrize("which", ["wordpiece", "gpt2"])
def test_causal_reads_the_text_itself_and_predicts_the_next_token(
    dataset, table, decoder_table, which, scope
):
    table = table if which == "wordpiece" else decoder_table
    columns = columns_of(dataset, 20, padding=2)
    batch = Collator(layout_of(dataset), table, MaskingConfig(mask_scope=scope), lm="causal")(columns)
    assert torch.equal(batch.masked_input_ids, batch.input_ids)
    values = values_of(dataset, table, columns)
    targets = 0
    for row in range(22):
        for place in range(batch.input_ids.shape[1]):
            expected = IGNORED
            if place + 1 < batch.attention_mask[row].sum():
                after = batch.input_ids[row, place + 1].item()
                if after not in table.special_ids and (scope == "tokens" or values[row, place + 1] >= 0):
                    expected = after
            assert batch.mlm_labels[row, place] == expected
            targets += expected != IGNORED
    assert targets > 0
    assert (batch.mlm_labels[20:] == IGNORED).all()


def test_decoders_padding_rows_hold_one_token_that_is_no_target(dataset, decoder_table):
    """GPT-2 puts nothing around a text, and attention over no token at all is not defined."""
    collator = Collator(layout_of(dataset), decoder_table, MaskingConfig(), lm="causal")
    empty = columns_of(dataset, 3)
    empty["weight"] = np.zeros(3, dtype=np.float32)
    for batch in (collator(empty), *collator.micro_batches(empty, 2)):
        assert batch.attention_mask.tolist() == [[1]] * len(batch)
        assert batch.input_ids.tolist() == [[decoder_table.pad_id]] * len(batch)
        assert (batch.mlm_labels == IGNORED).all()
    mixed = collator(columns_of(dataset, 3, padding=4))
    assert mixed.attention_mask[3:].sum(dim=1).tolist() == [1] * 4
    assert (mixed.mlm_labels[3:] == IGNORED).all()


@pytest.mark.parametrize("scope", ["tokens", "values", "field"])
def test_denoising_restores_the_whole_text_from_the_masked_one(dataset, table, scope):
    columns = columns_of(dataset, 20, padding=2)
    masking = MaskingConfig(mask_rate=0.4, mask_scope=scope)
    batch = Collator(layout_of(dataset), table, masking, lm="denoising", seed=3)(columns, epoch=1)
    masked = Collator(layout_of(dataset), table, masking, seed=3)(columns, epoch=1)
    assert torch.equal(batch.masked_input_ids, masked.masked_input_ids)
    assert not torch.equal(batch.masked_input_ids, batch.input_ids)
    for row in range(22):
        for place in range(batch.input_ids.shape[1]):
            token = batch.input_ids[row, place].item()
            is_text = batch.attention_mask[row, place] == 1 and token not in table.special_ids
            assert batch.mlm_labels[row, place] == (token if is_text else IGNORED)


def test_t5s_sentinel_stands_for_a_mask_token(dataset):
    table = build_token_table(dataset, unigram_words())
    sentinel = unigram_words().convert_tokens_to_ids("<extra_id_0>")
    masking = MaskingConfig(mask_rate=0.4)
    batch = Collator(layout_of(dataset), table, masking, lm="denoising", seed=3)(columns_of(dataset, 50))
    hidden = batch.masked_input_ids == sentinel
    assert not (batch.input_ids == sentinel).any()
    assert 0.25 < hidden.sum() / batch.attention_mask.sum() < 0.4
    assert torch.equal(batch.mlm_labels[hidden], batch.input_ids[hidden])


def test_scopes_target_values_only_and_whole_ones(dataset, table):
    columns = columns_of(dataset, 100)
    values = values_of(dataset, table, columns)
    targets = {}
    for scope in ("values", "field"):
        batch = Collator(layout_of(dataset), table, MaskingConfig(mask_rate=0.3, mask_scope=scope))(columns)
        targets[scope] = (batch.mlm_labels != IGNORED).numpy()
        assert targets[scope].any()
        assert not targets[scope][values < 0].any()
        ordinary = ~np.isin(batch.input_ids.numpy(), table.special_ids)
    cut_through = {
        scope: any(
            len(set(chosen[row, (values[row] == index) & ordinary[row]].tolist())) == 2
            for row in range(100)
            for index in range(4)
        )
        for scope, chosen in targets.items()
    }
    assert cut_through == {"values": True, "field": False}


@pytest.mark.parametrize(
    ("lm", "scope"),
    [("masked", "tokens"), ("masked", "field"), ("causal", "values"), ("denoising", "values")],
)
def test_max_length_cuts_whole_fields_alike_in_any_batch(dataset, table, lm, scope):
    columns = columns_of(dataset, 60, padding=3)
    options = {"lm": lm, "max_length": 30, "seed": 1}
    whole = Collator(layout_of(dataset), table, MaskingConfig(mask_scope=scope), **options)(columns, epoch=2)
    assert whole.attention_mask.sum(dim=1).max() <= 30
    field_ids = np.stack([columns[column] for column in dataset.columns], axis=1)
    expected, _ = table.assemble(field_ids, columns["weight"] > 0, 30)
    assert (table.lengths(field_ids) > 30).sum() > 5
    np.testing.assert_array_equal(whole.input_ids.numpy(), expected)
    position = {row: index for index, row in enumerate(whole.row_ids.tolist()) if row >= 0}
    parts = Collator(layout_of(dataset), table, MaskingConfig(mask_scope=scope), **options).micro_batches(
        columns, 16, epoch=2
    )
    lengths = torch.cat([part.attention_mask.sum(dim=1) for part in parts])
    assert torch.equal(lengths[:60], lengths[:60].sort(descending=True).values)
    for part in parts:
        width = part.input_ids.shape[1]
        for row, row_id in enumerate(part.row_ids.tolist()):
            for name in (
                ("input_ids", "attention_mask", "masked_input_ids", "mlm_labels") if row_id >= 0 else ()
            ):
                assert torch.equal(
                    getattr(part, name)[row], getattr(whole, name)[position[row_id], :width]
                ), name

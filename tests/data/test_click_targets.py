"""The click in PA-MLM's text: against a loop over single rows; no label outside label_share, and nothing else
of the batch, changes.
"""

import numpy as np
import pytest
import torch

from clickprompt.config import MaskingConfig, PLMConfig, PretrainConfig
from clickprompt.data.collate import Collator
from clickprompt.data.id_corruption import IdCorruption
from clickprompt.data.keyed_random import random_uniform
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.masking import IGNORED
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.models.build import build_model
from clickprompt.objectives import PretrainLoss
from tests.support.tiny import CLICK_WORDS, tiny_config, write_both

ROWS, SEED, RATE = 400, 5, 0.3


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("click-targets")), more_words=CLICK_WORDS)


@pytest.fixture(scope="module")
def tables(prepared):
    """The table without the click, and with it."""
    tokenizer = load_tokenizer(prepared[1])
    return [open_model_table(prepared[0], tokenizer, PLMConfig(click_text=click)) for click in (False, True)]


@pytest.fixture(scope="module")
def columns(prepared):
    return columns_of(prepared[0].read_split("train"))


def collator(prepared, table, share=1.0, corruption=None, **masking) -> Collator:
    return Collator(
        layout_of(prepared[0]),
        table,
        MaskingConfig(mask_rate=RATE, **masking),
        seed=SEED,
        label_share=share,
        corruption=corruption,
    )


def clicks(batch, table):
    """(what the text shows, the target) of each row, [B]."""
    positions = table.click_positions(batch.attention_mask.numpy())
    rows = np.arange(len(positions))
    return batch.masked_input_ids.numpy()[rows, positions], batch.mlm_labels.numpy()[rows, positions]


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_equals_a_loop_over_rows(prepared, tables, columns, share):
    dataset, table = prepared[0], tables[1]
    usable = set(dataset.only_labelled(share, SEED).read_split("train")["row_id"].to_pylist())
    shown, targets = clicks(collator(prepared, table, share)(columns, epoch=2), table)
    kinds = {"target": 0, "shown": 0, "hidden": 0}
    for row, (row_id, label) in enumerate(zip(columns["row_id"], columns["label"], strict=True)):
        answer = table.click.answers[int(label)]
        if row_id not in usable:
            kind, expected = "hidden", (table.mask_id, IGNORED)
        elif random_uniform(13, SEED, 2, int(row_id))[0] < RATE:
            kind, expected = "target", (table.mask_id, answer)
        else:
            kind, expected = "shown", (answer, IGNORED)
        assert (shown[row], targets[row]) == expected
        kinds[kind] += 1
    assert kinds["hidden"] / ROWS == pytest.approx(1 - share, abs=0.07)
    assert kinds["target"] / len(usable) == pytest.approx(RATE, abs=0.08)
    words = load_tokenizer(prepared[1]).convert_ids_to_tokens(list(table.click.answers))
    assert words == ["no", "yes"]


def test_labels_outside_the_share_change_nothing(prepared, tables, columns):
    dataset, table, share = prepared[0], tables[1], 0.25
    usable = np.isin(columns["row_id"], dataset.only_labelled(share, SEED).read_split("train")["row_id"])
    other = np.where(usable, columns["label"], 1 - columns["label"])
    flipped = columns | {"label": 1 - columns["label"]}
    collate = collator(prepared, table, share, vocabulary="dataset")
    for epoch in range(6):
        batch, same, all_flipped = (
            collate(part, epoch=epoch) for part in (columns, columns | {"label": other}, flipped)
        )
        for name in ("input_ids", "masked_input_ids", "mlm_labels"):
            assert torch.equal(getattr(batch, name), getattr(same, name))
        assert torch.equal(batch.input_ids, all_flipped.input_ids)
        differ = (batch.masked_input_ids != all_flipped.masked_input_ids) | (
            batch.mlm_labels != all_flipped.mlm_labels
        )
        assert differ.sum(1).tolist() == usable.tolist()  # one place of each usable row
        answers = torch.tensor(table.click.answers)
        outside = torch.from_numpy(~usable)
        assert not torch.isin(batch.mlm_labels[outside], answers).any()


@pytest.mark.parametrize("scope", ["tokens", "values", "field"])
def test_the_rest_of_the_text_is_masked_as_without_the_click(prepared, tables, columns, scope):
    batches = [collator(prepared, table, mask_scope=scope)(columns) for table in tables]
    plain, with_click = batches
    for row, length in enumerate(plain.attention_mask.sum(1).tolist()):
        for name in ("masked_input_ids", "mlm_labels"):
            before, after = getattr(plain, name)[row], getattr(with_click, name)[row]
            assert before[: length - 1].tolist() == after[: length - 1].tolist()  # without [SEP]
    # The words around the click are the template's: targets where any token is
    table = tables[1]
    words = [token for token in table.click.tokens if token != table.mask_id]
    positions = table.click_positions(with_click.attention_mask.numpy())
    around = with_click.mlm_labels.numpy()[np.arange(ROWS), positions - 1]
    assert set(around.tolist()) == (
        {IGNORED, words[table.click.place - 1]} if scope == "tokens" else {IGNORED}
    )


def test_draws_follow_seed_epoch_and_row_alone(prepared, tables, columns):
    table = tables[1]
    collate = collator(prepared, table, 0.5)
    shown, targets = clicks(collate(columns, epoch=1), table)
    found = {}
    for batch in collate.micro_batches(columns, 7, epoch=1):
        found |= dict(zip(batch.row_ids.tolist(), zip(*clicks(batch, table), strict=True), strict=True))
    for row, row_id in enumerate(columns["row_id"].tolist()):
        assert found[row_id] == (shown[row], targets[row])
    assert (clicks(collate(columns, epoch=2), table)[1] != targets).any()
    other = Collator(
        layout_of(prepared[0]), table, MaskingConfig(mask_rate=RATE), seed=SEED + 1, label_share=0.5
    )
    assert (clicks(other(columns, epoch=1), table)[1] != targets).any()


def test_padding_and_finetuning(prepared, tables, columns):
    dataset, table = prepared[0], tables[1]
    padded = {name: values[:6] for name, values in columns.items()} | {"weight": np.array([1, 1, 0, 1, 0, 0])}
    batch = collator(prepared, table)(padded)
    shown, _ = clicks(batch, table)
    padding = padded["weight"] == 0
    assert (shown[padding] == table.mask_id).all()
    assert (batch.mlm_labels[torch.from_numpy(padding)] == IGNORED).all()
    assert batch.click_positions is None
    # Finetuning reads [MASK] in every row, and whatever the labels are
    text = Collator(layout_of(dataset), table, seed=SEED, label_share=0.1)(padded)
    rows = torch.arange(6)
    assert (text.input_ids[rows, text.click_positions] == table.mask_id).all()
    assert text.click_answers.tolist() == list(table.click.answers)
    flipped = Collator(layout_of(dataset), table, seed=SEED)(padded | {"label": 1 - padded["label"]})
    assert torch.equal(text.input_ids, flipped.input_ids)
    plain = Collator(layout_of(dataset), tables[0])(padded)
    assert plain.click_positions is plain.click_answers is None


def test_the_clicks_tokens_belong_to_no_field(prepared, tables, columns):
    """Objectives on ids have the same cells as without the click."""
    pretrain = PretrainConfig(id_objective="masked", text_id_weight=1.0)
    masking = MaskingConfig(mask_rate=RATE, hide_ids=0.5)
    corruption = IdCorruption.of(prepared[0], masking, pretrain, SEED)
    plain, with_click = (
        collator(prepared, table, corruption=corruption, hide_ids=0.5)(columns) for table in tables
    )
    for name in ("field_ids", "id_targets", "text_id_targets"):
        assert torch.equal(getattr(plain, name), getattr(with_click, name))


@pytest.mark.parametrize("vocabulary", ["model", "dataset"])
def test_the_loss_equals_a_loop_over_the_targets(prepared, tables, columns, vocabulary):
    dataset, plm = prepared
    config = tiny_config(dataset.uri, plm, plm__click_text=True, masking__vocabulary=vocabulary)
    table = tables[1]
    objective = PretrainLoss(build_model(config, layout_of(dataset), objective="pretrain").double())
    some = {name: values[:24] for name, values in columns.items()}
    batch = collator(prepared, table, 0.6, vocabulary=vocabulary)(some)
    model, expected, clicked = objective.model, 0.0, 0
    tokens = table.vocabulary if vocabulary == "dataset" else np.arange(model.plm.vocab_size)
    positions = table.click_positions(batch.attention_mask.numpy())
    with torch.no_grad():
        prompts = model.prompt_projector(model.ctr.interaction_vector(batch.field_ids))
        for row in range(24):
            length = int(batch.attention_mask[row].sum())
            hidden = model.plm(
                batch.masked_input_ids[row : row + 1, :length],
                batch.attention_mask[row : row + 1, :length],
                prompts[row : row + 1],
            )[0]
            for place in range(length):
                target = int(batch.mlm_labels[row, place])
                if target != IGNORED:
                    logits = model.plm.lm_logits(hidden[place : place + 1])[0]
                    expected -= float(logits[target] - torch.logsumexp(logits[torch.from_numpy(tokens)], 0))
                    clicked += place == positions[row]
        found = objective(batch).item()
    assert clicked > 2
    assert found == pytest.approx(expected, rel=1e-6)

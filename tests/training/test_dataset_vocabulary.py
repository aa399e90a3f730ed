"""`masking.vocabulary: dataset`: the loss against a loop over targets and tokens, for each kind of PLM."""

import math
import os

import numpy as np
import pytest
import torch

from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.masking import IGNORED
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.models.build import build_model
from clickprompt.objectives import PretrainLoss
from tests.support.tiny import tiny_config, write_both, write_plm

KINDS = {"bert": "masked", "gpt2": "causal", "bart": "denoising"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module")
def dataset(folder) -> Dataset:
    return write_both(folder)[0]


@pytest.fixture(scope="module", params=KINDS)
def made(folder, dataset, request):
    """(objective, collator, token table, training rows)"""
    plm = write_plm(os.path.join(folder, request.param), request.param)
    config = tiny_config(dataset.uri, plm, masking__vocabulary="dataset", masking__mask_rate=0.4)
    table = TokenTable.open(dataset, load_tokenizer(plm))
    model = build_model(config, layout_of(dataset), objective="pretrain").double()
    collator = Collator(layout_of(dataset), table, config.masking, lm=KINDS[request.param])
    rows = dataset.read_split("train").slice(0, 12)
    return (
        PretrainLoss(model),
        collator,
        table,
        {name: rows[name].to_numpy() for name in rows.column_names},
    )


def test_loss_equals_a_loop_over_targets_and_the_datasets_tokens(made):
    objective, collator, table, columns = made
    batch = collator(columns)
    tokens = sorted(set(table.tokens.tolist()) - set(table.special_ids))
    assert batch.vocabulary.tolist() == tokens
    assert len(tokens) < table.vocab_size - len(table.special_ids) + 1
    with torch.no_grad():
        targets = batch.mlm_labels != IGNORED
        logits = objective.model.masked_lm_logits(
            batch.field_ids, batch.masked_input_ids, batch.attention_mask, targets, batch.input_ids
        ).tolist()
        expected = 0.0
        for row, label in zip(logits, batch.mlm_labels[targets].tolist(), strict=True):
            expected += math.log(sum(math.exp(row[token]) for token in tokens)) - row[label]
        assert objective(batch).item() == pytest.approx(expected, rel=1e-6)


def test_loss_does_not_depend_on_the_micro_batches(made):
    objective, collator, _, columns = made
    with torch.no_grad():
        whole = objective(collator(columns)).item()
        parts = [objective(batch).item() for batch in collator.micro_batches(columns, 5)]
    assert sum(parts) == pytest.approx(whole, rel=1e-6)


def test_what_is_drawn_in_place_of_a_token_is_of_the_dataset(dataset, made):
    _, collator, table, _ = made
    if collator.lm == "causal":
        return
    rows = dataset.read_split("train")
    batch = collator({name: rows[name].to_numpy() for name in rows.column_names})
    changed = (batch.masked_input_ids != batch.input_ids) & (batch.masked_input_ids != table.mask_id)
    drawn = np.unique(batch.masked_input_ids[changed].numpy())
    assert len(drawn) > 0.8 * len(table.vocabulary)
    assert set(drawn.tolist()) <= set(table.vocabulary.tolist())


def test_without_it_batches_name_no_tokens(dataset, folder):
    plm = os.path.join(folder, "plm")
    config = tiny_config(dataset.uri, plm)
    assert config.masking.vocabulary == "model"
    table = TokenTable.open(dataset, load_tokenizer(plm))
    rows = dataset.read_split("train").slice(0, 3)
    columns = {name: rows[name].to_numpy() for name in rows.column_names}
    assert Collator(layout_of(dataset), table, config.masking)(columns).vocabulary is None

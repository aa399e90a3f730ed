"""CTR-BERT by hand: two towers of the same layers, their first tokens' states side by side, two linear maps
in plain loops; and the items' vectors, which a scorer keeps.
"""

import numpy as np
import pytest
import torch

from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.item_fields import item_mask
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.export.format import load_export
from clickprompt.models.baselines.ctr_bert import ItemVectors
from clickprompt.models.build import build_model
from clickprompt.objectives import model_inputs
from clickprompt.scoring.rows import RowScorer
from tests.support.baselines import FIELD_IDS, INPUT_IDS, MASK, SIZES, click_head, dotted, drawn
from tests.support.finetuned import write_run
from tests.support.layouts import made_up
from tests.support.naive_plm import naive_plm
from tests.support.tiny import tiny_config, write_both

ITEM_IDS = torch.tensor([[2, 12, 3, 0], [2, 13, 14, 3], [2, 12, 3, 0]])
ITEM_MASK = (ITEM_IDS > 0).long()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("ctr_bert")))


@pytest.fixture
def model(prepared):
    config = tiny_config("nowhere", prepared[1], **dotted("ctr_bert"))
    return drawn(build_model(config, made_up(SIZES), objective="with_plm"))


def logits_of(model):
    with torch.no_grad():
        return model(FIELD_IDS, INPUT_IDS, MASK, ITEM_IDS, ITEM_MASK).tolist()


def test_the_logit_is_the_naive_one(model):
    with torch.no_grad():
        user = naive_plm(model.plm.backbone, INPUT_IDS, MASK).numpy()[:, 0]
        item = naive_plm(model.plm.backbone, ITEM_IDS, ITEM_MASK).numpy()[:, 0]
    expected = click_head(model.click_head, np.concatenate([user, item], axis=1))
    assert logits_of(model) == pytest.approx(expected, abs=1e-9)
    assert np.ptp(expected) > 0.01


def test_both_towers_train_the_one_bert(model):
    model(FIELD_IDS, INPUT_IDS, MASK, ITEM_IDS, ITEM_MASK).sum().backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []
    of_both = model.plm.backbone.get_input_embeddings().weight.grad
    only_item, only_user = 13, 9
    assert of_both[only_item].abs().sum() > 0
    assert of_both[only_user].abs().sum() > 0


def test_kept_items_give_the_same_logits(model):
    expected = logits_of(model)
    model.keep_items()
    for _ in range(2):
        assert logits_of(model) == pytest.approx(expected, abs=1e-12)
    assert len(model._items) == 2, "rows 0 and 2 are about the same item"


def test_an_item_is_encoded_once_and_the_ones_used_last_are_kept():
    encoded = []

    def encode(input_ids, attention_mask):
        encoded.extend(input_ids[:, 0].tolist())
        return input_ids[:, :1].float() * attention_mask.sum(1, keepdim=True)

    items = ItemVectors(encode, most=2)

    def ask(*tokens):
        ids = torch.tensor([[token, token, 0] for token in tokens])
        vectors = items(ids, (ids > 0).long()).flatten().tolist()
        assert vectors == [2.0 * token for token in tokens]

    ask(5, 6, 5)
    ask(6, 5)
    assert encoded == [5, 6]
    ask(5)
    ask(7)  # instead of 6, the one used longest ago
    ask(5, 7)
    assert encoded == [5, 6, 7]
    ask(6)
    assert encoded == [5, 6, 7, 6]
    ask(8, 9, 10, 8)  # more than it keeps, at once
    assert len(items) == 2
    longer = torch.tensor([[8, 8, 8]])
    assert items(longer, torch.ones_like(longer)).item() == 24.0, "another text with the same beginning"


def test_a_scorer_encodes_each_item_once(prepared, tmp_path):
    dataset, plm = prepared
    run = str(tmp_path / "run")
    write_run(run, prepared, objective="with_plm", finetune__eval_batch_size=7, **dotted("ctr_bert"))
    plain, _ = load_export(f"{run}/export")
    rows = dataset.read_split("test")
    mask = item_mask(tiny_config(dataset.uri, plm, **dotted("ctr_bert")), dataset.field_names)
    table = TokenTable.open(dataset, load_tokenizer(plm))
    batch = Collator(layout_of(dataset), table, item_fields=mask)(columns_of(rows))
    with torch.no_grad():
        expected = dict(zip(batch.row_ids.tolist(), plain(*model_inputs(batch)).tolist(), strict=True))

    scorer = RowScorer(f"{run}/export", dataset)
    calls, encode = [], scorer._model._items._encode
    scorer._model._items._encode = lambda ids, mask: calls.append(len(ids)) or encode(ids, mask)
    scores = scorer.score(rows)
    assert scores.logits.tolist() == pytest.approx([expected[row] for row in scores.row_ids], abs=1e-5)
    items = {(row["movie_id"], row["film_genre"]) for row in rows.to_pylist()}
    assert sum(calls) == len(items) < len(rows)

"""P5 by hand: T5's layers, the state behind its start token, and the softmax in plain loops."""

import math

import pytest
import torch

from clickprompt.data.batch import Batch
from clickprompt.data.text.template import load_tokenizer
from clickprompt.errors import ConfigError
from clickprompt.models.build import build_model
from clickprompt.objectives import build_objective
from clickprompt.runtime.train.answers import find_answers
from tests.support.baselines import FIELD_IDS, SIZES, dotted, drawn
from tests.support.layouts import made_up
from tests.support.naive_plm import naive_plm
from tests.support.tiny import tiny_config, write_plm
from tests.support.tokenizers_made_up import gpt2, unigram_words

INPUT_IDS = torch.tensor([[12, 7, 9, 11, 1], [12, 8, 1, 0, 0], [13, 5, 6, 1, 0]])
MASK = (INPUT_IDS > 0).long()
NO, YES = 4, 5
LABELS = [1.0, 0.0, 1.0]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    plm = write_plm(str(tmp_path_factory.mktemp("p5") / "t5"), "t5")
    return tiny_config("nowhere", plm, **dotted("p5"))


@pytest.fixture(scope="module")
def model(config):
    return drawn(build_model(config, made_up(SIZES), objective="with_plm"))


def naive_probabilities(model):
    """Of every token at the decoder's first position, [B][V]."""
    with torch.no_grad():
        states = naive_plm(model.plm.backbone, INPUT_IDS, MASK)[:, 0].tolist()
    matrix = model.plm.backbone.shared.weight.tolist()
    rows = []
    for state in states:
        scaled = [number / math.sqrt(len(state)) for number in state]
        logits = [sum(w * s for w, s in zip(row, scaled, strict=True)) for row in matrix]
        highest = max(logits)
        total = sum(math.exp(logit - highest) for logit in logits)
        rows.append([math.exp(logit - highest) / total for logit in logits])
    return rows


def batch(weights=(1.0, 1.0, 1.0)):
    return Batch(
        row_ids=torch.arange(3),
        field_ids=FIELD_IDS,
        labels=torch.tensor(LABELS),
        row_weight=torch.tensor(weights),
        input_ids=INPUT_IDS,
        attention_mask=MASK,
    )


def test_the_score_is_yes_of_yes_and_no(model):
    with torch.no_grad():
        found = torch.sigmoid(model(FIELD_IDS, INPUT_IDS, MASK)).tolist()
    expected = [row[YES] / (row[YES] + row[NO]) for row in naive_probabilities(model)]
    assert found == pytest.approx(expected, abs=1e-9)
    assert max(expected) - min(expected) > 1e-3


def test_the_loss_is_over_the_whole_vocabulary(model, config):
    objective = build_objective(model, config.finetune)
    rows = naive_probabilities(model)
    losses = [-math.log(row[YES if label else NO]) for row, label in zip(rows, LABELS, strict=True)]
    assert objective.terms == {"answer": 1.0}
    with torch.no_grad():
        # The softmax is taken in float32
        assert objective(batch()).tolist() == pytest.approx([sum(losses)], rel=1e-6)
        assert objective(batch((1.0, 0.0, 1.0))).tolist() == pytest.approx([losses[0] + losses[2]], rel=1e-6)
    assert objective.count_targets(batch((1.0, 0.0, 1.0))).tolist() == [2.0]
    of_two = sum(
        math.log(row[YES] + row[NO]) - math.log(row[YES if label else NO])
        for row, label in zip(rows, LABELS, strict=True)
    )
    assert sum(losses) > of_two + 1


def test_the_decoder_reads_its_start_token_only(model):
    seen = []
    hook = model.plm.backbone.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    model(FIELD_IDS, INPUT_IDS, MASK)
    hook.remove()
    assert seen == [[[0]] * 3]


def test_ids_make_no_difference_and_nothing_is_left_untrained(config):
    model = build_model(config, made_up(SIZES), objective="with_plm").eval()
    assert torch.equal(model(FIELD_IDS, INPUT_IDS, MASK), model(FIELD_IDS + 1, INPUT_IDS, MASK))
    assert (model.ctr, model.click_head) == (None, None)
    build_objective(model, config.finetune)(batch()).sum().backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []
    assert "answers" not in model.state_dict()


def test_the_answers_are_the_tokenizers(config):
    assert find_answers(load_tokenizer(config.plm.path)) == (NO, YES)


@pytest.mark.parametrize("tokenizer", [gpt2, unigram_words])
def test_answers_of_several_tokens_are_refused(tokenizer):
    with pytest.raises(
        ConfigError, match=r"writes no and yes as \S.* and .*; they must be a token each"
    ) as caught:
        find_answers(tokenizer())
    assert "\n" not in str(caught.value)

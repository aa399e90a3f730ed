"""PTab by hand: the PLM's layers, the first token's state and two linear maps in plain loops."""

import numpy as np
import pytest
import torch

from clickprompt.config import replaced
from clickprompt.models.build import build_model
from tests.support.baselines import FIELD_IDS, INPUT_IDS, MASK, SIZES, click_head, dotted, drawn
from tests.support.layouts import made_up
from tests.support.naive_plm import naive_plm
from tests.support.tiny import tiny_config, write_plm


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    plm = write_plm(str(tmp_path_factory.mktemp("ptab") / "plm"))
    return tiny_config("nowhere", plm, **dotted("ptab"))


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_the_logit_is_the_naive_one(config, pooling):
    model = drawn(
        build_model(replaced(config, {"plm.pooling": pooling}), made_up(SIZES), objective="with_plm")
    )
    with torch.no_grad():
        states = naive_plm(model.plm.backbone, INPUT_IDS, MASK).numpy()
        found = model(FIELD_IDS, INPUT_IDS, MASK).tolist()
    lengths = [5, 3, 4]
    pooled = {
        "cls": [state[0] for state in states],
        "mean": [state[:length].mean(0) for state, length in zip(states, lengths, strict=True)],
        "last": [state[length - 1] for state, length in zip(states, lengths, strict=True)],
    }[pooling]
    expected = click_head(model.click_head, np.stack(pooled))
    assert found == pytest.approx(expected, abs=1e-9)
    assert np.ptp(expected) > 0.01


def test_ids_make_no_difference_and_nothing_is_left_untrained(config):
    model = build_model(config, made_up(SIZES), objective="with_plm").eval()
    logits = model(FIELD_IDS, INPUT_IDS, MASK)
    assert torch.equal(logits, model(FIELD_IDS + 1, INPUT_IDS, MASK))
    assert model.ctr is None
    assert model.tower_logits(FIELD_IDS, INPUT_IDS, MASK)[0] is None
    logits.sum().backward()
    without = [name for name, one in model.named_parameters() if one.grad is None]
    assert without == []


def test_pretraining_is_masked_language_modelling_alone(config):
    model = drawn(build_model(config, made_up(SIZES), objective="pretrain"))
    names = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert names == {"plm"}
    assert model.plm.lm_head is not None
    targets = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]).bool()
    with torch.no_grad():
        found = model.masked_lm_logits(FIELD_IDS, INPUT_IDS, MASK, targets)
        states = naive_plm(model.plm.backbone, INPUT_IDS, MASK)
        expected = model.plm.lm_logits(torch.stack([states[0, 1], states[2, 2]]))
    torch.testing.assert_close(found, expected)

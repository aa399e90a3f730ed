"""Every objective's forward pass is one graph, so torch.compile can take it as a whole, and one more does for
batches of all sizes.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from clickprompt.config import PLMConfig, PromptConfig
from clickprompt.data.places import read_places
from clickprompt.models import backbones
from clickprompt.models.plm_loading import load_plm
from tests.support.objectives import CASES, config_of_cases, objective_and_batch


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return config_of_cases(tmp_path_factory.mktemp("graphs"))


def assert_graphs(function, batches, graphs):
    """Check the most graphs of `function` on some batches, and the results. A break within is an error."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    for batch in batches:
        torch.manual_seed(0)
        expected = function(*batch)
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(*batch), expected)
    assert 1 <= counter.frame_count <= graphs


CHOSEN = ("with PLM",)  # each takes seconds
# Recomputed layers tell once more that prompts reached them, which no graph may
EACH = [
    pytest.param(case, marks=() if case in CHOSEN else pytest.mark.slow)
    for case in CASES
    if case != "pretrain, recomputed"
]


@pytest.mark.parametrize("case", EACH)
def test_an_objective_is_one_graph(config, case):
    objective, batch = objective_and_batch(config, *CASES[case])
    assert_graphs(objective, [(batch,)], 1)


@pytest.mark.parametrize("backbone", sorted(backbones.BACKBONES))
@pytest.mark.sampled(3)
def test_a_backbone_is_one_graph(config, backbone):
    objective, batch = objective_and_batch(config, "without_plm", {"ctr.backbone": backbone})
    assert_graphs(objective, [(batch,)], 1)


SLOW = [
    pytest.param(variant, marks=pytest.mark.slow)
    for variant in ("roberta", "gpt2", "modernbert", "llama", "bart")
]


@pytest.mark.parametrize("variant", ["bert", *SLOW])
@pytest.mark.slow
def test_two_graphs_do_for_texts_of_all_widths(save_tiny, tokens, variant):
    """With dropout: the same numbers are drawn. A CPU's dropout is an operator of its own."""
    bert = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    rates = {"bert": bert, "roberta": bert, "gpt2": ("attn_pdrop",)}
    path = save_tiny(variant, **dict.fromkeys(rates.get(variant, ()), 0.1))
    plm = load_plm(PLMConfig(path=path, last_layer="targets"), PromptConfig(num_prompts=2)).train()
    layers, width = plm.prompt_shape
    batches = []
    for lengths in ([9, 4, 6], [13, 2, 3], [16, 16, 5], [11, 8, 8, 8]):
        input_ids, attention_mask = tokens(lengths)
        prompts = torch.randn(len(lengths), layers, 2, width)
        places = read_places((input_ids % 3 == 0).numpy() & attention_mask.bool().numpy())
        batches.append((places, input_ids, attention_mask, prompts))
    assert_graphs(plm.states_at, batches, 2)

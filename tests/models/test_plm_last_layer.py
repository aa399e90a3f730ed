"""`plm.last_layer: targets`: the states at the targets, and every gradient, are those of the whole layer."""

import copy

import pytest
import torch

from clickprompt.config import PLMConfig, PromptConfig
from clickprompt.data.collate import Collator
from clickprompt.data.places import read_places
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import ConfigError
from clickprompt.models.build import build_model
from clickprompt.models.plm_loading import check_plm, load_plm
from clickprompt.objectives import ClickLoss, PretrainLoss
from tests.support.tiny import tiny_config, write_both
from tests.support.tiny_plms import VARIANTS

PROMPTS = {
    "layerwise": PromptConfig(num_prompts=2),
    "key_value": PromptConfig(num_prompts=2, prompt_injection="key_value"),
    "input": PromptConfig(num_prompts=2, prompt_depth="input"),
    "none": PromptConfig(num_prompts=0),
}
# Position biases of T5 are of whole lengths, and it is refused
CHOOSING = [name for name in VARIANTS if name != "t5"]
# RMS norms and ModernBERT's rotations compute in float32, whatever the model does
SINGLE = ("llama", "qwen2", "qwen3", "modernbert")
PADDINGS = {"unpadded": [9, 9, 9, 9], "padded": [4, 9, 6, 3]}


def random_prompts(plm, rows):
    layers, width = plm.prompt_shape
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, layers, 2, width, generator=generator).to(plm.backbone.dtype).requires_grad_()


def targets_of(attention_mask):
    """Of different numbers, none in the third row."""
    generator = torch.Generator().manual_seed(3)
    targets = (torch.rand(attention_mask.shape, generator=generator) < 0.4) & attention_mask.bool()
    targets[2] = False
    targets[0, 3] = True
    return targets


def states_and_gradients(plm, states):
    """`states` [M, H] and the gradients of a fixed random function of them."""
    plm.zero_grad()
    coefficients = torch.randn(states.shape, dtype=states.dtype, generator=torch.Generator().manual_seed(1))
    (states * coefficients).sum().backward()
    return states.detach(), {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone()
        for name, one in plm.named_parameters()
    }


def both(path, prompt, **settings):
    for last_layer in ("full", "targets"):
        config = PLMConfig(path=path, last_layer=last_layer, **settings)
        plm = load_plm(config, prompt, lm_head=False).train()
        if plm.config.model_type not in SINGLE:
            plm.double()
        assert plm.chooses_positions == (last_layer == "targets")
        yield plm


def assert_close(found, expected, of="", tolerance=1e-10):
    scale = expected.abs().max().clamp(min=1e-3)
    assert (found - expected).abs().max() <= tolerance * scale, of


def tolerance_of(variant):
    return 2e-6 if VARIANTS[variant][0] in SINGLE else 1e-10


def note_widths(plm):
    """Return a list to which each forward pass adds the number of queries in the last layer."""
    seen = []
    attention = plm.layers[-1].get_submodule(plm.family.self_attention)
    attention.register_forward_hook(lambda module, args, output: seen.append(output[0].shape[1]))
    return seen


@pytest.mark.parametrize("variant", CHOOSING)
@pytest.mark.parametrize("depth", PROMPTS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.sampled
def test_states_at_targets_and_gradients_are_those_of_the_whole_layer(
    tiny, tokens, variant, depth, padding, attention
):
    input_ids, attention_mask = tokens(PADDINGS[padding])
    targets = targets_of(attention_mask)
    results = []
    for plm in both(tiny(variant), PROMPTS[depth], attn_implementation=attention):
        prompts = None if depth == "none" else random_prompts(plm, len(input_ids))
        seen = note_widths(plm)
        states = plm.states_at(read_places(targets.numpy()), input_ids, attention_mask, prompts)
        results.append((*states_and_gradients(plm, states), None if prompts is None else prompts.grad))
        results[-1] += (seen,)
    (whole, gradients, of_prompts, widths), (chosen, ours, of_ours, narrow) = results
    assert widths == [9 + 2 * (depth == "input" and plm.lm_kind != "denoising")]
    assert narrow == [int(targets.sum(1).max())]
    assert narrow < widths
    assert_close(chosen, whole, tolerance=tolerance_of(variant))
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert_close(ours[name], gradient, name, tolerance_of(variant))
    if of_prompts is not None:
        assert of_prompts.abs().max() > 1e-6
        assert_close(of_ours, of_prompts, tolerance=tolerance_of(variant))


@pytest.mark.parametrize("variant", ["bert", "modernbert", "gpt2", "llama", "bart"])
@pytest.mark.parametrize("depth", PROMPTS)
@pytest.mark.sampled
def test_recomputation_changes_nothing(tiny, tokens, depth, variant):
    """Two forward passes before the backward passes: nothing is kept on modules."""
    input_ids, attention_mask = tokens(PADDINGS["padded"])
    first = targets_of(attention_mask)
    second = first.flip(0) & attention_mask.bool()
    results = []
    for plm in both(tiny(variant), PROMPTS[depth], gradient_checkpointing=True):
        prompts = None if depth == "none" else random_prompts(plm, len(input_ids))
        states = [
            plm.states_at(read_places(one.numpy()), input_ids, attention_mask, prompts)
            for one in (first, second)
        ]
        results.append(states_and_gradients(plm, torch.cat(states)))
    assert_close(results[1][0], results[0][0], tolerance=tolerance_of(variant))
    for name, gradient in results[0][1].items():
        assert_close(results[1][1][name], gradient, name, tolerance_of(variant))


def test_a_batch_without_targets_gives_zero_gradients(tiny, tokens):
    input_ids, attention_mask = tokens([4, 9])
    *_, plm = both(tiny("bert"), PROMPTS["layerwise"])
    nothing = torch.zeros_like(attention_mask, dtype=torch.bool)
    states = plm.states_at(read_places(nothing.numpy()), input_ids, attention_mask, random_prompts(plm, 2))
    assert states.shape == (0, plm.hidden_size)
    _, gradients = states_and_gradients(plm, states)
    assert not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("variant", CHOOSING)
@pytest.mark.parametrize("depth", PROMPTS)
@pytest.mark.sampled
def test_the_state_that_a_click_is_read_from(tiny, tokens, variant, depth):
    """One position of each row, as pooling by the first or last token and click_text read it."""
    input_ids, attention_mask = tokens(PADDINGS["padded"])
    results = []
    for plm in both(tiny(variant), PROMPTS[depth]):
        prompts = None if depth == "none" else random_prompts(plm, len(input_ids))
        states = plm.state_of_each(attention_mask.sum(1) - 1, input_ids, attention_mask, prompts)
        results.append(states_and_gradients(plm, states))
    (whole, gradients), (chosen, ours) = results
    assert_close(chosen, whole, tolerance=tolerance_of(variant))
    for name, gradient in gradients.items():
        assert_close(ours[name], gradient, name, tolerance_of(variant))


def test_flash_attention_is_refused(tiny):
    config = PLMConfig(path=tiny("bert"), last_layer="targets", attn_implementation="flash")
    for read in (check_plm, load_plm):
        with pytest.raises(ConfigError, match=r"plm\.last_layer=targets: flash.*use plm\.attn_impl"):
            read(config)


def test_can_be_copied(tiny, tokens):
    input_ids, attention_mask = tokens([4, 9])
    *_, plm = both(tiny("bert"), PROMPTS["layerwise"])
    prompts, positions = random_prompts(plm, 2), torch.tensor([[1], [2]])
    expected = plm(input_ids, attention_mask, prompts, positions=positions)
    assert torch.equal(copy.deepcopy(plm)(input_ids, attention_mask, prompts, positions=positions), expected)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("last-layer")))


@pytest.mark.parametrize("depth", PROMPTS)
@pytest.mark.parametrize("objective", ["pretrain", "with_plm"])
def test_both_losses_and_their_gradients(prepared, depth, objective):
    """Of the whole model in float32: equal to 1e-6."""
    dataset, path = prepared
    rows = dataset.read_split("train").slice(0, 24)
    columns = {name: rows[name].to_numpy() for name in rows.column_names}
    changes = {f"prompt__{key}": value for key, value in PROMPTS[depth].model_dump().items()}
    results = []
    for last_layer in ("full", "targets"):
        config = tiny_config(dataset.uri, path, plm__last_layer=last_layer, **changes)
        model = build_model(config, layout_of(dataset), objective=objective)
        seen = note_widths(model.plm)
        pretrain = objective == "pretrain"
        table = TokenTable.open(dataset, load_tokenizer(path))
        batch = Collator(layout_of(dataset), table, config.masking if pretrain else None)(columns)
        loss = (PretrainLoss if pretrain else ClickLoss)(model)(batch)
        loss.backward()
        results.append((loss.item(), {name: one.grad for name, one in model.named_parameters()}, seen))
    (whole, gradients, [width]), (chosen, ours, [narrow]) = results
    assert narrow < width
    assert pretrain or narrow == 1
    assert chosen == pytest.approx(whole, rel=1e-6)
    # Some gradients, such as those of keys' biases, are rounding alone
    largest = max(gradient.norm() for gradient in gradients.values() if gradient is not None)
    for name, gradient in gradients.items():
        if gradient is None or ours[name] is None:
            assert gradient is ours[name] is None, name
            continue
        assert (ours[name] - gradient).norm() <= 1e-6 * largest, name

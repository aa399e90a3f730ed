"""Every PLM family against hand-written references: prompted forward, gradients, K = 0, padding; loading and
its errors.
"""

import copy
import json
import os
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM, DynamicCache
from transformers.utils.import_utils import is_flash_attn_2_available

from clickprompt.config import PLMConfig, PromptConfig
from clickprompt.errors import ConfigError, DataError
from clickprompt.models.plm import PromptedPLM
from clickprompt.models.plm_families import PLM_FAMILIES
from clickprompt.models.plm_loading import check_plm, load_plm, plm_from_config
from tests.support.naive_plm import naive_plm
from tests.support.tiny_plms import FAMILIES, PAD, VARIANTS

K = 2
MINILM = os.environ.get("CLICKPROMPT_MINILM")
LENGTHS = {"unpadded": [9, 9, 9], "padded": [4, 9, 6]}
# In float64, transformers' eager attention makes NaN of a padding position whose window holds no text (its
# mask's lowest float64 is -inf in the softmax's float32). Where a plain float64 model is the reference,
# padding is therefore kept short.
SHORT_PADDING = [7, 9, 8]
KEY_VALUE, INPUT_ONLY, NO_PROMPTS = (
    PromptConfig(prompt_injection="key_value"),
    PromptConfig(prompt_depth="input"),
    PromptConfig(num_prompts=0),
)

# One of each way to normalise, place, mask and head; for what does not depend on the family's details
SOME = ["bert", "modernbert", "gpt2", "qwen3", "bart", "t5"]
ENCODER_DECODERS = ("bart", "t5")

every_variant = pytest.mark.parametrize("variant", VARIANTS)
some_variants = pytest.mark.parametrize("variant", SOME)
attentions = pytest.mark.parametrize("attention", ["sdpa", "eager"])
paddings = pytest.mark.parametrize("padding", LENGTHS)


@pytest.fixture(scope="module")
def load(tiny) -> Callable[..., PromptedPLM]:
    """(variant, attention, checkpointing, prompt) → float64 PLM in training mode without LM head, loaded
    once; tests leave it as it is.
    """

    @cache
    def load(
        variant: str, attention: str = "sdpa", checkpointing: bool = False, prompt: PromptConfig | None = None
    ) -> PromptedPLM:
        config = PLMConfig(
            path=tiny(variant), attn_implementation=attention, gradient_checkpointing=checkpointing
        )  # pyright: ignore[reportArgumentType]
        return load_plm(config, prompt, lm_head=False).double().train()

    return load


def plain_model(path: str, attention: str = "sdpa") -> Any:
    return AutoModel.from_pretrained(path, attn_implementation=attention)


def run(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Any:
    """Run a plain model; T5 leaves to its caller what BART does itself: the decoder's text, shifted right."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if model.config.model_type == "t5":
        start = torch.full_like(input_ids[:, :1], model.config.decoder_start_token_id)
        inputs["decoder_input_ids"] = torch.cat([start, input_ids[:, :-1]], dim=1)
    return model(**inputs)


def random_prompts(plm: PromptedPLM, rows: int, num_prompts: int = K) -> Tensor:
    layers, width = plm.prompt_shape
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(rows, layers, num_prompts, width, generator=generator)
        .to(plm.backbone.dtype)
        .requires_grad_()
    )


def gradients(
    model: nn.Module, hidden: Tensor, attention_mask: Tensor, soft_prompts: Tensor
) -> dict[str, Tensor]:
    """Gradients of a fixed random function of the text's hidden states (padding left out), for every weight
    and the prompts.
    """
    coefficients = torch.randn(hidden.shape, dtype=hidden.dtype, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    soft_prompts.grad = None
    (hidden * coefficients * attention_mask[..., None]).sum().backward()
    result = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    assert soft_prompts.grad is not None
    return result | {"soft_prompts": soft_prompts.grad.clone()}


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name in ours:
        torch.testing.assert_close(
            ours[name], expected[name], rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_equals_naive(
    plm: PromptedPLM, naive_of: PromptedPLM, tokens, lengths: list[int], injection: str = "hidden"
) -> None:
    """Forward and every gradient; and that every prompt of every layer has one."""
    input_ids, attention_mask = tokens(lengths)
    prompts = random_prompts(plm, len(lengths))
    text = attention_mask.bool()
    hidden = plm(input_ids, attention_mask, prompts)
    ours = gradients(plm, hidden, attention_mask, prompts)
    naive = naive_plm(naive_of.backbone, input_ids, attention_mask, prompts, injection=injection)
    torch.testing.assert_close(hidden[text], naive[text], rtol=0, atol=1e-6)
    assert_same(ours, gradients(naive_of, naive, attention_mask, prompts))
    assert ours.keys() == {name for name, _ in plm.named_parameters()} | {"soft_prompts"}
    for layer in range(prompts.shape[1]):
        for k in range(K):
            assert (ours["soft_prompts"][:, layer, k].abs().amax(dim=-1) > 1e-6).all(), (
                f"prompt {k} of layer {layer} has no gradient"
            )


# The reference itself


@every_variant
@attentions
@pytest.mark.parametrize("lengths", [[9, 9, 9], SHORT_PADDING], ids=["unpadded", "padded"])
@pytest.mark.sampled
def test_naive_without_prompts_is_hugging_face(tiny, tokens, variant, attention, lengths) -> None:
    model = plain_model(tiny(variant), attention).double().eval()
    input_ids, attention_mask = tokens(lengths)
    text = attention_mask.bool()
    expected = run(model, input_ids, attention_mask).last_hidden_state
    torch.testing.assert_close(
        naive_plm(model, input_ids, attention_mask)[text], expected[text], rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("variant", ["gpt2", "llama", "llama-grouped", "qwen2", "qwen3"])
@attentions
@paddings
@pytest.mark.sampled
def test_naive_keys_and_values_are_hugging_faces_cache(tiny, tokens, variant, attention, padding) -> None:
    """A decoder's cache of K positions, with the text's positions counted from 0, is the same thing."""
    model = plain_model(tiny(variant), attention).double().eval()
    config = model.config
    heads, head_dim = getattr(config, "num_key_value_heads", 4), getattr(config, "head_dim", None) or 4
    input_ids, attention_mask = tokens(LENGTHS[padding])
    rows, text = len(input_ids), attention_mask.bool()
    prompts = torch.randn(rows, config.num_hidden_layers, K, 2 * heads * head_dim, dtype=torch.float64)
    past = DynamicCache()
    for layer in range(config.num_hidden_layers):
        key, value = (
            half.reshape(rows, K, heads, head_dim).transpose(1, 2)
            for half in prompts[:, layer].chunk(2, dim=-1)
        )
        past.update(key, value, layer)
    expected = model(
        input_ids=input_ids,
        attention_mask=torch.cat([attention_mask.new_ones(rows, K), attention_mask], dim=1),
        position_ids=torch.arange(input_ids.shape[1])[None],
        past_key_values=past,
    ).last_hidden_state
    naive = naive_plm(model, input_ids, attention_mask, prompts, injection="key_value")
    torch.testing.assert_close(naive[text], expected[text], rtol=0, atol=1e-10)


# Prompts


def test_every_family_is_tested() -> None:
    assert set(PLM_FAMILIES) == set(FAMILIES) == {model_type for model_type, _ in VARIANTS.values()}


@every_variant
@attentions
@paddings
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.sampled
def test_hidden_prompts_equal_concatenation(load, tokens, variant, attention, padding, checkpointing) -> None:
    assert_equals_naive(
        load(variant, attention, checkpointing), load(variant, attention), tokens, LENGTHS[padding]
    )


@every_variant
@attentions
@paddings
@pytest.mark.sampled
def test_key_value_prompts_equal_concatenation(load, tokens, variant, attention, padding) -> None:
    plm = load(variant, attention, True, KEY_VALUE)
    assert_equals_naive(
        plm, load(variant, attention, False, KEY_VALUE), tokens, LENGTHS[padding], injection="key_value"
    )


@every_variant
@attentions
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.sampled
def test_input_prompts_are_embeddings_before_the_text(
    tiny, load, tokens, variant, attention, checkpointing
) -> None:
    """Positions of the plain model from then on: they take places of the position table and of the window."""
    plm = load(variant, attention, checkpointing, INPUT_ONLY)
    model = plain_model(tiny(variant), attention).double().train()
    input_ids, attention_mask = tokens(SHORT_PADDING)
    prompts = random_prompts(plm, len(input_ids))
    hidden = plm(input_ids, attention_mask, prompts)
    ours = gradients(plm.backbone, hidden, attention_mask, prompts)

    inputs = {
        "inputs_embeds": torch.cat([prompts[:, 0], model.get_input_embeddings()(input_ids)], dim=1),
        "attention_mask": torch.cat([attention_mask.new_ones(len(input_ids), K), attention_mask], dim=1),
    }
    if (
        variant in ENCODER_DECODERS
    ):  # its encoder has the prompts; cross-attention sees them, the decoder's text is the text alone
        start = torch.full_like(input_ids[:, :1], model.config.decoder_start_token_id)
        expected_hidden = model(
            **inputs, decoder_input_ids=torch.cat([start, input_ids[:, :-1]], dim=1)
        ).last_hidden_state
    else:
        expected_hidden = model(**inputs).last_hidden_state[:, K:]
    text = attention_mask.bool()
    torch.testing.assert_close(hidden[text], expected_hidden[text], rtol=0, atol=1e-6)
    assert_same(ours, gradients(model, expected_hidden, attention_mask, prompts))
    assert (ours["soft_prompts"].abs().amax(dim=-1) > 1e-6).all(), "a prompt has no gradient"


ROPE = {
    "default": {"rope_type": "default"},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 10,
    },
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 10,
    },  # makes all keys longer, at position 0 too
}


@pytest.mark.parametrize("rope", ROPE)
def test_prompts_are_at_position_0_of_any_rotary_embedding(save_tiny, tokens, rope) -> None:
    """transformers' own layers over [prompts ⊕ hidden states], the prompts at position 0."""
    path = save_tiny("llama-grouped", rope_parameters=ROPE[rope] | {"rope_theta": 10000.0})
    plm = load_plm(PLMConfig(path=path, attn_implementation="eager"), lm_head=False).double()
    input_ids, attention_mask = tokens([7, 7])
    prompts = random_prompts(plm, 2)
    positions = torch.tensor([[0] * K + list(range(7))])
    mask = torch.zeros(2, 1, K + 7, K + 7, dtype=torch.float64)
    mask[..., K:, K:] = torch.full((7, 7), -1e9).triu(1)
    hidden = plm.backbone.embed_tokens(input_ids)
    for index, layer in enumerate(plm.backbone.layers):
        joined = torch.cat([prompts[:, index], hidden], dim=1)
        rotary = plm.backbone.rotary_emb(joined, positions)
        hidden = layer(joined, attention_mask=mask, position_embeddings=rotary)[:, K:]
    torch.testing.assert_close(
        plm(input_ids, attention_mask, prompts), plm.backbone.norm(hidden), rtol=0, atol=1e-6
    )


@every_variant
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.sampled
def test_checkpointing_computes_every_layer_again(load, tokens, variant, checkpointing) -> None:
    """So that the cases above that are called checkpointing are."""
    plm = load(variant, "sdpa", checkpointing)
    stacks = [plm.backbone.get_submodule(path) for path in plm.family.layers]
    # The last matrix of a layer: prompts never go there, and a layer's own hooks are outside its checkpoint.
    matrices = [
        [part for part in layer.modules() if getattr(part, "weight", torch.zeros(1)).dim() == 2][-1]
        for stack in stacks
        for layer in stack
    ]
    calls: list[nn.Module] = []
    hooks = [matrix.register_forward_pre_hook(lambda module, _: calls.append(module)) for matrix in matrices]
    plm(*tokens([5]), random_prompts(plm, 1)).sum().backward()
    for hook in hooks:
        hook.remove()
    assert len(matrices) == plm.num_layers
    assert [calls.count(matrix) for matrix in matrices] == [1 + checkpointing] * plm.num_layers


@pytest.mark.parametrize("variant", ENCODER_DECODERS)
def test_the_decoder_reads_another_text_than_the_encoder(load, tokens, variant) -> None:
    plm = load(variant)
    (corrupted, attention_mask), (text, _) = tokens(LENGTHS["padded"]), tokens(LENGTHS["padded"], seed=1)
    prompts = random_prompts(plm, len(text))
    naive = naive_plm(plm.backbone, corrupted, attention_mask, prompts, decoder_text=text)
    hidden = plm(corrupted, attention_mask, prompts, decoder_text=text)
    torch.testing.assert_close(hidden[attention_mask.bool()], naive[attention_mask.bool()], rtol=0, atol=1e-6)
    assert not torch.allclose(hidden[:, 1:4], plm(corrupted, attention_mask, prompts)[:, 1:4])


# Without input-only prompts under eager attention: the note at SHORT_PADDING
@every_variant
@pytest.mark.parametrize(
    ("attention", "prompt"),
    [("sdpa", None), ("sdpa", KEY_VALUE), ("sdpa", INPUT_ONLY), ("eager", None), ("eager", KEY_VALUE)],
    ids=["sdpa-hidden", "sdpa-key_value", "sdpa-input", "eager-hidden", "eager-key_value"],
)
@pytest.mark.sampled
def test_rows_do_not_depend_on_the_padding_of_their_batch(load, tokens, variant, attention, prompt) -> None:
    """A row alone (unpadded: where a causal mask could be left to the kernel), in a padded batch, and in that
    batch padded further.
    """
    plm = load(variant, attention, False, prompt)
    input_ids, attention_mask = tokens([7, 9])
    prompts = random_prompts(plm, 2)
    with torch.no_grad():
        batch = plm(input_ids, attention_mask, prompts)
        further = plm(
            nn.functional.pad(input_ids, (0, 3), value=PAD),
            nn.functional.pad(attention_mask, (0, 3)),
            prompts,
        )
        for row, length in enumerate([7, 9]):
            alone = plm(
                input_ids[row, None, :length], attention_mask[row, None, :length], prompts[row, None]
            )[0]
            for other in (batch[row], further[row]):
                torch.testing.assert_close(other[:length], alone, rtol=0, atol=1e-6)


@every_variant
@attentions
@paddings
@pytest.mark.sampled
def test_without_prompts_it_is_the_plain_model(tiny, tokens, variant, attention, padding) -> None:
    plm = load_plm(
        PLMConfig(path=tiny(variant), attn_implementation=attention), NO_PROMPTS, lm_head=False
    ).eval()
    input_ids, attention_mask = tokens(LENGTHS[padding])
    text = attention_mask.bool()
    with torch.no_grad():
        plain = plain_model(tiny(variant), attention).eval()
        expected = run(plain, input_ids, attention_mask).last_hidden_state
        for prompts in (None, random_prompts(plm, len(input_ids), num_prompts=0)):
            # Where a matmul's inputs lie in memory may decide its last bit
            found = plm(input_ids, attention_mask, prompts)[text]
            torch.testing.assert_close(found, expected[text], rtol=0, atol=1e-6)


@some_variants
@attentions
@pytest.mark.parametrize("prompt", [None, KEY_VALUE, INPUT_ONLY], ids=["hidden", "key_value", "input"])
@pytest.mark.sampled
def test_a_plm_built_for_prompts_runs_without_them(load, tokens, variant, attention, prompt) -> None:
    input_ids, attention_mask = tokens(SHORT_PADDING)
    text = attention_mask.bool()
    plm = load(variant, attention, False, prompt)
    expected = naive_plm(plm.backbone, input_ids, attention_mask)
    torch.testing.assert_close(plm(input_ids, attention_mask)[text], expected[text], rtol=0, atol=1e-6)


@every_variant
def test_bfloat16_weights_run_and_pass_gradients(tiny, tokens, variant) -> None:
    plm = load_plm(PLMConfig(path=tiny(variant), dtype="bfloat16"))
    assert {parameter.dtype for parameter in plm.parameters()} == {torch.bfloat16}
    input_ids, attention_mask = tokens([4, 9])
    text = attention_mask.bool()
    prompts = (
        random_prompts(plm, 2).detach().float().requires_grad_()
    )  # as the projector's, which stays in float32
    logits = plm.lm_logits(plm(input_ids, attention_mask, prompts)[text])
    assert logits.dtype == torch.bfloat16
    logits.float().logsumexp(-1).sum().backward()
    assert prompts.grad is not None
    assert prompts.grad.dtype == torch.float32
    assert (prompts.grad.abs().amax(dim=-1) > 0).all()
    exact = load_plm(PLMConfig(path=tiny(variant)))
    expected = exact.lm_logits(exact(input_ids, attention_mask, prompts)[text])
    # 8 bits of mantissa through 3 layers of large random weights: alike, not equal
    assert (
        torch.corrcoef(torch.stack([logits.detach().float().flatten(), expected.detach().flatten()]))[0, 1]
        > 0.99
    )


# The LM head


@every_variant
def test_lm_logits_are_hugging_faces(tiny, tokens, variant) -> None:
    plm = load_plm(PLMConfig(path=tiny(variant)), NO_PROMPTS).double().eval()
    architecture = json.loads(Path(tiny(variant), "config.json").read_text())["architectures"][0]
    whole = getattr(transformers, architecture).from_pretrained(tiny(variant)).double().eval()
    input_ids, attention_mask = tokens(SHORT_PADDING)
    text = attention_mask.bool()
    expected = run(whole, input_ids, attention_mask).logits[text]
    torch.testing.assert_close(
        plm.lm_logits(plm(input_ids, attention_mask)[text]), expected, rtol=0, atol=1e-10
    )


@every_variant
def test_lm_logits_of_some_tokens_are_those_columns(tiny, tokens, variant) -> None:
    """And gradients reach their rows only."""
    plm = load_plm(PLMConfig(path=tiny(variant)), NO_PROMPTS).double().eval()
    assert plm.lm_head is not None
    input_ids, attention_mask = tokens(SHORT_PADDING)
    hidden = plm(input_ids, attention_mask)[attention_mask.bool()].detach()
    some = torch.tensor([2, 5, 6, 31, 49])
    logits = plm.lm_logits(hidden, some)
    torch.testing.assert_close(logits, plm.lm_logits(hidden)[:, some], rtol=0, atol=1e-12)
    logits.logsumexp(-1).sum().backward()
    matrix = plm.backbone.get_input_embeddings().weight if plm.lm_head.weight is None else plm.lm_head.weight
    reached = [matrix.grad.abs().sum(1)]
    if isinstance(plm.lm_head.bias, nn.Parameter):
        reached.append(plm.lm_head.bias.grad.abs().flatten())
    for gradient in reached:
        assert gradient.nonzero().flatten().tolist() == some.tolist()


@every_variant
def test_lm_head_is_tied_where_the_checkpoints_is(tiny, tokens, variant) -> None:
    """Then the vocabulary matrix is no parameter of the head, and there is one of it."""
    plm = load_plm(PLMConfig(path=tiny(variant)))
    assert plm.lm_head is not None
    head = dict(plm.lm_head.named_parameters(prefix="lm_head"))
    matrix = plm.backbone.get_input_embeddings().weight
    untied = variant in ("llama", "qwen2-window")
    assert any(parameter.shape == matrix.shape for parameter in head.values()) == untied
    assert (
        len({tensor.data_ptr() for tensor in plm.state_dict().values() if tensor.shape == matrix.shape})
        == 1 + untied
    )
    assert {name for name, _ in plm.named_parameters()} == {
        *head,
        *(name for name, _ in plm.backbone.named_parameters(prefix="backbone")),
    }
    plm.lm_logits(plm(*tokens([6]))[0]).logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for parameter in plm.parameters())


def test_no_target_leaves_zero_gradients(tiny, tokens) -> None:
    plm = load_plm(PLMConfig(path=tiny("bert")))
    hidden = plm(*tokens([6]))
    plm.lm_logits(hidden[torch.zeros(1, 6, dtype=torch.bool)]).sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in plm.parameters())


# Use


@some_variants
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.sampled
def test_forward_passes_before_a_backward_do_not_mix(load, tokens, variant, checkpointing) -> None:
    """Two micro-batches forward, an evaluation in between, then both backward: as if each had been alone."""
    plm = load(variant, "sdpa", checkpointing)
    batches = [(*tokens([5, 3], seed=seed), random_prompts(plm, 2)) for seed in (1, 2)]
    alone = [gradients(plm, plm(*batch), batch[1], batch[2]) for batch in batches]

    first, second = (plm(*batch) for batch in batches)
    with torch.no_grad():
        plm.eval()(*tokens([8]), None)
        plm.train()
    for hidden, batch, expected in ((second, batches[1], alone[1]), (first, batches[0], alone[0])):
        together = gradients(plm, hidden, batch[1], batch[2])
        for name in expected:
            torch.testing.assert_close(together[name], expected[name], rtol=0, atol=1e-10)


@some_variants
def test_a_copy_is_independent(tiny, tokens, variant) -> None:
    plm = load_plm(PLMConfig(path=tiny(variant))).eval()
    prompts = random_prompts(plm, 1)
    before = plm(*tokens([5]), prompts)
    other = copy.deepcopy(plm)
    with torch.no_grad():
        for parameter in plm.parameters():
            parameter.zero_()
    assert torch.equal(other(*tokens([5]), prompts), before)


def test_prompt_shape(tiny) -> None:
    shapes = {
        ("bert", None): (3, 16),
        ("bart", None): (5, 16),  # encoder, then decoder
        ("electra-small", None): (3, 16),
        ("bert", KEY_VALUE): (3, 2 * 4 * 4),
        ("llama-grouped", KEY_VALUE): (3, 2 * 2 * 4),
        ("qwen3", KEY_VALUE): (3, 2 * 2 * 6),
        ("bart", KEY_VALUE): (5, 2 * 4 * 4),
        ("t5", KEY_VALUE): (5, 2 * 4 * 6),
        ("gpt2", INPUT_ONLY): (1, 16),
        ("electra-small", INPUT_ONLY): (1, 8),
    }
    for (variant, prompt), expected in shapes.items():
        plm = load_plm(PLMConfig(path=tiny(variant)), prompt)
        assert (plm.prompt_shape, plm.num_layers, plm.hidden_size) == (
            expected,
            5 if variant in ENCODER_DECODERS else 3,
            16,
        ), (variant, prompt)


@some_variants
def test_frozen_stays_in_eval_mode_and_passes_gradients_to_prompts(save_tiny, tokens, variant) -> None:
    dropout = {
        "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
        "modernbert": ("embedding_dropout", "mlp_dropout", "attention_dropout"),
        "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        "qwen3": ("attention_dropout",),
        "bart": ("dropout", "attention_dropout", "activation_dropout"),
        "t5": ("dropout_rate",),
    }[variant]
    path = save_tiny(variant, **dict.fromkeys(dropout, 0.5))
    plm = load_plm(PLMConfig(path=path, gradient_checkpointing=True), lm_head=False)
    prompts = random_prompts(plm, 1)
    plm.freeze()
    plm.train()
    hidden = plm(*tokens([6]), prompts)
    assert torch.equal(hidden, plm.eval()(*tokens([6]), prompts)), "dropout is on"
    hidden.sum().backward()
    assert prompts.grad is not None
    assert prompts.grad.any()
    assert all(parameter.grad is None for parameter in plm.parameters())


# Loading


@some_variants
def test_num_layers_keeps_the_first_layers_of_each_stack(tiny, variant) -> None:
    whole = load_plm(PLMConfig(path=tiny(variant))).eval()
    cut = load_plm(PLMConfig(path=tiny(variant), num_layers=2)).eval()
    assert (whole.num_layers, cut.num_layers) == ((5, 4) if variant in ENCODER_DECODERS else (3, 2))
    for name, tensor in cut.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name
    assert plm_from_config(cut.config_dict(), PLMConfig(), PromptConfig()).num_layers == cut.num_layers


@every_variant
@pytest.mark.sampled(5)
def test_config_dict_rebuilds_the_architecture(tiny, tokens, variant) -> None:
    config = PLMConfig(path=tiny(variant), num_layers=2, attn_implementation="eager")
    plm = load_plm(config).eval()
    described = json.loads(json.dumps(plm.config_dict()))
    assert str(config.path) not in json.dumps(described)
    rebuilt = plm_from_config(described, config.model_copy(update={"path": None}), PromptConfig()).eval()
    rebuilt.load_state_dict(plm.state_dict())
    prompts = random_prompts(plm, 1)
    assert torch.equal(rebuilt(*tokens([5]), prompts), plm(*tokens([5]), prompts))
    assert all(torch.equal(tensor, plm.state_dict()[name]) for name, tensor in rebuilt.state_dict().items())
    # Not bit for bit with a single row: the same weights at other places in memory differ by up to 1e-6 in
    # torch's product
    torch.testing.assert_close(
        rebuilt.lm_logits(torch.ones(1, 16)), plm.lm_logits(torch.ones(1, 16)), rtol=1e-6, atol=2e-6
    )


@every_variant
@pytest.mark.sampled(4)
def test_random_init_reads_no_weights_and_follows_the_seed(save_tiny, variant) -> None:
    path = save_tiny(variant)
    trained = load_plm(PLMConfig(path=path)).backbone.get_input_embeddings().weight
    os.unlink(f"{path}/model.safetensors")
    config = PLMConfig(path=path, random_init=True)
    check_plm(config)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(load_plm(config).backbone.get_input_embeddings().weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], trained)


@pytest.mark.parametrize("variant", ["bert", "roberta", "distilbert", "electra-small", "modernbert"])
def test_a_checkpoint_without_lm_head_gets_a_fresh_one_from_the_seed(save_tiny, variant) -> None:
    path = save_tiny(variant)
    plain = AutoModelForMaskedLM.from_pretrained(path)
    shutil.rmtree(path)
    plain.base_model.save_pretrained(path)
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        plm = load_plm(PLMConfig(path=path))
        assert plm.lm_head is not None
        heads.append(dict(plm.lm_head.named_parameters(prefix="lm_head")))
    name = next(name for name, parameter in heads[0].items() if parameter.dim() == 2)
    assert torch.equal(heads[0][name], heads[1][name])
    assert not torch.equal(heads[0][name], heads[2][name])
    assert torch.equal(plm.backbone.get_input_embeddings().weight, plain.get_input_embeddings().weight)


@pytest.mark.parametrize("variant", ["gpt2", "llama-grouped", "bart", "t5"])
def test_a_checkpoint_of_the_backbone_alone_has_its_tied_head(save_tiny, tokens, variant) -> None:
    path = save_tiny(variant)
    whole = load_plm(PLMConfig(path=path)).eval()
    plain = plain_model(path)
    shutil.rmtree(path)
    plain.save_pretrained(path)
    plm = load_plm(PLMConfig(path=path)).eval()
    for name, tensor in plm.state_dict().items():
        if name != "lm_head.bias":  # BART's bias on the logits is not the backbone's, and starts at 0
            assert torch.equal(tensor, whole.state_dict()[name]), name
    hidden = plm(*tokens([5]))
    expected = nn.functional.linear(hidden[0], plain.get_input_embeddings().weight)
    if variant == "t5":
        expected = expected / plm.hidden_size**0.5
    torch.testing.assert_close(plm.lm_logits(hidden[0]), expected, rtol=0, atol=1e-5)


def test_hub_model_is_read_from_the_cache_without_a_network(monkeypatch, save_tiny, tokens, tmp_path) -> None:
    path = save_tiny("roberta")
    expected = load_plm(PLMConfig(path=path)).eval()(*tokens([5]))
    hub = tmp_path / "hub" / "models--somebody--tiny"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("0" * 40)
    shutil.move(path, hub / "snapshots" / ("0" * 40))
    for name in ("huggingface_hub.constants.HF_HUB_CACHE", "transformers.utils.hub.constants.HF_HUB_CACHE"):
        monkeypatch.setattr(name, str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = PLMConfig(path="somebody/tiny")
    assert check_plm(config).model_type == "roberta"
    assert torch.equal(load_plm(config).eval()(*tokens([5])), expected)


def test_check_plm_tells_what_it_read(tiny) -> None:
    kinds = {
        "bert": "masked",
        "electra-small": "masked",
        "gpt2": "causal",
        "qwen3": "causal",
        "bart": "denoising",
        "t5": "denoising",
    }
    for variant, lm_kind in kinds.items():
        facts = check_plm(PLMConfig(path=tiny(variant)))
        plm = load_plm(PLMConfig(path=tiny(variant)), lm_head=False)
        assert (facts.model_type, facts.lm_kind) == (VARIANTS[variant][0], lm_kind)
        assert (facts.num_layers, facts.hidden_size, facts.max_tokens) == (
            plm.num_layers,
            plm.hidden_size,
            plm.max_tokens,
        )


def _without_config(path: str) -> None:
    os.unlink(f"{path}/config.json")


def _broken_config(path: str) -> None:
    Path(path, "config.json").write_text("{")


def _without_weights(path: str) -> None:
    os.unlink(f"{path}/model.safetensors")


def _pickled_weights(path: str) -> None:
    os.rename(f"{path}/model.safetensors", f"{path}/pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (_without_config, r"no config\.json"),
        (_broken_config, "not valid JSON"),
        (_without_weights, r"no weights; put model\.safetensors"),
        (_pickled_weights, r"pytorch_model\.bin\) are a pickle"),
    ],
)
def test_unusable_folder_is_refused_in_one_line(save_tiny, spoil, message) -> None:
    config = PLMConfig(path=save_tiny("bert"))
    check_plm(config)
    spoil(config.path)
    for call in (check_plm, load_plm):
        with pytest.raises(ConfigError, match=message) as caught:
            call(config)
        assert "\n" not in str(caught.value)


# DeBERTa adds positions to the scores, XLNet permutes, Mamba has no attention, ALBERT's layers are one
# layer many times
@pytest.mark.parametrize(
    "model_type", ["mt5", "deberta-v2", "xlnet", "mamba", "albert", "nothing-known", None]
)
def test_a_family_that_cant_take_prompts_is_refused_by_name(tmp_path, model_type) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for call in (check_plm, load_plm):
        with pytest.raises(ConfigError) as caught:
            call(PLMConfig(path=str(tmp_path)))
        message = str(caught.value)
        assert f"model_type={model_type!r}" in message
        assert all(name in message.partition("known:")[2] for name in FAMILIES)
        assert "\n" not in message


class _Malicious:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.touched,)


def test_a_pickle_beside_the_weights_is_never_read(save_tiny, tmp_path) -> None:
    path = save_tiny("bert")
    touched = tmp_path / "touched"
    for name in ("pytorch_model.bin", "training_args.bin"):
        Path(path, name).write_bytes(pickle.dumps(_Malicious(touched)))
    load_plm(PLMConfig(path=path))
    os.unlink(f"{path}/model.safetensors")
    with pytest.raises(ConfigError, match="pickle, which is never loaded"):
        load_plm(PLMConfig(path=path))
    assert not touched.exists()


def test_unset_path_and_too_many_layers_are_refused(tiny) -> None:
    for call in (check_plm, load_plm):
        with pytest.raises(ConfigError, match=r"plm\.path is not set"):
            call(PLMConfig())
        with pytest.raises(ConfigError, match=r"plm\.num_layers=4.*has 3 layers"):
            call(PLMConfig(path=tiny("bert"), num_layers=4))
        with pytest.raises(ConfigError, match=r"plm\.num_layers=3.*has 2 layers"):
            call(PLMConfig(path=tiny("bart"), num_layers=3))


@pytest.mark.parametrize("damage", ["cut off", "layer missing"])
def test_damaged_weights_are_refused(save_tiny, damage) -> None:
    path = save_tiny("bert", num_hidden_layers=2)
    if damage == "cut off":
        os.truncate(f"{path}/model.safetensors", 1000)
    else:
        config = json.loads(Path(path, "config.json").read_text())
        Path(path, "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(
        ConfigError,
        match="can't be loaded" if damage == "cut off" else r"lacks 16 tensors.*encoder\.layer\.2",
    ):
        load_plm(PLMConfig(path=path))


def test_hub_name_out_of_reach_is_refused(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("nobody/no-such-model", "not a name!"):
        with pytest.raises(ConfigError, match=r"not in the local Hugging Face cache.*give its folder"):
            check_plm(PLMConfig(path=name))


@every_variant
@pytest.mark.sampled(4)
def test_text_longer_than_the_position_table_is_refused(tiny, tokens, variant) -> None:
    """Layer-wise prompts take no position; prompts before the first layer do."""
    layerwise = load_plm(PLMConfig(path=tiny(variant)), PromptConfig(num_prompts=K), lm_head=False)
    input_only = load_plm(
        PLMConfig(path=tiny(variant)), PromptConfig(num_prompts=K, prompt_depth="input"), lm_head=False
    )
    limit = 38 if variant == "roberta" else 40  # RoBERTa's positions count from the padding id + 1
    assert (layerwise.max_tokens, input_only.max_tokens) == (limit, limit - K)
    for plm in (layerwise, input_only):
        plm(*tokens([plm.max_tokens]), random_prompts(plm, 1))
        with pytest.raises(DataError, match=f"at most {plm.max_tokens}"):
            plm(*tokens([plm.max_tokens + 1]), random_prompts(plm, 1))


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash attention is there")
def test_flash_attention_that_isnt_there_is_refused(tiny) -> None:
    for call in (check_plm, load_plm):
        with pytest.raises(ConfigError, match=r"attn_implementation=flash.*use sdpa"):
            call(PLMConfig(path=tiny("bert"), attn_implementation="flash"))


@pytest.mark.parametrize("variant", ["gpt2", "bart", "t5"])
def test_pooling_the_first_token_of_a_decoder_is_refused(tiny, variant) -> None:
    with pytest.raises(ConfigError, match=r"plm\.pooling=cls.*use last or mean"):
        check_plm(PLMConfig(path=tiny(variant), pooling="cls"))


def test_what_a_t5_cannot_do_is_refused(save_tiny) -> None:
    path = save_tiny("t5")
    for change, said in (
        (
            {"last_layer": "targets"},
            r"^plm\.last_layer=targets: the position biases of a t5.*last_layer=full$",
        ),
        ({"attn_implementation": "flash"}, r"^plm\.attn_implementation=flash: .*position biases.*use sdpa$"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_plm(PLMConfig(path=path, **change))
    values = json.loads(Path(path, "config.json").read_text())
    values.pop("scale_decoder_outputs", None)
    for untied in (values | {"tie_word_embeddings": False}, values | {"scale_decoder_outputs": False}):
        Path(path, "config.json").write_text(json.dumps(untied))
        with pytest.raises(ConfigError, match=r"output matrix of its own .*such as google-t5/t5-base$"):
            check_plm(PLMConfig(path=path))


@pytest.mark.skipif(MINILM is None, reason="CLICKPROMPT_MINILM names no folder with MiniLM's weights")
@pytest.mark.parametrize("num_layers", [None, 2])
def test_real_minilm_weights(num_layers: int | None) -> None:
    plm = load_plm(PLMConfig(path=MINILM, num_layers=num_layers)).double().eval()
    assert (plm.hidden_size, plm.num_layers, plm.vocab_size) == (384, num_layers or 6, 30522)
    input_ids = torch.randint(1000, 2000, (2, 12), generator=torch.Generator().manual_seed(0))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, 7:] = 0
    prompts = random_prompts(plm, 2)
    text = attention_mask.bool()
    expected = naive_plm(plm.backbone, input_ids, attention_mask, prompts)[text]
    torch.testing.assert_close(plm(input_ids, attention_mask, prompts)[text], expected, rtol=0, atol=1e-6)

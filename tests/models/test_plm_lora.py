"""Adapters of every PLM family against a naive model whose matrices are W + α / r · B A, prompts included."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call

from clickprompt.config import LoRAConfig, PLMConfig, PromptConfig
from clickprompt.errors import ConfigError
from clickprompt.models.clickprompt import load_matching, unique_tensors
from clickprompt.models.plm import PromptedPLM
from clickprompt.models.plm_families import PLM_FAMILIES
from clickprompt.models.plm_loading import check_plm, load_plm
from clickprompt.models.plm_lora import fit_adapters, merged
from tests.support.naive_plm import naive_plm
from tests.support.tiny_plms import FAMILIES, VARIANTS

LORA = LoRAConfig(rank=2, alpha=3.0)
K = 2
LENGTHS = [4, 9, 6]


def adapted(path: str, **options) -> PromptedPLM:
    """A float64 PLM whose adapters have been trained: neither A nor B is 0."""
    plm = load_plm(PLMConfig(path=path, lora=LORA, **options)).double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in plm.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return plm


def random_prompts(plm: PromptedPLM) -> torch.Tensor:
    layers, width = plm.prompt_shape
    generator = torch.Generator().manual_seed(2)
    return torch.randn(len(LENGTHS), layers, K, width, generator=generator).double().requires_grad_()


class Naive(nn.Module):
    """The plain model's layers by hand; `functional_call` gives it other matrices."""

    def __init__(self, plm: PromptedPLM) -> None:
        super().__init__()
        self.backbone = plm.backbone

    def forward(self, *inputs):
        return naive_plm(self.backbone, *inputs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_prompted_states_and_gradients_are_those_of_written_out_matrices(tiny, tokens, variant) -> None:
    plm = adapted(tiny(variant))
    plain = load_plm(PLMConfig(path=tiny(variant))).double()
    inputs = tokens(LENGTHS)
    text = inputs[1].bool()
    trained = {name: p for name, p in plm.backbone.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * len({name.partition(".lora_")[0] for name in trained})

    prompts = random_prompts(plm)
    coefficients = torch.randn(
        *text.shape, plm.hidden_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    hidden = plm(*inputs, prompts)
    (hidden[text] * coefficients[text]).sum().backward()

    leaves = {name: p.detach().clone().requires_grad_() for name, p in trained.items()}
    matrices = {}
    for name in leaves:
        stem, _, part = name.partition(".lora_")
        if part.startswith("A"):
            added = 3.0 / 2 * leaves[f"{stem}.lora_B.default.weight"] @ leaves[name]
            weight = plain.backbone.get_parameter(f"{stem}.weight").detach()
            # GPT-2's matrices are [in, out]
            matrices[f"backbone.{stem}.weight"] = weight + (added.T if variant == "gpt2" else added)
    others = prompts.detach().clone().requires_grad_()
    expected = functional_call(Naive(plain), matrices, (*inputs, others))
    (expected[text] * coefficients[text]).sum().backward()

    torch.testing.assert_close(hidden[text], expected[text], rtol=0, atol=1e-6)
    torch.testing.assert_close(prompts.grad, others.grad, rtol=0, atol=1e-6)
    for name, parameter in trained.items():
        torch.testing.assert_close(parameter.grad, leaves[name].grad, rtol=0, atol=1e-6)
        assert parameter.grad.abs().max() > 1e-6, f"{name} has no gradient"

    plain.load_state_dict(merged(plm.state_dict(), LORA, plm.config.model_type))
    torch.testing.assert_close(plain(*inputs, prompts)[text], hidden[text], rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", ["bert", "modernbert", "gpt2", "qwen3", "bart"])
def test_a_last_layer_at_targets_has_the_same_states(tiny, tokens, variant) -> None:
    whole, chosen = adapted(tiny(variant)), adapted(tiny(variant), last_layer="targets")
    inputs, prompts = tokens(LENGTHS), random_prompts(whole)
    positions = torch.tensor([[0, 3], [8, 2], [5, 5]])
    expected = whole(*inputs, prompts).gather(1, positions[..., None].expand(-1, -1, whole.hidden_size))
    torch.testing.assert_close(chosen(*inputs, prompts, positions=positions), expected, rtol=0, atol=1e-6)


def test_every_family_has_targets(tiny) -> None:
    for variant in FAMILIES:
        check_plm(PLMConfig(path=tiny(variant), lora=LORA))
    assert {name for name, family in PLM_FAMILIES.items() if family.transposed} == {"gpt2"}


def test_adapters_begin_as_the_plain_model(tiny, tokens) -> None:
    plm, plain = (load_plm(PLMConfig(path=tiny("bert"), lora=lora)) for lora in (LORA, LoRAConfig()))
    assert torch.equal(plm(*tokens(LENGTHS)), plain(*tokens(LENGTHS)))


def test_of_the_lm_head_its_vocabulary_matrix_is_frozen(tiny) -> None:
    def trained(variant: str) -> set[str]:
        plm = load_plm(PLMConfig(path=tiny(variant), lora=LORA))
        return {name for name, p in plm.named_parameters() if p.requires_grad and "lora_" not in name}

    assert all(name.startswith(("lm_head.transform.", "lm_head.bias")) for name in trained("bert"))
    assert "lm_head.bias" in trained("bert")  # tied: the matrix is the embeddings
    assert trained("llama") == set()  # a matrix of its own


def test_a_vocabulary_matrix_that_the_checkpoint_lacks_is_trained(tiny, tmp_path) -> None:
    shutil.copytree(tiny("llama"), tmp_path / "plm")
    file = tmp_path / "plm" / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if name != "lm_head.weight"}
    save_file(tensors, file, metadata={"format": "pt"})
    plm = load_plm(PLMConfig(path=str(tmp_path / "plm"), lora=LORA))
    assert plm.lm_head.weight.requires_grad


def test_chosen_targets(tiny) -> None:
    lora = LoRAConfig(rank=2, targets=("key", "attention.output.dense"))
    plm = load_plm(PLMConfig(path=tiny("bert"), lora=lora))
    found = {name.partition(".lora_")[0] for name, _ in plm.backbone.named_parameters() if ".lora_" in name}
    assert found == {
        f"encoder.layer.{layer}.attention.{of}" for layer in range(3) for of in ("self.key", "output.dense")
    }
    unknown = LoRAConfig(rank=2, targets=("q_proj",))
    with pytest.raises(ConfigError, match="no linear map 'q_proj'; they have dense, key, query, value"):
        check_plm(PLMConfig(path=tiny("bert"), lora=unknown))


def test_adapters_of_a_bfloat16_plm_are_float32(tiny, tokens) -> None:
    plm = load_plm(PLMConfig(path=tiny("bert"), dtype="bfloat16", lora=LORA), lm_head=False)
    dtypes = {p.requires_grad: p.dtype for p in plm.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert plm.backbone.dtype == torch.bfloat16
    plm(*tokens(LENGTHS), random_prompts(plm)).float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in plm.parameters() if p.requires_grad)


def test_dropout_is_that_of_what_a_reads(tiny, tokens) -> None:
    plm = adapted(tiny("bert"))
    dropped = load_plm(PLMConfig(path=tiny("bert"), lora=LORA.model_copy(update={"dropout": 0.5}))).double()
    dropped.load_state_dict(plm.state_dict())
    inputs, prompts = tokens(LENGTHS), random_prompts(plm)
    assert not torch.allclose(dropped(*inputs, prompts), plm(*inputs, prompts))
    assert torch.equal(dropped.eval()(*inputs, prompts), plm.eval()(*inputs, prompts))


@pytest.mark.parametrize("prompt", [PromptConfig(), PromptConfig(prompt_injection="key_value")])
@pytest.mark.parametrize("own", [LORA, LORA.model_copy(update={"rank": 3}), LoRAConfig()])
@pytest.mark.parametrize("earlier", [LORA, LoRAConfig()])
def test_a_model_with_other_adapters_starts_as_the_trained_one(tiny, tokens, earlier, own, prompt) -> None:
    path = tiny("gpt2")
    before = adapted(path) if earlier.rank else load_plm(PLMConfig(path=path)).double()
    with torch.no_grad():
        before.backbone.wte.weight.add_(1.0)  # something trained besides
    after = load_plm(PLMConfig(path=path, lora=own), prompt).double()
    names = unique_tensors(after)
    left = load_matching(after, fit_adapters(unique_tensors(before), earlier, "gpt2", own, names))
    assert all(".lora_" in name for name in left)
    assert bool(left) == (own.rank > 0 and own != earlier)
    inputs = tokens(LENGTHS)
    torch.testing.assert_close(after(*inputs), before(*inputs), rtol=0, atol=1e-10)

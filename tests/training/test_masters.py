"""fp32 copies of bf16 weights (`plm.master_weights`), against the steps written out by hand."""

import os

import pytest
import torch
from safetensors import safe_open

from clickprompt.config import load_config, replaced
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.errors import ConfigError
from clickprompt.training.engine import weighted_mean
from tests.support.engines import build, record
from tests.support.tiny import tiny_config, write_both

MASTERS = {"plm.dtype": "bfloat16", "plm.master_weights": True}
WORDS = "plm.backbone.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("masters")))
    return replaced(tiny_config(dataset.uri, plm, pretrain__lr__plm=1e-5), MASTERS)


def test_steps_are_those_of_fp32_copies(config) -> None:
    dataset, stage, _, collator, engine = build(config, "pretrain", "torch", 1)
    _, _, by_hand, _, other = build(config, "pretrain", "torch", 1)
    model = other.model
    rates = {
        id(p): (g["base_lr"], g["weight_decay"]) for g in other.optimizer.param_groups for p in g["params"]
    }
    trained = [(p, other._masters.of(p)) for p in model.parameters()]
    copies = [p.detach().float().clone() for p, _ in trained]
    moments = [(torch.zeros_like(c), torch.zeros_like(c)) for c in copies]
    rows = columns_of(dataset.read_split("train"))
    for step in (1, 2, 3):
        part = {name: column[24 * step : 24 * (step + 1)] for name, column in rows.items()}
        batch = collator(part, epoch=0)
        targets = [float(by_hand.count_targets(batch).item())]
        engine.begin([batch], step - 1)
        engine.accumulate(batch, targets, last=True)
        engine.gradient_norm()
        engine.step()

        model.zero_grad()
        weighted_mean(by_hand(batch), by_hand, targets, 1.0).backward()
        gradients = [p.grad.float() for p, _ in trained]
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        factor = min(1.0, stage.max_grad_norm / (norm.item() + 1e-6))
        with torch.no_grad():
            for (p, stepped), copy, (first, second), gradient in zip(
                trained, copies, moments, gradients, strict=True
            ):
                rate, decay = rates[id(stepped)]
                gradient = gradient * factor
                first.mul_(0.9).add_(0.1 * gradient)
                second.mul_(0.999).add_(0.001 * gradient**2)
                copy.mul_(1 - rate * decay)
                root = (second / (1 - 0.999**step)).sqrt() + 1e-8
                copy.sub_(rate * first / (1 - 0.9**step) / root)
                p.copy_(copy)
        for copy, ours in zip(copies, engine.model.parameters(), strict=True):
            torch.testing.assert_close(engine._masters.of(ours).detach(), copy, rtol=1e-4, atol=2e-6)
            assert torch.equal(ours, engine._masters.of(ours).to(ours.dtype))


def test_small_steps_are_kept_and_a_run_continues_to_the_same_bits(config, tmp_path) -> None:
    keep = str(tmp_path / "kept")
    whole = record(config, keep=keep, until=10, steps=10)
    on = record(config, keep=keep, resume=5, steps=10)
    assert on.losses == whole.losses[5:]
    for name, tensor in whole.engine.weights().items():
        assert torch.equal(tensor, on.engine.weights()[name]), name
    with safe_open(os.path.join(keep, "10", "state-00000.safetensors"), "pt") as file:
        assert file.get_tensor(f"weight|0|{WORDS}").dtype == torch.float32
        assert file.get_tensor(f"exp_avg|0|{WORDS}").dtype == torch.float32
    _, _, _, _, fresh = build(config, "pretrain", "torch", 1)
    plain = record(replaced(config, {"plm.master_weights": False}), until=10, steps=10)
    moved, lost = (
        (engine.model.get_parameter(WORDS) != fresh.model.get_parameter(WORDS)).float().mean()
        for engine in (whole.engine, plain.engine)
    )
    assert moved > 0
    assert lost < moved


def test_there_is_nothing_to_copy_of_fp32() -> None:
    with pytest.raises(ConfigError, match="master_weights=true copies bf16 weights, and dtype is float32"):
        load_config(None, ["plm.master_weights=true"])

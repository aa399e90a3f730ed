"""AdamW with the PLM's moments in 8 bits (`plm.optimizer_bits`) against its steps by hand, stopped and
continued, on two workers, and what is refused.
"""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig

from clickprompt.config import replaced
from clickprompt.errors import ConfigError
from clickprompt.export.format import export_of, load_export
from clickprompt.models.parameter_groups import group_of
from clickprompt.runtime.cluster.sizing import size_training
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.training.eight_bit import EightBitAdamW, eight_bit_parameters
from clickprompt.training.footprint import footprint
from clickprompt.training.slices import Slice, load_slices, save_slices
from tests.support.ending import ended_and_continued, lines_of, newest_state
from tests.support.engines import SMALL, Case, build, distributed, losses_of, record
from tests.support.tiny import tiny_config, write_both

STEPS, HALF = 6, 3
EIGHT = {"plm.optimizer_bits": 8}
MASTERS = {"plm.dtype": "bfloat16", "plm.master_weights": True}
QUERY = "plm.backbone.encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A PLM whose matrices have 4,096 elements and more, and so do its embeddings of positions."""
    dataset, plm = write_both(str(tmp_path_factory.mktemp("eight")))
    BertConfig.from_pretrained(plm, hidden_size=64, intermediate_size=128).save_pretrained(plm)
    rates = {"pretrain__lr": "{ctr: 1e-2, projector: 2e-3, plm: 5e-3, heads: 5e-4}"}
    return replaced(tiny_config(dataset.uri, plm, pretrain__checkpoint_every=HALF, **rates), EIGHT)


def optimizer_of(*parameters: torch.Tensor, decay: float = 0.0) -> EightBitAdamW:
    group = {"params": list(parameters), "name": "plm", "lr": 0.01, "weight_decay": decay}
    return EightBitAdamW([group], parameters)


def decoded(codes: torch.Tensor, scales: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return table[codes.flatten().long()] * scales.repeat_interleave(256)[: codes.numel()]


def encoded(values: torch.Tensor, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest code of each value over its block's largest magnitude."""
    codes, scales = [], []
    for block in values.split(256):
        scales.append(block.abs().max())
        codes.append(((block / scales[-1])[:, None] - table).abs().argmin(dim=1).to(torch.uint8))
    return torch.cat(codes), torch.stack(scales)


def test_a_step_is_adamws_on_decoded_moments():
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(30, 150, generator=generator))  # the last block is not full
    optimizer = optimizer_of(weight, decay=0.1)
    expected = weight.detach().clone().flatten()
    first = second = torch.zeros(4500)
    for step in (1, 2, 3):
        gradient = torch.randn(4500, generator=generator) * 10.0 ** torch.arange(4500).div(900).floor().neg()
        weight.grad = gradient.view(30, 150).clone()
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        expected *= 1 - 0.01 * 0.1
        expected -= 0.01 * first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        torch.testing.assert_close(weight.detach().flatten(), expected, rtol=1e-5, atol=1e-6)
        state, moments = optimizer.state[weight], []
        for number, moment in ((1, first), (2, second)):
            codes, scales = encoded(moment, state[f"qmap{number}"])
            found = decoded(state[f"state{number}"], scales, state[f"qmap{number}"])
            # On a CPU bitsandbytes looks codes up by the value in steps of a 32,768th
            off = (moment - found).abs() - (moment - decoded(codes, scales, state[f"qmap{number}"])).abs()
            assert (off <= scales.repeat_interleave(256)[:4500] / 2**15).all()
            torch.testing.assert_close(scales, state[f"absmax{number}"])
            moments.append(decoded(*(state[f"{name}{number}"] for name in ("state", "absmax", "qmap"))))
        first, second = moments
    assert (state["state1"].dtype, weight.numel() * 2 + 18 * 8) == (
        torch.uint8,
        sum(state[name].nbytes for name in ("state1", "state2", "absmax1", "absmax2")),
    )


def stepped(seed: int, scale: float, zeros: bool) -> tuple[torch.nn.Parameter, EightBitAdamW]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.nn.Parameter(torch.randn(65, 64, generator=generator))
    optimizer = optimizer_of(weight)
    for _ in range(2):
        weight.grad = torch.randn(65, 64, generator=generator) * scale
        if zeros:
            weight.grad[:16] = 0
        optimizer.step()
    return weight, optimizer


@given(seed=st.integers(0, 99), exponent=st.integers(-44, 15), zeros=st.booleans(), flush=st.booleans())
@settings(deadline=None, max_examples=12)
def test_a_checkpoint_has_the_moments_to_the_bit(tmp_path_factory, seed, exponent, zeros, flush):
    """Those of blocks of zeros and of the least numbers there are, too."""
    torch.set_flush_denormal(flush)
    weight, optimizer = stepped(seed, 10.0**exponent, zeros)
    folder = str(tmp_path_factory.getbasetemp())
    save_slices(folder, 0, 1, [Slice("w", 0, weight.numel(), weight)], optimizer, {}, {})
    other = torch.nn.Parameter(torch.zeros(65, 64))
    fresh = optimizer_of(other)
    fresh.allocate()
    load_slices(folder, [Slice("w", 0, other.numel(), other)], fresh, {})
    for parameter, one in ((weight, optimizer), (other, fresh)):
        parameter.grad = torch.ones(65, 64)
        one.step()
    torch.set_flush_denormal(False)
    assert torch.equal(weight, other)
    assert fresh.state[other].keys() == optimizer.state[weight].keys()
    for slot, value in optimizer.state[weight].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(fresh.state[other][slot])), slot


def test_decoded_first_moments_have_other_scales_when_encoded_again():
    """Why checkpoints have the codes: the table has +1, and -0.993 in place of -1."""
    weight, optimizer = stepped(0, 1.0, zeros=False)
    state = optimizer.state[weight]
    same = []
    for number in (1, 2):
        codes, scales, table = (state[f"{name}{number}"] for name in ("state", "absmax", "qmap"))
        again, others = encoded(decoded(codes, scales, table), table)
        same.append(torch.equal(others, scales) and torch.equal(again, codes.flatten()))
    assert same == [False, True]


def test_a_run_that_fails_continues_to_the_same_bits_and_is_close_to_one_of_fp32_moments(config, tmp_path):
    settings = {"runtime.use_ray": "never", "pretrain.max_steps": 8, "pretrain.checkpoint_every": 5}
    config = replaced(config, settings)
    whole, plain = str(tmp_path / "whole"), str(tmp_path / "plain")
    run_training(config, "pretrain", whole)
    ended_and_continued(config, "pretrain", str(tmp_path / "run"), whole)
    run_training(replaced(config, {"plm.optimizer_bits": 32}), "pretrain", plain)
    ours, theirs = ([line["loss"] for line in lines_of(run)] for run in (whole, plain))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=1e-3)

    slots: dict[str, dict[str, torch.dtype]] = {}
    for key, tensor in newest_state(whole)[0].items():
        slot, _, name = key.split("|", 2)
        slots.setdefault(name, {})[slot] = tensor.dtype
    for name, parameter in load_export(export_of(whole))[0].named_parameters():
        in_8_bits = group_of(name) == "plm" and parameter.numel() >= 4096 and "embeddings" not in name
        expected = dict.fromkeys(("weight", "exp_avg", "exp_avg_sq", "step"), torch.float32)
        if in_8_bits:
            expected = dict.fromkeys(("weight", "absmax1", "absmax2"), torch.float32) | {"step": torch.int64}
            expected |= dict.fromkeys(("state1", "state2"), torch.uint8)
        assert slots[name] == expected, name


def test_with_fp32_copies_of_bf16_weights_too(config, tmp_path):
    config, keep = replaced(config, MASTERS), str(tmp_path)
    whole = record(config, keep=keep, steps=STEPS, until=STEPS)
    assert whole.engine.optimizer.state[whole.engine._masters.of(whole.engine.model.get_parameter(QUERY))]
    on = record(config, keep=keep, steps=STEPS, resume=HALF)
    assert on.losses == whole.losses[HALF:]
    for name, tensor in whole.engine.weights().items():
        assert torch.equal(tensor, on.engine.weights()[name]), name


def test_a_step_that_is_skipped_changes_nothing(config):
    """It is the host that skips it: bitsandbytes' optimizer can't be told to by the device."""
    _, _, _, _, engine = build(config, "pretrain", "torch", 1)
    assert not engine.guards_itself
    for parameter in engine.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    engine.step()
    query = engine.model.get_parameter(QUERY)
    before = {name: torch.as_tensor(value).clone() for name, value in engine.optimizer.state[query].items()}
    weights = engine.weights()
    query.grad = torch.full_like(query, torch.nan)
    engine.skip()
    assert query.grad is None
    assert all(torch.equal(tensor, weights[name]) for name, tensor in engine.weights().items())
    after = engine.optimizer.state[query]
    assert all(torch.equal(value, torch.as_tensor(after[name])) for name, value in before.items())


@pytest.mark.slow
def test_two_workers_equal_one_and_either_continues_the_other(config, tmp_path):
    alone = losses_of(config, steps=STEPS, until=STEPS, keep=str(tmp_path))
    options = {"changes": SMALL, "steps": STEPS}
    both = {
        "whole": Case("torch", keep=str(tmp_path / "two"), until=STEPS, **options),
        "on": Case("torch", keep=str(tmp_path), resume=HALF, **options),
    }
    curves = distributed(config, 2, both)
    assert curves["whole"] == pytest.approx(alone, rel=1e-4)
    assert curves["on"] == pytest.approx(alone[HALF:], rel=1e-4)


def test_without_a_trained_plm_the_optimizer_is_torchs(config):
    frozen = replaced(config, {"pretrain.lr.plm": 0.0})
    for changed, objective in ((frozen, "pretrain"), (config, "without_plm")):
        _, _, _, _, engine = build(changed, objective, "torch", 1)
        assert isinstance(engine.optimizer, torch.optim.AdamW)


def test_what_is_refused_before_the_training(config, monkeypatch):
    divided = {"runtime.engine": "deepspeed", "runtime.num_workers": 2}
    for check in (check_training, size_training):
        with pytest.raises(ConfigError, match=r"plm\.optimizer_bits=8: .*use runtime\.engine=torch, or"):
            check(replaced(config, divided), "pretrain")
    check_training(replaced(config, divided | {"runtime.num_workers": 1}), "pretrain")  # plain torch
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"isn't installed; run pip install 'clickprompt\[eightbit\]'"):
        check_training(config, "pretrain")


def test_what_a_plan_says_is_what_the_optimizer_has(config):
    """Both moments of the PLM's large parameters, 2 bytes an element and 8 a block; a CPU decodes one of them
    at a time.
    """
    _, stage, _, _, engine = build(config, "pretrain", "torch", 1)
    for parameter in engine.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    engine.step()
    has = sum(
        value.nbytes
        for state in engine.optimizer.state.values()
        for slot, value in state.items()
        if slot not in ("step", "qmap1", "qmap2")
    )
    found, plain = (
        footprint(engine.model, changed, stage, 16, 2)
        for changed in (config, replaced(config, {"plm.optimizer_bits": 32}))
    )
    large = sum(parameter.numel() for parameter in eight_bit_parameters(engine.model))
    assert has == found.optimizer == plain.optimizer - 6 * large + 8 * large // 256
    assert found.weights == plain.weights

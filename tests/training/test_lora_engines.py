"""Training adapters (`plm.lora`): every engine and number of workers has the losses of one plain process."""

import pytest
import torch
from safetensors import safe_open

from clickprompt.config import replaced
from clickprompt.models.build import build_model
from clickprompt.models.parameter_groups import parameter_groups
from tests.support.engines import LOWER, SMALL, Case, Curves, build, distributed, losses_of
from tests.support.layouts import made_up
from tests.support.tiny import tiny_config, write_both, write_plm

STEPS, HALF = 10, 5
LORA = {"plm.lora.rank": 2, "plm.lora.alpha": 8.0}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("lora")))
    rates = {"pretrain__lr": "{ctr: 1e-2, projector: 2e-3, plm: 2e-2, heads: 5e-4}"}
    return replaced(tiny_config(dataset.uri, plm, **rates), LORA)


@pytest.fixture(scope="module")
def gpt2(config, tmp_path_factory):
    """Its adapters are of queries, keys and values at once, prompts' included."""
    return replaced(config, {"plm.path": write_plm(str(tmp_path_factory.mktemp("gpt2") / "plm"), "gpt2")})


@pytest.fixture(scope="module")
def plain(config):
    return losses_of(config, steps=STEPS)


def halves(folder, engine: str) -> dict[str, Case]:
    """A run that is stopped half-way, and its second half."""
    options = {"changes": SMALL, "keep": str(folder / engine), "steps": STEPS}
    return {
        engine: Case(engine, until=HALF, **options),
        f"{engine}, on": Case(engine, resume=HALF, **options),
    }


@pytest.fixture(scope="module")
def two_workers(config, gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    cases = halves(folder, "torch") | halves(folder, "3")
    cases["bf16"] = Case("torch", changes={**SMALL, "runtime.precision": "bf16"}, until=HALF, steps=STEPS)
    cases["3, gpt2"] = Case("3", changes={**SMALL, "plm.path": gpt2.plm.path}, until=HALF, steps=STEPS)
    return Curves(config, 2, cases), folder


@pytest.mark.parametrize("engine", ["torch", pytest.param("3", marks=pytest.mark.slow)])
def test_two_workers_stopped_and_continued_equal_one_plain_process(two_workers, plain, engine):
    curves, _ = two_workers
    assert curves[engine] + curves[f"{engine}, on"] == pytest.approx(plain, rel=1e-5)


def test_in_bf16_too(two_workers, plain):
    curves, _ = two_workers
    assert curves["bf16"] == pytest.approx(plain[:HALF], rel=LOWER["bf16"])


def test_divided_parameters_of_a_map_for_queries_keys_and_values(two_workers, gpt2):
    curves, _ = two_workers
    assert curves["3, gpt2"] == pytest.approx(losses_of(gpt2, until=HALF, steps=STEPS), rel=1e-5)


@pytest.mark.slow
def test_every_stage_precision_and_objective(config, plain, tmp_path):
    cases = {name: case for engine in ("0", "1", "2") for name, case in halves(tmp_path, engine).items()}
    lower = {**SMALL, "runtime.precision": "bf16"}
    cases |= {f"{engine}, bf16": Case(engine, changes=lower, steps=STEPS) for engine in "0123"}
    cases |= {
        f"{engine}, finetuned": Case(engine, "with_plm", changes=SMALL, steps=STEPS) for engine in "0123"
    }
    curves = distributed(config, 2, cases)
    finetuned = losses_of(config, objective="with_plm", steps=STEPS)
    for engine in "0123":
        assert curves[f"{engine}, bf16"] == pytest.approx(plain, rel=LOWER["bf16"]), engine
        assert curves[f"{engine}, finetuned"] == pytest.approx(finetuned, rel=1e-5), engine
    for engine in "012":
        assert curves[engine] + curves[f"{engine}, on"] == pytest.approx(plain, rel=1e-5), engine


@pytest.mark.parametrize("engine", ["torch", "3"])
def test_checkpoints_hold_what_is_trained_and_weights_are_whole(two_workers, config, engine):
    curves, folder = two_workers
    curves[f"{engine}, on"]
    names = set()
    for file in (folder / engine / f"{STEPS}").glob("state-*.safetensors"):
        with safe_open(file, "pt") as source:
            names |= {key.split("|")[2] for key in source.keys() if key.startswith("weight|")}  # noqa: SIM118
    of_backbone = {name for name in names if name.startswith("plm.backbone.")}
    assert of_backbone
    assert all(".lora_" in name for name in of_backbone)
    assert {name.partition(".")[0] for name in names} == {"ctr", "plm", "prompt_projector"}

    _, _, _, _, plain_engine = build(config, "pretrain", "torch", 1)
    before = plain_engine.weights()
    plain_engine.load(str(folder / engine / f"{STEPS}"))
    after = plain_engine.weights()
    with safe_open(folder / engine / f"{STEPS}-weights.safetensors", "pt") as written:
        assert set(written.keys()) == after.keys()
        assert all(torch.equal(written.get_tensor(name), tensor) for name, tensor in after.items())
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {name for name in moved if name.startswith("plm.backbone.")} == of_backbone


def test_adapters_have_the_plms_learning_rate(config):
    stage = config.pretrain
    model = build_model(config, made_up([5] * 4), objective="pretrain")
    rate_of = {
        id(parameter): group["base_lr"]
        for group in parameter_groups(model, stage)
        for parameter in group["params"]
    }
    rates = {name: rate_of.get(id(parameter)) for name, parameter in model.named_parameters()}
    assert {rate for name, rate in rates.items() if ".lora_" in name} == {stage.lr.plm}
    assert {rate for name, rate in rates.items() if name.startswith("plm.lm_head.")} == {stage.lr.heads}
    assert all(
        rate is None
        for name, rate in rates.items()
        if name.startswith("plm.backbone.") and ".lora_" not in name
    )

"""`plan`: the counts are the built model's, sizes come from wherever they can be known, hours from
measured steps only.
"""

import json
import os

import pytest

from clickprompt.cli.main import main
from clickprompt.config import dump_config, load_config, replaced
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order
from clickprompt.errors import InputError
from clickprompt.io import storage
from clickprompt.models.backbones import BACKBONES
from clickprompt.models.build import build_model
from clickprompt.runtime.cluster.sizing import plan_table, size_training
from tests.support.tiny import tiny_config, write_both, write_plm


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("plan")))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("stage", "objective"), [("pretrain", "pretrain"), ("finetune", "with_plm"), ("finetune", "without_plm")]
)
def test_as_many_parameters_as_the_built_model(prepared, backbone, stage, objective):
    dataset, plm = prepared
    settings = {
        "ctr__backbone": backbone,
        "ctr__num_layers": 2,
        "finetune__with_plm": objective == "with_plm",
    }
    fgcnn = {
        "ctr__fgcnn": "{channels: [2], kernel_heights: [2], pooling_sizes: [2], recombined_channels: [2]}"
    }
    config = tiny_config(dataset.uri, plm, **settings, **(fgcnn if backbone == "fgcnn" else {}))
    plan = size_training(config, stage)
    built = build_model(config, layout_of(dataset), objective=objective)
    assert plan["parameters"]["total"] == parameters(built)
    assert plan["parameters"]["embeddings"] == sum(
        p.numel()
        for n, p in built.named_parameters()
        if n.endswith(("embedding.weight", "terms.weight")) and n.startswith("ctr")
    )


def test_a_decoder_of_7b_on_eight_gpus_adds_up():
    """By ZeRO 3 a worker has an eighth of weights, gradients, the optimizer's copy and both moments; up to
    1e9 elements are gathered.
    """
    settings = ["plm.path=meta-llama/Llama-2-7b-hf", "plm.random_init=true", "prompt.num_prompts=1"]
    settings += ["runtime.engine=deepspeed", "runtime.zero_stage=3", "plm.gradient_checkpointing=true"]
    plan = size_training(load_config("goodreads-roberta-large", settings), "pretrain")
    counts, found = plan["parameters"], plan["worker_bytes"]
    assert (plan["workers"], plan["engine"], counts["plm"]) == (8, "ZeRO-3", 6_738_415_616 - 32_000 * 4096)
    divided = counts["total"] - counts["embeddings"]  # the tables are lazy
    for name, share in (("weights", 4), ("gradients", 4), ("optimizer", 12)):
        assert found[name] == pytest.approx(divided * share / 8, rel=1e-9)
    assert found["copies"] > 4 * 10**9
    assert found["total"] == sum(value for name, value in found.items() if name != "total")


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart"])
def test_families(prepared, tmp_path, family):
    dataset, _ = prepared
    plm = write_plm(str(tmp_path / "plm"), family)
    config = tiny_config(dataset.uri, plm, pretrain__lr__plm=0, prompt__num_prompts=3)
    found = size_training(config, "pretrain")["parameters"]
    built = build_model(config, layout_of(dataset), objective="pretrain")
    assert found["total"] == parameters(built)
    assert found["trained"] == sum(p.numel() for p in built.parameters() if p.requires_grad) < found["total"]


def test_sizes_of_a_prepared_dataset(prepared):
    dataset, plm = prepared
    config = tiny_config(dataset.uri, plm)
    plan = size_training(config, "pretrain")
    assert (plan["data"]["rows"], plan["data"]["fields"], plan["data"]["features"]) == (400, 4, 78)
    assert "longest of" in plan["data"]["tokens_from"]
    order = Order.of(dataset, global_batch_size=24, chunk_batches=4, seed=0, epochs=2, max_steps=None)
    assert (plan["steps_per_epoch"], plan["steps"]) == (order.steps_per_epoch, order.total_steps)
    assert size_training(config, "pretrain", rows=48, tokens=7)["data"] | {
        "known_from": "",
        "tokens_from": "",
    } == {
        "rows": 48,
        "fields": 4,
        "features": 78,
        "tokens": 7,
        "known_from": "",
        "tokens_from": "",
        "history": 0,
    }


def test_micro_batches_of_equal_tokens_need_less_memory(prepared):
    dataset, plm = prepared
    sizes = {"pretrain.global_batch_size": 360, "pretrain.micro_batch_size": 180}
    config = replaced(tiny_config(dataset.uri, plm), sizes)
    rows, tokens = (
        size_training(replaced(config, {"pretrain.micro_batches_equal_in": equal_in}), "pretrain")
        for equal_in in ("rows", "tokens")
    )
    assert tokens["data"]["tokens"] < rows["data"]["tokens"]
    assert tokens["worker_bytes"]["activations"] < rows["worker_bytes"]["activations"]


def test_sizes_before_there_is_a_dataset(tmp_path):
    plm = write_plm(str(tmp_path / "plm"))
    plan = size_training(load_config("goodreads-roberta-large", [f"plm.path={plm}"]), "pretrain")
    assert (plan["data"]["rows"], plan["steps_per_epoch"], plan["steps"]) == (16_097_632, 15_721, 314_420)
    assert plan["data"]["known_from"] == "as published of goodreads"
    assert plan["parameters"]["embeddings"] == (4_565_430 + 15) * 16
    assert "not known without a measured step" in plan_table(plan)
    of_its_own = load_config(None, [f"plm.path={plm}"])
    with pytest.raises(InputError, match="give --rows, --fields, --features"):
        size_training(of_its_own, "pretrain")
    assert (
        size_training(of_its_own, "pretrain", rows=10_000, fields=3, features=50)["data"]["known_from"]
        == "as given"
    )


def test_hours_from_a_measured_run(tmp_path):
    plm = write_plm(str(tmp_path / "plm"))
    config = load_config("goodreads-roberta-large", [f"plm.path={plm}"])
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(InputError, match="no metrics of steps"):
        size_training(config, "pretrain", measured=str(run))
    measured = load_config(
        "goodreads-roberta-large",
        [f"plm.path={plm}", "runtime.num_workers=1", "pretrain.global_batch_size=256"],
    )
    storage.write_bytes(str(run / "config.yaml"), dump_config(measured).encode())
    lines = [
        json.dumps({"step": step + 1, "loss": 1.0, "seconds": seconds}) + "\n"
        for step, seconds in enumerate([9.0, 2.0, 2.0, 5.0])
    ]
    (run / "metrics.jsonl").write_text("".join(lines))
    time = size_training(config, "pretrain", measured=str(run))["time"]
    assert time["step_seconds"] == pytest.approx(
        2.0 * (1024 / 8) / 256
    )  # the first doesn't count, 128 rows a worker beside 256
    assert time["hours"] == pytest.approx(314_420 * 1.0 / 3600)
    assert "if a worker's rate stays the same" in time["from"]
    storage.write_json(str(run / "result.json"), {"stage": "finetune"})
    with pytest.raises(InputError, match="--stage finetune"):
        size_training(config, "pretrain", measured=str(run))
    assert size_training(config, "pretrain", step_seconds=3.6)["time"]["hours"] == pytest.approx(314.42)
    with pytest.raises(InputError, match="twice"):
        size_training(config, "pretrain", step_seconds=1.0, measured=str(run))


def test_the_command(prepared, tmp_path, capsys):
    dataset, plm = prepared
    path = os.path.join(tmp_path, "run.yaml")
    storage.write_bytes(path, dump_config(tiny_config(dataset.uri, plm)).encode())
    with pytest.raises(SystemExit) as ended:
        main(["plan", path, "--set", "runtime.num_workers=2", "--json"])
    assert ended.value.code == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["workers"] == 2
    for arguments in (
        ["--rows", "3"],
        [path, "--stage", "neither"],
        [path, "--config", path],
        [path, "--rows", "0"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["plan", *arguments])
        assert ended.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1

"""Lazy tables against the same run with dense AdamW: losses, weights, workers, ZeRO stages, resume,
validation, export.
"""

import hashlib
import os
from dataclasses import replace
from itertools import islice

import pytest
import torch

from clickprompt.config import Config, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset, columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import load_matching, unique_tensors
from clickprompt.objectives import OBJECTIVES
from clickprompt.training.checkpoint import TrainState
from clickprompt.training.engine import TorchEngine
from clickprompt.training.loop import Context, train
from tests.support.in_process import InProcessValidation
from tests.support.layouts import made_up
from tests.support.tiny import tiny_config, write_both
from tests.support.workers import in_workers

STEPS = 30
CPU = torch.device("cpu")


class Recorder(Context):
    def __init__(self, engine, keep):
        self.engine, self.keep, self.losses = engine, keep, []

    def on_step(self, metrics):
        self.losses.append(metrics["loss"])

    def on_checkpoint(self, folder, state):
        if self.keep:
            kept = os.path.join(self.keep, str(state.step))
            os.makedirs(kept, exist_ok=True)
            self.engine.save(kept)


def run(
    config: Config,
    objective_name: str,
    *,
    engine="torch",
    rank=0,
    num_workers=1,
    keep=None,
    resume=None,
    validate=False,
    after=None,
    until=None,
):
    """Losses, and the engine at the end; `after` is called with it and the last step's micro-batches."""
    torch.set_flush_denormal(True)
    dataset, pretrain = Dataset.open(config.data.path), objective_name == "pretrain"
    stage = config.pretrain if pretrain else config.finetune
    sizes = {
        "global_batch_size": stage.global_batch_size,
        "chunk_batches": 4,
        "seed": config.seed,
        "epochs": 9,
        "max_steps": STEPS,
    }
    order = Order.of(dataset, **sizes)
    objective = OBJECTIVES[objective_name](build_model(config, layout_of(dataset), objective=objective_name))
    if engine == "torch":
        built = TorchEngine(objective, stage, device=CPU, total_steps=STEPS)
    else:
        from clickprompt.training.deepspeed_engine import DeepSpeedEngine

        options = {"micro_batches": stage.micro_batches(num_workers), "device": CPU, "total_steps": STEPS}
        runtime = config.runtime.model_copy(update={"zero_stage": int(engine)})
        built = DeepSpeedEngine(objective, stage, runtime, **options)
    if resume:
        built.load(os.path.join(keep, str(resume)))
    table = (
        None if objective_name == "without_plm" else TokenTable.open(dataset, load_tokenizer(config.plm.path))
    )
    collator = Collator(layout_of(dataset), table, config.masking if pretrain else None, seed=config.seed)
    validation = InProcessValidation(built, collator, dataset, config, objective_name) if validate else None
    batches = read_local_batches(dataset, order, rank=rank, num_workers=num_workers, start_step=resume or 0)
    recorder, state = Recorder(built, keep), TrainState(step=resume or 0)
    options = {
        "stage": stage,
        "seed": config.seed,
        "state": state,
        "context": recorder,
    }
    recorder.validation = validation
    train(built, collator, order, islice(batches, (until or STEPS) - (resume or 0)), **options)
    if after:
        [(_, columns)] = read_local_batches(
            dataset, order, rank=rank, num_workers=num_workers, start_step=STEPS - 1
        )
        after(built, collator.micro_batches(columns, stage.micro_batch_size))
    return recorder.losses, built


def overflow(engine, micro_batches):
    """One more step, in which only the tables' gradient is infinite, leaves all weights as they are."""
    before = [
        tensor.clone()
        for tensor in (*engine.model.state_dict().values(), engine._lazy._weight, engine._lazy._touched)
    ]
    engine.begin(micro_batches, STEPS - 1)
    for index, batch in enumerate(micro_batches):
        engine.accumulate(batch, [1.0], last=index == len(micro_batches) - 1)
    engine._lazy.leaves[0].grad[0, 0] = torch.inf
    engine.step()
    after = (*engine.model.state_dict().values(), engine._lazy._weight, engine._lazy._touched)
    assert all(mine.equal(earlier) for mine, earlier in zip(after, before, strict=True))


def lazy(config: Config, **changes) -> Config:
    both = {"pretrain.embedding_optimizer": "lazy", "finetune.embedding_optimizer": "lazy"}
    return replaced(config, {**both, **{key.replace("__", "."): value for key, value in changes.items()}})


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("lazy")))
    stage = (
        "{global_batch_size: 8, micro_batch_size: 8, checkpoint_every: 10, warmup_ratio: 0.2, "
        "weight_decay: 0.1, max_grad_norm: 0.05, "
    )
    return tiny_config(
        dataset.uri,
        plm,
        pretrain=stage + "lr: {ctr: 0.01, projector: 0.001, plm: 0.001, heads: 0.001}}",
        finetune=stage
        + "lr: {ctr: 0.01, projector: 0.001, plm: 0.001, heads: 0.001}, validate_every: 7, patience: 99}",
        ctr__fgcnn="{channels: [2], kernel_heights: [3], pooling_sizes: [2], recombined_channels: [2]}",
    )


CASES = {
    "pretrain": ("pretrain", "dcnv2"),
    "with_plm": ("with_plm", "dcnv2"),
    "without_plm": ("without_plm", "dcnv2"),
    "several tables": ("without_plm", "deepfm"),
    "hardly any other parameter": ("without_plm", "fm"),
    "a table twice as wide": ("without_plm", "fgcnn"),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_dense_adamw(config, case):
    objective_name, backbone = CASES[case]
    settings = replaced(config, {"ctr.backbone": backbone})
    expected, dense_engine = run(settings, objective_name)
    found, engine = run(lazy(settings), objective_name)
    assert found == pytest.approx(expected, rel=1e-5)
    start = unique_tensors(
        build_model(settings, layout_of(Dataset.open(config.data.path)), objective=objective_name)
    )
    weights, dense_weights = engine.weights(), dense_engine.weights()
    assert weights.keys() == dense_weights.keys()
    tables = [name for name in weights if name.startswith(("ctr.embedding", "ctr.linear_terms"))]
    assert len(tables) == 1 + (backbone in ("deepfm", "fm"))
    for name in tables:
        assert weights[name].shape == dense_weights[name].shape
        moved = (dense_weights[name] - start[name]).norm()
        assert moved > 0.05
        # Adam amplifies the rounding of gradients near 0, so the tables as a whole. In this tiny pretraining
        # √v is a fifth of ε, where alone the closed form is not exact
        assert (weights[name] - dense_weights[name]).norm() < (
            0.03 if case == "pretrain" else 1e-3
        ) * moved, name


# The tables move from the tenth step on
OPTIONS = {
    "finetune.lr": {"ctr": 0.003, "tables": 0.02, "projector": 0.001, "plm": 0.001, "heads": 0.001},
    "finetune.tables_weight_decay": 0.3,
    "finetune.freeze_tables": 0.3,
    "ctr.backbone": "deepfm",
}


def test_rate_decay_and_freeze_of_the_tables_are_those_of_dense_adamw(config, tmp_path):
    settings = replaced(config, OPTIONS | {"finetune.checkpoint_every": 9})
    expected, dense = run(settings, "without_plm")
    found, engine = run(lazy(settings), "without_plm", keep=str(tmp_path))
    assert found == pytest.approx(expected, rel=1e-5)
    sizes = Dataset.open(config.data.path).field_sizes
    start = unique_tensors(build_model(settings, made_up(sizes), objective="without_plm"))
    for name in ("ctr.embedding.weight", "ctr.linear_terms.weight"):
        weights, dense_weights = engine.weights()[name], dense.weights()[name]
        moved = (dense_weights - start[name]).norm()
        assert moved > 0.05
        assert (weights - dense_weights).norm() < 1e-3 * moved, name
        for off in (
            {"finetune.lr.tables": None},
            {"finetune.tables_weight_decay": None},
            {"finetune.freeze_tables": 0},
        ):
            own = run(replaced(lazy(settings), off), "without_plm")[1].weights()[name]
            assert (own - weights).norm() > 0.01 * moved, off

    for kept, still in ((9, True), (18, False)):
        _, other = run(lazy(settings), "without_plm", keep=str(tmp_path), resume=kept, until=kept)
        for name in ("ctr.embedding.weight", "ctr.linear_terms.weight"):
            assert other.weights()[name].equal(start[name]) == still, (name, kept)
    rest, resumed = run(lazy(settings), "without_plm", keep=str(tmp_path), resume=9)
    assert rest == found[9:]
    for name, tensor in resumed.weights().items():
        assert tensor.equal(engine.weights()[name]), name


def test_dense_tables_stay_as_long_as_they_are_frozen(config, tmp_path):
    settings = replaced(config, OPTIONS | {"finetune.checkpoint_every": 9})
    run(settings, "without_plm", keep=str(tmp_path))
    sizes = Dataset.open(config.data.path).field_sizes
    start = unique_tensors(build_model(settings, made_up(sizes), objective="without_plm"))
    for kept, still in ((9, True), (18, False)):
        _, other = run(settings, "without_plm", keep=str(tmp_path), resume=kept, until=kept)
        for name, tensor in other.weights().items():
            table = name.startswith(("ctr.embedding", "ctr.linear_terms"))
            assert tensor.equal(start[name]) == (still and table), (name, kept)


@pytest.mark.parametrize("optimizer", ["dense", "lazy"])
def test_tables_of_rate_0_stay_as_they_are(config, optimizer):
    settings = replaced(
        config, {"finetune.lr.tables": 0, "finetune.embedding_optimizer": optimizer, "ctr.backbone": "deepfm"}
    )
    sizes = Dataset.open(config.data.path).field_sizes
    start = unique_tensors(build_model(settings, made_up(sizes), objective="without_plm"))
    _, engine = run(settings, "without_plm")
    for name, tensor in engine.weights().items():
        table = name.startswith(("ctr.embedding", "ctr.linear_terms"))
        assert tensor.equal(start[name]) == table, name


def test_dropout_of_embeddings_is_the_same_for_lazy_tables(config):
    settings = replaced(config, {"ctr.embedding_dropout": 0.3})
    expected, _ = run(settings, "without_plm")
    assert run(lazy(settings), "without_plm")[0] == pytest.approx(expected, rel=1e-5)
    assert run(config, "without_plm")[0] != pytest.approx(expected, rel=1e-3)


def test_clipping_clips(config):
    unclipped, _ = run(lazy(config, finetune__max_grad_norm=100.0), "without_plm")
    assert unclipped != pytest.approx(run(lazy(config), "without_plm")[0], rel=1e-3)


def test_micro_batches_make_no_difference(config):
    expected, _ = run(lazy(config), "with_plm")
    assert run(lazy(config, finetune__micro_batch_size=2), "with_plm")[0] == pytest.approx(expected, rel=1e-5)


def test_validation_changes_nothing(config):
    expected, engine = run(lazy(config), "without_plm")
    losses, validated = run(lazy(config), "without_plm", validate=True)
    assert losses == expected
    for name, tensor in validated.weights().items():
        assert tensor.equal(engine.weights()[name]), name


def test_resume_continues_bit_for_bit(config, tmp_path):
    losses, engine = run(lazy(config, ctr__backbone="deepfm"), "without_plm", keep=str(tmp_path))
    rest, resumed = run(lazy(config, ctr__backbone="deepfm"), "without_plm", keep=str(tmp_path), resume=10)
    assert rest == losses[10:]
    for name, tensor in resumed.weights().items():
        assert tensor.equal(engine.weights()[name]), name


def test_export_scores_as_the_engine(config):
    settings = lazy(config, ctr__backbone="deepfm")
    _, engine = run(settings, "without_plm")
    dataset = Dataset.open(config.data.path)
    exported = build_model(settings, layout_of(dataset), objective="without_plm")
    assert load_matching(exported, engine.weights()) == []
    rows = dataset.read_split("test")
    field_ids = torch.stack(
        [torch.from_numpy(rows[column].to_numpy().copy()).long() for column in dataset.columns], 1
    )
    with torch.no_grad():
        assert exported.eval()(field_ids).equal(engine.model.eval()(field_ids))


def test_tables_start_from_what_the_model_was_given(config):
    dataset = Dataset.open(config.data.path)
    model = build_model(config, layout_of(dataset), objective="without_plm")
    given = {name: tensor + 1 for name, tensor in unique_tensors(model).items()}
    load_matching(model, given)
    engine = TorchEngine(
        OBJECTIVES["without_plm"](model), lazy(config).finetune, device=CPU, total_steps=STEPS
    )
    assert engine.weights()["ctr.embedding.weight"].equal(given["ctr.embedding.weight"])


def test_ids_outside_of_the_step_are_refused(config):
    dataset = Dataset.open(config.data.path)
    model = build_model(config, layout_of(dataset), objective="without_plm")
    engine = TorchEngine(
        OBJECTIVES["without_plm"](model), lazy(config).finetune, device=CPU, total_steps=STEPS
    )
    rows = Collator(layout_of(dataset))(columns_of(dataset.read_split("train").slice(0, 8)))
    told = rows.field_ids[:4]
    engine.begin([replace(rows, field_ids=told)], 0)
    engine.model.train()(told)
    with pytest.raises(IndexError):
        engine.model(rows.field_ids[4:])


TWO_WORKERS = {
    "DistributedDataParallel": ("torch", 4),
    "DistributedDataParallel, smaller micro-batches": ("torch", 2),
    "ZeRO-0": ("0", 4),
    "ZeRO-1": ("1", 4),
    "ZeRO-2": ("2", 4),
    "ZeRO-2, smaller micro-batches": ("2", 2),
}


def _worker(rank, num_workers, config, cases, out):
    found = {}
    for name in cases:
        engine, micro_batch_size = TWO_WORKERS[name]
        settings = lazy(config, pretrain__micro_batch_size=micro_batch_size)
        keep = os.path.join(out, name)
        with_zero = engine in ("1", "2")
        losses, built = run(
            settings,
            "pretrain",
            engine=engine,
            rank=rank,
            num_workers=2,
            keep=keep,
            after=overflow if with_zero else None,
        )
        tables = [built._lazy._weight, built._lazy._first, built._lazy._second, built._lazy._touched]
        digest = hashlib.sha256(b"".join(table.numpy().tobytes() for table in tables)).hexdigest()
        resumed, _ = run(settings, "pretrain", engine=engine, rank=rank, num_workers=2, keep=keep, resume=20)
        found[name] = {
            "losses": losses,
            "digest": digest,
            "resumed": resumed,
            "files": sorted(os.listdir(os.path.join(keep, "20"))),
        }
    return found


@pytest.fixture(scope="module")
def plain(config):
    return run(config, "pretrain")[0]


SMALLER = [name for name in TWO_WORKERS if name.endswith("smaller micro-batches")]
OTHERS = [name for name in TWO_WORKERS if name not in SMALLER]


@pytest.mark.parametrize(
    "cases",
    [SMALLER, pytest.param(OTHERS, marks=pytest.mark.slow)],
    ids=["smaller micro-batches", "whole batches"],
)
def test_two_workers_equal_one_and_each_other(config, plain, tmp_path, cases):
    both = in_workers(_worker, 2, config, cases, str(tmp_path))
    for case in cases:
        first, second = (found[case] for found in both)
        assert first["losses"] == pytest.approx(plain, rel=1e-5), case
        assert first["digest"] == second["digest"], case
        assert first["resumed"] == first["losses"][20:], case
        assert "lazy-embedding.safetensors" in first["files"]

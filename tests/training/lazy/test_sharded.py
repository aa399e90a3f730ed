"""Tables divided among workers against one process with dense AdamW: losses, gradient norms, weights, resume
by other numbers of workers, validation.
"""

import os
import shutil
from functools import cache
from itertools import product

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from clickprompt.config import Config, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset, columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.errors import DataError
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import unique_tensors
from clickprompt.objectives import OBJECTIVES
from clickprompt.training.engine import TorchEngine
from clickprompt.training.lazy.sharded import ShardedEmbedding
from tests.support.chosen import some
from tests.support.engines import STEPS, Case, Curves, build, distributed, record
from tests.support.layouts import made_up
from tests.support.tiny import tiny_config, write_both

SHARDED = {"pretrain.embedding_optimizer": "sharded", "finetune.embedding_optimizer": "sharded"}
DEEPFM = {"ctr.backbone": "deepfm"}  # two tables of other widths
CASES = {
    "pretrain": ("pretrain", {}),
    "with_plm": ("with_plm", {}),
    "without_plm": ("without_plm", {}),
    "several tables": ("without_plm", DEEPFM),
    "hardly any other parameter": ("without_plm", {"ctr.backbone": "fm"}),
    "micro-batches": ("without_plm", {"finetune.micro_batch_size": 3}),
    "options of tables": (
        "without_plm",
        {
            **DEEPFM,
            "finetune.lr": {"ctr": 0.003, "tables": 0.02, "projector": 0.001, "plm": 0.001, "heads": 0.001},
            "finetune.tables_weight_decay": 0.3,
            "finetune.freeze_tables": 0.3,
        },
    ),
}
MOST = ["pretrain", "several tables", "options of tables"]
ENGINES = ["torch", "0", "1", "2", "3"]
KEPT = 5  # the step at which another number of workers continues
CONTINUED = ["without_plm", "several tables", "pretrain", "3"]  # by one worker and by four
WORKERS = [1, 2, 4]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("sharded")))
    stage = (
        "{global_batch_size: 24, micro_batch_size: 6, warmup_ratio: 0.2, weight_decay: 0.1, "
        "max_grad_norm: 0.05, checkpoint_every: 5, "
    )
    return tiny_config(
        dataset.uri,
        plm,
        pretrain=stage + "lr: {ctr: 0.01, projector: 0.001, plm: 0.001, heads: 0.001}}",
        finetune=stage
        + "lr: {ctr: 0.01, projector: 0.001, plm: 0.001, heads: 0.001}, validate_every: 7, patience: 99}",
    )


@pytest.fixture(scope="module")
def dense(config, tmp_path_factory):
    """name → one process's record, `dense(name)`."""
    folder = tmp_path_factory.mktemp("dense")

    @cache
    def of(name):
        objective, changes = CASES[name]
        return record(replaced(config, changes), objective=objective, keep=_made(folder / name))

    return of


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def curves(config, kept):
    """number of workers → name → losses of the steps and validations; each checkpoint is below
    `kept/<number of workers>`. One and four workers go on from what two of them wrote.
    """

    def case(name: str, workers: int, **options) -> Case:
        objective, changes = CASES.get(name, ("pretrain", {}))
        folder = _made(kept / str(workers) / name)
        engine = name if name in ENGINES else "torch"
        return Case(engine, objective, changes | SHARDED, keep=folder, **options)

    found = {2: Curves(config, 2, {name: case(name, 2) for name in [*CASES, *ENGINES[1:]]})}
    for workers in (1, 4):
        cases = {"with_plm": Case("torch", "with_plm", SHARDED)}
        for name in CONTINUED:
            cases[f"{name}, on"] = case(name, workers, resume=KEPT)
        found[workers] = Curves(config, workers, cases)
    return found


def continued(curves, kept, workers, name):
    """The losses of so many workers that go on from a checkpoint of two, written to their own place."""
    if f"{name}, on" not in curves[workers]:
        curves[2][name]
        shutil.copytree(kept / "2" / name, kept / str(workers) / name, dirs_exist_ok=True)
    return curves[workers][f"{name}, on"]


@pytest.mark.parametrize("name", some(CASES, *MOST))
def test_two_workers_have_the_losses_and_norms_of_dense_adamw_in_one_process(curves, dense, name):
    expected = dense(name)
    assert curves[2][name] == pytest.approx(expected.losses + expected.validations, rel=1e-5)
    assert curves[2][f"{name}: norms"] == pytest.approx(expected.norms, rel=1e-4)


@pytest.mark.parametrize("engine", some(ENGINES[1:], "2"))
def test_so_do_those_of_every_zero_stage(curves, dense, engine):
    assert curves[2][engine] == pytest.approx(dense("pretrain").losses, rel=1e-5)
    assert curves[2][f"{engine}: norms"] == pytest.approx(dense("pretrain").norms, rel=1e-4)


@pytest.mark.parametrize("workers", some([1, 4], 1))
def test_so_do_one_worker_and_four(curves, dense, workers):
    expected = dense("with_plm")
    assert curves[workers]["with_plm"] == pytest.approx(expected.losses + expected.validations, rel=1e-5)


@pytest.mark.parametrize(("name", "workers"), some(product(CONTINUED, [1, 4]), ("several tables", 1)))
def test_another_number_of_workers_continues(curves, dense, kept, workers, name):
    expected = dense(name if name in CASES else "pretrain")
    assert continued(curves, kept, workers, name) == pytest.approx(
        expected.losses[KEPT:] + expected.validations, rel=1e-5
    )


@pytest.mark.parametrize(
    ("name", "workers"), some(product(["without_plm", "several tables"], WORKERS), ("several tables", 2))
)
def test_exported_tables_are_those_of_dense_adamw(config, curves, dense, kept, name, workers):
    curves[2][name] if workers == 2 else continued(curves, kept, workers, name)
    objective, changes = CASES[name]
    model = build_model(
        replaced(config, changes), layout_of(Dataset.open(config.data.path)), objective=objective
    )
    start = unique_tensors(model)
    expected = load_file(os.path.join(dense(name).keep, f"{STEPS}-weights.safetensors"))
    found = load_file(kept / str(workers) / name / f"{STEPS}-weights.safetensors")
    assert found.keys() == expected.keys()
    for table in ("ctr.embedding.weight", "ctr.linear_terms.weight")[: 1 + (name == "several tables")]:
        moved = (expected[table] - start[table]).norm()
        assert moved > 0.05
        # Adam amplifies the rounding of gradients near 0, so the tables as a whole
        assert (found[table] - expected[table]).norm() < 1e-3 * moved, table


@pytest.mark.slow
def test_each_of_four_workers_keeps_a_quarter(config, curves, kept):
    continued(curves, kept, 4, "several tables")
    rows = sum(Dataset.open(config.data.path).field_sizes)
    folder = kept / "4" / "several tables" / str(STEPS)
    names = sorted(name for name in os.listdir(folder) if name.startswith("tables-"))
    assert names == [f"tables-{rank:05d}.safetensors" for rank in range(4)]
    for rank, name in enumerate(names):
        with safe_open(folder / name, "pt") as file:
            assert file.get_slice("weight").get_shape() == [len(range(rank, rows, 4)), 8 + 1]
    # What two workers wrote before lies in the same folder, and is not read
    assert len(os.listdir(kept / "2" / "several tables" / str(STEPS))) == 2 + 3


def test_the_same_workers_continue_bit_for_bit(config, curves, kept, tmp_path):
    expected = curves[2]["without_plm"][KEPT:]
    case = Case("torch", "without_plm", SHARDED, resume=KEPT, keep=_made(tmp_path / "keep"))
    shutil.copytree(kept / "2" / "without_plm", str(case.keep), dirs_exist_ok=True)
    rest = distributed(config, 2, {"on": case})["on"]
    assert rest == expected


def test_damaged_and_other_checkpoints_are_refused(config, curves, kept, tmp_path):
    curves[2]["without_plm"]
    folder = str(tmp_path / "checkpoint")
    shutil.copytree(kept / "2" / "without_plm" / str(STEPS), folder)
    *_, built = build(replaced(config, SHARDED), "without_plm", "torch", 1, STEPS)
    built.load(folder)
    os.remove(os.path.join(folder, "tables-00001.safetensors"))
    with pytest.raises(DataError, match=r"tables-00001\.safetensors: can't be read"):
        built.load(folder)
    model = build_model(config, made_up([30, 4, 9]), objective="without_plm")
    engine = _engine(config, model)
    with pytest.raises(DataError, match="and this model 43"):
        engine._lazy.load(folder)


def test_ids_outside_of_the_step_are_refused(config):
    dataset = Dataset.open(config.data.path)
    engine = _engine(config, build_model(config, layout_of(dataset), objective="without_plm"))
    rows = Collator(layout_of(dataset))(columns_of(dataset.read_split("train").slice(0, 8)))
    told = rows.field_ids[:4]
    engine.begin([type(rows)(rows.row_ids[:4], told, rows.labels[:4], rows.row_weight[:4])], 0)
    engine.model.train()(told)
    with pytest.raises(IndexError):
        engine.model(rows.field_ids[4:])


def _engine(config: Config, model) -> TorchEngine:
    stage = replaced(config, SHARDED).finetune
    engine = TorchEngine(
        OBJECTIVES["without_plm"](model), stage, device=torch.device("cpu"), total_steps=STEPS
    )
    assert isinstance(engine._lazy, ShardedEmbedding)
    return engine


def _made(folder) -> str:
    os.makedirs(folder)
    return str(folder)

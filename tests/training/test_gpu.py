"""What only a GPU can show: NCCL, the kernels of bf16 and fp16, offload. Skipped where there is none.

The reference is always the plain engine on the CPU, which the other tests check.
"""

import pytest
import torch

from clickprompt.config import replaced
from tests.support.engines import (
    ENGINES,
    LOWER,
    OBJECTIVE_NAMES,
    SMALL,
    STEPS,
    Case,
    distributed,
    losses_of,
)
from tests.support.tiny import tiny_config, write_both

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

ON_GPU = {"runtime.gpus_per_worker": 1}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("gpu")))
    rates = {"pretrain__lr": "{ctr: 1e-2, projector: 2e-3, plm: 1e-3, heads: 5e-4}"}
    rates["finetune__lr"] = "{ctr: 1e-2, projector: 2e-3, plm: 1e-3, heads: 5e-3}"
    return tiny_config(
        dataset.uri,
        plm,
        finetune__validate_every=10,
        finetune__checkpoint_every=5,
        finetune__patience=99,
        **rates,
    )


@pytest.fixture(scope="module")
def on_cpu(config):
    return {name: losses_of(config, objective=name) for name in OBJECTIVE_NAMES}


@pytest.fixture(scope="module", params=[1, 2], ids=["1 GPU", "2 GPUs"])
def num_workers(request):
    if torch.cuda.device_count() < request.param:
        pytest.skip(f"{torch.cuda.device_count()} GPU here")
    return request.param


def _check(found, expected, cases):
    """Each case's losses, and the continuation's of its checkpoint at step 10."""
    for name, (case, tolerance) in cases.items():
        of = expected[case.objective]
        assert found[name] == pytest.approx(of[: len(found[name])], rel=tolerance), name
        assert found[f"{name}, resumed"] == pytest.approx(found[name][10:], rel=min(tolerance, 1e-3)), name


def _run(config, num_workers, cases, folder):
    both = {}
    for name, (case, _) in cases.items():
        options = {
            "engine": case.engine,
            "objective": case.objective,
            "changes": case.changes,
            "keep": str(folder / name),
        }
        both[name] = Case(**options)
        both[f"{name}, resumed"] = Case(**options, resume=10)
    return distributed(replaced(config, ON_GPU), num_workers, both)


def test_every_engine_and_objective_equals_the_cpu_and_resumes(config, on_cpu, num_workers, tmp_path):
    cases = {
        f"{engine}, {name}": (Case(engine, name, changes=SMALL), 1e-4)
        for engine in ENGINES
        for name in OBJECTIVE_NAMES
    }
    found = _run(config, num_workers, cases, tmp_path)
    # A finetuning's validations follow its steps' losses in the list
    pretrain = {name: case for name, case in cases.items() if case[0].objective == "pretrain"}
    _check(found, on_cpu, pretrain)
    for name in cases.keys() - pretrain.keys():
        expected = on_cpu[cases[name][0].objective]
        assert found[name] == pytest.approx(expected, rel=1e-4), name
        assert found[f"{name}, resumed"][: STEPS - 10] == pytest.approx(found[name][10:STEPS], rel=1e-4), name


@pytest.mark.parametrize("precision", LOWER)
def test_lower_precision_trains_alike_and_resumes(config, on_cpu, num_workers, tmp_path, precision):
    changes = {**SMALL, "runtime.precision": precision}
    _check(
        _run(
            config,
            num_workers,
            cases := {e: (Case(e, changes=changes), LOWER[precision]) for e in ENGINES},
            tmp_path,
        ),
        on_cpu,
        cases,
    )


def test_offload_to_cpu_memory_changes_nothing(config, on_cpu, num_workers, tmp_path):
    cases = {stage: (Case(stage, changes={**SMALL, "runtime.offload": "cpu"}), 1e-4) for stage in "123"}
    _check(_run(config, num_workers, cases, tmp_path), on_cpu, cases)


def test_offload_to_a_disk_changes_nothing(config, on_cpu, num_workers, tmp_path):
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible():
        pytest.skip("DeepSpeed's asynchronous file operations need libaio")
    (tmp_path / "nvme").mkdir()
    changes = {**SMALL, "runtime.offload": "nvme", "runtime.offload_path": str(tmp_path / "nvme")}
    cases = {"3": (Case("3", changes=changes), 1e-4)}
    _check(_run(config, num_workers, cases, tmp_path), on_cpu, cases)


@pytest.mark.parametrize("objective", ["pretrain", "without_plm"])
def test_lazy_tables_equal_the_cpus_dense_ones(config, on_cpu, num_workers, tmp_path, objective):
    changes = {**SMALL, "pretrain.embedding_optimizer": "lazy", "finetune.embedding_optimizer": "lazy"}
    cases = {engine: Case(engine, objective, changes=changes) for engine in ("torch", "0", "1", "2")}
    found = distributed(replaced(config, ON_GPU), num_workers, cases)
    for engine in cases:
        assert found[engine] == pytest.approx(on_cpu[objective], rel=1e-4), engine

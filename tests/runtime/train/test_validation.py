"""The evaluation pool on a real Ray, without Ray Train: what it finds, what ends it, what doesn't, and what
is kept of exports.
"""

import contextlib
import os
import signal
import time

import psutil
import pytest
import ray
import torch

from clickprompt.config import RuntimeConfig, replaced
from clickprompt.data.collate import Collator
from clickprompt.errors import ConfigError, DataError, RunError
from clickprompt.export.format import export_of, read_info, scores_of
from clickprompt.io import storage
from clickprompt.models.build import build_model
from clickprompt.objectives import ClickLoss
from clickprompt.runtime.cluster.connect import check_cpus, check_room
from clickprompt.runtime.train.evaluation_pool import PoolScoring, evaluation_pool
from clickprompt.runtime.train.exports import Exports
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.validation import ExportValidation
from clickprompt.training.checkpoint import TrainState
from clickprompt.training.engine import TorchEngine
from tests.support.in_process import InProcessValidation
from tests.support.synthetic import write_dataset
from tests.support.tiny import tiny_config

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset = write_dataset(str(tmp_path_factory.mktemp("pool") / "data"), other_rows=3000)
    return tiny_config(dataset.uri, "none", finetune__with_plm=False, runtime__evaluation_actors=2)


@pytest.fixture(scope="module")
def pool(ray_session, config):
    with evaluation_pool(check_training(config, "finetune")) as scorers:
        yield scorers


def prepared(config, run, seed=0):
    """A run whose weights haven't been trained: its training, engine and exports."""
    training = check_training(config, "finetune", str(run))
    model = build_model(replaced(config, {"seed": seed}), training.layout, objective=training.objective)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return (
        training,
        TorchEngine(ClickLoss(model), training.stage, device=torch.device("cpu")),
        Exports(training, None, None),
    )


def in_process(training, engine) -> dict[str, float]:
    expected = InProcessValidation(
        engine, Collator(training.layout), training.dataset, training.config, training.objective
    )
    expected.begin(0)
    return expected.result()


def scoring() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended, or isn't waited for yet
            if "Scorer.logits" in "".join(child.cmdline()):
                found.append(child)
    return found


def test_scores_are_exact_and_those_of_the_weights_given_last(pool, config, tmp_path):
    training, engine, exports = prepared(config, tmp_path)
    told = []
    validation = ExportValidation(
        training,
        engine,
        exports,
        PoolScoring(training, pool),
        None,
        tell=lambda known: told.append(known()["validating"]),
    )
    validation.begin(4)
    assert validation.result() == pytest.approx(in_process(training, engine), rel=1e-6)
    first = scores_of(exports.at(4))
    rows = training.dataset.counts["valid"]
    assert (told[0], told[-1]) == ((0, rows), (rows, rows))
    assert len(told) == 1 + len(training.dataset.row_group_counts("valid"))

    # A training that went back to an older checkpoint comes by again, with other weights
    _, other, _ = prepared(config, tmp_path, seed=1)
    again = ExportValidation(training, other, exports, PoolScoring(training, pool), None)
    again.begin(4)
    assert again.result() == pytest.approx(in_process(training, other), rel=1e-6)
    assert scores_of(exports.at(4)) != first
    assert read_info(exports.at(4)).valid_auc == again.result()["valid_auc"]


@pytest.mark.chaos
def test_a_killed_actor_changes_nothing(pool, config, tmp_path):
    training, engine, exports = prepared(config, tmp_path)
    validation = ExportValidation(training, engine, exports, PoolScoring(training, pool), None)
    validation.begin(4)
    while not (found := scoring()):
        assert not validation._scores.done(), "over before anything was killed"
    os.kill(found[0].pid, signal.SIGKILL)
    assert validation.result() == pytest.approx(in_process(training, engine), rel=1e-6)


def test_what_an_earlier_part_began_is_taken_or_scored(pool, config, tmp_path):
    training, engine, exports = prepared(config, tmp_path)
    ExportValidation(training, engine, exports, PoolScoring(training, pool), None).begin(4)
    while not storage.exists(storage.join(exports.at(4), "export.json")):
        time.sleep(0.01)
    _, other, _ = prepared(config, tmp_path, seed=1)  # what the resumed worker holds doesn't matter
    assert ExportValidation(
        training, other, exports, PoolScoring(training, pool), 4
    ).result() == pytest.approx(in_process(training, engine), rel=1e-6)
    known = scores_of(exports.at(4))
    assert known is not None
    nobody = ExportValidation(training, other, exports, PoolScoring(training, []), 4)
    assert tuple(nobody.result().values()) == known
    with pytest.raises(DataError, match=r"step-00000008: not there, .* copy a run's validations/ along"):
        ExportValidation(training, other, exports, PoolScoring(training, pool), 8).result()


def test_a_pool_that_fails_for_good(ray_session, config, tmp_path):
    """Each error is one line; the first validation finds the pool too slow, the second a split that is gone,
    the third a dead actor.
    """
    data = write_dataset(str(tmp_path / "data"), other_rows=3000)
    settings = replaced(
        config, {"data.path": data.uri, "runtime.evaluation_timeout": 0.01, "runtime.evaluation_actors": 1}
    )
    training, engine, exports = prepared(settings, tmp_path / "run")
    with evaluation_pool(training) as scorers:
        fails(
            training,
            engine,
            exports,
            scorers,
            r"validation of step 4: no row group was scored within runtime\.evaluation_timeout=0\.01 s;",
        )
        training, engine, exports = prepared(
            replaced(settings, {"runtime.evaluation_timeout": 60}), tmp_path / "run"
        )
        os.rename(os.path.join(data.uri, "valid"), os.path.join(data.uri, "gone"))
        fails(training, engine, exports, scorers, r"valid/part-00000\.parquet")
    os.rename(os.path.join(data.uri, "gone"), os.path.join(data.uri, "valid"))
    fails(
        training,
        engine,
        exports,
        scorers,
        r"validation of step 4: an evaluation actor died and doesn't come back: .* the same command cont",
    )


def fails(training, engine, exports, scorers, message):
    validation = ExportValidation(training, engine, exports, PoolScoring(training, scorers), None)
    validation.begin(4)
    with pytest.raises((RunError, DataError), match=message) as raised:
        validation.result()
    assert "\n" not in str(raised.value)


def test_exports_that_nothing_asks_for_are_deleted(config, tmp_path):
    training, engine, exports = prepared(config, tmp_path)
    for step in (2, 4, 6, 8, 10):
        exports.write(engine.weights(), step)
    os.makedirs(exports.at(4) + ".tmp-0123abcd")  # of a killed worker
    for folder, step, best, validating in (("checkpoints", 5, 2, 4), ("kept", 3, None, 2)):
        state = {"num_workers": 1, "step": step, "best_step": best, "validating": validating}
        storage.write_json(storage.join(training.run, folder, f"step-{step:08d}", "trainer.json"), state)

    def left():
        return [int(name[5:]) for name in sorted(os.listdir(tmp_path / "validations"))]

    exports.prune(TrainState(step=9, best_step=8, validating=8))
    assert left() == [2, 4, 8, 10], "step 10's is being written while the checkpoint of step 9 is on its way"
    storage.delete_tree(storage.join(training.run, "checkpoints"))
    exports.finish(8)
    assert left() == [2], "a kept checkpoint needs it"
    assert read_info(export_of(training.run)).step == 8
    exports.finish(8)  # killed before result.json, then started again
    storage.delete_tree(storage.join(training.run, "export"))
    with pytest.raises(DataError, match="step-00000008: not there"):
        exports.finish(8)
    storage.delete_tree(storage.join(training.run, "kept"))
    exports.prune(TrainState(step=9))
    assert not os.path.exists(tmp_path / "validations")


def test_snapshots_are_averaged_and_kept_as_long_as_a_checkpoint_needs_them(config, tmp_path):
    averaging = replaced(config, {"finetune.average_validations": 3})  # validates every 4 steps
    training, engine, exports = prepared(averaging, tmp_path)
    weights = {step: {"w": torch.full((2,), float(step))} for step in (4, 8, 12, 16, 18)}
    means = {step: exports.averaged(dict(own), step)["w"][0].item() for step, own in weights.items()}
    assert means == pytest.approx({4: 4, 8: 6, 12: 8, 16: 12, 18: (18 + 16 + 12) / 3})
    for step in (4, 8, 12, 16):
        exports.write(engine.weights(), step)
    storage.write_bytes(exports.at(4) + ".safetensors.tmp-0123abcd", b"of a killed worker")

    def left():
        names = sorted(os.listdir(tmp_path / "validations"))
        return [int(name[5:13]) for name in names if name.endswith(".safetensors")], len(names)

    for folder, step in (("checkpoints", 9), ("kept", 4)):
        state = {"num_workers": 1, "step": step, "best_step": None, "validating": None}
        storage.write_json(storage.join(training.run, folder, f"step-{step:08d}", "trainer.json"), state)
    exports.prune(TrainState(step=17, best_step=16, validating=None))
    assert left() == ([4, 8, 12, 16, 18], 6), "all, and one export"
    storage.delete_tree(storage.join(training.run, "kept"))
    exports.prune(TrainState(step=17, best_step=16, validating=None))
    assert left() == ([4, 8, 12, 16, 18], 6), "the checkpoint of step 9 is averaged with 4 and 8"
    storage.delete_tree(storage.join(training.run, "checkpoints"))
    exports.prune(TrainState(step=17, best_step=16, validating=None))
    assert left() == ([12, 16, 18], 4)
    with pytest.raises(
        DataError, match=r"step-00000004\.safetensors: not there, .* copy a run's validations/"
    ):
        exports.averaged({"w": torch.ones(2)}, 8)
    exports.prune(TrainState(step=99))
    assert not os.path.exists(tmp_path / "validations")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"address": "auto", "num_workers": 4, "evaluation_actors": 2},
            r"4 workers × 1 CPU \+ runtime\.evaluation_actors=2 × 1 for validation \+ 1 for data "
            r"need 7 CPUs, Ray has 6; use fewer",
        ),
        (
            {"gpus_per_worker": 1, "num_workers": 2},
            r"2 workers × 1 GPU \+ runtime\.evaluation_actors=1 × 1 for validation need 3 GPUs, Ray has 0; "
            r"set runtime\.gpus_per_evaluation_actor=0 to validate on CPUs, use fewer workers, "
            r"add nodes, or set runtime\.autoscaling=true",
        ),
    ],
)
def test_actors_that_have_no_room_beside_the_workers(ray_session, settings, message):
    with pytest.raises(ConfigError, match=message):
        check_room(RuntimeConfig(**settings))


def test_a_cluster_that_grows_is_waited_for(ray_session, capsys):
    grows = RuntimeConfig(address="auto", num_workers=40, gpus_per_worker=1, autoscaling=True)
    check_cpus(grows)
    check_room(grows)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3  # the workers' CPUs, workers and actors, their GPUs
    assert all(
        line.startswith("waiting for more nodes, up to 15 minutes: ") and "Ray has" in line for line in said
    )
    with pytest.raises(ConfigError, match=r"runtime\.autoscaling=true"):
        check_cpus(RuntimeConfig(address="auto", num_workers=40))
    with pytest.raises(ConfigError, match=r"runtime\.logical_cpus"):  # an embedded Ray doesn't grow
        check_cpus(RuntimeConfig(num_workers=40, autoscaling=True))


def test_actors_share_the_workers_cores_on_an_embedded_ray(ray_session):
    check_room(RuntimeConfig(num_workers=5, evaluation_actors=9))
    check_room(RuntimeConfig(address="auto", num_workers=4, evaluation_actors=1))
    assert "GPU" not in ray.cluster_resources()

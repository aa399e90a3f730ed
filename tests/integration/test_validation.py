"""Early stopping while the evaluation pool scores: the same step and the same best weights as a loop that
scores at once.
"""

import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from clickprompt.config import replaced
from clickprompt.errors import StoppedError
from clickprompt.export.format import export_of, load_weights, read_info, scores_of
from clickprompt.io import storage
from clickprompt.runtime.train.train import run_training
from clickprompt.training.checkpoint import checkpoint_name, load_state, newest_complete
from clickprompt.training.metrics_log import read_metrics
from tests.support.in_process import InProcessValidation
from tests.support.killing import title
from tests.support.synthetic import write_dataset
from tests.support.tiny import tiny_config
from tests.support.watched_training import Watching
from tests.support.watched_training import run as run_in_process

pytestmark = pytest.mark.ray
EVERY, PATIENCE, STEPS = 7, 2, 120


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Its AUC falls for a while at step 70. The validation split has many row groups: scoring takes longer
    than a few steps.
    """
    dataset = write_dataset(str(tmp_path_factory.mktemp("validation")), other_rows=2500)
    return tiny_config(
        dataset.uri,
        "none",
        finetune__with_plm=False,
        finetune__epochs=100,
        finetune__max_steps=STEPS,
        finetune__lr="{ctr: 0.03}",
        finetune__schedule="constant",
        finetune__validate_every=EVERY,
        finetune__patience=PATIENCE,
        finetune__checkpoint_every=3,
    )


@pytest.fixture(scope="module")
def naive(config):
    """(where it stops, the best step, scores and weights by step) by the rule itself."""
    found = {}

    class Remembering(InProcessValidation):
        def begin(self, step):
            super().begin(step)
            found[step] = (self.result(), self._engine.weights())

    run_in_process(replaced(config, {"finetune.patience": STEPS}), "without_plm", Watching([]), Remembering)
    assert list(found) == [*range(EVERY, STEPS, EVERY), STEPS]
    best = stale = 0
    for step, (scores, _) in found.items():
        if not best or scores["valid_auc"] > found[best][0]["valid_auc"]:
            best, stale = step, 0
        else:
            stale += 1
        if stale == PATIENCE:
            return step + EVERY, best, found
    raise AssertionError("it was to stop early")


def equals(naive, run, result):
    stopped_at, best, found = naive
    assert stopped_at < STEPS
    assert (result["step"], result["best_step"], result["stopped"]) == (stopped_at, best, True)
    lines = read_metrics(run)
    assert [line["step"] for line in lines] == list(range(1, stopped_at + 1))
    used = {line["step"]: line["validations"] for line in lines if "validations" in line}
    assert list(used) == list(range(2 * EVERY, stopped_at + 1, EVERY))
    for step, [scores] in used.items():
        assert scores.pop("valid_step") == step - EVERY
        assert scores == pytest.approx(found[step - EVERY][0], rel=1e-4)
    info, weights = read_info(export_of(run)), load_weights(export_of(run))
    assert (info.step, info.valid_auc) == (best, result["best_auc"])
    for name, tensor in found[best][1].items():
        np.testing.assert_allclose(weights[name].numpy(), tensor.numpy(), rtol=1e-3, atol=1e-4)
    assert not os.path.exists(os.path.join(run, "validations"))


@pytest.mark.parametrize(
    ("workers", "actors"),
    [(1, 1), (2, 1), (1, 2)],
)
@pytest.mark.slow
def test_stops_where_the_naive_loop_stops(ray_session, config, naive, tmp_path, workers, actors):
    run = str(tmp_path / "run")
    settings = replaced(config, {"runtime.num_workers": workers, "runtime.evaluation_actors": actors})
    equals(naive, run, run_training(settings, "finetune", run))


@pytest.mark.slow
@pytest.mark.chaos
def test_an_actor_killed_then_stopped_then_resumed_otherwise(ray_session, config, naive, tmp_path):
    """With two workers and actors until it is stopped between a validation and its use, then with one of
    each.
    """
    for attempt in range(
        3
        # the wish to stop is noticed within half a second; on a busy machine that may be at the next
        # validation
    ):
        run = str(tmp_path / f"run-{attempt}")
        seen = killed_then_stopped(
            run, replaced(config, {"runtime.num_workers": 2, "runtime.evaluation_actors": 2})
        )
        state = load_state(newest_complete(os.path.join(run, "checkpoints")))
        if state.validating is not None and state.validating < state.step:
            break
    assert seen["killed"]
    assert seen["steps meanwhile"] > 0, "training waited for its validation"
    assert state.validating is not None
    assert state.validating < state.step < state.validating + EVERY, "not stopped in between"
    assert storage.exists(at(run, state.validating))
    equals(naive, run, run_training(config, "finetune", run))


def killed_then_stopped(run, settings):
    """While a validation goes on and training, too: SIGKILL of an actor, then SIGTERM."""
    seen = {}

    def disturb():
        while True:
            newest = newest_complete(os.path.join(run, "checkpoints"))
            state = load_state(newest)
            if (
                state.validating
                and state.step > state.validating
                and scores_of(at(run, state.validating)) is None
            ):
                break
            time.sleep(0.01)
        seen["steps meanwhile"] = state.step - state.validating
        children = psutil.Process().children(recursive=True)
        scorers = [child for child in children if "Scorer" in "".join(child.cmdline())]
        os.kill(scorers[0].pid, signal.SIGKILL)
        seen["killed"] = scorers[0].pid
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    with pytest.raises(StoppedError):
        run_training(settings, "finetune", run)
    thread.join()
    return seen


@pytest.mark.slow
def test_averaged_weights_survive_a_stop_a_lost_checkpoint_and_a_killed_worker(ray_session, config, tmp_path):
    """The mean of three validations' weights, chosen by log loss: as by hand, and the same bits however often
    the run is interrupted.
    """
    settings = replaced(
        config,
        {
            "finetune.average_validations": 3,
            "finetune.stop_on": "log_loss",
            "finetune.max_steps": 9 * EVERY + 2,
            "finetune.patience": 99,
            "finetune.lr.ctr": 0.01,
        },
    )
    weights, scores = {}, {}

    class Averaging(InProcessValidation):
        def begin(self, step):
            own = self._engine.weights()
            before = list(weights.values())[-2:]
            weights[step] = own
            mean = {name: sum([*(w[name] for w in before), own[name]]) / (len(before) + 1) for name in own}
            engine = self._engine
            self._engine = SimpleNamespace(weights=lambda: mean, rank=0, device=engine.device)
            super().begin(step)
            self._engine = engine
            scores[step] = (self.result(), mean)

    run_in_process(settings, "without_plm", Watching([]), Averaging)
    best = min(scores, key=lambda step: scores[step][0]["valid_log_loss"])
    assert best >= 3 * EVERY

    undisturbed, disturbed = str(tmp_path / "undisturbed"), str(tmp_path / "disturbed")
    result = run_training(settings, "finetune", undisturbed)
    assert (result["stop_on"], result["best_step"]) == ("log_loss", best)
    assert result["best_log_loss"] == pytest.approx(scores[best][0]["valid_log_loss"], rel=1e-4)
    assert result["best_auc"] == pytest.approx(scores[best][0]["valid_auc"], rel=1e-4)
    found = load_weights(export_of(undisturbed))
    for name, tensor in scores[best][1].items():
        np.testing.assert_allclose(found[name].numpy(), tensor.numpy(), rtol=1e-3, atol=1e-4)

    with pytest.raises(StoppedError):
        run_training(settings, "finetune", disturbed, watch=lambda seen: seen.get("step", 0) > 2 * EVERY)
    # As after a kill -9: files of validations that are newer than the checkpoint which is left
    newest = newest_complete(os.path.join(disturbed, "checkpoints"))
    storage.delete_tree(newest)
    assert newest_complete(os.path.join(disturbed, "checkpoints")) < newest
    killed = []
    thread = threading.Thread(target=kill_a_worker, args=(disturbed, 3 * EVERY, killed), daemon=True)
    thread.start()
    again = run_training(settings, "finetune", disturbed)
    thread.join()
    assert killed
    same = ("step", "best_step", "best_auc", "best_log_loss", "stopped", "last_loss")
    assert {key: again[key] for key in same} == {key: result[key] for key in same}
    for name, tensor in load_weights(export_of(disturbed)).items():
        assert tensor.equal(found[name]), name
    assert not os.path.exists(os.path.join(disturbed, "validations"))


def kill_a_worker(run: str, step: int, killed: list[int]) -> None:
    """SIGKILL of the training worker, once there is a checkpoint of that step or later."""
    while not killed and not os.path.exists(os.path.join(run, "result.json")):
        if load_state(newest_complete(os.path.join(run, "checkpoints"))).step >= step:
            children = psutil.Process().children(recursive=True)
            for worker in [child for child in children if "TrainWorker" in title(child)]:
                os.kill(worker.pid, signal.SIGKILL)
                killed.append(worker.pid)
        time.sleep(0.02)


def at(run: str, step: int) -> str:
    return os.path.join(run, "validations", checkpoint_name(step))


def test_the_naive_loop_overfits(naive):
    """Else the tests above would say little: the best isn't the first, and no two of its figures are so close
    that rounding decides.
    """
    stopped_at, best, found = naive
    aucs = [scores["valid_auc"] for step, (scores, _) in found.items() if step < stopped_at]
    assert best > EVERY
    gaps = [
        abs(value - found[best][0]["valid_auc"]) for value in aucs if value != found[best][0]["valid_auc"]
    ]
    assert min(gaps) > 1e-3
    assert len(gaps) == len(aucs) - 1

"""Early stopping while the evaluation pool scores: the same step and the same best weights as a loop that
scores at once.
"""

import json
import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest

from clickprompt.config import replaced
from clickprompt.errors import StoppedError
from clickprompt.export.format import export_of, load_weights, read_info, scores_of
from clickprompt.io import storage
from clickprompt.runtime.train.train import run_training
from clickprompt.training.checkpoint import checkpoint_name, load_state, newest_complete
from tests.support.in_process import InProcessValidation
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
    lines = [
        json.loads(line)
        for line in storage.read_bytes(os.path.join(run, "metrics.jsonl")).decode().splitlines()
    ]
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
    [pytest.param(1, 1, marks=pytest.mark.slow), (2, 1), pytest.param(1, 2, marks=pytest.mark.slow)],
)
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

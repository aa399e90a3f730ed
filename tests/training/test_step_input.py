"""Steps collated ahead in a thread are the steps collated in between: same losses, errors at the same step,
no thread left behind; and a step asks the device for numbers once.
"""

import threading
import time

import numpy as np
import pytest
import torch

from clickprompt.config import replaced
from clickprompt.data.collate import Collator
from clickprompt.errors import RunError
from clickprompt.training import loop
from clickprompt.training.step_input import StepInput, step_inputs
from tests.support.tiny import tiny_config, write_both
from tests.support.waits import Waits
from tests.support.watched_training import Watching, run

LONG = 10.0  # seconds after which a test gives up


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("ahead")))
    return tiny_config(dataset.uri, plm, finetune__max_steps=8)


def watching(*, ahead, late=False, scores=(0.5,) * 9, every=99):
    made = Watching(list(scores), every=every)
    made.ahead, made.late = ahead, late
    return made


def figures(steps):
    times = ("seconds", "wait_seconds")
    return [{name: value for name, value in step.items() if name not in times} for step in steps]


def collating() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("collate")]


def prepare(step, columns):
    return StepInput(step, columns, [], torch.zeros(3))


def numbered(count):
    return ((step, {"row_id": np.array([step])}) for step in range(count))


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("scores", [(0.5,) * 9, (0.5, 0.4, 0.3, 0.2)], ids=["to the end", "stopped early"])
def test_steps_are_the_same(config, scores, every):
    found = []
    for ahead in (False, True):
        context = watching(ahead=ahead, late=ahead, scores=scores, every=every)
        engine, state = run(replaced(config, {"finetune.patience": 2}), "with_plm", context)
        found.append((figures(context.steps), vars(state), engine.weights()))
    (steps, state, weights), (steps_ahead, state_ahead, weights_ahead) = found
    assert steps == steps_ahead
    assert state == state_ahead
    assert all(weights[name].equal(weights_ahead[name]) for name in weights)
    assert collating() == []


def test_the_next_step_is_made_while_the_caller_has_one():
    second = threading.Event()

    def batches():
        yield 0, {}
        second.set()
        yield 1, {}

    inputs = step_inputs(batches(), prepare, ahead=True)
    assert next(inputs).step == 0
    assert second.wait(LONG)
    inputs.close()
    assert collating() == []


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_comes_at_its_step(config, monkeypatch, ahead):
    """Of the rows' stream or of the collator: the steps before have been trained on."""

    def broken(batches):
        for step, columns in batches:
            if step == 3:
                raise RunError("no more rows")
            yield step, columns

    def stream_fails(engine, collator, order, batches, **options):
        return loop.train(engine, collator, order, broken(batches), **options)

    context = watching(ahead=ahead)
    with monkeypatch.context() as patch:
        patch.setattr("tests.support.watched_training.train", stream_fails)
        with pytest.raises(RunError, match="no more rows"):
            run(config, "without_plm", context)
    assert [step["step"] for step in context.steps] == [1, 2, 3]

    made = Collator.micro_batches

    def third_fails(self, columns, size, epoch=0, step=0, **options):
        if step == 2:
            raise ValueError("an id that no table has")
        return made(self, columns, size, epoch, step, **options)

    context = watching(ahead=ahead)
    monkeypatch.setattr(Collator, "micro_batches", third_fails)
    with pytest.raises(ValueError, match="an id that no table has"):
        run(config, "without_plm", context)
    assert [step["step"] for step in context.steps] == [1, 2]
    assert collating() == []


def test_the_wait_is_for_rows_and_not_for_collating():
    def slow_rows():
        for item in numbered(3):
            time.sleep(0.1)
            yield item

    def slow_prepare(step, columns):
        time.sleep(0.3)
        return prepare(step, columns)

    assert min(given.waited for given in step_inputs(slow_rows(), prepare, ahead=False)) > 0.09
    assert max(given.waited for given in step_inputs(numbered(3), slow_prepare, ahead=False)) < 0.2
    waits = []
    for given in step_inputs(slow_rows(), prepare, ahead=True):
        waits.append(given.waited)
        time.sleep(0.5)
    assert waits[0] > 0.09
    assert max(waits[1:]) < 0.09


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("objective", ["with_plm", "without_plm"])
def test_a_step_asks_for_numbers_once(config, monkeypatch, objective, late):
    """And not at all before the next one is on its way, if the numbers may be late."""
    asked = []
    for name in ("tolist", "item", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)

        def noted(self, original=original, name=name):
            asked.append(name)
            return original(self)

        monkeypatch.setattr(torch.Tensor, name, noted)
    train_step = loop.train_step

    def counted(*args, **options):
        before = len(asked)
        with Waits() as waits:
            result = train_step(*args, **options)
        assert asked[before:] == ([] if late else ["tolist"])
        assert waits.seen == []
        return result

    monkeypatch.setattr(loop, "train_step", counted)
    context = watching(ahead=False, late=late)
    run(config, objective, context)
    assert len(context.steps) == 8

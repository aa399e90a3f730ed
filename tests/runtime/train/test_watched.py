"""What is shown of a training while it runs."""

import time
from types import SimpleNamespace

import pytest

from clickprompt.io import progress
from clickprompt.runtime.train.watched import watched


@pytest.fixture
def shown(monkeypatch, capsys):
    """Run a training that tells what a test gives, and return the lines about it."""
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)

    def show(told):
        given, over = iter(told), []

        def read(stop):
            try:
                return dict(next(given))
            except StopIteration:
                over.append(True)
                return dict(told[-1])

        def fit():
            while not over:
                time.sleep(0.05)
            return {"step": 4}

        training = SimpleNamespace(
            run="runs/first", order=SimpleNamespace(total_steps=4, global_batch_size=10)
        )
        watched(training, fit, read, [], None, "starting")
        return capsys.readouterr().err.splitlines()

    return show


def test_a_restart_is_told_once(shown):
    step, phase = {"step": 2, "loss": 0.5}, {"phase": "building the model"}
    lines = shown([phase, {}, step, phase, phase, {}, {"step": 1, "loss": 0.6}, step])
    again = "first: the workers begin again from the newest checkpoint; Ray's logs say why"
    assert lines.count(again) == 1
    assert lines.index(again) < lines.index("first: 1/4 · loss 0.6000")


def test_validating_is_named_before_the_first_step_and_in_between(shown):
    step = {"step": 2, "loss": 0.5}
    lines = shown([{"validating": (0, 7994)}, {}, step, {**step, "validating": (3000, 7994)}, step])
    assert lines[1:5] == [
        "first: validating 0 / 7,994 …",
        "first: waiting for the first batch …",
        "first: 2/4 · loss 0.5000",
        "first: 2/4 · validating 3,000 / 7,994",
    ]

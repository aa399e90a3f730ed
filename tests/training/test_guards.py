"""What ends a loop or drops a step, and when checkpoints are due: in one process."""

import numpy as np
import pytest
import torch

from clickprompt.config import load_config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.errors import ConfigError
from clickprompt.models.build import build_model
from clickprompt.training import guards
from clickprompt.training.checkpoint import TrainState
from clickprompt.training.guards import NonFiniteError, is_spike
from tests.support.click_training import Memory, run
from tests.support.synthetic import write_dataset
from tests.support.tiny import tiny_config

STEPS = 30


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset = write_dataset(str(tmp_path_factory.mktemp("guards")))
    changes = {
        "finetune__epochs": 20,
        "finetune__max_steps": STEPS,
        "finetune__lr": "{ctr: 0.01}",
        "finetune__checkpoint_every": 1000,
    }
    return tiny_config(dataset.uri, "none", **changes)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_none_stops_before_the_update(config, tmp_path, what, late):
    """A NaN in a weight makes the loss one; an infinite label weight of 0 · ∞ would too, so the gradient
    alone is poisoned by a hook. Read late, the number is known when the next step has been computed.
    """
    memory = Memory(tmp_path)
    memory.late = late
    seen, before = {}, {}

    def poison(engine, batches):
        for step, columns in batches:
            seen[step] = columns["row_id"][columns["weight"] > 0].tolist()
            if step == 12:
                if what == "loss":
                    next(engine.model.ctr.parameters()).data.fill_(float("nan"))
                else:
                    next(engine.model.ctr.parameters()).register_hook(
                        lambda gradient: gradient * float("inf")
                    )
                before.update({name: value.clone() for name, value in engine.model.state_dict().items()})
                before["engine"] = engine
            yield step, columns

    with pytest.raises(NonFiniteError, match=r"step 13: loss .*; both must be finite") as raised:
        run(config, memory, poison=poison)
    assert [row["step"] for row in memory.steps] == list(range(1, 13))
    assert not memory.states
    assert len(seen) == 13 + late
    report = raised.value.report
    assert report["row_ids"] == [seen[12]]
    assert (report["step"], report["loss"] == "nan") == (13, what == "loss")
    engine = before.pop("engine")
    assert {int(entry["step"]) for entry in engine.optimizer.state.values()} == {12}
    after = engine.model.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name].nan_to_num(), value.nan_to_num()), name


def test_spikes_are_dropped_alike_by_a_resumed_run(config, tmp_path, monkeypatch):
    monkeypatch.setattr(guards, "_FIRST_STEPS", 3)
    strict = replaced(config, {"finetune.skip_loss_spikes": 1.1})
    whole, parts = Memory(tmp_path / "whole"), Memory(tmp_path / "parts")
    _, state = run(strict, whole)
    skipped = [row["step"] for row in whole.steps if row["skipped"]]
    assert state.skipped_steps == len(skipped)
    assert len([step for step in skipped if step > 17]) >= 2
    run(strict, parts, wishes=lambda: (False, len(parts.steps) == 16))
    assert [row["step"] for row in parts.steps] == list(range(1, 18))
    _, resumed = run(strict, parts, resume=17)
    assert parts.steps == whole.steps
    assert resumed == state


def test_a_dropped_step_changes_nothing(config, tmp_path, monkeypatch):
    monkeypatch.setattr("clickprompt.training.step.is_spike", lambda *_: True)
    dropping = replaced(config, {"finetune.skip_loss_spikes": 2.0, "finetune.max_steps": 3})
    engine, state = run(dropping, Memory(tmp_path))
    fresh = build_model(
        config, layout_of(Dataset.open(config.data.path)), objective="without_plm"
    ).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in engine.model.state_dict().items())
    assert not engine.optimizer.state
    assert state.skipped_steps == 3


def test_late_numbers_are_late_for_nothing_that_is_saved(config, tmp_path):
    """Checkpoints of every kind, and an end that is wished for: only a wish is heard a step later."""
    found = {}
    for late in (False, True):
        memory = Memory(tmp_path / str(late))
        memory.late = late
        asked = iter([(False, False)] * 6 + [(True, False)] + [(False, False)] * 13 + [(False, True)] * 9)
        changed = replaced(config, {"finetune.checkpoint_every": 12})
        engine, state = run(changed, memory, wishes=lambda asked=asked: next(asked), keep_every=None)
        found[late] = memory, engine.weights(), state
    (memory, _, state), (late, _, late_state) = found.values()
    assert list(memory.states) == [7, 12, 21]
    assert list(late.states) == [8, 12, 22]
    assert (state.step, late_state.step) == (21, 22)
    assert late.steps[:21] == memory.steps
    assert vars(late.states[12]) == vars(memory.states[12])
    for name in ("state-00000.safetensors", "trainer.json"):
        assert (late.folder / "12" / name).read_bytes() == (memory.folder / "12" / name).read_bytes()


def test_a_run_continues_from_late_numbers(config, tmp_path):
    whole, parts = Memory(tmp_path / "whole"), Memory(tmp_path / "parts")
    engine, state = run(config, whole)
    parts.late = True
    run(config, parts, wishes=lambda: (False, len(parts.steps) == 16))
    resumed, last = run(config, parts, resume=19)
    assert parts.steps == whole.steps
    assert last == state
    weights = resumed.weights()
    assert all(value.equal(weights[name]) for name, value in engine.weights().items())


def test_what_a_spike_is():
    state = TrainState()
    assert not any(
        is_spike(norm, state, 2.0) for norm in [1.0] * 19 + [50.0]
    )  # nothing is one before there is a mean
    state = TrainState()
    assert not any(is_spike(1.0, state, 2.0) for _ in range(100))
    assert is_spike(1000.0, state, 2.0)
    assert state.mean_gradient_norm == pytest.approx(1.01)
    assert not is_spike(1.9, state, 2.0)
    assert not all(is_spike(10.0, state, 2.0) for _ in range(400))  # a lasting change is followed


@pytest.mark.parametrize(
    ("changes", "options", "due"),
    [
        ({"checkpoint_every": 12}, {}, [12, 24, 30]),
        ({"checkpoint_every": 12}, {"keep_every": 8}, [8, 12, 16, 24, 30]),
        ({"checkpoint_every": 1, "checkpoint_minutes": 1000.0}, {}, [30]),
        ({"checkpoint_every": 1, "checkpoint_minutes": 1000.0}, {"keep_every": 25}, [25, 30]),
        ({"checkpoint_every": 1000, "checkpoint_minutes": 1e-9}, {}, list(range(1, 31))),
    ],
)
def test_when_checkpoints_are_made(config, tmp_path, changes, options, due):
    memory = Memory(tmp_path)
    run(replaced(config, {f"finetune.{key}": value for key, value in changes.items()}), memory, **options)
    assert list(memory.states) == due


def test_minutes_count_from_the_last_checkpoint(config, tmp_path, monkeypatch):
    """Every step takes ten seconds here."""
    clock = iter(np.arange(0, 1e6, 10.0).tolist())
    monkeypatch.setattr("clickprompt.training.loop.time.monotonic", lambda: next(clock))
    memory = Memory(tmp_path)
    run(replaced(config, {"finetune.checkpoint_minutes": 1.0}), memory)
    assert list(memory.states) == [6, 12, 18, 24, 30]


@pytest.mark.parametrize(
    "setting",
    ["finetune.lr.ctr=0", "pretrain.lr.heads=0", "pretrain.lr.plm=-1e-5", "finetune.lr.projector=-1"],
)
def test_a_rate_that_trains_nothing_is_refused(setting):
    with pytest.raises(ConfigError, match=r"lr\.\w+=.*: give a number [>≥] 0"):
        load_config(None, [setting])

"""The command, on shapes small enough for a test; nothing is asserted of the times themselves."""

import functools
import json

import pytest
import torch

from clickprompt.benchmark import BENCHMARKS
from clickprompt.benchmark.ctr_arms import BareSteps, OurSteps, Shape, made_up_batches
from clickprompt.benchmark.ctr_step import SHAPES, measure_ctr_step
from clickprompt.cli.main import main
from clickprompt.config import load_config

TINY = Shape((50, 4, 30), 8, 12, {"tiny_lazy": "lazy", "tiny": "dense"}, repeats=3, steps=2)


@pytest.mark.slow
def test_command_prints_one_object_with_its_figures(monkeypatch, capfd):
    monkeypatch.setitem(BENCHMARKS, "ctr-step", functools.partial(measure_ctr_step, shapes={"tiny": TINY}))
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "ctr-step", "--json", "--set", "ctr.hidden_dim=16", "--set", "ctr.num_layers=2"])
    output = capfd.readouterr()
    assert stopped.value.code == 0, output.err
    result = json.loads(output.out)
    figures = {key for key in result["figures"] if "fuxictr" not in key}  # whether or not it is installed
    assert figures == {"speedup_tiny", "speedup_tiny_lazy", "step_tiny", "step_tiny_lazy", "step_bare_tiny"}
    assert all(
        0 < values["min"] <= values["median"] <= values["max"] for values in result["figures"].values()
    )
    [note] = result["notes"]
    assert note.startswith("tiny: dcnv2, 2 layers of 16, 84 values × 8, 3 fields, batch 12")


def test_shapes_are_those_of_the_datasets():
    assert {name: sum(shape.field_sizes) for name, shape in SHAPES.items()} == {
        "goodreads": 4_565_430,
        "movielens_256": 17_251,
        "movielens_4096": 17_251,
    }
    assert {key for shape in SHAPES.values() for key in shape.ours} >= {
        "goodreads_lazy",
        "movielens_256",
        "movielens_4096",
    }
    field_ids = made_up_batches(TINY, 3)[2].field_ids
    assert field_ids.shape == (12, 3)
    assert (field_ids < torch.tensor(TINY.field_sizes)).all()


@pytest.mark.parametrize("mode", ["dense", "lazy"])
def test_every_arm_trains_the_same_model(mode):
    """A constant rate, so that our loop has the bare one's: then all losses are the same."""
    settings = [
        "ctr.embedding_dim=8",
        "ctr.hidden_dim=16",
        "finetune.schedule=constant",
        "finetune.warmup_ratio=0",
    ]
    size = [f"finetune.{key}=12" for key in ("global_batch_size", "micro_batch_size")]
    config = load_config(None, [*settings, *size, f"finetune.embedding_optimizer={mode}"])
    ours, bare = OurSteps(config, TINY, 1), BareSteps(config, TINY, 1)
    losses = []
    for _ in range(20):
        losses.append((ours._step(ours._batches[0]).item(), bare._step(bare._batches[0]).item()))
        ours._done += 1
    assert losses[-1][0] < 0.97 * losses[0][0]
    for mine, theirs in losses:
        assert mine == pytest.approx(theirs, rel=1e-3)


def test_fuxictr_trains_the_same_model():
    pytest.importorskip("fuxictr", reason="FuxiCTR is not installed (extra bench)")
    from clickprompt.benchmark.fuxictr_step import FuxiCTRSteps

    config = load_config(None, ["ctr.embedding_dim=8", "ctr.hidden_dim=16", "finetune.weight_decay=0"])
    theirs, bare = FuxiCTRSteps(config, TINY, 1), BareSteps(config, TINY, 1)
    losses = [
        (theirs._step(theirs._batches[0]).item(), bare._step(bare._batches[0]).item()) for _ in range(20)
    ]
    assert losses[-1][0] < 0.97 * losses[0][0]
    for mine, other in losses:
        assert mine == pytest.approx(other, rel=1e-3)

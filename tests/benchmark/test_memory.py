"""The figures on a shape small enough for a test, and what `plan` says beside a run large enough to
be measured by.
"""

from dataclasses import replace

import pytest

from clickprompt.benchmark.memory import measure_memory
from clickprompt.benchmark.pamlm_step import SHAPES, Shape
from clickprompt.config import load_config
from tests.support.tiny import write_both

TINY = Shape(2, 16, 2, 24, global_batch_size=8, micro_batch_size=4, repeats=1, vocab_size=60)


@pytest.mark.slow
@pytest.mark.ray
def test_each_stage_is_trained_and_measured(ray_session, tmp_path):
    dataset, plm = write_both(str(tmp_path))
    sizes = ["data.chunk_batches=4", "ctr.embedding_dim=4", "ctr.hidden_dim=8"]
    config = load_config(None, [f"data.path={dataset.uri}", f"plm.path={plm}", *sizes])
    figures, [note] = measure_memory(config, TINY, engines=("zero2",))
    assert figures.keys() == {"peak_zero2", "states_zero2", "plan_zero2"}
    assert 0.1 < figures["peak_zero2"]["min"] <= figures["peak_zero2"]["max"] < 8
    assert 0 < figures["states_zero2"]["median"] < figures["peak_zero2"]["median"]
    assert "2 workers" in note


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("engine", ["torch", "zero0", "zero2"])
def test_the_plan_is_within_a_tenth(ray_session, tmp_path, engine):
    dataset, plm = write_both(str(tmp_path))
    config = load_config(None, [f"data.path={dataset.uri}", f"plm.path={plm}", "data.chunk_batches=4"])
    figures, _ = measure_memory(
        config, replace(SHAPES["roberta_base"], global_batch_size=8, micro_batch_size=4), engines=(engine,)
    )
    assert figures[f"plan_{engine}"]["median"] == pytest.approx(figures[f"peak_{engine}"]["median"], rel=0.1)

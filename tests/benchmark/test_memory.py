"""The figures on a shape small enough for a test; nothing is asserted of the sizes themselves but that they are a process's."""

import pytest

from clickprompt.benchmark.memory import measure_memory, model_states
from clickprompt.benchmark.pamlm_step import Shape
from clickprompt.config import load_config
from tests.tiny import write_both

TINY = Shape(2, 16, 2, 24, global_batch_size=8, micro_batch_size=4, repeats=1, vocab_size=60)


def test_the_formula():
    """1000 parameters, 4 workers: 20 bytes of each, of which stages divide 12, then 16, then all by 4; without ZeRO 16 and no division."""
    assert [model_states(1000, 4, stage) for stage in range(4)] == [16_000, 8_000 + 3_000, 4_000 + 4_000, 5_000]


@pytest.mark.ray
def test_each_stage_is_trained_and_measured(ray_session, tmp_path):
    dataset, plm = write_both(str(tmp_path))
    sizes = ["data.chunk_batches=4", "ctr.embedding_dim=4", "ctr.hidden_dim=8"]
    config = load_config(None, [f"data.path={dataset.uri}", f"plm.path={plm}", *sizes])
    figures, [note] = measure_memory(config, TINY, stages=(2,))
    assert figures.keys() == {"peak_zero2", "states_zero2"}
    assert 0.1 < figures["peak_zero2"]["min"] <= figures["peak_zero2"]["max"] < 8
    assert 0 < figures["states_zero2"]["median"] < figures["peak_zero2"]["median"]
    assert "2 workers" in note

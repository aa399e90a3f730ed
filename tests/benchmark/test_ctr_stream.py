"""`benchmark ctr-stream` on a small log, on a real Ray Train; nothing is asserted of the times themselves."""

import pytest

from clickprompt.benchmark.ctr_stream import Length, measure_ctr_stream
from clickprompt.config import load_config
from clickprompt.errors import ConfigError
from tests.support.synthetic import write_dataset


@pytest.mark.slow
@pytest.mark.ray
def test_the_stream_beside_its_steps(ray_session, tmp_path):
    dataset = write_dataset(str(tmp_path))
    sizes = ["data.chunk_batches=4", "ctr.hidden_dim=8", f"data.path={dataset.uri}"]
    figures, [note] = measure_ctr_stream(load_config(None, sizes), 24, Length(turns=2, steps=3))
    assert figures.keys() == {"kept", "wait", "rows_per_second", "step_stream", "step_alone"}
    # One turn; the first is left out
    assert figures["kept"]["median"] == pytest.approx(
        figures["step_alone"]["median"] / figures["step_stream"]["median"]
    )
    assert figures["rows_per_second"]["median"] == pytest.approx(24_000 / figures["step_stream"]["median"])
    assert 0 < figures["wait"]["median"] < 1
    assert "× 16 (lazy)" in note


def test_it_needs_a_dataset():
    with pytest.raises(ConfigError, match=r"data\.path is not set"):
        measure_ctr_stream(load_config(None))

"""`benchmark lora-step`, on a tiny model: its figures."""

import pytest

from clickprompt.benchmark.lora_step import measure_lora_step
from tests.support.tiny import tiny_config, write_both


@pytest.mark.slow
def test_figures_of_both_arms(tmp_path) -> None:
    dataset, plm = write_both(str(tmp_path))
    figures, [note] = measure_lora_step(tiny_config(dataset.uri, plm, plm__lora__rank=3), 2)
    assert "rank 3" in note
    for objective in ("pretrain", "with_plm"):
        for name in ("full", "lora"):
            assert figures[f"rows_a_second_{objective}_{name}"]["min"] > 0
            assert figures[f"peak_memory_{objective}_{name}"]["median"] > 0
        whole, low = (figures[f"trained_{objective}_{name}"]["median"] for name in ("full", "lora"))
        assert low < whole
        assert {f"speedup_{objective}", f"memory_ratio_{objective}"} <= figures.keys()

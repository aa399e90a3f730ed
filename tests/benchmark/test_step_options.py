"""`benchmark step-options`, on tiny models: its figures, and what it refuses to time."""

import os

import pytest

from clickprompt.benchmark import step_options
from clickprompt.benchmark.step_options import measure_options
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import RunError
from tests.support.synthetic import write_dataset
from tests.support.tiny import tiny_config, write_both


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("options"))
    sentence, plm = write_both(folder)
    compact = write_dataset(os.path.join(folder, "compact"), template="compact")
    build_token_table(compact, load_tokenizer(plm))
    return tiny_config(sentence.uri, plm), {"sentence": sentence, "compact": compact}


@pytest.mark.slow
def test_every_option_alone_and_all_together(made):
    config, datasets = made
    figures, notes = measure_options(config, datasets, [1], 2)
    assert figures["tokens_a_row_compact"]["median"] < 0.7 * figures["tokens_a_row_sentence"]["median"]
    assert len(notes) == 2
    for objective, arms in step_options._ARMS.items():
        for name in arms:
            rate = figures[f"rows_a_second_{objective}_1_layers_{name}"]
            assert 0 < rate["min"] <= rate["median"] <= rate["max"]
            assert (f"speedup_{objective}_1_layers_{name}" in figures) == (name != "paper")


@pytest.mark.slow
def test_a_last_layer_that_gives_another_loss_is_not_timed(made, monkeypatch):
    config, datasets = made
    other = {**step_options._OPTIONS, "last-layer": {"masking.vocabulary": "dataset"}}
    monkeypatch.setattr(step_options, "_OPTIONS", other)
    monkeypatch.setattr(step_options, "_ARMS", {"pretrain": {"paper": (), "last-layer": ("last-layer",)}})
    with pytest.raises(RunError, match="the arms' losses differ"):
        measure_options(config, datasets, [1], 1)

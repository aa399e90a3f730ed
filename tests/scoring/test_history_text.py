"""Texts with histories: raw rows score as the dataset's own, by a run and by a folder for a server."""

import os

import numpy as np
import pyarrow as pa
import pytest

from clickprompt.export.format import export_of, read_info
from clickprompt.export.serving_folder import export_for_serving
from clickprompt.scoring.raw_rows import open_scorer
from clickprompt.scoring.rows import RowScorer
from tests.support.described import write_log
from tests.support.finetuned import write_run
from tests.support.small_logs import prepare_with_tokens

NAMES = ("user", "item", "gender")
RUNS = {
    "titles": {"plm__history_items": 3, "plm__max_length": 40},
    "genres": {"plm__history_items": 4, "plm__history_field": "Film genre"},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("history-text"))
    return prepare_with_tokens(folder, write_log(os.path.join(folder, "log"), more="history: 4"))


@pytest.mark.parametrize("name", RUNS)
def test_a_row_has_the_text_that_training_reads(prepared, name, tmp_path):
    dataset, _ = prepared
    run, served = str(tmp_path / "run"), str(tmp_path / "served")
    write_run(run, prepared, "with_plm", finetune__eval_batch_size=16, ctr__history="none", **RUNS[name])
    split = dataset.read_split("test")
    words = [dataset.vocabulary(field)["value"].to_pylist() for field in range(3)]
    columns = {
        column: [words[field][place] for place in split[dataset.columns[field]].to_pylist()]
        for field, column in enumerate(NAMES)
    }
    histories = zip(*(split[column].to_pylist() for column in dataset.history_columns), strict=True)
    # An item without an id is left out and keeps its place among the newest
    items = [["new", *(words[1][place] for place in row if place)] for row in histories]
    rows = pa.table({**columns, "history": [one[1:] for one in items]})

    def expected(table):
        scores = RowScorer(export_of(run), dataset).score(table)
        by_row = dict(zip(scores.row_ids.tolist(), scores.logits.tolist(), strict=True))
        return [by_row[row] for row in table["row_id"].to_pylist()]

    export_for_serving(run, served)
    for place in (run, served):
        scorer = open_scorer(place, most_rows=8)
        np.testing.assert_allclose(scorer.score(rows)[0], expected(split), atol=1e-5, rtol=0)
    shifted = split
    for number, column in enumerate(dataset.history_columns):
        before = dataset.history_columns[number - 1]
        ids = split[before] if number else pa.array(np.zeros(len(split), dtype=np.int32))
        shifted = shifted.set_column(shifted.column_names.index(column), column, ids)
    with_new = scorer.score(rows.set_column(3, "history", pa.array(items)))[0]
    np.testing.assert_allclose(with_new, expected(shifted), atol=1e-5, rtol=0)
    assert np.abs(with_new - expected(split)).max() > 1e-3
    assert read_info(served).config["plm"]["history_items"] == RUNS[name]["plm__history_items"]

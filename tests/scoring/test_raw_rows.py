"""Raw rows score as the dataset's own, whether the run's export or a folder for a server is opened."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.data.sources.reading import FileFormat, find_files
from clickprompt.data.sources.reading import file_parts as parts_of
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import DataError
from clickprompt.export.checks import check_scorable
from clickprompt.export.format import export_of
from clickprompt.export.serving_folder import export_for_serving
from clickprompt.io import storage
from clickprompt.scoring.raw_rows import check_columns, open_scorer, score_part
from clickprompt.scoring.rows import RowScorer
from tests.support.finetuned import write_run
from tests.support.synthetic import write_dataset
from tests.support.tiny import CLICK_WORDS, write_both


@pytest.fixture(scope="module", params=["sentence", "compact"])
def prepared(tmp_path_factory, request):
    return write_both(str(tmp_path_factory.mktemp("raw-rows")), request.param, CLICK_WORDS)


RUNS = {
    "without_plm": {},
    "with_plm": {},
    "with_plm, click_text": {"plm__click_text": True, "plm__last_layer": "targets"},
    "with_plm, click_text, cut": {"plm__click_text": True, "plm__max_length": 18},
}


@pytest.fixture(scope="module", params=RUNS)
def run(prepared, request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("run") / "run")
    objective = request.param.partition(",")[0]
    write_run(folder, prepared, objective=objective, finetune__eval_batch_size=16, **RUNS[request.param])
    return folder


@pytest.fixture(scope="module")
def raw(prepared) -> pa.Table:
    """The test split as raw rows, in its order."""
    dataset, _ = prepared
    rows = dataset.read_split("test")
    values = {
        column: dataset.vocabulary(field)["value"].take(rows[column])
        for field, column in enumerate(dataset.columns)
    }
    return pa.table({"row_id": rows["row_id"].cast(pa.string()), **values})


@pytest.fixture(scope="module")
def expected(run, prepared) -> np.ndarray:
    split = prepared[0].read_split("test")
    scores = RowScorer(export_of(run), prepared[0]).score(split)
    by_row = dict(zip(scores.row_ids.tolist(), scores.logits.tolist(), strict=True))
    logits = np.array([by_row[row] for row in split["row_id"].to_pylist()])
    assert np.ptp(logits) > 0.01
    return logits


@pytest.mark.sampled(3)
def test_of_a_run_and_of_its_folder_for_a_server(run, raw, expected, tmp_path):
    served = str(tmp_path / "served")
    export_for_serving(run, served)
    for place in (run, served):
        scorer = open_scorer(place, most_rows=8)
        logits, transformed = scorer.score(raw.select(scorer.transform.columns))
        np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)
        assert transformed.known().tolist() == [len(raw)] * 4


def test_a_file_of_rows(run, raw, expected, tmp_path):
    file = str(tmp_path / "rows.parquet")
    pq.write_table(raw, file)
    scorer = open_scorer(run)
    [found] = find_files(file, FileFormat())
    check_columns(found, scorer.transform, ["row_id"])
    with pytest.raises(DataError, match="has no column 'price', which is needed; it has row_id, user_id"):
        check_columns(found, scorer.transform, ["price"])
    [part] = parts_of(found, FileFormat())
    out = str(tmp_path / "scores.parquet")
    assert score_part(scorer, part, ["row_id"], out) == (len(raw), [len(raw)] * 4)
    table = pq.read_table(out)
    assert table.column_names == ["file", "row", "row_id", "logit", "probability"]
    assert table["row"].to_pylist() == list(range(len(raw)))
    assert table["row_id"].to_pylist() == raw["row_id"].to_pylist()
    np.testing.assert_allclose(table["logit"].to_numpy(), expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(table["probability"].to_numpy(), 1 / (1 + np.exp(-expected)), atol=1e-5)


def test_a_file_without_rows(run, tmp_path):
    (tmp_path / "rows.csv").write_text("")
    [found] = find_files(str(tmp_path / "rows.csv"), FileFormat())
    with pytest.raises(DataError, match=r"rows\.csv: no rows to score"):
        check_columns(found, open_scorer(run).transform, [])


def test_what_cannot_score_raw_rows(run, prepared, tmp_path):
    write_run(str(tmp_path / "pretrained"), prepared, objective="pretrain")
    with pytest.raises(DataError, match="has no click logit yet"):
        open_scorer(str(tmp_path / "pretrained"))
    other = write_dataset(str(tmp_path / "other"), seed=1)
    with pytest.raises(DataError, match=r"not the dataset .* was trained on"):
        open_scorer(run, other.uri)
    moved = str(tmp_path / "moved")
    storage.copy_tree(prepared[0].uri, moved)
    vocabulary = os.path.join(moved, prepared[0].manifest["fields"][0]["file"])
    with open(vocabulary, "ab") as stream:
        stream.write(b"more")
    with pytest.raises(DataError, match=os.path.basename(vocabulary)):
        open_scorer(run, moved)


def test_a_dataset_of_another_template_is_no_place_to_score(tmp_path):
    dataset, plm = prepared = write_both(str(tmp_path / "one"))
    other = write_dataset(str(tmp_path / "other"), template="compact")
    build_token_table(other, load_tokenizer(plm))
    for name, one in (("sentence", prepared), ("compact", (other, plm))):
        run = str(tmp_path / name)
        write_run(run, one, objective="with_plm")
        assert check_scorable(export_of(run), one[0]).objective == "with_plm"
        wrong = other if one is prepared else dataset
        with pytest.raises(DataError, match=f"the template {name}, .* prepared with --template {name}"):
            check_scorable(export_of(run), wrong)

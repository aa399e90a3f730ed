"""Scoring raw rows: as `evaluate` scores them, whatever the format and the number of actors; unknown values count by their text."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from clickprompt.cli import main
from clickprompt.config import RuntimeConfig
from clickprompt.data.text import load_tokenizer, sentence
from clickprompt.errors import DataError
from clickprompt.evaluation.predictor import Predictor
from clickprompt.export import export_of, load_export
from clickprompt.runtime.predict import predict
from tests.evaluation.test_serving import write_run
from tests.tiny import write_both

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The dataset, its PLM and its test split as raw rows, with their row_ids."""
    folder = str(tmp_path_factory.mktemp("predict"))
    dataset, plm = write_both(folder)
    rows = dataset.read_split("test")
    values = {column: dataset.vocabulary(j)["value"].take(rows[column]) for j, column in enumerate(dataset.columns)}
    return dataset, plm, pa.table({"row_id": rows["row_id"].cast(pa.string()), **values})


@pytest.fixture(scope="module", params=[False, True], ids=["without-plm", "with-plm"])
def finetuned(ray_session, prepared, request, tmp_path_factory):
    run = str(tmp_path_factory.mktemp("run") / "run")
    write_run(run, prepared[:2], objective="with_plm" if request.param else "without_plm", finetune__eval_batch_size=16)
    return run


def predictions(folder) -> pa.Table:
    return pa.concat_tables([pq.read_table(os.path.join(folder, name)) for name in sorted(os.listdir(folder))])


def write_rows(folder, table: pa.Table) -> list[str]:
    """The rows once in each format, Parquet in several files."""
    os.makedirs(folder)
    for number, start in enumerate(range(0, len(table), 50)):
        pq.write_table(table.slice(start, 50), os.path.join(folder, f"rows-{number}.parquet"))
    pa.csv.write_csv(table, os.path.join(folder, "rows.csv"))
    with open(os.path.join(folder, "rows.jsonl"), "w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
    return [os.path.join(folder, name) for name in ("rows-*.parquet", "rows.csv", "rows.jsonl")]


def test_known_rows_as_evaluate_and_the_same_for_any_number_of_actors(finetuned, prepared, tmp_path):
    run = finetuned
    patterns = write_rows(str(tmp_path / "raw"), prepared[2])
    found = {}
    for count in (1, 2, 4):
        folder = str(tmp_path / f"out-{count}")
        result = predict(run, patterns, folder, keep=["row_id"], runtime=RuntimeConfig(evaluation_actors=count))
        assert result["rows"] == 3 * len(prepared[2])
        found[count] = predictions(folder)
    assert found[1].equals(found[2])
    assert found[1].equals(found[4])
    assert found[1].column_names == ["file", "row", "row_id", "logit", "probability"]
    scores = Predictor(export_of(run), prepared[0]).score(prepared[0].read_split("test"))
    expected = dict(zip(scores.row_ids.tolist(), scores.logits.tolist(), strict=True))
    assert max(expected.values()) - min(expected.values()) > 0.01
    logits = found[1]["logit"].to_pylist()
    assert logits == pytest.approx([expected[int(row)] for row in found[1]["row_id"].to_pylist()], abs=1e-5)
    np.testing.assert_allclose(found[1]["probability"].to_numpy(), 1 / (1 + np.exp(-np.array(logits))), atol=1e-6)
    text = [row for row in found[1].to_pylist() if row["file"].endswith("rows.csv")]
    assert [row["row"] for row in text] == list(range(len(prepared[2])))
    assert [row["row_id"] for row in text] == prepared[2]["row_id"].to_pylist()


def test_unknown_values_have_id_0_and_their_own_text(finetuned, prepared, tmp_path):
    run = finetuned
    dataset, plm, rows = prepared
    known = rows.slice(0, 1).to_pylist()[0]
    movies = ["loud red 7", "warm quiet blue 8", None, " "]
    file = str(tmp_path / "rows.parquet")
    pq.write_table(pa.Table.from_pylist([known | {"movie_id": movie} for movie in movies], rows.schema), file)
    predict(run, [file], str(tmp_path / "out"), runtime=RuntimeConfig())
    found = predictions(str(tmp_path / "out"))["logit"].to_pylist()

    model, _ = load_export(export_of(run))
    ids = [dataset.vocabulary(j)["value"].to_pylist().index(known[column]) for j, column in enumerate(dataset.columns)]
    ids[dataset.columns.index("movie_id")] = 0
    tensors = []
    for movie in ("loud red 7", "warm quiet blue 8", "unknown", "unknown"):
        inputs = [torch.tensor([ids])]
        if model.plm is not None:
            values = [known[column] if column != "movie_id" else movie for column in dataset.columns]
            encoded = load_tokenizer(plm)(sentence(dataset.field_names, values), return_tensors="pt")
            inputs += [encoded["input_ids"], encoded["attention_mask"]]
        with torch.no_grad():
            tensors.append(model(*inputs).item())
    assert found == pytest.approx(tensors, abs=1e-5)
    assert (len({round(logit, 6) for logit in found}) > 2) is (model.plm is not None)


def test_bad_input(finetuned, prepared, tmp_path, capsys):
    run = finetuned
    table = prepared[2]
    lacking = str(tmp_path / "lacking.jsonl")
    with open(lacking, "w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in table.drop_columns(["gender"]).to_pylist())
    pq.write_table(table, tmp_path / "rows.parquet")
    rows, out = str(tmp_path / "rows.parquet"), str(tmp_path / "out")
    for options, said in (
        (["--rows", lacking], "has no column 'gender'"),
        (["--rows", rows, "--keep", "price"], "has no column 'price'"),
        (["--rows", rows, "--keep", "logit"], "--keep logit"),
        (["--rows", str(tmp_path / "no-*.csv")], "no such file"),
        (["--rows", lacking.replace(".jsonl", ".txt")], "no such file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["predict", "--run", run, "--to", out, *options])
        [line] = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2
        assert said in line
        assert sorted(os.listdir(tmp_path)) == ["lacking.jsonl", "rows.parquet"]


def test_a_damaged_line_leaves_nothing(finetuned, prepared, tmp_path):
    run = finetuned
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in prepared[2].to_pylist()) + "{half")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 121: not JSON"):
        predict(run, [str(file)], str(tmp_path / "out"), runtime=RuntimeConfig())
    assert os.listdir(tmp_path) == ["rows.jsonl"]

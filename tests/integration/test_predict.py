"""Scoring raw rows: as `evaluate` scores them, whatever the format and the number of actors; unknown values
count by their text.
"""

import glob
import json
import os
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from clickprompt.cli.main import main
from clickprompt.config import RuntimeConfig
from clickprompt.data.text.template import load_tokenizer, sentence
from clickprompt.errors import DataError, InputError
from clickprompt.export.format import export_of, load_export
from clickprompt.io import storage
from clickprompt.runtime.score.predict import predict
from clickprompt.scoring.rows import RowScorer
from tests.support.finetuned import write_run
from tests.support.killing import one_actor_killed
from tests.support.tiny import write_both


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The dataset, its PLM and its test split as raw rows, with their row_ids."""
    folder = str(tmp_path_factory.mktemp("predict"))
    dataset, plm = write_both(folder)
    rows = dataset.read_split("test")
    values = {
        column: dataset.vocabulary(j)["value"].take(rows[column]) for j, column in enumerate(dataset.columns)
    }
    return dataset, plm, pa.table({"row_id": rows["row_id"].cast(pa.string()), **values})


ALONE = RuntimeConfig(use_ray="never")


# Tests of what one of the two objectives shows as well as the other
MOSTLY_PLAIN = pytest.mark.parametrize(
    "finetuned", ["without_plm", pytest.param("with_plm", marks=pytest.mark.slow)], indirect=True
)
MOSTLY_PROMPTED = pytest.mark.parametrize(
    "finetuned", [pytest.param("without_plm", marks=pytest.mark.slow), "with_plm"], indirect=True
)


@pytest.fixture(scope="module", params=["without_plm", "with_plm"])
def finetuned(prepared, request, tmp_path_factory):
    run = str(tmp_path_factory.mktemp("run") / "run")
    write_run(run, prepared[:2], objective=request.param, finetune__eval_batch_size=16)
    return run


def predictions(folder) -> pa.Table:
    return pa.concat_tables(
        [pq.read_table(os.path.join(folder, name)) for name in sorted(os.listdir(folder))]
    )


def write_rows(folder, table: pa.Table) -> list[str]:
    """The rows once in each format, Parquet in several files."""
    os.makedirs(folder)
    for number, start in enumerate(range(0, len(table), 50)):
        pq.write_table(table.slice(start, 50), os.path.join(folder, f"rows-{number}.parquet"))
    pa.csv.write_csv(table, os.path.join(folder, "rows.csv"))
    with open(os.path.join(folder, "rows.jsonl"), "w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
    return [os.path.join(folder, name) for name in ("rows-*.parquet", "rows.csv", "rows.jsonl")]


@MOSTLY_PROMPTED
def test_known_rows_as_evaluate_and_the_same_for_any_number_of_actors(
    ray_session, finetuned, prepared, tmp_path
):
    run = finetuned
    patterns = write_rows(str(tmp_path / "raw"), prepared[2])
    found = {}
    for count, runtime in ((1, ALONE), (2, RuntimeConfig(evaluation_actors=2))):
        folder = str(tmp_path / f"out-{count}")
        result = predict(run, patterns, folder, keep=["row_id"], runtime=runtime)
        assert result["rows"] == 3 * len(prepared[2])
        found[count] = predictions(folder)
    assert found[1].equals(found[2])
    assert found[1].column_names == ["file", "row", "row_id", "logit", "probability"]
    scores = RowScorer(export_of(run), prepared[0]).score(prepared[0].read_split("test"))
    expected = dict(zip(scores.row_ids.tolist(), scores.logits.tolist(), strict=True))
    assert max(expected.values()) - min(expected.values()) > 0.01
    logits = found[1]["logit"].to_pylist()
    assert logits == pytest.approx([expected[int(row)] for row in found[1]["row_id"].to_pylist()], abs=1e-5)
    np.testing.assert_allclose(
        found[1]["probability"].to_numpy(), 1 / (1 + np.exp(-np.array(logits))), atol=1e-6
    )
    text = [row for row in found[1].to_pylist() if row["file"].endswith("rows.csv")]
    assert [row["row"] for row in text] == list(range(len(prepared[2])))
    assert [row["row_id"] for row in text] == prepared[2]["row_id"].to_pylist()


@MOSTLY_PROMPTED
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
    ids = [
        dataset.vocabulary(j)["value"].to_pylist().index(known[column])
        for j, column in enumerate(dataset.columns)
    ]
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
            main(["predict", "--run", run, "--out", out, *options])
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


@pytest.mark.chaos
@MOSTLY_PLAIN
@pytest.mark.slow
def test_a_killed_actor_changes_nothing(ray_session, finetuned, prepared, tmp_path):
    table = prepared[2]
    rows = pa.concat_tables([table] * 20)
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(60):
        pq.write_table(rows.slice(40 * number, 40), folder / f"rows-{number:02d}.parquet")
    found, two = {}, RuntimeConfig(evaluation_actors=2)
    for name, runtime in (("undisturbed", ALONE), ("killed", two)):
        out = str(tmp_path / name)

        def written(out=out):
            return len(glob.glob(f"{out}.tmp-*/part-*.parquet"))

        disturbed = (
            one_actor_killed("RawScorer", lambda: written() > 3, lambda: 3 < written() < 55)
            if name == "killed"
            else nullcontext()
        )
        with disturbed:
            predict(finetuned, [str(folder / "*.parquet")], out, runtime=runtime)
        found[name] = {file: storage.read_bytes(os.path.join(out, file)) for file in os.listdir(out)}
    assert len(found["killed"]) == 60
    assert found["killed"] == found["undisturbed"]
    assert sorted(os.listdir(tmp_path)) == ["killed", "raw", "undisturbed"]


def test_the_same_bits_however_the_rows_are_cut_into_files(prepared, tmp_path):
    """Without a PLM: with one, a batch is as long as its longest text."""
    run = str(tmp_path / "run")
    write_run(run, prepared[:2], finetune__eval_batch_size=16)
    table = prepared[2]
    found = []
    for size in (len(table), 7, 1):
        os.makedirs(tmp_path / f"raw-{size}")
        for number, start in enumerate(range(0, len(table), size)):
            pq.write_table(table.slice(start, size), tmp_path / f"raw-{size}" / f"rows-{number:03d}.parquet")
        out = str(tmp_path / f"out-{size}")
        predict(run, [str(tmp_path / f"raw-{size}" / "*")], out, keep=["row_id"], runtime=ALONE)
        found.append(predictions(out).select(["row_id", "logit", "probability"]).combine_chunks())
    assert all(other.equals(found[0]) for other in found)


@MOSTLY_PROMPTED
def test_no_token_table_is_needed(finetuned, prepared, tmp_path):
    """Texts are tokenized as they come."""
    dataset, _, table = prepared
    rows = str(tmp_path / "rows.parquet")
    pq.write_table(table, rows)
    moved = str(tmp_path / "moved")
    storage.copy_tree(dataset.uri, moved)
    storage.delete_tree(os.path.join(moved, "tokens"))
    for out, data in (("with", None), ("without", moved)):
        predict(finetuned, [rows], str(tmp_path / out), runtime=RuntimeConfig(), data=data)
    assert predictions(str(tmp_path / "without")).equals(predictions(str(tmp_path / "with")))


@MOSTLY_PLAIN
def test_from_a_bucket_and_to_it(finetuned, prepared, bucket, tmp_path):
    pq.write_table(prepared[2], tmp_path / "rows.parquet")
    storage.copy_tree(str(tmp_path), f"{bucket}/new")
    storage.copy_tree(finetuned, f"{bucket}/run")
    predict(
        finetuned,
        [str(tmp_path / "rows.parquet")],
        str(tmp_path / "out"),
        keep=["row_id"],
        runtime=RuntimeConfig(),
    )
    result = predict(
        f"{bucket}/run",
        [f"{bucket}/new/*.parquet"],
        f"{bucket}/out",
        keep=["row_id"],
        runtime=RuntimeConfig(),
    )
    assert (result["rows"], storage.list_names(f"{bucket}/out")) == (len(prepared[2]), ["part-00000.parquet"])
    with storage.open_input(f"{bucket}/out/part-00000.parquet") as stream:
        found = pq.read_table(stream)
    assert found["file"].unique().to_pylist() == [f"{bucket}/new/rows.parquet"]
    expected = predictions(str(tmp_path / "out"))
    assert found.drop_columns("file").equals(expected.drop_columns("file"))
    with pytest.raises(InputError, match="exists already"):
        predict(f"{bucket}/run", [f"{bucket}/new/*.parquet"], f"{bucket}/out", runtime=RuntimeConfig())

"""The vectors of users and items: each value's own row of the model's table, as the model looks it up."""

import json
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clickprompt.cli.main import main
from clickprompt.data.text.template import encode, load_tokenizer
from clickprompt.export.embeddings import export_embeddings
from clickprompt.io import storage
from tests.support.described import shown, write_described
from tests.support.finetuned import write_run
from tests.support.tiny import write_both


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("embeddings")))


@pytest.mark.parametrize("objective", ["without_plm", "with_plm", "pretrain"])
def test_a_value_has_the_vector_that_the_model_looks_up(prepared, tmp_path, capsys, objective):
    dataset = prepared[0]
    run, out = str(tmp_path / "run"), str(tmp_path / "vectors")
    model: Any = write_run(run, prepared, objective=objective)
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--run", run, "--format", "embeddings", "--out", out, "--json"])
    assert stopped.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert sorted(os.listdir(out)) == ["item.parquet", "user.parquet"]
    for role, name in (("user", "User ID"), ("item", "Movie ID")):
        assert result[role]["field"] == name
        field = dataset.field_names.index(name)
        rows = pq.read_table(os.path.join(out, f"{role}.parquet"))
        assert rows.column("vector").type == pa.list_(pa.float32(), 8)
        vocabulary = dataset.vocabulary(field).slice(1)
        assert rows.drop_columns(["vector"]).equals(vocabulary)
        assert result[role]["rows"] == len(rows) == dataset.field_sizes[field] - 1
        field_ids = torch.zeros(len(rows), len(dataset.field_names), dtype=torch.int64)
        field_ids[:, field] = torch.from_numpy(rows["id"].to_numpy().astype(np.int64))
        with torch.no_grad():
            looked_up = model.ctr.embedding(field_ids)[:, field]
        np.testing.assert_array_equal(np.array(rows["vector"].to_pylist(), np.float32), looked_up.numpy())
        assert len(np.unique(looked_up.numpy(), axis=0)) == len(rows)


@pytest.mark.parametrize("objective", ["with_plm", "pretrain"])
def test_a_value_s_text_as_the_trained_plm_embeds_it(tmp_path, capsys, objective):
    """Of an item it is its title, if it has one."""
    described = write_described(str(tmp_path / "described"))
    dataset, plm = described
    run, out = str(tmp_path / "run"), str(tmp_path / "vectors")
    model: Any = write_run(run, described, objective=objective)
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--run", run, "--format", "embeddings", "--texts", "--out", out, "--json"])
    assert stopped.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["size"], result["text_size"]) == (8, 32)
    tokenizer = load_tokenizer(plm)
    for role, text_of in (("user", str), ("item", shown)):
        rows = pq.read_table(os.path.join(out, f"{role}.parquet"))
        assert rows.column_names == ["id", "value", "train_count", "vector", "text_vector"]
        assert len(rows) == dataset.field_sizes[dataset.field_names.index(result[role]["field"])] - 1
        for row in rows.slice(0, 6).to_pylist():
            [tokens] = encode(tokenizer, [text_of(row["value"])], special_tokens=True)
            ids = torch.tensor([tokens])
            with torch.no_grad():
                states = model.plm.eval()(ids, torch.ones_like(ids))[0]
            mean = sum(states) / len(states)
            expected = mean / sum(x * x for x in mean) ** 0.5
            np.testing.assert_allclose(row["text_vector"], expected.numpy(), atol=1e-3)


def test_texts_that_cannot_be_embedded_are_one_line(prepared, tmp_path, capsys):
    run = str(tmp_path / "run")
    write_run(run, prepared)
    for form, said in (
        ("embeddings", "has no language model, which --texts asks"),
        ("onnx", "--texts goes with --format embeddings, not onnx"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["export", "--run", run, "--format", form, "--texts", "--out", str(tmp_path / "new")])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert not os.path.exists(tmp_path / "new")


def test_a_place_anywhere(prepared, place, tmp_path):
    write_run(str(tmp_path / "a run"), prepared)
    out = storage.join(place, "vectors")
    export_embeddings(str(tmp_path / "a run"), out)
    assert storage.list_names(out) == ["item.parquet", "user.parquet"]


def test_what_cannot_be_written_is_one_line(prepared, tmp_path, capsys):
    run, out = str(tmp_path / "run"), str(tmp_path / "vectors")
    write_run(run, prepared, objective="with_plm", baseline="ptab", prompt__num_prompts=0)
    with_ctr = str(tmp_path / "ctr")
    write_run(with_ctr, prepared)
    os.makedirs(out)
    for options, said in (
        (["--run", run, "--out", str(tmp_path / "new")], "has no CTR model"),
        (["--run", with_ctr, "--out", out], "exists already"),
        (["--run", with_ctr, "--out", str(tmp_path / "new"), "--raw"], "--raw goes with --format onnx"),
        (
            ["--run", with_ctr, "--out", str(tmp_path / "new"), "--data", str(tmp_path / "gone")],
            "nothing here",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["export", "--format", "embeddings", *options])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert not os.path.exists(tmp_path / "new")

"""The folder for a server: read here as a server without clickprompt would, for every backbone and format."""

import importlib.util
import json
import os
import pickle
import re

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch

from clickprompt.cli.main import main
from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.errors import DataError, RunError
from clickprompt.export.format import load_export, read_info
from clickprompt.export.raw_graph import MISSING_INTEGER, drawn_inputs
from clickprompt.export.serving_folder import export_for_serving
from clickprompt.io import storage
from clickprompt.models.backbones import BACKBONES
from tests.support.chosen import some
from tests.support.every_kind import MORE, write_every_kind
from tests.support.finetuned import write_run
from tests.support.tiny import write_both


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("serving")))


def served_inputs(folder: str, rows: list[dict[str, str]]) -> np.ndarray:
    """field_ids [B, F] of raw rows, by the folder alone."""
    with open(os.path.join(folder, "export.json")) as stream:
        fields = json.load(stream)["serving"]["fields"]
    ids = [
        {
            v: i
            for i, v in enumerate(pq.read_table(os.path.join(folder, f["vocabulary"]))["value"].to_pylist())
        }
        for f in fields
    ]
    return np.array([[ids[j].get(row[field["name"]], 0) for j, field in enumerate(fields)] for row in rows])


def check_logits(model, logits, field_ids):
    for size in (1, 2, 50, 300):
        with torch.no_grad():
            expected = model(torch.from_numpy(field_ids[:size])).numpy()
        found = logits(field_ids[:size])
        assert found.shape == (size,)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.ptp(expected) > 0.01


def drawn_rows(dataset, count=300) -> tuple[list[dict[str, str]], np.ndarray]:
    """Raw rows, unknown values among them, and their ids."""
    rng = np.random.default_rng(1)
    ids = np.stack([rng.integers(0, size, count) for size in dataset.field_sizes], axis=1)
    values = [dataset.vocabulary(field)["value"].to_pylist() for field in range(len(dataset.field_names))]
    rows = [
        {name: values[j][row[j]] if row[j] else "never seen" for j, name in enumerate(dataset.field_names)}
        for row in ids
    ]
    return rows, ids


@pytest.mark.parametrize("backbone", some(BACKBONES, "dcnv2", "ipnn"))
def test_onnx(prepared, tmp_path, backbone):
    run, out = str(tmp_path / "run"), str(tmp_path / "served")
    model = write_run(run, prepared, ctr__backbone=backbone)
    result = export_for_serving(run, out, "onnx")
    assert sorted(os.listdir(out)) == ["README.md", "export.json", "model.onnx", "vocab"]
    rows, ids = drawn_rows(prepared[0])
    np.testing.assert_array_equal(served_inputs(out, rows), ids)
    session = onnxruntime.InferenceSession(os.path.join(out, "model.onnx"))
    check_logits(model, lambda field_ids: session.run(["logit"], {"field_ids": field_ids})[0], ids)
    assert result["checked_rows"] == prepared[0].counts["test"]
    assert 0 <= result["largest_difference"] <= 1e-5
    for times in result["ms_per_batch"].values():
        assert 0 < times["median"] <= times["p99"]


def test_onnx_that_takes_raw_rows(prepared, tmp_path, capsys):
    """The log's own columns; the rest is in tests/integration/test_serve.py and test_raw_graph.py."""
    run, out = str(tmp_path / "run"), str(tmp_path / "served")
    model = write_run(run, prepared)
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--run", run, "--format", "onnx", "--raw", "--out", out])
    assert stopped.value.code == 0
    assert "logits of 512 drawn rows" in capsys.readouterr().out
    with open(os.path.join(out, "export.json")) as stream:
        inputs = json.load(stream)["serving"]["inputs"]
    assert [one["column"] for one in inputs] == RowTransform.of_dataset(prepared[0]).columns
    rows, feed = drawn_inputs(RowTransform.of_dataset(prepared[0]), 300, seed=1)
    ids = RowTransform.of_dataset(prepared[0])(rows, ("",)).field_ids
    session = onnxruntime.InferenceSession(os.path.join(out, "model.onnx"))
    check_logits(
        model,
        lambda some: session.run(["logit"], {name: column[: len(some)] for name, column in feed.items()})[0],
        ids,
    )


def test_raw_rows_of_every_kind_but_histories(tmp_path):
    """Several values, learned numbers, further labels, weights and given vectors; the logits are compared."""
    made = write_every_kind(str(tmp_path / "kinds"), "\n".join(MORE.splitlines()[3:]))
    run = str(tmp_path / "run")
    write_run(run, made, ctr__numeric="periodic", ctr__pooling="max")
    found = export_for_serving(run, str(tmp_path / "served"), "onnx", raw=True)
    assert found["outputs"] == ["logit", "logit_like", "logit_purchase"]
    assert found["largest_difference"] < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "served" / "model.onnx"))
    nothing = {"user": "", "item": "", "genres": "", "title": "", "price": np.nan}
    rows = {
        name: np.array([value] * 4, object if value == "" else np.float64) for name, value in nothing.items()
    }
    if session.get_inputs()[1].type == "tensor(int64)":
        rows["item"] = np.full(4, MISSING_INTEGER)
    rows["genres"][1:3], rows["price"][3] = ["blue|red", "blue"], 3.5
    logits = session.run(["logit"], rows)[0]
    assert len({*logits.tolist()}) == 4, "a kind of column isn't read"


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.sampled(1)
def test_weights_too_large_for_one_file_are_listed_copied_and_checked(prepared, tmp_path, monkeypatch, raw):
    """Beyond 1.5 GiB they lie beside the graph; here beyond 1 KB."""
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1 << 10)
    run, out = str(tmp_path / "run"), str(tmp_path / "served")
    write_run(run, prepared)
    export_for_serving(run, out, "onnx", raw=raw)
    assert sorted(os.listdir(out)) == ["README.md", "export.json", "model.onnx", "model.onnx.data", "vocab"]
    with open(os.path.join(out, "export.json")) as stream:
        info = json.load(stream)
    assert info["files"]["model.onnx.data"] == storage.sha256(os.path.join(out, "model.onnx.data"))
    assert os.path.getsize(os.path.join(out, "model.onnx.data")) > 1 << 10
    assert info["serving"]["largest_difference"] <= 1e-5  # of the graph with those weights
    assert onnxruntime.InferenceSession(os.path.join(out, "model.onnx")).get_outputs()[0].name == "logit"


@pytest.mark.parametrize("backbone", some(BACKBONES, "dcnv2", "autoint", "deepfm"))
def test_torch_export(prepared, tmp_path, monkeypatch, backbone):
    """What torch.export.load reads holds no pickle."""
    run, out = str(tmp_path / "run"), str(tmp_path / "served")
    model = write_run(run, prepared, ctr__backbone=backbone)
    export_for_serving(run, out, "torch-export")
    assert sorted(os.listdir(out)) == ["README.md", "export.json", "model.pt2", "vocab"]

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    with monkeypatch.context() as patch:
        for module, name in ((pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (torch, "load")):
            patch.setattr(module, name, refuse)
        module = torch.export.load(os.path.join(out, "model.pt2")).module()
    _, ids = drawn_rows(prepared[0])
    check_logits(model, lambda field_ids: module(torch.from_numpy(field_ids)).detach().numpy(), ids)


def test_safetensors(prepared, tmp_path):
    run, out = str(tmp_path / "run"), str(tmp_path / "served")
    model = write_run(run, prepared, objective="with_plm")
    export_for_serving(run, out)
    assert sorted(os.listdir(out)) == ["README.md", "export.json", "model.safetensors", "tokenizer", "vocab"]
    loaded, info = load_export(out)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert len([name for name in info.files or () if name.startswith("vocab/")]) == len(
        prepared[0].field_names
    )


def test_a_dataset_that_has_moved(prepared, tmp_path, capsys):
    """It needs no token table."""
    run, moved = str(tmp_path / "run"), str(tmp_path / "moved")
    write_run(run, prepared, objective="with_plm", data__path=str(tmp_path / "gone"))
    storage.copy_tree(prepared[0].uri, moved)
    storage.delete_tree(os.path.join(moved, "tokens"))
    for options, code in (([], 2), (["--data", moved], 0)):
        with pytest.raises(SystemExit) as stopped:
            main(["export", "--run", run, "--out", str(tmp_path / "served"), *options])
        assert stopped.value.code == code
        assert os.path.exists(tmp_path / "served") is (code == 0)
    assert f"{tmp_path / 'gone'}: there is nothing here" in capsys.readouterr().err
    loaded, _ = load_export(str(tmp_path / "served"))
    assert loaded.plm is not None


@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_a_model_that_reads_text_is_no_graph(prepared, tmp_path, to):
    write_run(str(tmp_path / "run"), prepared, objective="with_plm")
    with pytest.raises(DataError, match=r"finetune\.with_plm=false"):
        export_for_serving(str(tmp_path / "run"), str(tmp_path / "served"), to)
    assert os.listdir(tmp_path) == ["run"]


def test_a_graph_that_computes_something_else_is_not_left_behind(prepared, tmp_path, monkeypatch):
    write_run(str(tmp_path / "run"), prepared)
    original = torch.export.export

    def other(model, *arguments, **options):
        weight = model.prediction.bias
        with torch.no_grad():
            weight += 2e-5
            try:
                program = original(model, *arguments, **options)
                torch.export.save(program, str(tmp_path / "frozen"))
                return torch.export.load(str(tmp_path / "frozen"))
            finally:
                weight -= 2e-5

    monkeypatch.setattr(torch.export, "export", other)
    with pytest.raises(RunError, match=r"model\.pt2: a logit differs by 2e-05"):
        export_for_serving(str(tmp_path / "run"), str(tmp_path / "served"), "torch-export")
    assert sorted(os.listdir(tmp_path)) == ["frozen", "run"]


def test_a_graph_is_no_export_to_score_with(prepared, tmp_path):
    write_run(str(tmp_path / "run"), prepared)
    export_for_serving(str(tmp_path / "run"), str(tmp_path / "served"), "torch-export")
    with pytest.raises(DataError, match="give the run it was exported from"):
        read_info(str(tmp_path / "served"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "FOLDER"], "export --to is now --format.*--out is the place"),
        ([], "--out is missing"),
        (["--format", "tflite", "--out", "{out}"], "tflite.*safetensors, onnx, torch-export"),
        (["--format", "torch-export", "--raw", "--out", "{out}"], "--raw goes with --format onnx"),
        (["--format", "onnx", "--out", "{out}"], "pip install onnx onnxscript onnxruntime"),
    ],
)
def test_bad_options(prepared, tmp_path, capsys, monkeypatch, options, said):
    write_run(str(tmp_path / "run"), prepared)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else find(name, *rest)
    )
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "export",
                "--run",
                str(tmp_path / "run"),
                *(option.format(out=tmp_path / "out") for option in options),
            ]
        )
    [line] = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert re.search(said, line), line
    assert os.listdir(tmp_path) == ["run"]
    assert storage.exists(str(tmp_path / "run" / "export" / "export.json"))


def test_the_command_says_how_fast_and_how_equal(prepared, tmp_path, capsys):
    write_run(str(tmp_path / "run"), prepared)
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--run", f"{tmp_path}/run", "--format", "onnx", "--out", f"{tmp_path}/served"])
    output = capsys.readouterr()
    assert stopped.value.code == 0
    assert "ms per batch of 128, one thread, median: exported " in output.out
    assert output.out.splitlines()[-1].endswith(f"onnx: {tmp_path / 'served'}")
    assert output.err == ""

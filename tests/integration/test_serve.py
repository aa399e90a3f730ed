"""Training and serving are one: a split's rows score alike by `evaluate`, `predict`, the folder for a server,
and over HTTP; and the server answers every request while processes are killed and exports change.
"""

import concurrent.futures
import json
import os
import signal
import time

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clickprompt.config import RuntimeConfig
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.export.format import export_of, read_info
from clickprompt.export.serving_folder import export_for_serving
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.score.predict import predict
from clickprompt.scoring.raw_rows import open_scorer
from clickprompt.scoring.rows import RowScorer
from tests.support.clusters import free_port
from tests.support.commands import fails
from tests.support.finetuned import write_run
from tests.support.listening import beyond_loopback, explained, listening
from tests.support.server import Server
from tests.support.tiny import write_plm

ALONE = RuntimeConfig(use_ray="never")
FIELDS = [
    {"name": "User", "column": "user"},
    {"name": "Word", "column": "word"},
    {"name": "Price", "column": "price", "kind": "numeric", "edges": [1, 2.5, 10]},
    {"name": "Score", "column": "score", "kind": "numeric", "round": 1},
    {"name": "Views", "column": "views", "kind": "numeric", "log": 2},
    {"name": "Age", "column": "age", "kind": "numeric", "quantiles": 4},
    {"name": "Tags", "column": "tags", "kind": "multi"},
    {"name": "Title", "column": "items.title"},
]


def log_rows(count: int = 400) -> list[dict]:
    """Rows with every kind of field; a fifth of the cells are missing."""
    rng = np.random.default_rng(3)
    words = ["red", "blue", "007", "3.0", "naïve"]

    def row(number):
        values = {
            "user": int(rng.integers(2**53, 2**53 + 30)),
            "word": str(rng.choice(words)),
            "price": float(rng.choice([0.5, 1.0, 2.0, 2.5, 30.0])),
            "score": float(np.round(rng.normal(), 3)),
            "views": int(rng.integers(0, 1000)),
            "age": int(rng.integers(0, 90)),
            "tags": [str(tag) for tag in rng.choice(words, rng.integers(0, 3))],
            "item": int(rng.integers(0, 25)),  # of 20
        }
        lost = rng.random(len(values)) < 0.2
        shown = {
            name: None if gone else value for (name, value), gone in zip(values.items(), lost, strict=True)
        }
        return shown | {"click": int(rng.integers(0, 2)), "when": number}

    return [row(number) for number in range(count)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(dataset, PLM, the test split's rows as JSON, its shards' rows, their file)"""
    folder = str(tmp_path_factory.mktemp("serve"))
    rows = log_rows()
    pq.write_table(pa.Table.from_pylist(rows), os.path.join(folder, "log.parquet"))
    pq.write_table(
        pa.table({"item": list(range(20)), "title": [f"title {i % 7}" for i in range(20)]}),
        os.path.join(folder, "items.parquet"),
    )
    schema = {
        "data": ["log.parquet"],
        "tables": {"items": {"data": "items.parquet", "key": "item"}},
        "fields": FIELDS,
        "label": {"column": "click"},
        "timestamp": "when",
    }
    with open(os.path.join(folder, "schema.yaml"), "w") as stream:
        yaml.safe_dump(schema, stream)
    dataset = prepare(
        os.path.join(folder, "schema.yaml"),
        None,
        os.path.join(folder, "data"),
        runtime=ALONE,
        progress=lambda line: None,
    )
    plm = write_plm(os.path.join(folder, "plm"))
    build_token_table(dataset, load_tokenizer(plm))
    split = dataset.read_split("test")
    when = [int(stamp) // 1_000_000 for stamp in split["timestamp"].to_pylist()]
    own = [rows[second] for second in when]
    file = os.path.join(folder, "test.parquet")
    pq.write_table(pa.Table.from_pylist(own, pq.read_schema(os.path.join(folder, "log.parquet"))), file)
    columns = [*(field["column"] for field in FIELDS[:-1]), "item"]
    return dataset, plm, [{name: row[name] for name in columns} for row in own], split, file


@pytest.fixture(scope="module", params=["without_plm", "with_plm"])
def finetuned(prepared, request, tmp_path_factory):
    run = str(tmp_path_factory.mktemp("run") / "run")
    write_run(run, prepared[:2], objective=request.param, finetune__eval_batch_size=16, plm__max_length=64)
    return run


def by_graph(folder: str, rows: list[dict]) -> np.ndarray:
    """[B] logits of raw rows, as a server without clickprompt gets them."""
    with open(os.path.join(folder, "export.json")) as stream:
        inputs = json.load(stream)["serving"]["inputs"]
    feed = {}
    for one in inputs:
        values, missing = (
            [row[one["column"]] for row in rows],
            float("nan") if one["missing"] == "NaN" else one["missing"],
        )
        if len(one["shape"]) == 2:
            longest = max(len(value or ()) for value in values)
            values = [[*(value or ()), *[""] * (longest - len(value or ()))] for value in values]
        elif one["type"] == "string":
            values = ["" if value is None else str(value) for value in values]
        else:
            values = [missing if value is None else value for value in values]
        feed[one["column"]] = np.array(
            values, {"int64": np.int64, "double": np.float64, "string": object}[one["type"]]
        )
    return onnxruntime.InferenceSession(os.path.join(folder, "model.onnx")).run(["logit"], feed)[0]


def expected_logits(run, dataset, split) -> np.ndarray:
    """In the order of the split's rows, scored as `evaluate` does."""
    scores = RowScorer(export_of(run), dataset).score(split)
    by_row = dict(zip(scores.row_ids.tolist(), scores.logits.tolist(), strict=True))
    return np.array([by_row[row] for row in split["row_id"].to_pylist()])


@pytest.mark.sampled(1)
def test_parity(finetuned, prepared, tmp_path):
    dataset, _, rows, split, file = prepared
    assert min(np.mean([row[name] is None for row in rows]) for name in rows[0]) > 0.05
    expected = expected_logits(finetuned, dataset, split)
    assert np.ptp(expected) > 0.1

    predict(finetuned, [file], str(tmp_path / "out"), runtime=ALONE)
    found = pa.concat_tables(
        pq.read_table(tmp_path / "out" / name) for name in sorted(os.listdir(tmp_path / "out"))
    )
    np.testing.assert_allclose(found["logit"].to_numpy(), expected, atol=1e-6, rtol=0)

    if read_info(export_of(finetuned)).objective == "without_plm":
        export_for_serving(finetuned, str(tmp_path / "graph"), "onnx", raw=True)
        np.testing.assert_allclose(by_graph(str(tmp_path / "graph"), rows), expected, atol=1e-6, rtol=0)

    served = str(tmp_path / "served")
    export_for_serving(finetuned, served)
    logits, transformed = open_scorer(served).score(pq.read_table(file), ("",))
    np.testing.assert_allclose(logits, expected, atol=1e-6, rtol=0)
    np.testing.assert_array_equal(
        transformed.field_ids, np.stack([split[column].to_numpy() for column in dataset.columns], axis=1)
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.chaos
def test_no_request_fails_while_processes_are_killed_and_exports_change(prepared, tmp_path):
    _, _, rows, _, _ = prepared
    for number in (0, 1):
        write_run(str(tmp_path / f"run{number}"), prepared[:2], ctr__hidden_dim=16 + 8 * number)
        export_for_serving(str(tmp_path / f"run{number}"), str(tmp_path / f"served{number}"))
    link = tmp_path / "now"
    link.symlink_to(tmp_path / "served0")
    until = time.monotonic() + 120
    over: list[bool] = []
    with Server(str(link), str(tmp_path), "--watch", "0.5") as server:

        def client(_):
            found = []
            while not over:
                found.append(server.ask("/predict", {"rows": rows[:3]}))
            return found

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(client, number) for number in range(4)]
            try:
                before = server.models()
                assert len(before) == 2
                os.kill(before[0], signal.SIGKILL)
                while time.monotonic() < until and (len(server.models()) < 2 or before[0] in server.models()):
                    time.sleep(0.2)
                assert before[0] not in server.models()
                first = server.ask("/predict", {"rows": []})[1]["export"]
                os.symlink(tmp_path / "served1", tmp_path / "next")
                os.replace(tmp_path / "next", link)
                seen = 0
                while time.monotonic() < until and seen < 20:
                    seen = seen + 1 if server.ask("/predict", {"rows": []})[1]["export"] != first else 0
                assert seen == 20
            finally:
                over.append(True)
            answers = [answer for one in clients for answer in one.result()]
    assert len(answers) > 50
    assert {status for status, _ in answers} == {200}
    assert len({answer["export"] for _, answer in answers}) == 2
    assert len({round(answer["predictions"][0]["logit"], 4) for _, answer in answers}) == 2
    assert server.status == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "give a token"),
        (["--token-file", "nowhere"], "no token can be read"),
        (["--replicas", "0"], "at least 1"),
        (["--run", "nothing"], "holds no export"),
    ],
)
def test_bad_options(prepared, tmp_path, capsys, options, said):
    write_run(str(tmp_path / "run"), prepared[:2])
    port = ["--port", str(free_port())]
    assert said in fails(capsys, "serve", "--run", str(tmp_path / "run"), *port, "--json", *options)


TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module", params=["with_plm", pytest.param("without_plm", marks=pytest.mark.slow)])
def served(prepared, request, tmp_path_factory):
    """(a server that asks for TOKEN, the run whose export it serves)"""
    folder = tmp_path_factory.mktemp("served")
    run, export = str(folder / "run"), str(folder / "export")
    write_run(run, prepared[:2], objective=request.param, finetune__eval_batch_size=16, plm__max_length=64)
    export_for_serving(run, export)
    (folder / "token").write_text(TOKEN + "\n")
    options = ["--host", "0.0.0.0", "--token-file", str(folder / "token"), "--replicas", "1"]
    with Server(export, str(folder), *options) as server:
        yield server, run
    assert server.status == 0
    with open(server.err) as err:
        assert TOKEN not in err.read() + server.said


@pytest.mark.ray
def test_parity_over_http(served, prepared):
    dataset, _, rows, split, _ = prepared
    server, run = served
    expected = expected_logits(run, dataset, split)

    def ask(body):
        return server.ask("/predict", body, Authorization=f"Bearer {TOKEN}")

    status, answer = ask({"rows": rows})
    assert status == 200, answer
    found = [one["logit"] for one in answer["predictions"]]
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    alone = [ask({"rows": [row]})[1]["predictions"][0]["logit"] for row in rows[:8]]
    np.testing.assert_allclose(alone, expected[:8], atol=1e-6, rtol=0)
    bad = rows[0] | {"price": "cheap"}
    status, answer = ask({"rows": [rows[0], bad, {"prise": 1}, bad]})
    assert (status, [(error["row"], error["column"]) for error in answer["errors"]]) == (
        422,
        [(1, "price"), (2, "prise"), (3, "price")],
    )
    assert "is not a number" in answer["errors"][0]["error"]
    assert ask({"rows": [rows[0] | {"click": 1}], "ignore_unknown": True})[0] == 200
    assert ask(b"{")[0] == 400


@pytest.mark.ray
def test_it_listens_beyond_loopback_only_where_it_was_told_to(served):
    server, _ = served
    found = listening(server.process.pid)
    assert beyond_loopback(found) == [("ProxyActor", "0.0.0.0")]  # --host
    assert {"ProxyActor", "raylet"} <= {who for who, _ in found} <= explained()


@pytest.mark.ray
def test_a_token_opens_the_door(served):
    server, _ = served
    assert server.ask("/ready")[0] == 200
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
    ):
        for path, body in (("/predict", {"rows": []}), ("/metrics", None)):
            assert server.ask(path, body, **headers)[0] == 401
    assert server.ask("/predict", {"rows": [{}]}, Authorization=f"Bearer {TOKEN}")[0] == 200
    until = time.monotonic() + 40
    while time.monotonic() < until:
        status, text = server.ask("/metrics", Authorization=f"Bearer {TOKEN}")
        if status == 200 and "ray_clickprompt_serve_requests_total" in text:
            break
        time.sleep(1)
    assert "ray_clickprompt_serve_requests_total" in text

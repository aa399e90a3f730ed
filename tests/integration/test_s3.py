"""The data path and a training run on an object store: moto's server on loopback, found by the environment as
Amazon's is.
"""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from itertools import pairwise

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clickprompt.cli.main import main
from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import DataError
from clickprompt.export.format import export_of, load_weights
from clickprompt.io import storage
from clickprompt.io.hashes import RECEIPT
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.prepare.synth import synth
from clickprompt.training.checkpoint import newest_complete
from tests.support.tiny import write_plm

pytestmark = pytest.mark.ray

ROWS = 600
ALONE, ON_RAY = RuntimeConfig(use_ray="never"), RuntimeConfig(use_ray="always")
SMALL = {"rows_per_shard": 100, "row_group_rows": 16, "progress": lambda line: None}
SCHEMA = {
    "fields": [
        {"name": "User ID", "column": "user"},
        {"name": "Movie ID", "column": "movie"},
        {"name": "Film genre", "column": "genre"},
    ],
    "label": {"column": "stars", "positive_from": 4, "drop": [3]},
    "timestamp": "time",
    "user": "user",
    "item": "movie",
    "k_core": 2,
}


def write_log(folder: str, kind: str) -> str:
    """Three files of a log and, beside them, the schema: its path."""
    draw = np.random.default_rng(1)
    users, movies = draw.integers(0, 30, ROWS), draw.integers(0, 20, ROWS)
    columns = {
        "user": [f"u{user}" for user in users],
        "movie": [f"red {movie}" for movie in movies],
        "genre": [("old", "new", "quiet")[movie % 3] for movie in movies],
        "stars": [
            1 + (user * movie) % 5 for user, movie in zip(users.tolist(), movies.tolist(), strict=True)
        ],
        "time": draw.permutation(ROWS).tolist(),
    }
    os.makedirs(os.path.join(folder, "log"))
    table = pa.table(columns)
    for number, (start, stop) in enumerate(pairwise(range(0, ROWS + 1, ROWS // 3))):
        piece, path = table.slice(start, stop - start), os.path.join(folder, "log", f"part-{number}.{kind}")
        if kind == "parquet":
            pq.write_table(piece, path, row_group_size=90)
            continue
        rows = piece.to_pylist()
        lines = (
            [json.dumps(row) for row in rows]
            if kind == "jsonl"
            else [",".join(columns), *(",".join(map(str, row.values())) for row in rows)]
        )
        with gzip.open(path, "wt") if kind.endswith(".gz") else open(path, "w") as stream:
            stream.write("\n".join(lines) + "\n")
    return write_schema(folder, f"log/*.{kind}")


def write_schema(folder: str, data: str) -> str:
    path = os.path.join(folder, "log.yaml")
    storage.write_bytes(path, yaml.safe_dump({"data": [data], **SCHEMA}, sort_keys=False).encode())
    return path


def objects(uri: str) -> list[str]:
    """Every file below the address; without receipts, which are there once a file is old enough."""
    found = []
    for name in storage.list_names(uri):
        if name == RECEIPT:
            continue
        below = storage.join(uri, name)
        filesystem, path = storage.resolve(below)
        found += [below] if filesystem.get_file_info(path).is_file else objects(below)
    return found


def without_addresses(dataset: Dataset) -> dict:
    return {key: value for key, value in dataset.manifest.items() if key not in ("raw_files", "source")}


def succeeds(capsys, *arguments: str) -> dict:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert stopped.value.code == 0, captured.err
    return json.loads(captured.out.splitlines()[-1])  # Ray warns of a busy machine on stdout


@pytest.mark.parametrize(
    ("kind", "schema_there", "runtime"),
    [("parquet", True, ON_RAY), ("csv.gz", False, ALONE), ("jsonl", True, ALONE)],
    ids=["parquet on Ray", "csv.gz", "jsonl"],
)
def test_a_log_in_a_bucket_gives_the_bytes_of_a_local_one(
    ray_session, bucket, tmp_path, kind, schema_there, runtime
):
    log = write_log(str(tmp_path / "raw"), kind)
    local = prepare(log, None, str(tmp_path / "out"), **SMALL, runtime=ALONE)
    storage.copy_tree(str(tmp_path / "raw"), f"{bucket}/raw")
    schema = (
        f"{bucket}/raw/log.yaml"
        if schema_there
        else write_schema(str(tmp_path / "here"), f"{bucket}/raw/log/part-?.{kind}")
    )
    remote = prepare(schema, None, f"{bucket}/out/", **SMALL, runtime=runtime)
    assert without_addresses(remote) == without_addresses(local)
    assert list(remote.manifest["raw_files"]) == [
        f"{bucket}/raw/log/part-{number}.{kind}" for number in range(3)
    ]
    remote.verify()
    entries = [
        *remote.manifest["fields"],
        *(shard for shards in remote.manifest["shards"].values() for shard in shards),
    ]
    files = ["manifest.json", *(entry["file"] for entry in entries)]
    assert sorted(objects(f"{bucket}/out")) == sorted(f"{bucket}/out/{file}" for file in files)
    lines = []
    assert (
        prepare(
            schema, None, f"{bucket}/out", **SMALL | {"progress": lines.append}, runtime=ALONE
        ).fingerprint
        == remote.fingerprint
    )
    assert lines == [f"{bucket}/out is prepared already"]


def test_a_prepare_that_fails_leaves_nothing(ray_session, bucket, tmp_path):
    schema = write_log(str(tmp_path / "raw"), "jsonl")
    with open(tmp_path / "raw" / "log" / "part-2.jsonl", "a") as stream:
        stream.write("{broken\n")
    with pytest.raises(DataError, match=r"part-2\.jsonl, line 201: not JSON"):
        prepare(schema, None, f"{bucket}/out", **SMALL)
    assert objects(bucket) == []
    assert not storage.exists(f"{bucket}/out")


@pytest.mark.chaos
@pytest.mark.slow
def test_a_prepare_after_one_that_was_killed_starts_clean(ray_session, bucket, tmp_path):
    schema = write_log(str(tmp_path / "raw"), "jsonl")
    code = (
        "import os, sys; from clickprompt.runtime.prepare import prepare, vocabulary; "
        "vocabulary._write_vocabulary = lambda *_: os._exit(9); "
        "prepare.prepare(sys.argv[1], None, sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, schema, f"{bucket}/out"], check=False, capture_output=True
    )
    assert done.returncode == 9, done.stderr
    assert objects(f"{bucket}/out/train"), "killed before there was something to leave"
    with pytest.raises(DataError, match=r"there is no prepared dataset \(no manifest\.json\) here"):
        Dataset.open(f"{bucket}/out")
    lines = []
    prepare(schema, None, f"{bucket}/out", **SMALL | {"progress": lines.append}).verify()
    assert f"{bucket}/out: cleared of what an interrupted prepare had left" in lines
    assert not [
        name for name in objects(f"{bucket}/out") if not re.search(r"manifest\.json$|\.parquet$", name)
    ]


@pytest.mark.slow
def test_a_synthetic_log_is_written_to_a_bucket_and_prepared_there(ray_session, bucket, tmp_path):
    sizes = {"rows_per_file": 1024, "row_group_rows": 512, "progress": lambda line: None}
    facts = synth("goodreads", f"{bucket}/synth", 2000, **sizes)
    assert facts == synth("goodreads", str(tmp_path / "synth"), 2000, **sizes, runtime=ALONE)
    files = ("log/part-00000.parquet", "log/part-00001.parquet", "schema.yaml", "synth.json")
    assert objects(f"{bucket}/synth") == [f"{bucket}/synth/{file}" for file in files]
    remote = prepare(f"{bucket}/synth/schema.yaml", None, f"{bucket}/out", **SMALL, runtime=ALONE)
    assert remote.counts == {"train": 1600, "valid": 200, "test": 200}


@pytest.fixture(scope="module")
def prepared(ray_session, shared_bucket, tmp_path_factory):
    """A bucket with a dataset and its token table, and the PLM's folder."""
    folder = tmp_path_factory.mktemp("s3")
    prepare(write_log(str(folder / "raw"), "parquet"), None, str(folder / "data"), **SMALL, runtime=ALONE)
    storage.copy_tree(str(folder / "data"), f"{shared_bucket}/data")
    return shared_bucket, write_plm(str(folder / "plm")), str(folder / "data")


@pytest.mark.slow
def test_tokenize(prepared, capsys, monkeypatch, tmp_path):
    bucket, plm, local = prepared
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tables = []
    for data in (f"{bucket}/data", local):
        fingerprint = succeeds(capsys, "tokenize", data, "--plm", plm)["fingerprint"]
        assert storage.exists(f"{data}/tokens/{fingerprint}/meta.json")
        tables.append(TokenTable.open(Dataset.open(data), load_tokenizer(plm)))
    rows = Dataset.open(local).read_split("valid")
    ids = np.stack([rows[column].to_numpy() for column in Dataset.open(local).columns], axis=1)
    first, second = (table.assemble(ids) for table in tables)
    assert (first[0] == second[0]).all()
    assert (first[1] == second[1]).all()
    # one copy on this machine, mapped by whoever opens the table
    own = tmp_path / f"clickprompt-{os.getuid()}"
    [copy] = own.iterdir()
    made = copy.stat().st_mtime_ns
    assert isinstance(tables[0].tokens, np.memmap)
    assert str(tables[0].tokens.filename).startswith(str(copy))
    TokenTable.open(Dataset.open(f"{bucket}/data"), load_tokenizer(plm))
    assert [entry.stat().st_mtime_ns for entry in own.iterdir()] == [made]
    assert own.stat().st_mode & 0o777 == 0o700


def settings(data: str, plm: str) -> list[str]:
    """A short finetuning without the PLM, with two workers; slow enough to be killed in the middle."""
    given = {
        "finetune.with_plm": False,
        "finetune.epochs": 3,
        "finetune.checkpoint_every": 10,
        "finetune.validate_every": 10,
    }
    given |= {
        "finetune.global_batch_size": 24,
        "finetune.micro_batch_size": 2,
        "data.path": data,
        "data.chunk_batches": 4,
        "plm.path": plm,
    }
    given |= {"ctr.embedding_dim": 8, "ctr.hidden_dim": 16, "ctr.num_layers": 2, "ctr.dropout": 0}
    given |= {"runtime.num_workers": 2, "runtime.engine": "torch", "runtime.evaluation_actors": 1}
    return [part for key, value in given.items() for part in ("--set", f"{key}={json.dumps(value)}")]


@pytest.mark.chaos
@pytest.mark.slow
def test_a_run_in_a_bucket_is_that_of_a_local_folder_also_when_a_worker_is_killed(prepared, capsys, tmp_path):
    bucket, plm, local = prepared
    here, run = str(tmp_path / "run"), f"{bucket}/run"
    expected = succeeds(capsys, "finetune", "--run", here, *settings(local, plm))
    killed, over = [], threading.Event()

    def kill_one_worker_after_the_first_checkpoint():
        while not over.wait(0.02):
            if newest_complete(f"{run}/checkpoints"):
                workers = [
                    p
                    for p in psutil.Process().children(recursive=True)
                    if "RayTrainWorker" in "".join(p.cmdline())
                ]
                if len(workers) == 2:
                    os.kill(workers[-1].pid, signal.SIGKILL)
                    killed.append(workers[-1].pid)
                    return

    killer = threading.Thread(target=kill_one_worker_after_the_first_checkpoint)
    killer.start()
    try:
        result = succeeds(capsys, "finetune", "--run", run, *settings(f"{bucket}/data", plm))
    finally:
        over.set()
        killer.join()
    assert len(killed) == 1, "nothing was killed"
    same = ("step", "planned_steps", "best_auc", "best_step", "last_loss", "stopped")
    assert {key: result[key] for key in same} == pytest.approx({key: expected[key] for key in same})
    weights = load_weights(export_of(here))
    for name, tensor in load_weights(export_of(run)).items():
        np.testing.assert_allclose(tensor.numpy(), weights[name].numpy(), rtol=1e-5, atol=1e-6)
    assert succeeds(capsys, "finetune", "--run", run, *settings(f"{bucket}/data", plm)) == result

    scores, expected = (
        succeeds(capsys, "evaluate", "--run", place, "--set", "runtime.evaluation_actors=1")
        for place in (run, here)
    )
    assert scores["auc"] == pytest.approx(expected["auc"], rel=1e-6)
    succeeds(capsys, "export", "--run", run, "--out", f"{bucket}/served")
    assert load_weights(f"{bucket}/served").keys() == weights.keys()
    for export in (export_of(run), f"{bucket}/served"):
        assert b"library_name: clickprompt" in storage.read_bytes(f"{export}/README.md")

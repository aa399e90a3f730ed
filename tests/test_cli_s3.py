"""What a person reads whose bucket, key or server isn't there or isn't theirs: one line, soon, and nothing is
left behind.
"""

import os
import re
import time
import urllib.request

import pytest

from clickprompt.cli.main import main
from clickprompt.io import storage
from tests.support.raw_movielens import ratings, write_1m
from tests.support.tiny import write_both

SCHEMA = """
data: [DATA]
fields: [{name: User ID, column: user}, {name: Movie ID, column: movie}]
label: {column: label}
"""


def fails(capsys, *arguments: str) -> str:
    """The one line of a command that ends with status 2."""
    started = time.monotonic()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2, lines
    assert time.monotonic() - started < 15
    [line] = [line for line in lines if line.startswith("error: ")]
    assert not [line for line in lines if "Traceback" in line]
    return line


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Folders of a dataset with its token table, a PLM and raw files; a schema of files in a bucket."""
    folder = tmp_path_factory.mktemp("s3-errors")
    data, plm = write_both(str(folder))
    return {
        "local": data.uri,
        "plm": plm,
        "raw": write_1m(str(folder / "raw"), ratings(60)),
        "schema": str(folder / "log.yaml"),
    }


@pytest.fixture(scope="module")
def filled(local, shared_bucket):
    """The address of a bucket with the dataset."""
    storage.copy_tree(local["local"], f"{shared_bucket}/data")
    return shared_bucket


def commands(names: dict[str, str], *which: str) -> list[list[str]]:
    without_plm = ["--set", "finetune.with_plm=false"]
    everything = {
        "prepare to": ["prepare", "movielens-1m", "--raw", "{raw}", "--out", "{uri}/new"],
        "prepare to bucket": ["prepare", "movielens-1m", "--raw", "{raw}", "--out", "{uri}"],
        "prepare raw": ["prepare", "movielens-1m", "--raw", "{uri}/raw", "--out", "{out}"],
        "prepare schema": ["prepare", "{uri}/log.yaml", "--out", "{out}"],
        "prepare data": ["prepare", "{schema}", "--out", "{out}"],
        "check": ["prepare", "{schema}", "--check"],
        "synth": ["synth", "goodreads", "--rows", "1000", "--out", "{uri}/new"],
        "tokenize": ["tokenize", "{uri}/data", "--plm", "{plm}"],
        "finetune to": ["finetune", "--run", "{uri}/new", "--set", "data.path={local}", *without_plm],
        "finetune data": ["finetune", "--run", "{out}", "--set", "data.path={uri}/data", *without_plm],
        "evaluate": ["evaluate", "--run", "{uri}/new"],
        "export": ["export", "--run", "{uri}/new", "--out", "{out}"],
    }
    if "{" not in names["data"]:
        storage.write_bytes(names["schema"], SCHEMA.replace("DATA", names["data"]).encode())
    return [[part.format(**names) for part in everything[one]] for one in which or everything]


def test_a_missing_bucket_or_key(local, filled, capsys, tmp_path):
    before, missing = storage.list_names(filled), f"{filled}-that-is-none"
    names = {**local, "out": str(tmp_path / "out")}
    for command in commands({**names, "uri": missing, "data": f"{missing}/*.jsonl"}):
        assert missing in fails(capsys, *command), command
    reading = (
        "prepare raw",
        "prepare schema",
        "prepare data",
        "check",
        "tokenize",
        "finetune data",
        "evaluate",
        "export",
    )
    for data in ("*.jsonl", "data/nothing.jsonl"):
        for command in commands(
            {**names, "uri": f"{filled}/nothing", "data": f"{filled}/nothing/{data}"}, *reading
        ):
            assert f"{filled}/nothing" in fails(capsys, *command), command
    assert storage.list_names(filled) == before
    assert not os.path.exists(tmp_path / "out")


@pytest.fixture
def guarded(s3_server):
    """The server asks for a key that it knows, and it knows none."""

    def ask(after_requests: str) -> None:
        request = urllib.request.Request(
            f"http://{s3_server}/moto-api/reset-auth", after_requests.encode(), {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request).close()

    ask("0")
    yield
    ask("inf")


def test_wrong_credentials(local, filled, guarded, capsys, tmp_path):
    for command in commands(
        {**local, "out": str(tmp_path / "out"), "uri": filled, "data": f"{filled}/*.jsonl"}
    ):
        line = fails(capsys, *command)
        assert "s3://" in line
        assert re.search("ACCESS_DENIED|INVALID_ACCESS_KEY_ID", line), line
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in line
    assert not os.path.exists(tmp_path / "out")


def test_a_server_that_does_not_answer(local, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    names = {**local, "out": str(tmp_path / "out"), "uri": "s3://bucket", "data": "s3://bucket/*.jsonl"}
    for command in commands(names, "prepare to", "prepare data", "finetune to", "finetune data"):
        line = fails(capsys, *command)
        assert "s3://bucket" in line
        assert "Could not connect to server" in line
    assert not os.path.exists(tmp_path / "out")

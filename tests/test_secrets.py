"""No password and no token gets into what a run leaves, or what a command prints: those of the environment,
and those of addresses that someone writes into a setting, an option or a schema.
"""

import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clickprompt.cli.main import main
from clickprompt.errors import InputError, has_secret, without_secrets
from clickprompt.io import storage
from tests.support.folders import files_below

ENVIRONMENT = {
    name: f"planted{number:02d}secret"
    for number, name in enumerate(
        (
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "HF_TOKEN",
            "CLICKPROMPT_SERVE_TOKEN",
            "WANDB_API_KEY",
            "MLFLOW_TRACKING_PASSWORD",
            "RAY_AUTH_TOKEN",
        )
    )
}
SECRET = "planted99secret"  # of the addresses below
ADDRESSES = [
    f"s3://someone:{SECRET}@bucket/x",
    f"s3://bucket/x?secret_key={SECRET}",
    f"gs://someone:{SECRET}@bucket/x",
    f"gs://bucket/x?region=eu&token={SECRET}",
    f"https://someone:{SECRET}@host/x",
    f"https://{SECRET}@host/x",
    f"https://host/x?X-Amz-Signature={SECRET}&a=1",
    f"abfs://account:{SECRET}@container/x",
    f"hdfs://someone:{SECRET}@host:8020/x",
    f"postgresql://host/runs?password={SECRET}#x",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_with_a_secret(address):
    assert has_secret(address)
    shown = without_secrets(f"what={address} 'no'")
    assert SECRET not in shown
    assert shown.startswith("what=")
    assert shown.endswith(" 'no'")
    with pytest.raises(InputError) as refused:
        storage.resolve(address)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/a?b/part-*.parquet",
        "gs://anonymous@bucket/x",
        "abfs://container@account.dfs.core.windows.net/x",
        "http://[::1]:8265/x",
        "http://127.0.0.1:8265/?page=2&design=3",
        "/home/me/a@b:c/x?token=1",
        "pip:letters==1.0",
    ],
)
def test_an_address_without(address):
    assert without_secrets(address) == address


@pytest.fixture
def planted(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def said(planted, capfd):
    """Runs a command; returns its status and all that it printed."""

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        output = capfd.readouterr()
        return stopped.value.code, output.out + output.err

    return run


def leaks(text: str) -> list[str]:
    return [secret for secret in (SECRET, *ENVIRONMENT.values()) if secret in text]


def write_log(folder, data: str = "log.parquet") -> str:
    rows = [(user, item, (user + item) % 2) for user, item in itertools.product(range(12), range(10))]
    columns = dict(zip(("user", "item", "click"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), str(folder / "log.parquet"))
    fields = [{"name": name.title(), "column": name} for name in ("user", "item")]
    schema = {"data": [data], "fields": fields, "label": {"column": "click"}}
    (folder / "log.yaml").write_text(yaml.safe_dump(schema))
    return str(folder / "log.yaml")


def test_nothing_of_the_environment_is_left_or_printed(said, tmp_path):
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    sizes = [f"finetune.{key}=20" for key in ("global_batch_size", "micro_batch_size", "validate_every")]
    settings = [
        *(f"data.path={data}", "finetune.with_plm=false", "finetune.epochs=1", "ctr.embedding_dim=4"),
        *sizes,
    ]
    alone = ["--set", "runtime.use_ray=never"]
    printed = ""
    for command in (
        ["prepare", write_log(tmp_path), "--out", data, *alone],
        ["finetune", "--run", run, *alone, *(word for one in settings for word in ("--set", one))],
        ["evaluate", "--run", run, *alone],
        ["export", "--run", run, "--out", str(tmp_path / "served")],
        ["report", run, "--out", str(tmp_path / "report.html")],
    ):
        status, text = said(*command)
        assert status == 0, text
        printed += text
    left = files_below(str(tmp_path))
    assert {"run/config.yaml", "run/result.json", "report.html", "served/README.md"} <= left.keys()
    assert len(printed.splitlines()) > 10
    assert leaks(printed + b"\n".join(left.values()).decode(errors="replace")) == []


def commands(address: str, schema: str, out: str) -> list[list[str]]:
    return [
        ["prepare", schema, "--out", out],
        ["prepare", "movielens-1m", "--raw", address, "--out", out],
        ["finetune", "--set", f"data.path={address}", "--set", "finetune.with_plm=false", "--run", out],
        ["pretrain", "--set", f"plm.path={address}", "--set", f"data.path={address}", "--run", out],
        ["finetune", "--set", f"nowhere.path={address}", "--run", out],
        ["finetune", "--set", f"data.chunk_batches={address}", "--run", out],
        ["evaluate", "--run", address, "--json"],
        ["predict", "--run", out, "--rows", address, "--out", out],
        [address],
        ["finetune", f"--nothing={address}"],
    ]


@pytest.mark.parametrize("address", ADDRESSES[::3])
def test_nothing_of_an_address_is_printed_or_left(said, tmp_path, address):
    schema = write_log(tmp_path, address)
    for command in commands(address, schema, str(tmp_path / "out")):
        status, text = said(*command)
        assert status == 2, text
        assert leaks(text) == [], command
        assert "Traceback" not in text
        assert not (tmp_path / "out").exists(), command

"""Bad input: one clear line on stderr, exit status 2, no traceback, nothing half-written, and no Ray
started.
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from clickprompt.cli.main import main
from clickprompt.io import storage
from tests.support.commands import fails
from tests.support.tiny import write_both


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    dataset, plm = write_both(str(folder))
    return dataset.uri, plm


@pytest.fixture
def run(tmp_path, prepared):
    """`run(*arguments)` on a copy of the prepared dataset: (exit status, stderr)."""
    data = str(tmp_path / "data")
    shutil.copytree(prepared[0], data)
    return data, prepared[1], str(tmp_path / "run")


def pretrain(data, plm, run, *settings):
    options = [
        f"data.path={data}",
        f"plm.path={plm}",
        "plm.random_init=true",
        "pretrain.global_batch_size=24",
        "pretrain.micro_batch_size=12",
    ]
    return [
        "pretrain",
        "--run",
        run,
        *(part for setting in [*options, *settings] for part in ("--set", setting)),
    ]


def test_unknown_config_key_names_the_nearest(capsys, run):
    line = fails(capsys, *pretrain(*run, "prompt.num_promts=3"))
    assert "prompt.num_promts" in line
    assert "prompt.num_prompts" in line
    assert not os.path.exists(run[2])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("prompt.num_prompts=-1", ["prompt.num_prompts=-1", "give a whole number ≥ 0"]),
        ("pretrain.global_batch_size=25", ["global_batch_size=25", "12 × 1", "24 or 36"]),
        ("runtime.num_workers=64", ["runtime.num_workers=64", "logical CPUs", "use at most"]),
        ("ctr.backbone=dcn9", ["dcn9", "dcnv2"]),
        ("data.path=nowhere", ["nowhere", "clickprompt prepare"]),
        ("plm.random_init=false", ["the folder has no weights", "model.safetensors"]),
        ("plm.path=nowhere/at/all", ["nowhere/at/all", "no such folder"]),
    ],
)
def test_impossible_settings(capsys, run, setting, said):
    line = fails(capsys, *pretrain(*run, setting))
    assert all(part in line for part in said), line
    assert not os.path.exists(run[2])


def test_another_format_version(capsys, run):
    path = os.path.join(run[0], "manifest.json")
    manifest = storage.read_json(path)
    storage.write_json(path, manifest | {"format_version": 99})
    line = fails(capsys, *pretrain(*run))
    assert "99" in line
    assert "prepare again" in line
    assert not os.path.exists(run[2])


def test_corrupted_shard(capsys, run):
    path = os.path.join(run[0], "train", "part-00000.parquet")
    with open(path, "r+b") as stream:
        stream.seek(200)
        byte = stream.read(1)
        stream.seek(200)
        stream.write(bytes([byte[0] ^ 1]))
    line = fails(capsys, *pretrain(*run))
    assert path in line
    assert "corrupted" in line
    assert not os.path.exists(run[2])


def test_empty_split(capsys, run):
    path = os.path.join(run[0], "manifest.json")
    manifest = storage.read_json(path)
    manifest["counts"]["valid"] = 0
    storage.write_json(path, manifest)
    assert "the valid split is empty" in fails(capsys, *pretrain(*run))


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_unreadable_target(capsys, run, tmp_path, command):
    data, plm, _ = run
    file = tmp_path / "file"
    file.write_text("in the way")
    line = fails(capsys, command, *pretrain(data, plm, str(file / "run"), "finetune.with_plm=false")[1:])
    assert str(file / "run") in line
    assert file.read_text() == "in the way"


def test_a_run_of_another_configuration_is_not_continued(capsys, run):
    os.makedirs(run[2])
    storage.write_bytes(os.path.join(run[2], "config.yaml"), b"seed: 7\n")
    line = fails(capsys, *pretrain(*run))
    assert "another configuration: seed was 7, is 0, data.path was None, is " in line
    assert re.search(r" and \d+ more; choose another --run", line)
    assert storage.read_bytes(os.path.join(run[2], "config.yaml")) == b"seed: 7\n"


def test_finetune_from_a_run_without_export(capsys, run, tmp_path):
    os.makedirs(tmp_path / "empty")
    settings = pretrain(*run, f"finetune.init={tmp_path / 'empty'}", "finetune.with_plm=false")[1:]
    line = fails(capsys, "finetune", *settings)
    assert "holds no export" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "netflix", "--raw", ".", "--out", "{tmp}/out"],
        ["prepare", "movielens-1m", "--raw", "{tmp}/nowhere", "--out", "{tmp}/out"],
        ["fetch", "netflix", "--out", "{tmp}/out"],
        ["evaluate", "--run", "{tmp}/nowhere"],
        ["export", "--run", "{tmp}/nowhere", "--out", "{tmp}/out"],
        ["export", "--run", "{tmp}/nowhere"],
        ["pretrain", "--config", "nosuchpreset", "--run", "{tmp}/run"],
        ["pretrain"],
        ["nosuchcommand"],
        ["submit", "nosuchjob", "--address", "http://127.0.0.1:1"],
    ],
)
def test_wrong_arguments(capsys, tmp_path, arguments):
    fails(capsys, *(part.format(tmp=tmp_path) for part in arguments))
    assert os.listdir(tmp_path) == []


def test_full_target(capsys, run, small_disk):
    """A disk too small for the token table: one line, and nothing of it is left."""
    small = Path(small_disk("128k"))
    shutil.copytree(run[0], small / "data", ignore=shutil.ignore_patterns("tokens"))
    (small / "filler").write_bytes(
        np.zeros(1 << 20, np.uint8)[: shutil.disk_usage(small).free - 4096].tobytes()
    )
    with pytest.raises(SystemExit) as stopped:
        main(["tokenize", str(small / "data"), "--plm", run[1]])
    *progress, line = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert line.startswith("error: ")
    assert "space left" in line
    assert not [said for said in progress if not said.startswith("tokenizing")]
    assert not [name for _, _, names in os.walk(small / "data" / "tokens") for name in names]


def test_doctor_prints_one_json_object(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--json"])
    output = json.loads(capsys.readouterr().out)
    assert stopped.value.code == (0 if output["ok"] else 1)
    assert {"ray", "torch", "deepspeed", "cpu", "storage", "auth"} <= {
        item["what"] for item in output["findings"]
    }


@pytest.mark.parametrize(
    "command", [["evaluate", "--run", "r"], ["compare", "r", "--against", "s"], ["report", "r"]]
)
def test_a_split_that_does_not_exist_is_one_line(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--split", "typo"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: split 'typo' is unknown; known splits: train, valid, test\n"


@pytest.mark.parametrize("breaking", ["\n", "\r\n", "\x1b[2J", "\x85", "\u2028"])
def test_an_error_is_one_line_whatever_the_value(tmp_path, capsys, breaking):
    with pytest.raises(SystemExit) as stopped:
        main(["init", f"{tmp_path}/a{breaking}b"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert said.strip().isprintable()

"""Exports and datasets of strangers: what they say is read right or refused in one line, whatever it is; no
name in them leads out of their folder, and none makes this process take much memory.

Logs and schemas: tests/data/sources/test_fuzz_logs.py and test_reading_any.py.
`CLICKPROMPT_FUZZ_EXAMPLES=5000 pytest tests/test_strangers_files.py` looks longer.
"""

import copy
import json
import os
import resource
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickprompt.config import load_config
from clickprompt.data.prepared.dataset import MANIFEST, SPLITS, Dataset
from clickprompt.data.sources.schema import load_schema
from clickprompt.errors import InputError
from clickprompt.evaluation.predictions import Scores, read_part, write_predictions
from clickprompt.export.format import INFO, load_export
from clickprompt.io import storage
from tests.support.damaged import changed, damaged, fuzz, refused
from tests.support.finetuned import write_run
from tests.support.synthetic import write_dataset

FUZZ = fuzz(5)
WEIGHTS = "model.safetensors"
ELSEWHERE = st.one_of(
    st.sampled_from(
        ["..", "../{}", "a/../../{}", "/etc/{}", "./{}", "a//{}", "{}/", "", "s3://b/{}", "..\\{}", "{}\0"]
    ),
    st.lists(st.sampled_from(["..", "a", "", "."]), min_size=1, max_size=4).map(
        lambda parts: "/".join([*parts, ".."])
    ),
).map(lambda pattern: pattern.replace("{}", "x.parquet"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A dataset, and a run's export without its PLM."""
    folder = tmp_path_factory.mktemp("strangers")
    dataset = write_dataset(str(folder / "data"))
    write_run(str(folder / "run"), (dataset, None), plm__path="nothing")
    return dataset.uri, str(folder / "run" / "export")


def read_all(folder: str) -> None:
    dataset = Dataset.open(folder)
    dataset.verify()
    for split in SPLITS:
        dataset.read_split(split)
    for field in range(len(dataset.field_names)):
        dataset.vocabulary(field)


def write(folder: str, info: dict) -> None:
    with open(os.path.join(folder, INFO), "w") as stream:
        json.dump(info, stream)


@FUZZ
@given(st.data())
def test_an_export_is_read_or_refused(folders, data):
    info, folder = copy.deepcopy(storage.read_json(f"{folders[1]}/{INFO}")), f"{folders[1]}-changed"
    shutil.copytree(folders[1], folder)
    try:
        if data.draw(st.booleans()):
            changed(info, data.draw)
        else:
            content = damaged(storage.read_bytes(f"{folder}/{WEIGHTS}"), data.draw)
            storage.write_bytes(f"{folder}/{WEIGHTS}", content)
            info["files"][WEIGHTS] = storage.sha256_bytes(content)
        write(folder, info)
        refused(load_export, folder)
    finally:
        shutil.rmtree(folder)


@FUZZ
@given(st.data())
def test_a_dataset_is_read_or_refused(folders, data):
    manifest, folder = storage.read_json(f"{folders[0]}/{MANIFEST}"), f"{folders[0]}-changed"
    shutil.copytree(folders[0], folder)
    try:
        if data.draw(st.booleans()):
            changed(manifest, data.draw)
        else:
            entries = [
                *manifest["fields"],
                *(shard for split in SPLITS for shard in manifest["shards"][split]),
            ]
            entry = data.draw(st.sampled_from(entries))
            content = damaged(storage.read_bytes(f"{folder}/{entry['file']}"), data.draw)
            storage.write_bytes(f"{folder}/{entry['file']}", content)
            entry["sha256"] = storage.sha256_bytes(content)
        storage.write_json(f"{folder}/{MANIFEST}", manifest)
        refused(read_all, folder)
    finally:
        shutil.rmtree(folder)


@settings(max_examples=20)
@given(name=ELSEWHERE)
def test_no_name_leads_out_of_its_folder(folders, name):
    with pytest.raises(InputError, match="isn't below its folder") as error:
        storage.inside("/data/set", name)
    assert "\n" not in str(error.value)
    manifest = storage.read_json(f"{folders[0]}/{MANIFEST}")
    manifest["shards"]["train"][0]["file"] = name
    export = storage.read_json(f"{folders[1]}/{INFO}")
    export["files"][name] = "0" * 64
    for folder, file, content in ((folders[0], MANIFEST, manifest), (folders[1], INFO, export)):
        before = storage.read_bytes(f"{folder}/{file}")
        try:
            storage.write_json(f"{folder}/{file}", content)
            said = refused(Dataset.open if file == MANIFEST else load_export, folder)
        finally:
            storage.write_bytes(f"{folder}/{file}", before)
        assert "isn't below its folder" in (said or "")


@pytest.mark.parametrize("claimed", ["a long header", "a large tensor"])
def test_weights_that_claim_terabytes(folders, tmp_path, claimed):
    folder = str(tmp_path / "export")
    shutil.copytree(folders[1], folder)
    header = {"ctr.x": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(header).encode()
    size = (1 << 43) if claimed == "a long header" else len(text)
    content = size.to_bytes(8, "little") + text + bytes(64)
    storage.write_bytes(f"{folder}/{WEIGHTS}", content)
    info = storage.read_json(f"{folder}/{INFO}")
    info["files"][WEIGHTS] = storage.sha256_bytes(content)
    write(folder, info)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "damaged" in (refused(load_export, folder) or "")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


SHAPING = [
    (("field_sizes", 0), [10**6, 10**9, 10**12, 10**19]),
    (("config", "ctr", "embedding_dim"), [10**5, 10**9, 10**20]),
    (("config", "ctr", "hidden_dim"), [10**5, 10**9]),
    (("config", "ctr", "num_layers"), [5_000, 10**9, 10**12]),
    (("history",), [{"field": 0, "size": 10**9}]),
    (("multi",), [[{"field": 0, "size": 10**9}]]),
]


@pytest.mark.parametrize(
    ("keys", "number"), [(keys, number) for keys, numbers in SHAPING for number in numbers]
)
@pytest.mark.sampled(5)
def test_a_size_that_its_weights_do_not_bear_out(folders, tmp_path, keys, number):
    """No memory is taken by a number that stands in an export, but for one that its weights have."""
    folder = str(tmp_path / "export")
    shutil.copytree(folders[1], folder)
    info = storage.read_json(f"{folder}/{INFO}")
    holder = info
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = number
    write(folder, info)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert folder in (refused(load_export, folder) or "")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize("number", [10**4, 10**12])
def test_a_vocabulary_of_fewer_values_than_its_manifest_says(folders, tmp_path, number):
    folder = str(tmp_path / "data")
    shutil.copytree(folders[0], folder)
    manifest = storage.read_json(f"{folder}/{MANIFEST}")
    manifest["fields"][0]["size"] = number
    storage.write_json(f"{folder}/{MANIFEST}", manifest)
    assert f"the manifest says {number:,}" in (refused(Dataset.open(folder).verify, []) or "")


def test_a_vocabulary_that_is_something_else(folders, tmp_path):
    folder = str(tmp_path / "data")
    shutil.copytree(folders[0], folder)
    manifest = storage.read_json(f"{folder}/{MANIFEST}")
    file = manifest["fields"][0]["file"]
    pq.write_table(pq.read_table(f"{folder}/{file}").select(["id"]), f"{folder}/{file}")
    assert "corrupted" in (refused(read_all, folder) or "")


def test_a_columns_name_that_is_no_text(folders, tmp_path):
    folder = str(tmp_path / "data")
    shutil.copytree(folders[0], folder)
    manifest = storage.read_json(f"{folder}/{MANIFEST}")
    entry = manifest["fields"][0]
    content = storage.read_bytes(f"{folder}/{entry['file']}").replace(b"train_count", b"\x8brain_count")
    storage.write_bytes(f"{folder}/{entry['file']}", content)
    entry["sha256"] = storage.sha256_bytes(content)
    storage.write_json(f"{folder}/{MANIFEST}", manifest)
    dataset = Dataset.open(folder)
    for read, arguments in (
        (dataset.verify, []),
        (dataset.vocabulary, [0]),
        (dataset.vocabulary_pieces, [0]),
    ):
        assert "damaged" in (refused(read, *arguments) or "")
    write_predictions(f"{tmp_path}/0.parquet", Scores(*np.zeros((4, 1), np.float32), None))
    content = storage.read_bytes(f"{tmp_path}/0.parquet")
    storage.write_bytes(f"{tmp_path}/0.parquet", content.replace(b"row_id", b"\x8bow_id"))
    assert "not a readable Parquet file" in (refused(read_part, f"{tmp_path}/0.parquet") or "")


@pytest.mark.parametrize("read", [load_schema, lambda path: load_config(path, [])])
@pytest.mark.parametrize(
    "text",
    [
        "\n".join(
            [
                "a0: &a0 [x, y]",
                *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)),
                "data: *a11",
            ]
        ),
        "data: &a [*a]",
        "data: " + "[" * 5000,
        "data: !!python/object/apply:os.system [exit 1]",
        "pretrain: 2024-99-99",
    ],
)
@pytest.mark.sampled(3)
def test_yaml_that_stands_for_more(tmp_path, read, text):
    (tmp_path / "x.yaml").write_text(text)
    assert (refused(read, str(tmp_path / "x.yaml")) or "").count("x.yaml") == 1

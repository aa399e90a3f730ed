"""The prepared format: what can be read back, and what is refused with which words."""

import os
import pickle

import numpy as np
import pyarrow as pa
import pytest

from clickprompt.data.prepared.dataset import FORMAT_VERSION, Dataset
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from tests.support.folders import files_below
from tests.support.hashed import grow_old, hashed
from tests.support.synthetic import FIELDS, write_dataset


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(str(tmp_path / "d"))


def change_manifest(dataset, **changes):
    storage.write_json(os.path.join(dataset.uri, "manifest.json"), dataset.manifest | changes)


def test_describes_itself(dataset):
    assert dataset.field_names == list(FIELDS)
    assert dataset.columns == ["user_id", "gender", "movie_id", "film_genre"]
    assert dataset.field_sizes == [size + 1 for size in FIELDS.values()]
    assert dataset.num_features == sum(FIELDS.values())
    assert dataset.counts == {"train": 400, "valid": 120, "test": 120}
    assert dataset.row_group_counts("train").tolist() == [37] * 10 + [30]
    assert dataset.vocabulary(0).column("id").to_pylist() == list(range(31))


def test_row_groups_come_in_the_given_order(dataset):
    whole = dataset.read_split("train")
    picked = dataset.read_row_groups("train", np.array([10, 0, 3, 3]))
    wanted = pa.concat_tables(
        [whole.slice(370, 30), whole.slice(0, 37), whole.slice(111, 37), whole.slice(111, 37)]
    )
    assert picked.equals(wanted)
    assert dataset.read_row_groups("train", []).schema == whole.schema
    assert pa.concat_tables(dataset.shard_tables("valid")).equals(dataset.read_split("valid"))
    for index in (-1, 11):
        with pytest.raises(IndexError):
            dataset.read_row_groups("train", [index])
    with pytest.raises(InputError, match="'dev' is unknown; known splits: train, valid, test"):
        dataset.read_split("dev")


def test_is_small_when_sent_to_a_task(dataset):
    sent = pickle.dumps(dataset)
    assert len(sent) < 4000
    assert pickle.loads(sent).read_split("test").equals(dataset.read_split("test"))


def test_fingerprint_changes_with_the_content(dataset, tmp_path):
    assert Dataset.open(dataset.uri).fingerprint == dataset.fingerprint
    assert write_dataset(str(tmp_path / "same")).fingerprint == dataset.fingerprint
    assert write_dataset(str(tmp_path / "other"), seed=1).fingerprint != dataset.fingerprint


def test_nothing_there_and_no_dataset(tmp_path):
    with pytest.raises(DataError, match="there is nothing here; make one with clickprompt prepare"):
        Dataset.open(str(tmp_path / "missing"))
    with pytest.raises(DataError, match="no prepared dataset"):
        Dataset.open(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="can't be read as a manifest"):
        Dataset.open(str(tmp_path))
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="not the manifest of a clickprompt dataset"):
        Dataset.open(str(tmp_path))


def test_other_format_version_is_refused(dataset):
    change_manifest(dataset, format_version=FORMAT_VERSION + 1)
    rule = (
        f"prepared with format {FORMAT_VERSION + 1}, this clickprompt reads {FORMAT_VERSION}; run "
        "clickprompt prepare again"
    )
    with pytest.raises(DataError, match=rule):
        Dataset.open(dataset.uri)


def test_empty_split_is_refused(dataset):
    change_manifest(dataset, counts=dataset.counts | {"valid": 0})
    with pytest.raises(DataError, match="the valid split is empty"):
        Dataset.open(dataset.uri)


@pytest.mark.parametrize("file", ["train/part-00000.parquet", "vocab/02-movie_id.parquet"])
def test_verify_names_the_corrupted_file(dataset, file):
    dataset.verify()
    path = os.path.join(dataset.uri, file)
    with open(path, "r+b") as stream:
        stream.seek(40)
        byte = stream.read(1)
        stream.seek(40)
        stream.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DataError, match=rf"{file}: corrupted, sha256"):
        dataset.verify()
    os.unlink(path)
    with pytest.raises(DataError, match=rf"{file}: missing or damaged"):
        dataset.verify()


def test_verify_reads_a_file_once(dataset, monkeypatch):
    grow_old(dataset.uri)
    read = hashed(monkeypatch)
    dataset.verify(["test"])
    dataset.verify()
    files = [path for path in files_below(dataset.uri) if path.endswith(".parquet")]
    assert sorted(read) == sorted(f"{dataset.uri}/{path}" for path in files)
    dataset.verify()
    assert len(read) == len(files)
    path = f"{dataset.uri}/valid/part-00000.parquet"
    with open(path, "r+b") as stream:
        stream.seek(40)
        stream.write(bytes([stream.read(1)[0] ^ 1]))
    with pytest.raises(DataError, match=r"valid/part-00000\.parquet: corrupted"):
        dataset.verify()


def test_verify_reads_the_asked_splits_only(dataset):
    os.unlink(os.path.join(dataset.uri, "train/part-00000.parquet"))
    dataset.verify(["valid", "test"])
    with pytest.raises(DataError):
        dataset.verify(["train"])


def test_damaged_shard_is_named_when_read(dataset):
    path = os.path.join(dataset.uri, "valid/part-00000.parquet")
    os.truncate(path, 100)
    for read in (lambda: dataset.read_split("valid"), lambda: dataset.read_row_groups("valid", [0])):
        with pytest.raises(
            DataError, match=r"valid/part-00000\.parquet: missing or damaged .*run clickprompt prepare again"
        ):
            read()


def test_few_labels_are_a_view_of_the_training_rows_alone(dataset):
    whole = dataset.read_split("train")
    few, more = (dataset.only_labelled(share, seed=5) for share in (0.1, 0.4))
    rows = few.read_split("train")
    assert 20 < len(rows) < 65
    assert few.counts == dataset.counts | {"train": len(rows)}
    assert few.row_group_counts("train").sum() == len(rows)
    ids = whole["row_id"].to_pylist()
    kept = rows["row_id"].to_pylist()
    assert kept == [row for row in ids if row in set(kept)]  # in the order of all
    assert set(kept) <= set(more.read_split("train")["row_id"].to_pylist())
    assert kept != dataset.only_labelled(0.1, seed=6).read_split("train")["row_id"].to_pylist()
    for view in (few, pickle.loads(pickle.dumps(few))):
        groups = [view.read_row_groups("train", [index]) for index in range(11)]
        assert [len(group) for group in groups] == view.row_group_counts("train").tolist()
        assert pa.concat_tables(groups).equals(rows)
        assert view.first_rows("train", 7).equals(rows.slice(0, 7))
        assert view.first_rows("train", 999).equals(rows)
    assert pa.concat_tables(few.shard_tables("train", ["label"])).equals(rows.select(["label"]))
    assert few.read_split("test").equals(dataset.read_split("test"))
    assert few.fingerprint == dataset.fingerprint
    with pytest.raises(DataError, match=r"finetune\.label_share=1e-06 leaves none of 400 training rows"):
        dataset.only_labelled(1e-6, seed=5)


def test_an_epoch_of_few_labels_has_each_of_them_once(dataset):
    few = dataset.only_labelled(0.1, seed=5)
    sizes = {"global_batch_size": 8, "chunk_batches": 2, "seed": 1, "epochs": 2, "max_steps": None}
    order = Order.of(few, **sizes)
    seen = [
        row
        for rank in range(2)
        for _, columns in read_local_batches(few, order, rank=rank, num_workers=2)
        for row, weight in zip(columns["row_id"], columns["weight"], strict=True)
        if weight
    ]
    assert sorted(seen) == sorted(few.read_split("train")["row_id"].to_pylist() * 2)

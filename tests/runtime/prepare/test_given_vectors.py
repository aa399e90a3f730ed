"""Given vectors are stored by their values' ids; mistakes in them are found before the log is read."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.given_vectors import open_vectors
from clickprompt.data.sources import table as log_table
from clickprompt.errors import ConfigError, DataError
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.vectors import ITEMS, SIZE, VECTORS, vector_of, write_images, write_log


def test_rows_of_the_table_are_the_values_vectors(tmp_path, capsys):
    dataset = prepare(write_log(str(tmp_path / "log")), None, str(tmp_path / "data"))
    found = {number: vector_of(number) for number in range(ITEMS + 5)}
    squares = [sum(float(x) ** 2 for x in one) for one in found.values() if one is not None]
    scale = (sum(squares) / len(squares)) ** 0.5
    tables = open_vectors(dataset)
    assert list(tables) == [1]
    assert tables[1].dtype == np.float16
    values = dataset.vocabulary(1).column("value").to_pylist()
    assert len(values) == 1 + ITEMS
    for row, value in zip(tables[1], values, strict=True):
        vector = None if value == "unknown" else found[int(value)]
        expected = np.zeros(SIZE) if vector is None else vector / scale
        np.testing.assert_allclose(row, expected, atol=2e-3)
    [entry] = dataset.vectors
    assert (entry["size"], entry["values"], round(entry["scale"], 3)) == (SIZE, 17, round(scale, 3))
    assert "Movie ID: 17 of 20 values have a vector of 6 numbers" in capsys.readouterr().err
    dataset.verify()
    with open(f"{dataset.uri}/{entry['file']}", "r+b") as stream:
        stream.truncate(100)
    with pytest.raises(DataError, match=r"vectors/01.bin: corrupted"):
        Dataset.open(dataset.uri).verify()
    with pytest.raises(DataError, match=r"vectors/01.bin: missing or damaged; run clickprompt prepare again"):
        open_vectors(dataset)


def test_a_log_without_them_is_as_before(tmp_path):
    """The same but for the field's schema and the vectors themselves."""
    manifests = [
        prepare(
            write_log(str(tmp_path / name), vectors=vectors), None, str(tmp_path / f"{name}-data")
        ).manifest
        for name, vectors in (("with", VECTORS), ("without", "kind: categorical"))
    ]
    assert "vectors" not in manifests[1]
    for key in ("fields", "shards", "counts", "num_features"):
        assert manifests[0][key] == manifests[1][key]


def nothing_is_read(*_):
    raise AssertionError("the log was read")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"row_12": [1.0] * 5}, r"images.parquet, row 13: the vector in image has 5 numbers, not 6; mend"),
        ({"row_20": [1.0] * 5 + [np.nan]}, r"row 21: the vector in image has 1 numbers that are not finite"),
        ({"row_0": [None] * 6}, r"row 1: the vector in image has 6 numbers that are not finite"),
        ({f"row_{row}": None for row in range(ITEMS + 5)}, "has no vectors; give others for the field Movie"),
    ],
)
def test_wrong_vectors(tmp_path, monkeypatch, changes, said):
    schema = write_log(str(tmp_path / "log"))
    write_images(str(tmp_path / "log"), **changes)
    monkeypatch.setattr(log_table.Table, "read_part", nothing_is_read)
    with pytest.raises(DataError, match=said) as caught:
        prepare(schema, None, str(tmp_path / "data"))
    assert "\n" not in str(caught.value)
    assert not os.path.exists(tmp_path / "data")


def test_wrong_keys(tmp_path, monkeypatch):
    schema = write_log(str(tmp_path / "log"))
    path = str(tmp_path / "log" / "images.parquet")
    images = pq.read_table(path)
    for ids, said in (
        ([*range(24), 7], r"row 25: id='7' is there a second time, after .*row 8; a table has one row a key"),
        ([None, *range(1, 25)], r"row 1: has no id"),
        ([*range(100, 125)], "none of the 20 values of Movie ID is in its column id; correct the key"),
    ):
        pq.write_table(images.set_column(0, "id", pa.array(ids, pa.int64())), path)
        with pytest.raises(DataError, match=said):
            prepare(schema, None, str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ("{data: none.parquet, key: id, column: image}", "none.parquet: no such file; correct it"),
        ("{data: images.parquet, key: item, column: image}", "has no column 'item', which the schema's vect"),
        ("{data: images.parquet, key: id, column: id}", "id holds int64, and vectors are lists of numbers"),
        ("{data: log-0.csv, key: item, column: user}", "user holds string, and vectors are lists of numbers"),
    ],
)
def test_wrong_columns(tmp_path, vectors, said):
    with pytest.raises(DataError, match=said):
        prepare(write_log(str(tmp_path / "log"), vectors=f"vectors: {vectors}"), None, str(tmp_path / "data"))


def test_refused_with_other_kinds(tmp_path):
    with pytest.raises(ConfigError, match="vectors is a rule of kind categorical, not multi"):
        prepare(write_log(str(tmp_path / "multi"), vectors=f"kind: multi, {VECTORS}"), None, "nowhere")


@pytest.mark.parametrize("lists", [pa.list_(pa.float32(), SIZE), pa.large_list(pa.float64())], ids=str)
def test_lists_of_any_type(tmp_path, lists):
    """Such as those of fixed length that `clickprompt export --format embeddings` writes."""
    schema = write_log(str(tmp_path / "log"))
    images = pq.read_table(tmp_path / "log" / "images.parquet")
    pq.write_table(
        images.set_column(1, "image", images.column("image").cast(lists)), tmp_path / "log" / "images.parquet"
    )
    dataset = prepare(schema, None, str(tmp_path / "data"))
    plain = prepare(write_log(str(tmp_path / "plain")), None, str(tmp_path / "as-lists"))
    [ours], [theirs] = open_vectors(dataset).values(), open_vectors(plain).values()
    assert np.array_equal(ours, theirs)

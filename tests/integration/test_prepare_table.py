"""A log of one's own through `prepare`, against pandas in memory; and every way such a log can be wrong."""

import gzip
import os
import random
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.cli.main import main
from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared import partitions
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.sources.check import check_source
from clickprompt.data.sources.registry import get_source
from clickprompt.errors import DataError, InputError
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.folders import files_below
from tests.support.naive_prepare import assert_equal, naive_prepare
from tests.support.random_tables import SMALL, as_fields, random_log, write


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.sampled(12)
def test_a_random_table_equals_pandas(tmp_path, seed):
    frame, schema = random_log(seed)
    splits, values = naive_prepare(as_fields(frame), k_core=schema["k_core"])
    path = write(str(tmp_path / "raw"), frame, schema, files=2)
    if min(len(split) for split in splits.values()) == 0:
        with pytest.raises(DataError, match=r"rows are left|no user and item are left|is a click|are clicks"):
            prepare(path, None, str(tmp_path / "out"), **SMALL)
        assert os.listdir(tmp_path) == ["raw"]
        return
    dataset = prepare(path, None, str(tmp_path / "out"), **SMALL)
    assert_equal(dataset, splits, values)
    kept, dropped = sum(map(len, splits.values())), int((frame["stars"] == 3).sum())
    clicks = sum(int(split["label"].sum()) for split in splits.values())
    counted = {
        "label_missing": 0,
        "raw_rows": len(frame),
        "label_dropped": dropped,
        "k_core_dropped": len(frame) - dropped - kept,
        "clicks": clicks,
    }
    assert dataset.manifest["statistics"] == {"unmatched_dropped": 0, "repeats_dropped": 0} | counted


@pytest.mark.parametrize("seed", range(8))
def test_many_partitions_equal_one_but_for_the_order_of_ids(ray_session, tmp_path, monkeypatch, seed):
    """A large log's values come by partition, and within one in the order of the log."""
    frame, schema = random_log(seed)
    schema["k_core"] = 2 * (seed % 2)
    schema["fields"][0]["min_count"] = 1 + seed % 3
    least = {schema["fields"][0]["name"]: 1 + seed % 3}
    splits, values = naive_prepare(as_fields(frame), k_core=schema["k_core"], min_count=least)
    monkeypatch.setattr(partitions, "_ROWS", 20)
    number = partitions.partitions_for(int((frame["stars"] != 3).sum()))
    assert number >= 3
    for name, found in values.items():
        of_value = partitions.partition_of(pa.array(found, pa.string()), number)
        values[name] = [found[index] for index in np.argsort(of_value, kind="stable")]
    path = write(str(tmp_path / "raw"), frame, schema, files=3)
    dataset = prepare(path, None, str(tmp_path / "out"), **SMALL)
    assert_equal(dataset, splits, values)
    in_process = RuntimeConfig(use_ray="never")
    prepare(path, None, str(tmp_path / "alone"), **SMALL, runtime=in_process)
    assert files_below(str(tmp_path / "alone")) == files_below(dataset.uri)


@pytest.mark.parametrize("left_out", [["Item"], ["User ID"]])
def test_k_core_of_a_user_or_an_item_that_is_no_field(tmp_path, left_out):
    frame, schema = random_log(4)
    schema["k_core"] = 3
    schema["fields"] = [field for field in schema["fields"] if field["name"] not in left_out]
    splits, values = naive_prepare(as_fields(frame).drop(columns=left_out), k_core=3)
    dataset = prepare(
        write(str(tmp_path / "raw"), frame, schema, files=2), None, str(tmp_path / "out"), **SMALL
    )
    assert dataset.manifest["statistics"]["k_core_dropped"] > 0
    assert_equal(dataset, splits, values)


@pytest.mark.parametrize("seed", range(6))
def test_min_count_equals_pandas(tmp_path, seed):
    """Values with fewer training rows are id 0; 1 leaves none out, not even those without any."""
    frame, schema = random_log(seed)
    schema["k_core"] = seed % 3
    min_count = {
        field["name"]: random.Random(seed + at).choice([1, 2, 4, 8])
        for at, field in enumerate(schema["fields"])
    }
    for field in schema["fields"]:
        field["min_count"] = min_count[field["name"]]
    splits, values = naive_prepare(as_fields(frame), k_core=schema["k_core"], min_count=min_count)
    path = write(str(tmp_path / "raw"), frame, schema, files=2)
    assert_equal(prepare(path, None, str(tmp_path / "out"), **SMALL), splits, values)


def test_a_sample_of_the_users_has_all_their_rows(tmp_path):
    frame, schema = random_log(4)
    frame = pd.concat([frame] * 4, ignore_index=True)
    frame["uid"] = [f"u{number % 60}" for number in range(len(frame))]
    schema["k_core"] = 0
    path = write(str(tmp_path / "raw"), frame, schema, files=2)
    kept = []
    for seed in (0, 1):
        dataset = prepare(path, None, str(tmp_path / f"out{seed}"), sample_users=0.4, seed=seed, **SMALL)
        kept.append(set(dataset.vocabulary(0)["value"].to_pylist()[1:]))
        expected = as_fields(frame)
        expected.loc[~expected["User ID"].isin(kept[-1]), "label"] = np.nan
        splits, left = naive_prepare(expected)
        _, values = naive_prepare(as_fields(frame))  # ids count in the order of the whole log
        assert_equal(
            dataset,
            splits,
            {name: [value for value in found if value in left[name]] for name, found in values.items()},
        )
        labelled = int((frame["stars"] != 3).sum())
        assert dataset.manifest["statistics"]["sampled_out"] == labelled - sum(map(len, splits.values()))
        assert 8 <= len(kept[-1]) <= 40
    assert kept[0] != kept[1]
    with pytest.raises(InputError, match="holds a sample of the users"):
        append(path, None, str(tmp_path / "out0"))
    del schema["fields"][0]
    path = write(str(tmp_path / "nobody"), frame, schema)
    with pytest.raises(InputError, match="no field is the user's"):
        prepare(path, None, str(tmp_path / "out"), sample_users=0.5, **SMALL)
    for share in (0, 1, 1.5):
        with pytest.raises(InputError, match=f"sample_users={share}: must be above 0 and below 1"):
            prepare(path, None, str(tmp_path / "out"), sample_users=share, **SMALL)


@pytest.mark.parametrize("kind", ["csv", "jsonl.gz"])
def test_formats_say_the_same(tmp_path, kind):
    frame, schema = random_log(7)
    schema["k_core"] = 0
    dataset = prepare(write(str(tmp_path / "raw"), frame, schema, kind), None, str(tmp_path / "out"), **SMALL)
    assert_equal(dataset, *naive_prepare(as_fields(frame)))


def test_split_column(tmp_path):
    frame, schema = random_log(3)
    del schema["timestamp"]
    schema |= {"k_core": 0, "split": "part"}
    frame["part"] = [("train", "valid", "test")[row % 3] for row in range(len(frame))]
    dataset = prepare(write(str(tmp_path / "raw"), frame, schema), None, str(tmp_path / "out"), **SMALL)
    rows = as_fields(frame)
    rows["timestamp"] = [row % 3 for row in range(len(frame))]
    assert_equal(dataset, *naive_prepare(rows, split_by="column"))
    assert dataset.manifest["options"]["split"] == "column"


def change_schema(**changes):
    return lambda folder, frame, schema: write(folder, frame, schema | changes)


def missing_column(folder, frame, schema):
    return write(folder, frame.drop(columns="colour"), schema)


def missing_column_in_csv(folder, frame, schema):
    path = write(folder, frame, schema, "csv")
    frame.drop(columns="colour").to_csv(f"{folder}/log-2.csv", index=False)
    return path


def missing_key(folder, frame, schema):
    return write(folder, frame.drop(columns="colour"), schema, "jsonl.gz")


def two_columns_of_a_name(folder, frame, schema):
    path = write(folder, frame, schema)
    names = [*frame.columns[:-1], "colour"]
    pq.write_table(
        pa.Table.from_arrays([pa.array(frame[name]) for name in frame.columns], names=names),
        f"{folder}/log-1.parquet",
    )
    return path


def two_columns_of_a_name_in_csv(folder, frame, schema):
    path = write(folder, frame, schema, "csv")
    frame.assign(more="x").rename(columns={"more": "colour"}).to_csv(f"{folder}/log-1.csv", index=False)
    return path


def label_is_text(folder, frame, schema):
    frame = frame.assign(stars=[str(stars) for stars in frame["stars"]])
    frame.loc[20, "stars"] = "good"
    return write(folder, frame, schema, files=1)


def same_time(folder, frame, schema):
    return write(folder, frame.assign(when=5), schema)


def truncated_parquet(folder, frame, schema):
    path = write(folder, frame, schema)
    with open(f"{folder}/log-1.parquet", "r+b") as stream:
        stream.truncate(200)
    return path


def one_row_group(folder, frame, schema):
    """Damage one of several files in the middle of its colours: the file's footer and its other row groups
    are fine.
    """
    path = write(folder, frame, schema, files=1)
    file = f"{folder}/log-0.parquet"
    place = pq.ParquetFile(file).metadata.row_group(2).column(2)
    with open(file, "r+b") as stream:
        stream.seek(
            (place.dictionary_page_offset or place.data_page_offset) + place.total_compressed_size // 2
        )
        stream.write(b"\xff" * (place.total_compressed_size // 2))
    return path


def corrupt_pages(folder, frame, schema):
    path = write(folder, frame, schema)
    with open(f"{folder}/log-1.parquet", "r+b") as stream:
        stream.seek(10)
        stream.write(b"\xff" * 200)
    return path


def truncated_gzip(folder, frame, schema):
    path = write(folder, frame, schema, "jsonl.gz")
    with open(f"{folder}/log-2.jsonl.gz", "r+b") as stream:
        stream.truncate(100)
    return path


def truncated_csv_gzip(folder, frame, schema):
    path = write(folder, frame, schema, "csv.gz")
    with open(f"{folder}/log-1.csv.gz", "r+b") as stream:
        stream.truncate(100)
    return path


def corrupt_gzip(folder, frame, schema):
    path = write(folder, frame, schema, "csv.gz")
    with open(f"{folder}/log-1.csv.gz", "r+b") as stream:
        stream.seek(60)
        stream.write(b"\xff" * 20)
    return path


def truncated_csv(folder, frame, schema):
    path = write(folder, frame, schema, "csv", files=1)
    with open(f"{folder}/log-0.csv", "r+b") as stream:
        stream.seek(0, 2)
        stream.write(b"u1,1,re")
    return path


def invalid_utf8_in_parquet(folder, frame, schema):
    path = write(folder, frame, schema, files=1)
    texts = pa.array(["x"] * 19 + ["\u00ff"] + ["x"] * (len(frame) - 20))
    validity, offsets, data = texts.buffers()
    broken = pa.StringArray.from_buffers(
        len(texts), offsets, pa.py_buffer(data.to_pybytes().replace(b"\xc3\xbf", b"\xff\xfe")), validity
    )
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table.set_column(2, "colour", broken), f"{folder}/log-0.parquet", row_group_size=17)
    return path


def invalid_utf8(folder, frame, schema):
    path = write(folder, frame, schema, "csv", files=1)
    with open(f"{folder}/log-0.csv", "r+b") as stream:
        stream.seek(0, 2)
        stream.write(b"u1,1,\xff\xfe,5,10\n")
    return path


def invalid_utf8_line(folder, frame, schema):
    path = write(folder, frame, schema, "jsonl.gz", files=1)
    with gzip.open(f"{folder}/log-0.jsonl.gz", "wb") as stream:
        stream.write(b'{"uid": "u", "iid": 1, "stars": 5, "when": 1}\n{"uid": "\xff"}\n')
    return path


def broken_json(folder, frame, schema):
    path = write(folder, frame, schema, "jsonl.gz", files=1)
    with gzip.open(f"{folder}/log-0.jsonl.gz", "wb") as stream:
        stream.write(b'{"uid": "u", "iid": 1, "stars": 5, "when": 1}\n{"uid": \n')
    return path


def huge_value(folder, frame, schema):
    frame = frame.copy()
    frame.loc[30, "colour"] = "x" * 10_000_000
    return write(folder, frame, schema, files=1)


def huge_value_in(kind):
    def spoil(folder, frame, schema):
        frame = frame.copy()
        frame.loc[30, "colour"] = "x" * 10_000_000
        return write(folder, frame, schema, kind, files=1)

    return spoil


def a_struct(folder, frame, schema):
    path = write(folder, frame, schema)
    frame.assign(colour=[{"name": "red"}] * len(frame)).to_parquet(f"{folder}/log-1.parquet", index=False)
    return path


def time_is_text(folder, frame, schema):
    path = write(folder, frame, schema)
    frame.assign(when=["soon"] * len(frame)).to_parquet(f"{folder}/log-1.parquet", index=False)
    return path


def an_object(folder, frame, schema):
    path = write(folder, frame, schema, "jsonl.gz")
    with gzip.open(f"{folder}/log-1.jsonl.gz", "wt") as stream:
        stream.write('{"uid": "u", "iid": 1, "colour": {"name": "red"}, "stars": 5, "when": 1}\n')
    return path


def no_rows(folder, frame, schema):
    return write(folder, frame.iloc[:0], schema)


def a_list(folder, frame, schema):
    return write(folder, frame.assign(colour=[["a", "b"]] * len(frame)), schema)


BAD = {
    "missing column": (
        missing_column,
        r"log-0\.parquet: has no column 'colour', which the schema names; it has uid, iid, stars, when",
    ),
    "missing column in CSV": (
        missing_column_in_csv,
        r"log-2\.csv: has no column 'colour', which the schema names",
    ),
    "missing key": (
        missing_key,
        r"schema\.yaml: no row of the log has a Colour; correct its column or leave the field out",
    ),
    "two columns of a name in CSV": (
        two_columns_of_a_name_in_csv,
        r"log-1\.csv, line 1: two columns are named 'colour'",
    ),
    "two columns of a name": (two_columns_of_a_name, r"log-1\.parquet: has two columns 'colour'"),
    "label no number": (label_is_text, r"log-0\.parquet, row 21: stars='good' is not a number"),
    "label not binary": (
        change_schema(label={"column": "stars"}),
        r"log-\d\.parquet, row \d+: stars=\d is neither 0 nor 1",
    ),
    "no positive row": (
        change_schema(label={"column": "stars", "positive_from": 9}),
        "none of the .* rows is a click",
    ),
    "no negative row": (
        change_schema(label={"column": "stars", "positive_from": 0}),
        "all of the .* rows are clicks",
    ),
    "one time": (same_time, "rows have the same timestamp: no order in time"),
    "k-core": (change_schema(k_core=1000), "no user and item are left with 1000 rows each"),
    "truncated parquet": (truncated_parquet, r"log-1\.parquet: a damaged or truncated Parquet file"),
    "corrupt parquet": (
        corrupt_pages,
        r"log-1\.parquet, row group 1 of \d: a damaged or truncated Parquet file",
    ),
    "corrupt row group": (
        one_row_group,
        r"log-0\.parquet, row group 3 of \d+: a damaged or truncated Parquet file",
    ),
    "truncated CSV gzip": (truncated_csv_gzip, r"log-1\.csv\.gz: a damaged or truncated gzip file"),
    "corrupt gzip": (corrupt_gzip, r"log-1\.csv\.gz: a damaged or truncated gzip file"),
    "truncated CSV": (truncated_csv, r"log-0\.csv, line \d+: 3 cells where the header has 5"),
    "truncated gzip": (truncated_gzip, r"log-2\.jsonl\.gz: a damaged or truncated gzip file"),
    "invalid UTF-8 in CSV": (invalid_utf8, r"log-0\.csv, line \d+: not utf-8 text"),
    "invalid UTF-8 in Parquet": (
        invalid_utf8_in_parquet,
        r"log-0\.parquet, row 20: column colour is not UTF-8 text",
    ),
    "invalid UTF-8 in JSON lines": (invalid_utf8_line, r"log-0\.jsonl\.gz, line 2: not UTF-8 text"),
    "broken JSON": (broken_json, r"log-0\.jsonl\.gz, line 2: not JSON"),
    "10 MB value": (
        huge_value,
        r"log-0\.parquet, row 31: Colour has a value of 10,000,000 bytes; at most 65,536",
    ),
    "10 MB value in CSV": (
        huge_value_in("csv"),
        r"log-0\.csv, line 32: Colour has a value of 10,000,000 bytes; at most 65,536",
    ),
    "10 MB value in JSON lines": (
        huge_value_in("jsonl.gz"),
        r"log-0\.jsonl\.gz, line 31: Colour has a value of 10,000,000 bytes",
    ),
    "no rows": (no_rows, r"schema\.yaml: no rows are left"),
    "a struct among texts": (
        a_struct,
        r"log-1\.parquet: has no column 'colour', which the schema names; it has .*colour\.name",
    ),
    "an object among texts": (an_object, r"log-1\.jsonl\.gz, line 1: .*'red'.* is nested"),
    "a word among times": (
        time_is_text,
        r"log-1\.parquet, row 1: when='soon' is neither a number nor a date",
    ),
    "lists": (a_list, r"log-\d\.parquet, row 1: colour=.* is a list; set kind: multi"),
    "no file": (change_schema(data=["nothing-*"]), r"nothing-\*: no such file"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_line_and_leaves_nothing(tmp_path, capsys, what):
    refused(tmp_path, capsys, what)


@pytest.mark.parametrize("what", ["label no number", "truncated gzip", "k-core"])
def test_bad_input_is_one_clear_line_on_ray_too(ray_session, tmp_path, capsys, what):
    """What a task raises, about a value and about a file, and what the command itself finds."""
    refused(tmp_path, capsys, what)


def refused(tmp_path, capsys, what):
    spoil, message = BAD[what]
    frame, schema = random_log(5)
    path = spoil(str(tmp_path / "raw"), frame, schema | {"k_core": 0} if what != "k-core" else schema)
    assert_refused(capsys, path, str(tmp_path / "out"), message)
    assert os.listdir(tmp_path) == ["raw"]


def assert_refused(capsys, schema, out, message):
    """By the command: exit status 2, one line after those of the progress, nothing on stdout."""
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", schema, "--out", out])
    output = capsys.readouterr()
    assert stopped.value.code == 2
    assert output.out == ""
    *said, last = output.err.splitlines()
    assert re.match(f"error: .*{message}", last), last
    assert all(
        re.match(r"[a-z0-9 -]+(: \d+/\d+|: done in)|\d+-core after|splitting", line) for line in said
    ), said


@pytest.mark.parametrize("target", ["file", "file/out", "folder", "/proc/out", "/sys/out"])
def test_a_target_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, capsys, target):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    path = write(str(tmp_path / "raw"), *random_log(5))
    out = os.path.join(tmp_path, target)
    before = files_below(str(tmp_path))
    assert_refused(capsys, path, out, f"{out}: ")
    assert files_below(str(tmp_path)) == before


@pytest.mark.parametrize("size", ["100k", "1m"])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(ray_session, tmp_path, small_disk, capsys, size):
    frame, schema = random_log(5)
    frame = pd.concat([frame] * 500, ignore_index=True)
    frame["colour"] = [f"{row} of {len(frame)}" for row in range(len(frame))]
    path = write(str(tmp_path / "raw"), frame, schema | {"k_core": 0})
    disk = small_disk(size)
    assert_refused(
        capsys, path, f"{disk}/out", "No space left on device; check that the place .* has space left"
    )
    assert os.listdir(disk) == []


def test_a_value_of_its_own_in_every_row(tmp_path):
    """A session's number says nothing, of which --check warns; preparing goes on."""
    frame, schema = random_log(19)
    frame["session"] = [f"s{row}" for row in range(len(frame))]
    schema |= {"k_core": 0, "fields": [*schema["fields"], {"name": "Session", "column": "session"}]}
    path = write(str(tmp_path / "raw"), frame, schema)
    splits, values = naive_prepare(as_fields(frame).assign(Session=frame["session"]))
    assert_equal(prepare(path, None, str(tmp_path / "out"), **SMALL), splits, values)
    assert len(values["Session"]) == sum(map(len, splits.values()))
    [session] = [
        field for field in check_source(get_source(path, None))["fields"] if field["name"] == "Session"
    ]
    assert "most come once" in session["warnings"][0]


EMPTY = {
    "no byte.csv": b"",
    "header.csv": b"uid,iid,colour,stars,when\n",
    "no byte.jsonl": b"",
    "blank lines.jsonl": b"\n\n",
    "no byte.csv.gz": b"",
    "no byte.jsonl.gz": gzip.compress(b""),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_file_without_rows_among_good_ones(tmp_path, name):
    frame, schema = random_log(17)
    path = write(str(tmp_path / "raw"), frame, schema | {"k_core": 0})
    (tmp_path / "raw" / f"log-00{name}").write_bytes(EMPTY[name])
    assert_equal(prepare(path, None, str(tmp_path / "out"), **SMALL), *naive_prepare(as_fields(frame)))


def test_an_empty_file_among_good_ones_and_mixed_types(tmp_path):
    """A file without rows adds none; a column that is text in one file and numbers in another is one column
    of texts.
    """
    frame, schema = random_log(11)
    schema["k_core"] = 0
    path = write(str(tmp_path / "raw"), frame, schema, files=2)
    pq.write_table(
        pa.Table.from_pandas(frame.iloc[:0], preserve_index=False), tmp_path / "raw" / "log-00.parquet"
    )
    second = frame.iloc[len(frame) // 2 :]
    pq.write_table(
        pa.Table.from_pandas(
            second.assign(iid=second["iid"].astype(str), when=second["when"].astype("float64")),
            preserve_index=False,
        ),
        tmp_path / "raw" / "log-1.parquet",
    )
    assert_equal(prepare(path, None, str(tmp_path / "out"), **SMALL), *naive_prepare(as_fields(frame)))


def test_same_log_again_and_another_schema(tmp_path):
    frame, schema = random_log(13)
    schema["k_core"] = 0
    path = write(str(tmp_path / "raw"), frame, schema)
    first = prepare(path, None, str(tmp_path / "out"), **SMALL)
    assert prepare(path, None, str(tmp_path / "out"), **SMALL).fingerprint == first.fingerprint
    write(str(tmp_path / "raw"), frame, schema | {"label": {"column": "stars", "positive_from": 5}})
    with pytest.raises(InputError, match="prepared from other raw files or with other options"):
        prepare(path, None, str(tmp_path / "out"), **SMALL)
    assert Dataset.open(str(tmp_path / "out")).fingerprint == first.fingerprint

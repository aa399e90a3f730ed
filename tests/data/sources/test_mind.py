"""MIND in its own format → rows and datasets, against a plain loop over the same files; and one clear line
for what is wrong in them.
"""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from clickprompt.config import History
from clickprompt.data.prepared.dataset import SPLITS, split_sizes
from clickprompt.data.sources.reading import DataFile, file_parts, read_rows
from clickprompt.data.sources.registry import get_source
from clickprompt.data.sources.table import file_format
from clickprompt.data.transform.explode import exploded
from clickprompt.data.transform.row_transform import KEY, RowTransform
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.folders import files_below
from tests.support.log_rows import as_dicts
from tests.support.raw_mind import FOLDERS, LOG, NEWS, naive_mind, write_mind

SMALL = {"rows_per_shard": 100, "row_group_rows": 37}
AT_ONCE = "clickprompt.data.sources.mind._LINES_AT_ONCE"
CUTS = "clickprompt.data.sources.raw.cut_at_line_ends.__defaults__"
LINE = "1\tU1\t11/15/2019 9:55:12 AM\tN1 N2\tN1-1 N2-0"
ITEM = "N1\tsports\tsoccer\tA title\tText\thttps://x.y\t[]\t[]"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_mind(str(tmp_path_factory.mktemp("raw")))


@pytest.fixture(scope="module")
def dataset(raw, tmp_path_factory):
    return prepare("mind", raw, str(tmp_path_factory.mktemp("out") / "d"), history=4, **SMALL)


def read_all(source):
    found = []
    for part in source.parts():
        for rows in source.read_part(part):
            more = {"group": rows.group.to_pylist()}
            more |= {"seen": rows.history.to_pylist()} if rows.history is not None else {}
            extra = (dict(zip(more, one, strict=True)) for one in zip(*more.values(), strict=True))
            found += [row | of_row for row, of_row in zip(as_dicts(rows), extra, strict=True)]
    return found


def one_folder(folder, line=LINE, item=ITEM):
    (folder / LOG).write_text(f"{LINE}\n{line}\n")
    (folder / NEWS).write_text(f"{ITEM}\n{item}\n")
    return str(folder)


@pytest.mark.parametrize("part_bytes", [2000, 4 << 20])
def test_every_row_is_read_as_by_a_loop(place, raw, monkeypatch, part_bytes):
    monkeypatch.setattr(CUTS, (part_bytes,))
    monkeypatch.setattr(AT_ONCE, 50)
    storage.copy_tree(raw, f"{place}/raw")
    source = pickle.loads(pickle.dumps(get_source("mind", f"{place}/raw/").with_history(100)))
    files = source.raw_files()
    assert list(files) == [f"{name}/{file}" for name in FOLDERS for file in (LOG, NEWS)]
    assert files == {name: os.path.getsize(os.path.join(raw, name)) for name in files}
    assert (len(source.parts()) > 5) == (part_bytes == 2000)
    rows, news = naive_mind(raw)
    read = read_all(source)
    assert [(row["User ID"], row[source.item], row["label"], row["timestamp"]) for row in read] == [
        (row["User ID"], row["item"], row["label"], row["timestamp"]) for row in rows
    ]
    assert [row["seen"] or [] for row in read] == [row["seen"] for row in rows]
    requests = {row["request"]: row["group"] for row in map(dict.__or__, rows, read)}
    assert len({*requests.values()}) == len(requests) == 240
    assert [requests[row["request"]] for row in rows] == [row["group"] for row in read]
    [table] = source.tables().values()
    assert table.select([KEY, *source.fields[1:]]).to_pylist() == [
        dict(zip((KEY, *source.fields[1:]), (item, *fields), strict=True)) for item, fields in news.items()
    ]


def test_times_of_half_a_day(tmp_path):
    times = (
        "11/9/2019 12:00:00 AM",
        "2/29/2020 12:59:59 PM",
        "12/31/1969 11:59:59 PM",
        "01/02/2003 01:00:00 AM",
    )
    lines = "\n".join(LINE.replace("11/15/2019 9:55:12 AM", time) for time in times)
    found = [
        row["timestamp"] // 1_000_000 for row in read_all(get_source("mind", one_folder(tmp_path, lines)))
    ]
    expected = ["2019-11-09T00:00:00", "2020-02-29T12:59:59", "1969-12-31T23:59:59", "2003-01-02T01:00:00"]
    assert found[2::2] == np.array(expected, dtype="datetime64[s]").astype(np.int64).tolist()


def decoded(dataset, table):
    """The rows of a split with the words behind their ids, by row_id; `-` for an item of no id."""
    words = [np.array(dataset.vocabulary(field)["value"].to_pylist(), object) for field in range(5)]
    frame = table.to_pandas().sort_values("row_id")
    for field, column in enumerate(dataset.columns):
        frame[dataset.field_names[field]] = words[field][frame[column]]
    items = np.array(["-", *words[1][1:]], object)
    frame["seen"] = items[frame[dataset.history_columns].to_numpy()].tolist() if dataset.history else None
    return frame


def test_the_dataset_is_that_of_a_loop(dataset, raw):
    rows, news = naive_mind(raw)
    rows = [row | {"row_id": number} for number, row in enumerate(rows) if row["item"] in news]
    assert dataset.manifest["statistics"]["unmatched_dropped"] == 2
    ordered = sorted(rows, key=lambda row: (row["timestamp"], row["row_id"]))
    sizes = split_sizes(len(ordered))
    cuts = [sizes["train"], sizes["train"] + sizes["valid"]]
    begins = []
    for cut in cuts:
        while ordered[cut]["request"] == ordered[cut - 1]["request"]:
            cut -= 1
        begins.append(cut)
    assert begins != cuts, "the files test nothing"
    for split, start, stop in zip(SPLITS, [0, *begins], [*begins, len(ordered)], strict=True):
        expected = sorted(ordered[start:stop], key=lambda row: row["row_id"])
        found = decoded(dataset, dataset.read_split(split))
        for name in ("row_id", "label", "timestamp", "User ID"):
            assert found[name].tolist() == [row[name] for row in expected], name
        assert found[dataset.field_names[1:]].values.tolist() == [list(news[row["item"]]) for row in expected]
        seen = [[item if item in news else "-" for item in row["seen"][:4]] for row in expected]
        assert found["seen"].tolist() == [(items + ["-"] * 4)[:4] for items in seen]
        assert any("-" in items[:-1] for items in seen), "an unknown item keeps its place"
    assert dataset.vocabulary(1)["value"].to_pylist() == ["unknown", *news], "that of all news"
    assert (dataset.history, dataset.grouped) == (History(field=1, length=4), True)


@pytest.mark.parametrize("split_by", ["time", "hash"])
def test_a_request_is_in_one_split(raw, tmp_path, split_by):
    dataset = prepare("mind", raw, str(tmp_path / "d"), split_by=split_by, sample_users=0.7)
    assert dataset.history is None
    groups = [set(dataset.read_split(split)["group"].to_pylist()) for split in SPLITS]
    assert sum(map(len, groups)) == len(set.union(*groups)) > 100
    rows = pa.concat_tables([dataset.read_split(split) for split in SPLITS])
    of_request = rows.group_by("group").aggregate(
        [("timestamp", "count_distinct"), ("f_user_id", "count_distinct")]
    )
    assert pc.max(of_request["timestamp_count_distinct"]).as_py() == 1
    assert pc.max(of_request["f_user_id_count_distinct"]).as_py() == 1
    shares = np.array([dataset.counts[split] for split in SPLITS]) / len(rows)
    assert np.abs(shares - [0.8, 0.1, 0.1]).max() < 0.02


def test_the_same_bytes_however_the_log_is_cut(dataset, raw, tmp_path, monkeypatch):
    monkeypatch.setattr(CUTS, (9000,))
    monkeypatch.setattr(AT_ONCE, 20)
    again = prepare("mind", raw, str(tmp_path / "again"), history=4, **SMALL)
    first, second = files_below(dataset.uri), files_below(again.uri)
    assert first == second


@pytest.mark.parametrize("labelled", [True, False])
def test_new_rows_are_read_from_lines_of_the_same_format(dataset, raw, tmp_path, labelled):
    """Those of the test split have no clicks. What is known of a piece of news is joined to it."""
    text = Path(raw, FOLDERS[0], LOG).read_text()
    (tmp_path / LOG).write_text(text if labelled else text.replace("-0", "").replace("-1", ""))
    transform = RowTransform.of_dataset(dataset)
    how, names = file_format(transform.options), [*transform.explode.columns, "user_id", "history"]
    [part] = file_parts(DataFile(str(tmp_path / LOG), 0), how)
    lines = pa.concat_tables(read_rows(part, names, how))
    found, _ = exploded(lines, transform.explode, labelled=labelled)
    ids = transform(found).all_ids
    rows = pa.concat_tables([dataset.read_split(split) for split in SPLITS]).to_pandas().sort_values("row_id")
    rows = rows[rows["row_id"] < len(ids)]
    assert len(rows) == len(ids) - 1
    np.testing.assert_array_equal(ids[rows["row_id"]], rows[dataset.id_columns])
    nobody_knows = found.column("news_id").to_pylist().index("N999")
    assert ids[nobody_knows, :5].tolist() == [ids[nobody_knows, 0], 0, 0, 0, 0]
    alone = pa.Table.from_pandas(pd.DataFrame({"user_id": ["U1"], "news_id": ["N2"], "history": ["N1 N5"]}))
    words = transform(alone)
    assert [column[0].as_py() for column in words.texts][1] == "N2"
    assert [dataset.vocabulary(1)["value"][int(one)].as_py() for one in words.history[0][:2]] == ["N5", "N1"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            LINE.replace("N2-0", "N2-2"),
            r"line 2: impression 'N2-2'; expected a news id with 1 for a click or 0",
        ),
        (
            LINE.replace("N2-0", "N2"),
            r"line 2: impression 'N2' has no click .*MIND's test split; use the folders",
        ),
        (LINE.replace("N1-1 N2-0", ""), r"line 2: impression ''; expected a news id"),
        (LINE.replace("N1-1 N2-0", "N1-1  N2-0"), r"line 2: impression ''; expected a news id"),
        (LINE.replace("9:55", "13:55"), r"line 2: time '11/15/2019 13:55:12 AM'; expected month/day/year"),
        (LINE.replace("11/15", "2/29"), r"line 2: time '2/29/2019 9:55:12 AM'; expected"),
        (LINE.replace(" AM", ""), r"line 2: time '11/15/2019 9:55:12'; expected"),
        (
            LINE.replace("\tN1 N2\t", "\t"),
            r"line 2: '1\\tU1.*' has 4 values; expected 5, tabs between: impress",
        ),
        (LINE.replace("U1", "U\r1"), r"line 2: .* has 5 values; expected 5"),
        ("", r"line 2: time ''; expected month/day/year"),
    ],
)
@pytest.mark.parametrize("part_bytes", [60, 4 << 20])
def test_a_malformed_line_is_named(tmp_path, monkeypatch, line, said, part_bytes):
    folder = one_folder(tmp_path, line)
    monkeypatch.setattr(CUTS, (part_bytes,))
    monkeypatch.setattr(AT_ONCE, 1)
    source = get_source("mind", folder)
    source.raw_files()
    with pytest.raises(DataError, match=rf"behaviors\.tsv, {said}") as caught:
        read_all(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (
            ITEM.replace("\t[]", "", 1),
            r"line 2: 'N1\\tsports.*' has 7 values; expected 8, tabs between: news_id",
        ),
        (ITEM.replace("N1", ""), r"line 2: has no news id"),
        (
            ITEM.replace("title", "\udcff"),
            r"line 2: not UTF-8 text \(invalid start byte at byte 19 of the line\)",
        ),
    ],
)
def test_a_malformed_piece_of_news_is_named(tmp_path, item, said):
    one_folder(tmp_path)
    (tmp_path / NEWS).write_bytes(f"{ITEM}\n{item}\n".encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=rf"news\.tsv, {said}"):
        get_source("mind", str(tmp_path)).tables()


def test_what_a_folder_must_have(raw, tmp_path):
    with pytest.raises(DataError, match=r"behaviors\.tsv: this raw file is missing; unpack MINDlarge_train"):
        get_source("mind", str(tmp_path)).raw_files()
    folder = shutil.copytree(raw, tmp_path / "raw")
    (folder / "MINDtiny_dev.zip").write_bytes(b"")
    assert len(get_source("mind", str(folder)).raw_files()) == 4
    (folder / FOLDERS[1] / NEWS).unlink()
    with pytest.raises(DataError, match=rf"{FOLDERS[1]}/news\.tsv: this raw file is missing"):
        get_source("mind", str(folder)).raw_files()
    one_folder(folder)
    with pytest.raises(DataError, match=rf"has files of MIND in itself and in {FOLDERS[0]}"):
        get_source("mind", str(folder)).raw_files()


def test_a_test_split_is_refused_before_anything_is_read(tmp_path):
    one_folder(tmp_path)
    (tmp_path / LOG).write_text(LINE.replace("-1", "").replace("-0", "") + "\n")
    with pytest.raises(
        DataError, match=r"behaviors\.tsv, line 1: impression 'N1' has no click .*train and dev"
    ):
        prepare("mind", str(tmp_path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_too_few_requests_and_histories_of_another_kind(raw, tmp_path):
    folder = one_folder(tmp_path, LINE.replace("9:55", "9:56"), ITEM.replace("N1", "N2"))
    with pytest.raises(DataError, match="the valid split is empty; at least 3 groups of rows shown"):
        prepare("mind", folder, str(tmp_path / "out"))
    for options, said in (
        ({"history": 3, "history_of": "clicks"}, "history_of='clicks': mind has a column of histories"),
        ({"history": 0}, "history=0: give a number of rows from 1 to 100"),
    ):
        with pytest.raises(InputError, match=said):
            prepare("mind", raw, str(tmp_path / "out"), **options)

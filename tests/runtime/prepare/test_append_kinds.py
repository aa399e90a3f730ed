"""Appended rows of every kind of column: as one `prepare` of all files, or a loop over all rows, has them."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.config import History, RuntimeConfig, label_columns, number_columns
from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.data.prepared.given_vectors import open_vectors
from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.errors import DataError, InputError
from clickprompt.runtime.prepare import histories
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare
from tests.support import every_kind
from tests.support.folders import files_below
from tests.support.histories import LENGTH
from tests.support.histories import write_log as write_history_log

SMALL = {"rows_per_shard": 100, "row_group_rows": 37}
QUIET = {"progress": lambda line: None}


def appended(schema, out, later=("log-2.csv",), **options):
    """Prepare the log without some of its files, then append these, one by one."""
    folder = Path(schema).parent
    held = {name: (folder / name).read_text() for name in later}
    for name in later:
        (folder / name).unlink()
    dataset = prepare(schema, None, out, **SMALL, **QUIET, **options)
    for name, text in held.items():
        (folder / name).write_text(text)
        dataset = append(schema, None, out, **QUIET, **({"runtime": options["runtime"]} if options else {}))
    dataset.verify()
    return dataset


def rows_of(dataset):
    whole = pa.concat_tables([dataset.read_split(split) for split in SPLITS])
    return whole.to_pandas().sort_values("row_id", ignore_index=True)


def words_of(dataset, field, ids):
    return np.array(dataset.vocabulary(field)["value"].to_pylist(), dtype=object)[ids]


def readable(dataset, rows, skipped=("Price",)):
    """The rows in words: fields, further values, what histories have of fields; and the rest as it is."""
    columns = {
        name: words_of(dataset, field, rows[column])
        for field, (name, column) in enumerate(zip(dataset.field_names, dataset.columns, strict=True))
        if name not in skipped
    }
    for one in dataset.multi:
        columns |= {name: words_of(dataset, one.field, rows[name]) for name in one.columns}
    of_fields = dataset.history.column_fields
    for number, name in enumerate(dataset.history_columns):
        ids = rows[name].to_numpy()
        columns[name] = words_of(dataset, of_fields[number], ids) if number < len(of_fields) else ids
    given = ["row_id", "label", "timestamp", "importance", *label_columns(dataset.labels)]
    columns |= {name: rows[name].to_numpy() for name in given if name in rows}
    return {name: np.asarray(column).tolist() for name, column in columns.items()}


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """(the log's schema, all of it prepared at once, its last file appended)."""
    folder = tmp_path_factory.mktemp("append")
    schema = every_kind.write_log(str(folder / "log"))
    last = folder / "log" / "log-2.csv"
    last.write_text(last.read_text().replace("|", "|newest|", 7).replace(" 3,", " 99,"))  # new values, too
    whole = prepare(schema, None, str(folder / "whole"), **SMALL, **QUIET)
    return schema, whole, appended(schema, str(folder / "out"))


def test_every_kind_as_one_prepare_gives_it(every):
    _, whole, dataset = every
    assert dataset.version == 2
    rows, expected = rows_of(dataset), rows_of(whole)
    assert "newest" in dataset.vocabulary(2)["value"].to_pylist()
    assert readable(dataset, rows) == readable(whole, expected)
    assert (rows[dataset.history_columns].to_numpy()[400:] > 0).mean() > 0.9
    for field in range(len(dataset.columns)):
        counts = dataset.vocabulary(field)["train_count"].to_pylist()
        train, names = dataset.read_split("train"), [dataset.columns[field]]
        names += [name for one in dataset.multi if one.field == field for name in one.columns]
        found = [train[name].to_numpy() for name in names]
        found = [ids if place == 0 else ids[ids > 0] for place, ids in enumerate(found)]
        number = np.bincount(np.concatenate(found), minlength=len(counts))
        assert counts == number.tolist()
    assert dataset.manifest["labels"][0]["known"].keys() == set(SPLITS)


def test_the_first_rows_rules_and_numbers_stay(every):
    """New rows are transformed by the rules fitted before, which is what `predict` does with them."""
    schema, _, dataset = every
    transform = RowTransform.of_dataset(dataset)
    raw = [line.split(",") for line in (Path(schema).parent / "log-2.csv").read_text().splitlines()]
    columns = {name: [line[place] for line in raw[1:]] for place, name in enumerate(raw[0])}
    nothing = {name: [""] * len(raw[1:]) for name in transform.columns if name not in columns}
    found = transform(pa.table(columns | nothing))
    rows = rows_of(dataset).iloc[400:]
    np.testing.assert_array_equal(found.field_ids, rows[dataset.columns].to_numpy())
    np.testing.assert_array_equal(found.numbers, rows[number_columns(dataset.numbers)].to_numpy())
    assert found.numbers.any()


def test_the_vectors_of_old_and_new_values(every):
    _, whole, dataset = every
    [table], [expected] = open_vectors(dataset).values(), open_vectors(whole).values()
    values, others = (one.vocabulary(1)["value"].to_pylist() for one in (dataset, whole))
    places = [others.index(value) for value in values]
    np.testing.assert_array_equal(table, expected[places])
    assert dataset.vectors[0]["file"].startswith("v2-")
    first = type(dataset).open(dataset.uri, 1)
    np.testing.assert_array_equal(open_vectors(first)[1], table[: first.field_sizes[1]])


def by_loop(rows, events, words):
    """Items and what else is known of each row's user's rows before it, newest first."""
    found, rows = [], [*rows.itertuples()]
    for row in rows:
        before = [
            one
            for one in rows
            if one.f_user_id == row.f_user_id
            and (one.timestamp, one.row_id) < (row.timestamp, row.row_id)
            and (one.label or events == "all")
        ]
        newest = sorted(before, key=lambda one: (one.timestamp, one.row_id))[::-1][:LENGTH]
        seconds = [(row.timestamp - one.timestamp) // 10**6 for one in newest]
        known = {
            "item": [one.f_movie_id for one in newest],
            "Film genre": [one.f_film_genre for one in newest],
            "label": [1 + one.label for one in newest],
            "age": [1 if age < 1 else 2 + int(math.log2(age)) for age in seconds],
        }
        found.append([value for word in words for value in (known[word] + [0] * LENGTH)[:LENGTH]])
    return np.array(found)


@pytest.mark.parametrize(
    ("events", "later"), [("all", ("log-2.csv",)), ("clicks", ("log-0.csv", "log-2.csv"))]
)
def test_histories_are_those_of_a_loop_over_all_rows(tmp_path, monkeypatch, events, later):
    """Also where the later file has the earlier times, and in many shares of the users."""
    monkeypatch.setattr(histories, "_ROWS_PER_BUCKET", 150)
    with_ = "[label, age, Film genre]" if events == "all" else "[age]"
    history = f"history: {LENGTH}\nhistory_of: {events}\nhistory_with: {with_}"
    schema = write_history_log(str(tmp_path / "log"), rows=150, history=history)
    dataset = appended(schema, str(tmp_path / "out"), later)
    rows = rows_of(dataset)
    words = ["item", "Film genre", "label", "age"] if events == "all" else ["item", "age"]
    assert dataset.history == History(1, LENGTH, (2, "label", "age") if events == "all" else ("age",))
    new = np.flatnonzero(rows["row_id"] >= 150 - 50 * len(later))
    expected = by_loop(rows, events, words)
    np.testing.assert_array_equal(rows[dataset.history_columns].to_numpy()[new], expected[new])


def test_a_user_that_is_not_known_has_none(tmp_path):
    schema = write_history_log(str(tmp_path / "log"), rows=120)
    last = tmp_path / "log" / "log-2.csv"
    lines = last.read_text().splitlines()
    last.write_text("\n".join([lines[0], *("," + line.split(",", 1)[1] for line in lines[1:])]) + "\n")
    dataset = appended(schema, str(tmp_path / "out"))
    assert not rows_of(dataset)[dataset.history_columns].to_numpy()[80:].any()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("user, min_count: 2", "User ID has a min_count, and rare users are as one"),
        ("keep_negatives: 0.5", "keep_negatives has left rows out"),
    ],
)
def test_histories_that_have_lost_rows(tmp_path, more, said):
    field = more.startswith("user")
    history = f"history: {LENGTH}\nhistory_of: all\n{'' if field else more}"
    schema = Path(write_history_log(str(tmp_path / "log"), rows=120, history=history))
    if field:
        schema.write_text(schema.read_text().replace("column: user}", f"column: {more}}}"))
    prepare(str(schema), None, str(tmp_path / "out"), **QUIET)
    before = files_below(str(tmp_path / "out"))
    (tmp_path / "log" / "log-3.csv").write_text((tmp_path / "log" / "log-2.csv").read_text())
    with pytest.raises(InputError, match=rf"{said}, so --append can't go on with its histories; prepare all"):
        append(str(schema), None, str(tmp_path / "out"), **QUIET)
    assert files_below(str(tmp_path / "out")) == before


def test_vectors_of_another_size(tmp_path):
    schema = every_kind.write_log(str(tmp_path / "log"), rows=120)
    prepare(schema, None, str(tmp_path / "out"), **QUIET)
    before = files_below(str(tmp_path / "out"))
    lists = pa.array([[1.0, 2.0]] * 20, pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": range(20), "image": lists}), tmp_path / "log" / "images.parquet")
    (tmp_path / "log" / "log-3.csv").write_text((tmp_path / "log" / "log-2.csv").read_text())
    with pytest.raises(DataError, match=r"its vectors have 2 numbers, and those of .* 6; give"):
        append(schema, None, str(tmp_path / "out"), **QUIET)
    assert files_below(str(tmp_path / "out")) == before


@pytest.mark.slow
@pytest.mark.ray
def test_on_ray_the_rows_are_the_same(every, tmp_path, ray_session):
    schema, _, dataset = every
    other = appended(schema, str(tmp_path / "out"), runtime=RuntimeConfig(use_ray="always"))
    assert rows_of(other).equals(rows_of(dataset))

"""Fields of several values: vocabulary and ids as a loop over the log gives them, however it is cut and
wherever they come from; new rows by the same rule; and what is refused.
"""

import csv
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from clickprompt.cli.main import main
from clickprompt.config import Multi, RuntimeConfig
from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.errors import ConfigError, DataError, InputError
from clickprompt.runtime.prepare import coded_log
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.commands import fails, printed
from tests.support.folders import files_below
from tests.support.multi import FIELD, MOST, write_log
from tests.support.raw_movielens import ratings, write_1m, write_100k, write_atomic

SMALL = {"rows_per_shard": 100, "row_group_rows": 37}


def rows_of(dataset):
    whole = pa.concat_tables([dataset.read_split(split) for split in SPLITS]).to_pandas()
    return whole.sort_values("row_id")


def raw_rows(folder):
    return [row for file in sorted(folder.glob("log-*.csv")) for row in csv.DictReader(file.open())]


def values_of(text):
    return text.split("|")[:MOST] if text else []


def check_by_hand(dataset, raw, least=1):
    """Vocabulary, counts and ids of the field against a loop over the raw rows."""
    rows = rows_of(dataset)
    train = set(dataset.read_split("train")["row_id"].to_pylist())
    counts = Counter()
    for row_id, row in enumerate(raw):
        counts.update(values_of(row["genres"]) if row_id in train else [])
    vocabulary = dataset.vocabulary(1).to_pydict()
    words = vocabulary["value"][1:]
    everything = {word for row in raw for word in values_of(row["genres"])}
    assert sorted(words) == sorted(word for word in everything if counts[word] >= least or least == 1)
    assert vocabulary["train_count"][1:] == [counts[word] for word in words]
    number = {word: place for place, word in enumerate(words, 1)}
    expected = []
    for row in raw:
        ids = [number[word] for word in values_of(row["genres"]) if word in number]
        expected.append((ids + [0] * MOST)[:MOST])
    found = rows[["f_film_genre", "v_01_01", "v_01_02"]].to_numpy()
    np.testing.assert_array_equal(found, np.array(expected))
    assert vocabulary["train_count"][0] == sum(
        not ids[0] for row_id, ids in enumerate(expected) if row_id in train
    )
    [facts] = [field for field in dataset.manifest["fields"] if field["name"] == "Film genre"]
    assert facts["missing"]["train"] == sum(
        not row["genres"] for row_id, row in enumerate(raw) if row_id in train
    )
    return found


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("least", [1, 110])
def test_equal_to_a_loop_over_the_log(tmp_path, monkeypatch, partitions, least):
    monkeypatch.setattr(coded_log, "partitions_for", lambda rows: partitions)
    schema = write_log(str(tmp_path / "log"), field=f"{FIELD}, min_count: {least}")
    dataset = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    assert dataset.multi == (Multi(field=1, most=MOST),)
    assert dataset.id_columns[-2:] == ["v_01_01", "v_01_02"]
    found = check_by_hand(dataset, raw_rows(tmp_path / "log"), least)
    assert 0.3 < (found[:, 1] > 0).mean() < 0.9
    dataset.verify()


def test_values_that_only_come_later_are_counted(tmp_path):
    schema = write_log(str(tmp_path / "log"))
    last = tmp_path / "log" / "log-2.csv"
    lines = last.read_text().splitlines()
    lines[-1] = lines[-1].replace(lines[-1].split(",")[2], "brand|red")
    last.write_text("\n".join(lines) + "\n")
    dataset = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    check_by_hand(dataset, raw_rows(tmp_path / "log"))
    assert dataset.manifest["fields"][1]["unseen_in_train"] == {"valid": 0, "test": 1}


@pytest.mark.parametrize("form", ["parquet", "json"])
def test_a_column_of_lists_is_as_a_text(tmp_path, form):
    """The same dataset, and by its transform the same ids as those of the rows that it was made of."""
    schema = write_log(str(tmp_path / "log"))
    of_text = prepare(schema, None, str(tmp_path / "text"), **SMALL)
    raw = raw_rows(tmp_path / "log")
    lists = pd.DataFrame(raw).assign(
        genres=[row["genres"].split("|") if row["genres"] else [] for row in raw],
        item=[int(row["item"]) for row in raw],
        time=[int(row["time"]) for row in raw],
        click=[int(row["click"]) for row in raw],
    )
    other = tmp_path / "other"
    other.mkdir()
    if form == "parquet":
        lists.to_parquet(other / "log-0.parquet")
    else:
        lists.to_json(other / "log-0.jsonl", orient="records", lines=True)
    text = (tmp_path / "log" / "log.yaml").read_text()
    (other / "log.yaml").write_text(text.replace("log-*.csv", "log-0.*").replace('separator: "|", ', ""))
    of_lists = prepare(str(other / "log.yaml"), None, str(tmp_path / "lists"), **SMALL)
    pd.testing.assert_frame_equal(rows_of(of_lists), rows_of(of_text))
    for dataset, rows in ((of_text, pd.DataFrame(raw)), (of_lists, lists)):
        found = RowTransform.of_dataset(dataset)(pa.Table.from_pandas(rows)).all_ids
        np.testing.assert_array_equal(found, rows_of(dataset)[dataset.id_columns].to_numpy())


def test_of_a_joined_table_with_a_history(tmp_path):
    """The values of a row's item; and new rows are joined to them, too."""
    schema = write_log(str(tmp_path / "log"), more="history: 2")
    rng = np.random.default_rng(1)
    genres = {str(item): "|".join(rng.choice(["red", "old", "new"], item % 4, False)) for item in range(20)}
    with open(tmp_path / "log" / "items.csv", "w") as stream:
        stream.writelines(f"{line}\n" for line in ["item,kinds", *map(",".join, genres.items())])
    file = tmp_path / "log" / "log.yaml"
    text = file.read_text().replace("column: genres", "column: items.kinds")
    file.write_text(text + "tables: {items: {data: items.csv, key: item}}\n")
    dataset = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    assert dataset.id_columns[3:] == ["v_01_01", "v_01_02", "h_00", "h_01"]
    rows, raw = rows_of(dataset), raw_rows(tmp_path / "log")
    words = dataset.vocabulary(1)["value"].to_pylist()
    found = [
        "|".join(words[place] for place in ids if place)
        for ids in rows[["f_film_genre", "v_01_01", "v_01_02"]].to_numpy()
    ]
    assert found == [genres[row["item"]] for row in raw]
    new = pa.Table.from_pandas(pd.DataFrame(raw).assign(history=""))
    ids = RowTransform.of_dataset(dataset)(new).all_ids
    np.testing.assert_array_equal(ids[:, :5], rows[dataset.value_columns].to_numpy())


@pytest.mark.ray
def test_on_ray_the_bytes_are_the_same(tmp_path, ray_session):
    schema = write_log(str(tmp_path / "log"))
    prepare(schema, None, str(tmp_path / "here"), **SMALL)
    prepare(schema, None, str(tmp_path / "ray"), runtime=RuntimeConfig(use_ray="always"), **SMALL)
    assert files_below(str(tmp_path / "here")) == files_below(str(tmp_path / "ray"))


@pytest.mark.parametrize("write", [write_1m, write_100k, write_atomic])
def test_the_genres_of_movielens(tmp_path, write, capsys):
    """All of them by an option; without it the first, and the same files as ever."""
    raw = write(str(tmp_path / "raw"), ratings(60))
    source = "movielens-1m" if write is write_1m else "movielens-100k"
    command = ["prepare", source, "--raw", raw, "--set", "runtime.use_ray=never", "--out"]
    printed(capsys, *command, str(tmp_path / "all"), "--multi", "Film genre")
    all_of_them = prepare(source, raw, str(tmp_path / "all"), multi=["Film genre"])
    first = prepare(source, raw, str(tmp_path / "first"))
    assert (first.multi, all_of_them.multi) == ((), (Multi(field=7, most=8),))
    genres = first.vocabulary(7)["value"].to_pylist()
    assert set(genres) < set(all_of_them.vocabulary(7)["value"].to_pylist())
    one, several = rows_of(first), rows_of(all_of_them)
    words = all_of_them.vocabulary(7)["value"].to_pylist()
    assert [words[place] for place in several.f_film_genre] == [genres[place] for place in one.f_film_genre]
    assert (several["v_07_01"] > 0).any()
    others = [column for column in one if column != "f_film_genre"]
    pd.testing.assert_frame_equal(one[others], several[others])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("most: 3", "most: 1", r"most=1: give a whole number ≥ 2, ≤ 100"),
        ("take: each", "take: all", "field Film genre: most is for take: each; set that, or leave most out"),
        ("kind: multi, ", "", "are rules of kind multi, not categorical; set kind: multi"),
        ("item: item", "item: genres", "item: a row has one; leave take: each out of its field"),
        ("column: user}\n", "column: item2}\n", None),
    ],
)
def test_schemas_that_make_no_sense(tmp_path, old, new, said):
    schema = tmp_path / "log" / "log.yaml"
    write_log(str(tmp_path / "log"))
    if said is None:  # the field is the first one
        lines = schema.read_text().splitlines()
        lines[2], lines[3] = lines[3], lines[2]
        schema.write_text("\n".join(lines) + "\n")
        said = "field Film genre: has several values, and the text begins with it; put it behind another"
    else:
        schema.write_text(schema.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=said):
        prepare(str(schema), None, str(tmp_path / "out"))


def test_what_is_refused(tmp_path, capsys):
    schema = write_log(str(tmp_path / "log"))
    with pytest.raises(
        InputError, match=r"that has several values \(those are: none\); a log of your own says"
    ):
        prepare(schema, None, str(tmp_path / "out"), multi=["Film genre"])
    prepare(schema, None, str(tmp_path / "out"), **SMALL)
    words = ["prepare", schema, "--out", str(tmp_path / "out"), "--append", "--multi", "Film genre"]
    assert "leave --multi out" in fails(capsys, *words)
    last = tmp_path / "log" / "log-2.csv"
    lines = last.read_text().splitlines()
    lines[-1] = lines[-1].replace(lines[-1].split(",")[2], "re\x1fd|old")
    last.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"log-2.csv, line 201: genres=.* has the control character U\+001F"):
        prepare(schema, None, str(tmp_path / "other"), **SMALL)


def test_what_check_shows(tmp_path, capsys):
    schema = write_log(str(tmp_path / "log"))
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", schema, "--check"])
    assert stopped.value.code == 0
    assert "\x1f" not in capsys.readouterr().out

"""Raw log → dataset: against a plain reading of the same files, twice the same bytes, nothing
left behind.
"""

import collections
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from clickprompt.config import RuntimeConfig
from clickprompt.data.keyed_random import random_bits
from clickprompt.data.prepared.dataset import SPLITS, Dataset, split_sizes
from clickprompt.data.sources.registry import get_source
from clickprompt.data.text.template import encode, load_tokenizer, sentence
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import DataError, InputError
from clickprompt.runtime.prepare.coded_log import read_log
from clickprompt.runtime.prepare.fan_out import InProcess
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.prepare.splits import _kth
from tests.support import naive_sources
from tests.support.folders import files_below
from tests.support.naive_prepare import assert_equal, naive_prepare
from tests.support.raw_movielens import MOVIES, USERS, ratings, write_1m, write_100k, write_atomic

SMALL = {"rows_per_shard": 100, "row_group_rows": 16}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_1m(str(tmp_path_factory.mktemp("raw")), ratings(700))


@pytest.fixture(scope="module")
def dataset(raw, tmp_path_factory):
    return prepare("movielens-1m", raw, str(tmp_path_factory.mktemp("out") / "d"), **SMALL)


def decoded(dataset, split):
    """row_id → (label, timestamp, field values)."""
    values = [
        np.array(dataset.vocabulary(field)["value"].to_pylist(), dtype=object)
        for field in range(len(dataset.columns))
    ]
    table = dataset.read_split(split)
    fields = zip(
        *(values[field][table[column].to_numpy()] for field, column in enumerate(dataset.columns)),
        strict=True,
    )
    return dict(
        zip(
            table["row_id"].to_pylist(),
            zip(table["label"].to_pylist(), table["timestamp"].to_pylist(), fields, strict=True),
            strict=True,
        )
    )


def test_rows_and_splits_equal_a_plain_reading(dataset):
    genders, titles = (
        {"F": "female", "M": "male"},
        {movie[0]: (movie[1][:-7], movie[2].split("|")[0]) for movie in MOVIES},
    )
    ages, jobs = (
        {"1": "under 18", "56": "56+", "25": "25-34"},
        {"10": "K-12 student", "16": "self-employed", "0": "other"},
    )
    users = {user[0]: (user[0], genders[user[1]], ages[user[2]], jobs[user[3]], user[4]) for user in USERS}
    kept = [
        (row_id, (int(rating >= 4), timestamp * 1_000_000, (*users[user], movie, *titles[movie])))
        for row_id, (user, movie, rating, timestamp) in enumerate(ratings(700))
        if rating != 3
    ]
    in_time = sorted(kept, key=lambda row: (row[1][1], row[0]))
    sizes = split_sizes(len(kept))
    assert dataset.counts == sizes
    start = 0
    for split in ("train", "valid", "test"):
        assert decoded(dataset, split) == dict(in_time[start : start + sizes[split]])
        start += sizes[split]


def test_split_sizes_are_those_of_table_1():
    assert split_sizes(739_012) == {"train": 591_208, "valid": 73_902, "test": 73_902}
    assert split_sizes(1_861_231) == {"train": 1_488_984, "valid": 186_123, "test": 186_124}
    assert split_sizes(20_122_040) == {"train": 16_097_632, "valid": 2_012_204, "test": 2_012_204}


def test_shards_row_groups_and_order(dataset):
    for split, shards in dataset.manifest["shards"].items():
        assert len(shards) == -(-dataset.counts[split] // SMALL["rows_per_shard"])
        for number, shard in enumerate(shards):
            assert shard["file"] == f"{split}/part-{number:05d}.parquet"
            metadata = pq.ParquetFile(os.path.join(dataset.uri, shard["file"])).metadata
            assert shard["row_groups"] == [
                metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)
            ]
            assert max(shard["row_groups"]) <= SMALL["row_group_rows"]
            assert sum(shard["row_groups"]) == shard["rows"]
        assert dataset.row_group_counts(split).sum() == dataset.counts[split]
    for split in ("valid", "test"):
        table = dataset.read_split(split)
        keys = list(zip(table["timestamp"].to_pylist(), table["row_id"].to_pylist(), strict=True))
        assert keys == sorted(keys)
        assert dataset.manifest["bounds"][split] == [keys[0][0], keys[-1][0]]


def test_training_rows_are_spread_over_the_row_groups(dataset):
    """The log's position says nothing about the row group: rank correlation as of independent draws."""
    row_ids = dataset.read_split("train")["row_id"].to_numpy()
    ranks = np.argsort(np.argsort(row_ids))
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 4 / np.sqrt(len(ranks))


def test_vocabulary_covers_the_tables_and_counts_training_rows(dataset):
    assert dataset.field_names == [
        "User ID",
        "Gender",
        "Age",
        "Job",
        "Zipcode",
        "Movie ID",
        "Title",
        "Film genre",
    ]
    assert dataset.field_sizes == [4, 3, 4, 4, 4, 5, 4, 4]
    assert dataset.num_features == 3 + 2 + 3 + 3 + 3 + 4 + 3 + 3
    train = dataset.read_split("train")
    for field, column in enumerate(dataset.columns):
        vocabulary = dataset.vocabulary(field)
        assert vocabulary["id"].to_pylist() == list(range(dataset.field_sizes[field]))
        assert (
            vocabulary["train_count"].to_pylist()
            == np.bincount(train[column].to_numpy(), minlength=len(vocabulary)).tolist()
        )
        assert vocabulary["train_count"][0].as_py() == 0
    assert dataset.vocabulary(5)["value"].to_pylist()[1:] == [movie[0] for movie in MOVIES]


def test_twice_the_same_bytes_however_the_log_is_cut(dataset, raw, tmp_path, monkeypatch):
    monkeypatch.setattr("clickprompt.data.sources.raw.cut_at_line_ends.__defaults__", (3000,))
    again = prepare("movielens-1m", raw, str(tmp_path / "again"), **SMALL)
    first, second = files_below(dataset.uri), files_below(again.uri)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert again.fingerprint == dataset.fingerprint
    again.verify()


def test_rows_of_equal_time_are_split_by_position(tmp_path):
    raw = write_1m(str(tmp_path), [(user, movie, 5, 1_000_000_000) for user, movie, _, _ in ratings(90)])
    source, options, stage = get_source("movielens-1m", raw), {"split": "time"}, str(tmp_path / "stage")
    work = InProcess()
    log, _ = read_log(work, source, source.tables(), options, stage)
    assert [_kth(work, log, k) for k in (0, 72, 81, 89)] == [
        (1_000_000_000_000_000, k) for k in (0, 72, 81, 89)
    ]


def test_split_by_hash_is_a_seeded_sample(raw, dataset, tmp_path):
    """The same rows under other splits: each split has users of all times, and another seed draws another
    sample.
    """
    first, second = (
        prepare("movielens-1m", raw, str(tmp_path / str(seed)), split_by="hash", seed=seed, **SMALL)
        for seed in (0, 1)
    )
    everything = {
        row_id: row for split in ("train", "valid", "test") for row_id, row in decoded(dataset, split).items()
    }
    for one in (first, second):
        assert one.counts == dataset.counts
        assert one.manifest["options"]["split"] == "hash"
        assert {
            row_id: row for split in ("train", "valid", "test") for row_id, row in decoded(one, split).items()
        } == everything
    drawn = [set(decoded(one, "test")) for one in (dataset, first, second)]
    shared = [len(a & b) for a, b in ((drawn[0], drawn[1]), (drawn[1], drawn[2]))]
    assert max(shared) < 0.4 * len(drawn[0])  # a tenth by chance


def test_layout_and_seed_change_neither_rows_nor_splits(tmp_path):
    rows = ratings(60)
    official = prepare("movielens-100k", write_100k(str(tmp_path / "u"), rows), str(tmp_path / "a"), **SMALL)
    atomic = prepare(
        "movielens-100k", write_atomic(str(tmp_path / "m"), rows), str(tmp_path / "b"), seed=1, **SMALL
    )
    assert decoded(official, "train") == decoded(atomic, "train")
    assert official.read_split("test").equals(atomic.read_split("test"))
    assert not official.read_split("train").equals(atomic.read_split("train"))


@pytest.mark.parametrize(("name", "write"), [("movielens-1m", write_1m), ("movielens-100k", write_100k)])
def test_a_sample_of_the_users(tmp_path, name, write):
    rows = ratings(600)
    of_each = collections.Counter(user for user, _, rating, _ in rows if rating != 3)
    raw, samples = write(str(tmp_path / "raw"), rows), set()
    for seed in range(4):
        dataset = prepare(name, raw, str(tmp_path / f"out{seed}"), sample_users=0.6, seed=seed, **SMALL)
        found = collections.Counter(
            fields[0] for split in SPLITS for _, _, fields in decoded(dataset, split).values()
        )
        assert found == {user: of_each[user] for user in found}
        samples.add(frozenset(found))
    assert len(samples) > 1


def test_existing_dataset_is_returned_if_it_is_the_same_and_refused_otherwise(dataset, raw, tmp_path):
    lines = []
    before = os.stat(os.path.join(dataset.uri, "manifest.json")).st_mtime_ns
    assert (
        prepare("movielens-1m", raw, dataset.uri, **SMALL, progress=lines.append).fingerprint
        == dataset.fingerprint
    )
    assert lines == [f"{dataset.uri} is prepared already"]
    assert os.stat(os.path.join(dataset.uri, "manifest.json")).st_mtime_ns == before
    with pytest.raises(InputError, match="prepared from other raw files or with other options"):
        prepare("movielens-1m", raw, dataset.uri, seed=9, **SMALL)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="something other than a prepared dataset is there"):
        prepare("movielens-1m", raw, str(tmp_path), **SMALL)


def bad_line(raw):
    with open(os.path.join(raw, "ratings.dat"), "a") as stream:
        stream.write("1::1::five::3\n")


def stranger(raw):
    with open(os.path.join(raw, "ratings.dat"), "a") as stream:
        stream.write("99::1::5::3\n")


def only_threes(raw):
    write_1m(raw, [(user, movie, 3, time) for user, movie, _, time in ratings(20)])


def two_rows(raw):
    write_1m(raw, [("1", "1", 5, 10), ("1", "7", 1, 20)])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bad_line, r"ratings\.dat, line 31: '1::1::five::3' is malformed; expected UserID"),
        (stranger, r"ratings\.dat, line 31: user '99' is not in the source's user table"),
        (only_threes, "no rows are left after the label rule"),
        (two_rows, "2 rows are left after the label rule, so the train split is empty"),
        (lambda raw: os.unlink(os.path.join(raw, "movies.dat")), r"movies\.dat: this raw file is missing"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(tmp_path, spoil, message):
    raw = write_1m(str(tmp_path / "raw"), ratings(30))
    spoil(raw)
    with pytest.raises(DataError, match=message) as caught:
        prepare("movielens-1m", raw, str(tmp_path / "out" / "d"), **SMALL)
    assert type(caught.value) is DataError
    assert "\n" not in str(caught.value)
    assert not os.path.exists(tmp_path / "out") or os.listdir(tmp_path / "out") == []


def test_unknown_split_is_refused(raw, tmp_path):
    with pytest.raises(InputError, match="split 'user' is unknown; known: time, hash, column"):
        prepare("movielens-1m", raw, str(tmp_path / "out"), split_by="user", **SMALL)


def test_bad_target_and_source_are_refused(raw, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="check that the place exists"):
        prepare("movielens-1m", raw, str(tmp_path / "file" / "d"))
    with pytest.raises(InputError, match="unknown; known sources"):
        prepare("movielens", raw, str(tmp_path / "d"))


def environment(name):
    return os.environ.get(name) or pytest.skip(
        f"{name} is not set; it names real data, which the repository must not hold"
    )


@pytest.fixture(scope="module")
def movielens_1m(ray_session, tmp_path_factory):
    return prepare(
        "movielens-1m", environment("CLICKPROMPT_ML1M"), str(tmp_path_factory.mktemp("ml1m") / "d")
    )


def test_movielens_1m_is_the_papers_table_1(movielens_1m):
    dataset = movielens_1m
    assert dataset.counts == {"train": 591_208, "valid": 73_902, "test": 73_902}
    assert len(dataset.field_names) == 8
    assert dataset.num_features == 17_251
    sizes = [6040, 2, 7, 21, 3439, 3883, 3841, 18]
    assert [size - 1 for size in dataset.field_sizes] == sizes
    bounds = dataset.manifest["bounds"]
    assert bounds["train"][1] <= bounds["valid"][0] <= bounds["valid"][1] <= bounds["test"][0]
    for split in ("train", "valid", "test"):
        times = dataset.read_split(split)["timestamp"].to_numpy()
        assert [times.min(), times.max()] == bounds[split]
    dataset.verify()
    authors = os.path.join(environment("CLICKPROMPT_ML1M"), "authors_id_map.json")
    if os.path.exists(authors):
        with open(authors) as stream:
            theirs = json.load(stream)
        assert theirs["feature_count"] == sizes
        for field, name in enumerate(theirs["field_names"]):
            if name in (
                "User ID",
                "Zipcode",
                "Movie ID",
                "Title",
                "First genre",
            ):  # the others are words here, codes there
                assert set(dataset.vocabulary(field)["value"].to_pylist()[1:]) == set(
                    theirs["feature_dict"][name]
                ), name


@pytest.mark.slow
def test_movielens_1m_equals_pandas(movielens_1m):
    rows, tables = naive_sources.movielens_1m(environment("CLICKPROMPT_ML1M"))
    splits, _ = naive_prepare(rows)
    assert_equal(movielens_1m, splits, tables)  # with the users and movies that no rating is of


@pytest.mark.slow
def test_bookcrossing_equals_pandas(ray_session, tmp_path):
    raw = environment("CLICKPROMPT_BOOKCROSSING")
    dataset = prepare("bookcrossing", raw, str(tmp_path / "d"), seed=3)
    rows, tables = naive_sources.bookcrossing(raw)
    rows["split_key"] = random_bits(8, 3, np.arange(len(rows))) % np.uint64(2**61)
    splits, _ = naive_prepare(rows)
    assert_equal(dataset, splits, tables)
    assert sum(dataset.counts.values()) == 1_031_175
    assert dataset.num_features == 722_202
    assert dataset.manifest["options"]["split"] == "hash"


def test_movielens_1m_has_the_same_bytes_without_ray(movielens_1m, tmp_path):
    alone = RuntimeConfig(use_ray="never")
    again = prepare("movielens-1m", environment("CLICKPROMPT_ML1M"), str(tmp_path / "again"), runtime=alone)
    first, second = files_below(movielens_1m.uri), files_below(again.uri)
    assert {name for name in first if not name.startswith("tokens/")} == second.keys()
    assert [name for name in second if first[name] != second[name]] == []


@pytest.mark.parametrize("variable", ["CLICKPROMPT_MINILM", "CLICKPROMPT_ROBERTA_TOKENIZER"])
def test_assembly_equals_the_tokenizer_on_10000_real_rows(movielens_1m, variable):
    folder = environment(variable)
    if os.path.exists(os.path.join(folder, "tokenizer.json")):
        tokenizer = load_tokenizer(folder)
    else:  # vocab.json and merges.txt alone say nothing of their class
        from transformers import RobertaTokenizer

        tokenizer = RobertaTokenizer.from_pretrained(folder)
    dataset = movielens_1m
    table = build_token_table(dataset, tokenizer)
    rows = dataset.read_row_groups("train", [0, 1, 2]).slice(0, 10_000)
    field_ids = np.stack([rows[column].to_numpy() for column in dataset.columns], axis=1)
    values = [dataset.vocabulary(field)["value"].to_pylist() for field in range(8)]
    texts = [
        sentence(dataset.field_names, [values[field][i] for field, i in enumerate(row)]) for row in field_ids
    ]
    input_ids, attention_mask = table.assemble(field_ids)
    expected = encode(tokenizer, texts, special_tokens=True)
    assert len(expected) == 10_000
    assert [ids[mask == 1].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)] == expected


def test_real_dataset_opens_without_ray(movielens_1m):
    assert Dataset.open(movielens_1m.uri).fingerprint == movielens_1m.fingerprint


def test_repeats_and_k_core_of_a_dump(tmp_path):
    """Amazon: of a user's reviews of an item the latest stays, items without metadata go, and then every user
    and item has 5 rows.
    """
    people, things = [f"u{i}" for i in range(6)], [f"i{i}" for i in range(6)]
    reviews = [
        (user, item, 5 if (u + i) % 3 else 1, 10 * u + i)
        for u, user in enumerate(people)
        for i, item in enumerate(things)
    ]
    reviews += [("u0", "i0", 5, 1000), ("u0", "i0", 1, 999)]  # the later review is the first in the file
    reviews += [("lonely", "i0", 5, 50), ("u0", "nobody knows it", 5, 60)]
    (tmp_path / "raw").mkdir()
    lines = [
        {"reviewerID": u, "asin": i, "overall": float(stars), "unixReviewTime": time}
        for u, i, stars, time in reviews
    ]
    (tmp_path / "raw" / "Toys_and_Games.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    items = [
        {"asin": item, "title": f"Title {item}", "category": ["Toys & Games", "Kites"]}
        for item in [*things, "never sold"]
    ]
    (tmp_path / "raw" / "meta_Toys_and_Games.json").write_text(
        "".join(json.dumps(item) + "\n" for item in items)
    )
    dataset = prepare("amazon-toys", str(tmp_path / "raw"), str(tmp_path / "d"), **SMALL)
    rows = {
        row_id: row for split in ("train", "valid", "test") for row_id, row in decoded(dataset, split).items()
    }
    assert sorted(rows) == list(
        range(1, 37)
    )  # 36 pairs: row 0 came again as row 36, which is later than row 37
    assert rows[36] == (1, 1_000_000_000, ("u0", "i0", "Kites", "Title i0", "unknown"))
    assert [size - 1 for size in dataset.field_sizes] == [6, 6, 1, 6, 0]

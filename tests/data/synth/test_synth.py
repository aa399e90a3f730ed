"""The synthetic log: rows that depend on the seed and their number alone, a catalogue without contradictions,
the planted model.
"""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clickprompt.data.keyed_random import random_uniform
from clickprompt.data.prepared.dataset import slug
from clickprompt.data.synth import words
from clickprompt.data.synth.bayes import ScoreHistogram
from clickprompt.data.synth.synth import (
    _BOOK_FIELDS,
    MAX_ROWS,
    MIN_ROWS,
    ClickModel,
    GoodReads,
    check_rows,
    get_synthetic,
)
from clickprompt.data.synth.texts import id_text
from clickprompt.errors import InputError
from clickprompt.evaluation.metrics import auc, log_loss

ROWS = 1 << 15
OF_WORK = ["book_title", "book_genres", "author_id", "author_name", "media_type"]


@pytest.fixture(scope="module")
def block():
    """(table, users, books, logits) of 32,768 rows in the middle of a log."""
    return GoodReads(7).block(20 * ROWS, ROWS)


@pytest.fixture(scope="module")
def columns(block):
    return {name: np.array(block[0][name].to_pylist()) for name in block[0].column_names}


def test_words_are_as_they_are_used():
    nouns = [noun for nouns in words.NOUNS for noun in nouns]
    assert len(words.GENRES) == len(words.GENRE_SHARES) == len(words.NOUNS)
    assert len({len(nouns) for nouns in words.NOUNS}) == 1
    for names in (
        nouns,
        words.ADJECTIVES,
        words.PLACES,
        words.SURNAMES,
        words.FIRST_NAMES,
        words.INITIALS,
        words.PUBLISHERS,
    ):
        assert len(set(names)) == len(names)
        assert all(name and " " not in name for name in names)
    assert not set(nouns) & set(words.ADJECTIVES)
    assert sum(words.GENRE_SHARES) == pytest.approx(1)
    assert sum(words.MEDIA_SHARES) == pytest.approx(1)


def test_rows_depend_on_seed_and_number_alone():
    log = GoodReads(3)
    table, _, _, logits = log.block(0, 256)
    for start, count in ((0, 64), (64, 130), (192, 1)):
        part, _, _, part_logits = log.block(start, count)
        assert part.to_pylist() == table.slice(start, count).to_pylist()
        assert part_logits.tolist() == logits[start : start + count].tolist()
    assert GoodReads(4).block(0, 256)[0].to_pylist() != table.to_pylist()


def test_a_longer_log_begins_with_the_shorter_one(tmp_path):
    log = GoodReads(0, rows_per_file=128, row_group_rows=64)
    short = [log.write_part(str(tmp_path / "short"), number, 300) for number in range(log.num_parts(300))]
    long = [log.write_part(str(tmp_path / "long"), number, 1000) for number in range(log.num_parts(1000))]
    assert [part.entry["rows"] for part in short] == [128, 128, 44]
    assert [part.entry["rows"] for part in long] == [128] * 7 + [104]
    assert [part.entry for part in short[:2]] == [part.entry for part in long[:2]]
    tables = [pq.read_table(tmp_path / "long" / part.entry["file"]) for part in long]
    assert pa.concat_tables(tables).to_pylist() == GoodReads(0).block(0, 1000)[0].to_pylist()
    assert (
        pq.read_table(tmp_path / "short" / "log" / "part-00002.parquet").to_pylist()
        == tables[2].slice(0, 44).to_pylist()
    )


def test_files_hold_dictionary_encoded_strings_and_what_is_said_of_them(tmp_path):
    log = GoodReads(0, rows_per_file=640, row_group_rows=256)
    part = log.write_part(str(tmp_path), 1, 5000)
    path = tmp_path / part.entry["file"]
    assert part.entry["file"] == "log/part-00001.parquet"
    assert part.entry["bytes"] == os.path.getsize(path)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [
        256,
        256,
        128,
    ]
    assert file.schema_arrow.names == [slug(name) for name in log.fields] + ["rating", "timestamp"]
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert {types.pop("rating"), types.pop("timestamp")} == {"int8", "int64"}
    assert set(types.values()) == {"string"}
    chunks = [file.metadata.row_group(0).column(index) for index in range(15)]
    assert all(chunk.has_dictionary_page for chunk in chunks)
    table = file.read()
    assert sum(column.null_count for column in table.columns) == 0
    assert part.clicks == sum(rating >= 4 for rating in table["rating"].to_pylist())
    assert part.timestamps == (min(table["timestamp"].to_pylist()), max(table["timestamp"].to_pylist()))
    assert part.scores.rows == 640


def test_all_about_a_book_follows_from_its_id(columns):
    of_book = [column for column in columns if column not in ("user_id", "rating", "timestamp")]
    seen = {}
    for row in zip(*(columns[name] for name in of_book), strict=True):
        assert seen.setdefault(row[0], row) == row
    of_work = {}
    editions = 0
    for row in zip(columns["work_id"], columns["book_id"], *(columns[name] for name in OF_WORK), strict=True):
        book, facts = of_work.setdefault(row[0], (row[1], row[2:]))
        assert facts == row[2:]
        editions += book != row[1]
    assert editions > 0.02 * ROWS
    names = dict(zip(columns["author_id"], columns["author_name"], strict=True))
    assert all(
        names[author] == name
        for author, name in zip(columns["author_id"], columns["author_name"], strict=True)
    )
    assert set(columns["format"][columns["ebook_flag"] == "true"]) == set(words.EBOOK_FORMATS)
    assert set(columns["format"][columns["ebook_flag"] == "false"]) == set(words.PRINT_FORMATS)
    years = np.datetime64("1970-01-01") + (columns["timestamp"] + 86_400).astype("timedelta64[s]")
    assert (columns["publication_year"].astype(int) <= years.astype("datetime64[Y]").astype(int) + 1970).all()


def test_field_sizes_are_the_distinct_values(block, columns):
    log = GoodReads(7)
    _, users, books, _ = block
    sizes = log.field_sizes(len(users), books)
    assert sizes == {name: len(set(columns[slug(name)])) for name in log.fields}


def test_different_codes_have_different_texts():
    codes = GoodReads(1).codes(np.arange(300_000))
    for key, text in _BOOK_FIELDS.values():
        distinct = np.unique(codes[key])
        assert len(text(distinct).unique()) == len(distinct)
    assert len(id_text(np.arange((1 << 27) - 300_000, 1 << 27), 105).unique()) == 300_000


def test_numbers_stay_below_what_is_promised(block):
    log = GoodReads(7)
    _, users, books, _ = block
    assert users.max() < log.max_users(21 * ROWS)
    assert books.max() < log.max_books(21 * ROWS)
    assert log.max_books(MAX_ROWS) < 1 << 27


def test_users_and_books_are_zipf_like_and_time_drifts(columns):
    for name in ("user_id", "book_id", "author_id", "publisher"):
        counts = np.sort(np.unique_counts(columns[name]).counts)[::-1]
        assert counts[: len(counts) // 10].sum() > 0.25 * ROWS, name  # evenly spread, a tenth has a tenth
    timestamps = columns["timestamp"]
    means = timestamps.reshape(16, -1).mean(axis=1)
    assert (np.diff(means) > 0).all()
    assert (np.diff(timestamps) < 0).any()
    assert len(np.unique(timestamps)) < 0.98 * ROWS


def test_users_are_active_in_windows():
    """Most of who reads at 100,000 rows has left, or reads little, at 6,000,000."""
    log = GoodReads(0)
    early, late = (
        set(log.block(start, 16_384)[0]["user_id"].to_pylist()) for start in (64 * 1562, 64 * 93_750)
    )
    then, later = (
        set(log.block(start + 16_384, 16_384)[0]["user_id"].to_pylist()) for start in (64 * 1562, 64 * 93_750)
    )
    assert len(early & then) > 0.3 * len(early)
    assert len(early & (late | later)) < 0.1 * len(early)


def test_the_log_spans_years_whatever_its_length():
    first, paper, longest = (
        GoodReads(0).block(row // 64 * 64, 64)[0]["timestamp"][0].as_py()
        for row in (0, 20_122_040, 100_000_000)
    )
    years = [(time - first) / 31_556_952 for time in (paper, longest)]
    assert 8 < years[0] < years[1] < 15


def test_a_true_logit_scores_the_bayes_auc(block, columns):
    """On the labels drawn from it, within four standard errors."""
    labels, logits = columns["rating"] >= 4, block[3]
    assert set(columns["rating"]) == {1, 2, 3, 4, 5}
    scores = ScoreHistogram.of(logits)
    value, error = scores.auc()
    assert error < 1e-4
    assert 0.78 < value < 0.85
    rng = np.random.default_rng(0)
    halves = rng.permutation(ROWS).reshape(16, -1)  # the spread of sixteen parts' AUC, over √16
    deviation = np.std([auc(labels[rows], logits[rows]) for rows in halves], ddof=1) / 4
    assert abs(auc(labels, logits) - value) < 4 * deviation + error
    losses = np.logaddexp(0, np.where(labels, -logits, logits))
    assert abs(log_loss(labels, logits) - scores.log_loss()) < 4 * losses.std() / np.sqrt(ROWS)
    rate = scores.positive_rate()
    assert abs(labels.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / ROWS)
    assert 0.6 < rate < 0.75


def test_a_logit_with_a_term_missing_scores_less(block, columns):
    """So the labels do follow the planted model: users, works and words each matter."""
    log = GoodReads(7)
    labels = columns["rating"] >= 4
    _, users, books, logits = block
    places = [
        dict(zip(id_text(numbers, stream).to_pylist(), range(len(numbers)), strict=True))
        for numbers, stream in ((users, 101), (books, 105))
    ]
    user_at = np.array([places[0][value] for value in columns["user_id"]])
    book_at = np.array([places[1][value] for value in columns["book_id"]])
    codes = log.codes(books)
    assert ClickModel().logits(7, users, user_at, codes, book_at).tolist() == logits.tolist()
    whole = auc(labels, logits)
    for term in ("latent", "leniency", "quality", "taste", "adjective", "noun"):
        without = ClickModel(**{term: 0.0}).logits(7, users, user_at, codes, book_at)
        assert auc(labels, without) < whole - 0.002, term


def test_logits_equal_a_plain_loop(block, columns):
    """From the formula, a row at a time, title and genre read from the text."""

    def draw(stream, *keys):
        return (float(random_uniform(stream, 7, *keys)[0]) - 0.5) * 12**0.5

    log = GoodReads(7)
    table, users, books, logits = block
    user_ids = dict(zip(id_text(users, 101).to_pylist(), users.tolist(), strict=True))
    book_ids = dict(zip(id_text(books, 105).to_pylist(), books.tolist(), strict=True))
    liking = np.linspace(1, -1, 64)
    liking = dict(zip(words.ADJECTIVES, liking / liking.std(), strict=True))
    model = log.model
    for row, values in enumerate(table.slice(0, 50).to_pylist()):
        user, book = user_ids[values["user_id"]], book_ids[values["book_id"]]
        work = int(log.codes(np.array([book]))["work"][0])
        genre = words.GENRES.index(values["book_genres"])
        title = values["book_title"].split()
        adjective = next(word for word in title if word in liking)
        noun = next(word for word in title if word in words.NOUNS[genre])
        latent = sum(draw(108, user, k) * draw(111, work, k) for k in range(4)) / 2
        expected = (
            model.bias
            + model.latent * latent
            + model.leniency * draw(109, user)
            + model.quality * draw(112, work)
        )
        expected += model.taste * draw(110, user, genre) + model.adjective * liking[adjective]
        expected += model.noun * draw(113, genre * 24 + words.NOUNS[genre].index(noun))
        assert logits[row] == pytest.approx(expected, rel=1e-9)


def test_schema_names_the_columns():
    log = GoodReads(0)
    schema = yaml.safe_load(log.schema_yaml())
    assert {key: value for key, value in schema.items() if key != "fields"} == {
        "data": ["log/*.parquet"],
        "label": {"column": "rating", "positive_from": 4},
        "timestamp": "timestamp",
        "user": "user_id",
        "item": "book_id",
    }
    names = (
        "User ID, Book ID, Book title, Book genres, Average rating, Number of book reviews, Author ID, "
        "Author name, Number of pages, "
        "eBook flag, Format, Publisher, Publication year, Work ID, Media type"
    )
    assert [field["name"] for field in schema["fields"]] == names.split(", ")
    table = log.block(0, 64)[0]
    assert [field["column"] for field in schema["fields"]] == table.column_names[:15]


def test_bad_input():
    with pytest.raises(InputError, match="'netflix' is unknown; known: goodreads"):
        get_synthetic("netflix")
    for rows in (0, -5, MIN_ROWS - 1, MAX_ROWS + 1):
        with pytest.raises(InputError, match=f"rows={rows}: a synthetic log has 1,000 to 1,000,000,000 rows"):
            check_rows(rows)
    check_rows(MIN_ROWS)
    with pytest.raises(InputError, match="rows_per_file=100: must be a multiple of 64; give 64"):
        GoodReads(0, rows_per_file=100)
    with pytest.raises(InputError, match="row_group_rows=0"):
        GoodReads(0, row_group_rows=0)


@pytest.mark.slow
def test_as_many_values_as_the_paper_at_its_number_of_rows():
    rows, log = 20_122_040, GoodReads(0)
    users, books = np.zeros(log.max_users(rows), bool), np.zeros(log.max_books(rows), bool)
    for start in range(0, rows, 1 << 20):
        numbers = np.arange(start, min(start + (1 << 20), rows))
        users[log._users_of(log._sessions(numbers))] = books[log._books_of(numbers)] = True
    sizes = log.field_sizes(int(users.sum()), np.flatnonzero(books))
    assert sum(sizes.values()) == pytest.approx(4_565_430, rel=0.005)

"""Book-Crossing, Amazon and GoodReads in small files of the dumps' own format, with the awkward lines that
such dumps have.
"""

import gzip
import json
import os

import numpy as np
import pytest

from clickprompt.data.sources.goodreads import seconds
from clickprompt.data.sources.registry import get_source
from clickprompt.data.transform.row_transform import KEY
from clickprompt.errors import DataError
from tests.support.log_rows import as_dicts


def read_all(source):
    return [row for part in source.parts() for rows in source.read_part(part) for row in as_dicts(rows)]


def write_lines(folder, name, rows):
    opened = gzip.open if name.endswith(".gz") else open
    with opened(os.path.join(folder, name), "wt", encoding="utf-8") as stream:
        stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_bookcrossing(folder, ratings=('"1";"X";"0"', '"2";"Y";"5"', '"2";"nobody";"9"', '"3";"Y";"10"')):
    files = {
        "BX-Book-Ratings.csv": ['"User-ID";"ISBN";"Book-Rating"', *ratings],
        "BX-Users.csv": [
            '"User-ID";"Location";"Age"',
            '"1";"nyc, new york, usa";NULL',
            '"2";"málaga, spain";"18"',
            '"3";", ,";"40"',
        ],
        "BX-Books.csv": [
            '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S";"Image-URL-M";"Image-URL-L"',
            r'"X";"Say \"hi\"; then";"A. B.";"2002";"P";"u";"u";"u"',
            '"Y";"Café";"";"0";"Q";"u";"u";"u"',
            '"Z";"Unread";"C";"1999";"R";"u";"u";"u"',
        ],
    }
    for name, lines in files.items():
        with open(os.path.join(folder, name), "w", encoding="latin-1", newline="") as stream:
            stream.write("\r\n".join(lines) + "\r\n")
    return str(folder)


def test_bookcrossing(tmp_path):
    source = get_source("bookcrossing", write_bookcrossing(tmp_path))
    assert set(source.raw_files()) == {"BX-Book-Ratings.csv", "BX-Users.csv", "BX-Books.csv"}
    assert [(row["user"], row["book"], row["label"]) for row in read_all(source)] == [
        ("1", "X", 0),
        ("2", "Y", 1),
        ("2", "nobody", 1),
        ("3", "Y", 1),
    ]
    users, books = (source.tables()[key].to_pydict() for key in ("user", "book"))
    assert users == {
        KEY: ["1", "2", "3"],
        "User ID": ["1", "2", "3"],
        "Location": ["usa", "spain", "unknown"],
        "Age": ["unknown", "18", "40"],
    }
    assert books["Book title"] == ['Say "hi"; then', "Café", "Unread"]
    assert books["Author"] == ["A. B.", "unknown", "C"]
    assert (source.split, source.joins, source.whole_tables) == ("hash", "inner", False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"1";"X";"11"', r"BX-Book-Ratings\.csv, line 2: rating '11' is not a whole number from 0 to 10"),
        ('"1";"X"', r"BX-Book-Ratings\.csv, from line 2 on: .*Expected 3 columns, got 2"),
    ],
)
def test_bookcrossing_bad_line(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        read_all(get_source("bookcrossing", write_bookcrossing(tmp_path, [line])))


REVIEWS = [
    {"reviewerID": "A", "asin": "1", "overall": 5.0, "unixReviewTime": 100, "reviewText": "x"},
    {"reviewerID": "A", "asin": "1", "overall": 2.0, "unixReviewTime": 200},
    {"reviewerID": "Ü", "asin": "?", "overall": 4.0, "unixReviewTime": 50},
]
ITEMS = [
    {"asin": "1", "title": "Kite\n  red", "brand": "", "category": ["Toys & Games", "Outdoor", "Kites"]},
    {"asin": "1", "title": "Kite again", "brand": "B"},
    {"asin": "2", "category": []},
    {"asin": "3", "title": None, "category": ["Toys & Games"]},
]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_amazon(tmp_path, ending):
    write_lines(tmp_path, f"Toys_and_Games.json{ending}", REVIEWS)
    write_lines(tmp_path, f"meta_Toys_and_Games.json{ending}", ITEMS)
    source = get_source("amazon-toys", str(tmp_path))
    assert read_all(source) == [
        {"label": 1, "timestamp": 100_000_000, "User ID": "A", "item": "1"},
        {"label": 0, "timestamp": 200_000_000, "User ID": "A", "item": "1"},
        {"label": 1, "timestamp": 50_000_000, "User ID": "Ü", "item": "?"},
    ]
    assert source.tables()["item"].to_pydict() == {
        KEY: ["1", "2", "3"],
        "Item ID": ["1", "2", "3"],
        "Category": ["Outdoor", "unknown", "Toys & Games"],
        "Title": ["Kite red", "unknown", "unknown"],
        "Brand": ["unknown", "unknown", "unknown"],
    }
    assert (source.k_core, source.latest_only, source.joins) == (5, True, "inner")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_amazon_of_2023(tmp_path, ending):
    """A toy's colours are one item: of `asin` and `parent_asin` the second counts."""
    reviews = [
        {"user_id": "A", "asin": "1b", "parent_asin": "1", "rating": 5.0, "timestamp": 1588687728923},
        {"user_id": "A", "asin": "1c", "parent_asin": "1", "rating": 3.0, "timestamp": 1588687728924},
    ]
    items = [
        {"parent_asin": "1", "title": "Kite\n red", "store": " Kites & Co", "categories": ["Toys", "Kites"]},
        {"parent_asin": "2", "title": None, "store": None, "categories": []},
    ]
    write_lines(tmp_path, f"Toys_and_Games.jsonl{ending}", reviews)
    write_lines(tmp_path, f"meta_Toys_and_Games.jsonl{ending}", items)
    source = get_source("amazon-toys-2023", str(tmp_path))
    assert read_all(source) == [
        {"label": 1, "timestamp": 1588687728923000, "User ID": "A", "item": "1"},
        {"label": 0, "timestamp": 1588687728924000, "User ID": "A", "item": "1"},
    ]
    assert source.tables()["item"].to_pydict() == {
        KEY: ["1", "2"],
        "Item ID": ["1", "2"],
        "Category": ["Kites", "unknown"],
        "Title": ["Kite red", "unknown"],
        "Brand": ["Kites & Co", "unknown"],
    }
    assert (source.k_core, source.latest_only, source.joins) == (5, True, "inner")
    write_lines(tmp_path, f"Toys_and_Games.jsonl{ending}", [{**reviews[0], "timestamp": None}])
    with pytest.raises(
        DataError, match=r"line 1: TypeError .*; expected user_id, parent_asin, rating and time"
    ):
        read_all(get_source("amazon-toys-2023", str(tmp_path)))


def test_amazon_review_without_a_time(tmp_path):
    write_lines(tmp_path, "Toys_and_Games.json", [*REVIEWS, {"reviewerID": "A", "asin": "1", "overall": 5.0}])
    write_lines(tmp_path, "meta_Toys_and_Games.json", ITEMS)
    with pytest.raises(
        DataError, match=r"Toys_and_Games\.json, line 4: KeyError 'unixReviewTime'; expected reviewerID"
    ):
        read_all(get_source("amazon-toys", str(tmp_path)))


def write_goodreads(
    folder,
    times=(
        "Fri Sep 29 21:57:54 -0700 2017",
        "Sat Jan 01 00:00:00 +0000 2011",
        "Wed Feb 29 12:00:00 +0130 2012",
    ),
):
    log = [
        {"user_id": f"u{i}", "book_id": book, "rating": rating, "date_updated": time}
        for i, (book, rating, time) in enumerate(zip(("1", "2", "9"), (4, 0, 3), times, strict=True))
    ]
    book = {
        "book_id": "1",
        "title": "Ü",
        "average_rating": "3.9",
        "text_reviews_count": "7",
        "num_pages": "",
        "is_ebook": "false",
    }
    book |= {
        "format": "Paperback",
        "publisher": "P",
        "publication_year": "2001",
        "work_id": "w1",
        "authors": [{"author_id": "a2", "role": ""}],
    }
    write_lines(folder, "goodreads_interactions_dedup.json.gz", log)
    write_lines(folder, "goodreads_books.json.gz", [book, {"book_id": "2", "authors": [], "work_id": ""}])
    write_lines(folder, "goodreads_book_works.json", [{"work_id": "w1", "media_type": "book"}])
    write_lines(
        folder, "goodreads_book_authors.json.gz", [{"author_id": "a2", "name": "N. N."}, {"author_id": "a3"}]
    )
    write_lines(
        folder,
        "goodreads_book_genres_initial.json",
        [{"book_id": "1", "genres": {"history": 2, "poetry": 9}}, {"book_id": "2", "genres": {}}],
    )
    return str(folder)


def test_goodreads(tmp_path):
    source = get_source("goodreads", write_goodreads(tmp_path))
    rows = read_all(source)
    assert [(row["User ID"], row["book"], row["label"]) for row in rows] == [
        ("u0", "1", 1),
        ("u1", "2", None),
        ("u2", "9", 0),
    ]
    table = source.tables()["book"].to_pylist()
    assert len(source.fields) == 15
    assert table[0] == {
        KEY: "1",
        "Book ID": "1",
        "Book title": "Ü",
        "Book genres": "poetry",
        "Average rating": "3.9",
        "Number of book reviews": "7",
        "Author ID": "a2",
        "Author name": "N. N.",
        "Number of pages": "unknown",
        "eBook flag": "false",
        "Format": "Paperback",
        "Publisher": "P",
        "Publication year": "2001",
        "Work ID": "w1",
        "Media type": "book",
    }
    assert set(table[1].values()) == {"2", "unknown"}


def test_goodreads_times():
    times = [
        "Fri Sep 29 21:57:54 -0700 2017",
        "Sat Jan 01 00:00:00 +0000 2011",
        "Wed Feb 29 12:00:00 +0130 2012",
        "Wed Dec 31 23:59:59 +0000 1969",
    ]
    expected = ["2017-09-30T04:57:54", "2011-01-01T00:00:00", "2012-02-29T10:30:00", "1969-12-31T23:59:59"]
    assert seconds(times).tolist() == np.array(expected, dtype="datetime64[s]").astype(np.int64).tolist()


def test_goodreads_bad_time_and_missing_file(tmp_path):
    folder = write_goodreads(tmp_path, ("yesterday", "", ""))
    with pytest.raises(
        DataError,
        match=r"goodreads_interactions_dedup\.json\.gz, line 1: rating=4, date_updated='yesterday'; expected",
    ):
        read_all(get_source("goodreads", folder))
    os.unlink(tmp_path / "goodreads_book_works.json")
    with pytest.raises(DataError, match=r"goodreads_book_works\.json: this raw file is missing"):
        get_source("goodreads", folder).raw_files()


def test_half_a_surrogate_pair_is_one_line(tmp_path):
    """And a whole pair, or one that is spelled in the text, is text."""
    write_lines(tmp_path, "Toys_and_Games.json", REVIEWS)
    lines = [{**ITEMS[0], "title": "\U0001f600 \\ud800"}, {**ITEMS[0], "asin": "9", "title": "?"}]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    path = tmp_path / "meta_Toys_and_Games.json"
    path.write_text(content)
    titles = get_source("amazon-toys", str(tmp_path)).tables()["item"]["Title"].to_pylist()
    assert titles == ["\U0001f600 \\ud800", "?"]
    path.write_text(content.replace('"?"', '"\\ud800"'))
    with pytest.raises(DataError, match=r"meta_Toys_and_Games\.json, line 2: half of a surrogate pair"):
        get_source("amazon-toys", str(tmp_path)).tables()

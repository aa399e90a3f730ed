"""Raw MovieLens files → rows and tables, in every layout, and one clear line for what is wrong in them."""

import os
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.data.sources.raw import cut_at_line_ends
from clickprompt.data.sources.reading import DataFile, FileFormat, file_parts, read_rows
from clickprompt.data.sources.registry import SOURCES, get_source
from clickprompt.data.transform.row_transform import KEY
from clickprompt.errors import DataError, InputError
from tests.support.log_rows import as_dicts, as_table
from tests.support.raw_movielens import MOVIES, USERS, ratings, write_1m, write_100k, write_atomic

WRITERS = {"movielens-1m": write_1m, "movielens-100k": write_100k, "atomic": write_atomic}


def source_of(layout, folder, rows):
    return get_source("movielens-100k" if layout == "atomic" else layout, WRITERS[layout](str(folder), rows))


def read_all(source):
    return [row for part in source.parts() for rows in source.read_part(part) for row in as_dicts(rows)]


@pytest.mark.parametrize("layout", WRITERS)
def test_every_row_is_read_with_its_position(tmp_path, layout):
    rows = ratings(50)
    read = read_all(pickle.loads(pickle.dumps(source_of(layout, tmp_path, rows))))
    labels = {1: 0, 2: 0, 3: None, 4: 1, 5: 1}
    assert [(row["user"], row["item"], row["label"], row["timestamp"]) for row in read] == [
        (u, i, labels[r], t * 1_000_000) for u, i, r, t in rows
    ]


@pytest.mark.parametrize("layout", WRITERS)
def test_label_rule_drops_3_and_takes_4_and_5_as_positive(tmp_path, layout):
    rows = [("1", "1", rating, 100 + rating) for rating in (1, 2, 3, 4, 5)]
    source = source_of(layout, tmp_path, rows)
    [rows] = source.read_part(source.parts()[0])
    assert rows.label.to_pylist() == [0, 0, None, 1, 1]


def test_1m_codes_become_words(tmp_path):
    tables = source_of("movielens-1m", tmp_path, ratings(9)).tables()
    users, items = tables["user"].to_pydict(), tables["item"].to_pydict()
    assert users[KEY] == users["User ID"] == [user[0] for user in USERS]
    assert users["Gender"] == ["female", "male", "male"]
    assert users["Age"] == ["under 18", "56+", "25-34"]
    assert users["Job"] == ["K-12 student", "self-employed", "other"]
    assert users["Zipcode"] == ["48067", "70072-1234", "02460"]
    assert items[KEY] == items["Movie ID"] == [movie[0] for movie in MOVIES]
    assert items["Title"] == ["Toy Tale", "Café <mask> (a.k.a. [SEP])", "Toy Tale", "1984"]
    assert items["Film genre"] == ["Animation", "Drama", "Animation", "Sci-Fi"]


def test_both_layouts_of_100k_say_the_same(tmp_path):
    official, atomic = (
        source_of(layout, tmp_path / layout, ratings(9)).tables() for layout in ("movielens-100k", "atomic")
    )
    assert official == atomic
    assert official["user"].to_pydict()["Age"] == ["24", "53", "23"]
    assert official["user"].to_pydict()["Job"] == ["technician", "other", "writer"]
    assert official["item"].to_pydict()["Film genre"] == ["Animation", "Drama", "Animation", "Sci-Fi"]


@pytest.mark.parametrize("newline", [b"\n", b""])
@pytest.mark.parametrize("part_bytes", [12, 50, 1 << 20])
def test_parts_are_whole_lines_and_cover_the_file(tmp_path, part_bytes, newline):
    path = tmp_path / "log"
    lines = [b"header", *(b"x" * (i % 9) for i in range(40)), b"last"]
    content = b"\n".join(lines) + newline
    path.write_bytes(content)
    parts = cut_at_line_ends(str(path), 1, part_bytes)
    assert b"".join(content[part.start : part.stop] for part in parts) == content[len(b"header\n") :]
    for part in parts:
        line = content[part.start :].split(b"\n")[0]
        assert lines[part.line_number(0) - 1] == line
    assert (len(parts) > 1) == (part_bytes < 100)


BAD_LINES = {
    "a value too few": "1::7::5",
    "a value too many": "1::7::5::978300760::1",
    "another separator": "1,7,5,978300760",
    "a rating out of range": "1::7::6::978300760",
    "half a star": "1::7::3.5::978300760",
    "no number": "1::7::five::978300760",
    "no time": "1::7::5::",
    "nothing": "",
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_malformed_line_is_named(tmp_path, line):
    source = source_of("movielens-1m", tmp_path, ratings(20))
    path = tmp_path / "ratings.dat"
    lines = path.read_text().splitlines()
    lines[12] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        DataError, match=r"ratings\.dat, line 13: .* expected UserID::MovieID::Rating::Timestamp"
    ) as caught:
        read_all(source)
    assert "\n" not in str(caught.value)


def test_malformed_line_of_a_file_with_header_counts_the_header(tmp_path):
    source = source_of("atomic", tmp_path, [*ratings(4), ("1", "1", 9, 5)])
    with pytest.raises(DataError, match=r"ml-100k\.inter, line 6: "):
        read_all(source)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("users.dat", "4::F::25::3", r"users\.dat, line 4: .* has 4 values; expected UserID::Gender::Age"),
        ("users.dat", "4::F::26::3::1", r"users\.dat, line 4: '26' is not a known code"),
        ("users.dat", "1::F::25::3::1", r"users\.dat, line 4: '1' is there a second time"),
        ("movies.dat", "13::x", r"movies\.dat, line 5: .* has 2 values; expected MovieID::Title::Genres"),
    ],
)
def test_malformed_table_line_is_named(tmp_path, file, line, message):
    source = source_of("movielens-1m", tmp_path, ratings(9))
    with open(tmp_path / file, "a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=message):
        source.tables()


@pytest.mark.parametrize("layout", WRITERS)
def test_missing_file_is_named_with_where_to_get_it(tmp_path, layout):
    source = source_of(layout, tmp_path, ratings(9))
    assert set(source.raw_files()) == set(os.listdir(tmp_path))
    os.unlink(tmp_path / source.users.name)
    with pytest.raises(DataError, match=rf"{source.users.name}: this raw file is missing; .*grouplens"):
        source.raw_files()


def test_wrong_header_and_empty_file(tmp_path):
    source = source_of("atomic", tmp_path, ratings(9))
    (tmp_path / "ml-100k.user").write_text("1\t24\tF\ttechnician\t85711\n")
    with pytest.raises(DataError, match="not the expected header"):
        source.raw_files()
    (tmp_path / "ml-100k.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n")
    with pytest.raises(DataError, match="no rows"):
        source.parts()


def test_bytes_that_are_no_text_in_lists_are_named_by_their_row(tmp_path):
    good = pa.array([["a", "b"], None, [], ["c", "?"]])
    offsets, data = good.values.buffers()[1:]
    values = pa.StringArray.from_buffers(
        len(good.values), offsets, pa.py_buffer(data.to_pybytes().replace(b"?", b"\xff"))
    )
    pq.write_table(pa.table({"x": pa.ListArray.from_arrays(good.offsets, values)}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet, row 4: column x is not UTF-8 text"):
        list(
            read_rows(
                file_parts(DataFile(str(tmp_path / "log.parquet"), 0), FileFormat())[0], ["x"], FileFormat()
            )
        )


def test_unknown_source_lists_the_known():
    with pytest.raises(
        InputError, match="'movielens' is unknown; known sources: " + ", ".join(sorted(SOURCES))
    ):
        get_source("movielens", "raw")


@pytest.mark.skipif(
    "CLICKPROMPT_ML100K" not in os.environ, reason="CLICKPROMPT_ML100K names no folder with MovieLens-100K"
)
def test_real_movielens_100k():
    source = get_source("movielens-100k", os.environ["CLICKPROMPT_ML100K"])
    assert sorted(len(table) for table in source.tables().values()) == [943, 1682]
    rows = pa.concat_tables([as_table(rows) for part in source.parts() for rows in source.read_part(part)])
    assert len(rows) == 100_000
    assert rows["label"].null_count == 27_145  # ratings of 3
    assert sum(rows["label"].drop_null().to_pylist()) == 55_375  # 34,174 of 4 stars and 21,201 of 5

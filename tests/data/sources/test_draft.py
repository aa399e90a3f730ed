"""`clickprompt init`: what it finds in logs as they are published, and that its draft is a schema whatever it
is given.
"""

import codecs
import csv
import datetime
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickprompt.cli.main import main
from clickprompt.data.sources.draft import draft_schema
from clickprompt.data.sources.draft_names import are_alike, is_id, is_outcome, is_time, readable
from clickprompt.data.sources.draft_yaml import flow, scalar, shown
from clickprompt.data.sources.plain_yaml import PlainYaml
from clickprompt.data.sources.registry import get_source
from clickprompt.data.sources.schema import load_schema
from clickprompt.data.sources.time_rule import TimeRule
from clickprompt.errors import ConfigError, DataError


def write_rows(path, header, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)
        writer.writerows([header, *rows] if header else rows)


def draft(folder, *given):
    """The draft's schema and source, whose rows can all be read."""
    made = draft_schema([str(folder / name) for name in given], str(folder))
    assert made.complete, made.text
    path = folder / "drafted.yaml"
    path.write_text(made.text)
    source = get_source(str(path), None)
    source.raw_files()
    source.tables()
    assert sum(len(rows) for part in source.parts() for rows in source.read_part(part)) > 0
    return load_schema(str(path)), made.text


def by_column(schema):
    return {field.column: field for field in schema.fields}


@pytest.fixture
def movielens(tmp_path):
    draw = random.Random(0)
    genres = ["Action", "Comedy", "Drama", "Sci-Fi", "(no genres listed)"]
    films = [
        [i, f"Story, The {i} ({1950 + i % 60})", "|".join(draw.sample(genres, draw.randint(1, 3)))]
        for i in range(1, 201)
    ]
    stars = [
        [
            draw.randint(1, 80),
            draw.randint(1, 200),
            draw.choice([0.5 * k for k in range(1, 11)]),
            964982703 + 4000 * i,
        ]
        for i in range(3000)
    ]
    write_rows(tmp_path / "movies.csv", ["movieId", "title", "genres"], films)
    write_rows(tmp_path / "ratings.csv", ["userId", "movieId", "rating", "timestamp"], stars)
    return tmp_path


def test_movielens_files_in_any_order(movielens):
    for names in (("movies.csv", "ratings.csv"), ("ratings.csv", "movies.csv")):
        schema, text = draft(movielens, *names)
        assert schema.data == ("ratings.csv",)
        assert schema.label.model_dump(exclude_defaults=True) == {"column": "rating", "positive_from": 4.0}
        assert "# from 0.5 to 5" in text
        assert 'drop: ["3.5"]' in text
        assert schema.timestamp.column == "timestamp"
        assert (schema.user, schema.item) == ("userId", "movieId")
        assert (schema.tables["movies"].key, schema.tables["movies"].on) == ("movieId", None)
        assert [field.name for field in schema.fields] == ["User ID", "Movie ID", "Title", "Genres"]
        fields = by_column(schema)
        assert (fields["movies.genres"].kind, fields["movies.genres"].separator) == ("multi", "|")
        assert fields["movies.title"].kind == "categorical"


def test_movielens_1m_as_published(tmp_path):
    """Without names, with :: between cells, in latin-1, with an ending that says nothing."""
    draw = random.Random(0)
    (tmp_path / "movies.dat").write_bytes(
        "".join(
            f"{i}::Misérables, Les {i} (1995)::{draw.choice(['Drama|Musical', 'Drama', 'Comedy|Drama'])}\n"
            for i in range(1, 60)
        ).encode("latin-1")
    )
    rows = [
        f"{draw.randint(1, 40)}::{draw.randint(1, 59)}::{draw.randint(1, 5)}::{978300000 + 60 * i}\n"
        for i in range(500)
    ]
    (tmp_path / "ratings.dat").write_text("".join(rows))
    made = draft_schema([str(tmp_path / "ratings.dat"), str(tmp_path / "movies.dat")], str(tmp_path))
    assert 'delimiter: "::"' in made.text
    assert "names: [c0, c1, c2, c3]" in made.text
    assert "encoding: latin-1" in made.text
    assert not made.complete  # nothing says which of the columns are ratings
    assert "# label: {column: …}   # fill in" in made.text


@pytest.mark.parametrize(
    ("column", "yes", "no", "rule"),
    [
        *(("clicked", yes, no, [yes]) for yes, no in (("Y", "N"), ("yes", "no"), ("t", "f"))),
        ("Geklickt", "ja", "nein", ["ja"]),
    ],
)
def test_a_label_of_yes_and_no(tmp_path, column, yes, no, rule):
    """Also where most rows are clicks: the rarest value isn't what is looked for."""
    rows = [[f"u{row % 7}", f"i{row % 5}", yes if row % 3 else no] for row in range(60)]
    with open(tmp_path / "log.csv", "w") as stream:
        csv.writer(stream).writerows([["user", "item", column], *rows])
    schema, _ = draft(tmp_path, "log.csv")
    assert (schema.label.column, list(schema.label.positive)) == (column, rule)


@pytest.mark.parametrize(
    ("encoding", "written", "drafted"),
    [
        ("utf-16", "utf-16", "utf-16"),
        ("utf-16-be", "utf-16-be", "utf-16"),
        ("utf-32", "utf-32", "utf-32"),
        ("cp1252", "cp1252", "cp1252"),
        ("utf-8-sig", "utf-8-sig", "utf-8"),
    ],
)
def test_encodings(tmp_path, encoding, written, drafted):
    text = "user,item,clicked\n" + "".join(
        f"u{row % 7},“a{row % 5}” für 5 €,{row % 2}\n" for row in range(90)
    )
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (tmp_path / "log.csv").write_bytes(mark + text.encode(written))
    schema, text = draft(tmp_path, "log.csv")
    assert schema.encoding == drafted
    assert "“a0” für 5 €" in text


def test_numbers_as_people_write_them_are_not_several_values(tmp_path):
    columns = {
        "preis": [f"{row % 60 + 7},{row % 60:02d}" for row in range(180)],
        "price": [f"${row % 60 + 950:,}.50" for row in range(180)],
        "views": [f"{row % 60 * 37 + 990:,}" for row in range(180)],
        "off": [f"{row % 45}%" for row in range(180)],
        "tags": [f"{row % 9},{row % 13}" for row in range(180)],
        "clicked": [row % 2 for row in range(180)],
    }
    with open(tmp_path / "log.csv", "w") as stream:
        csv.writer(stream, delimiter=";").writerows([columns, *zip(*columns.values(), strict=True)])
    schema, text = draft(tmp_path, "log.csv")
    assert {field.column: field.kind for field in schema.fields if field.kind != "categorical"} == {
        "tags": "multi"
    }
    assert text.count("as texts: a numeric field needs 1200.5") == 4


def test_impressions_of_mind(tmp_path):
    draw = random.Random(0)

    def shown():
        return " ".join(
            f"N{draw.randint(1, 99)}-{int(draw.random() < 0.2)}" for _ in range(draw.randint(1, 9))
        )

    def history():
        return " ".join(f"N{draw.randint(1, 99)}" for _ in range(draw.randint(0, 9)))

    lines = [
        f"{i + 1}\tU{draw.randint(1, 60)}\t11/{draw.randint(9, 15)}/2019 9:05:58 AM\t{history()}\t{shown()}\n"
        for i in range(400)
    ]
    (tmp_path / "behaviors.tsv").write_text("".join(lines))
    kinds = ["lifestyle", "sports", "news"]
    news = [
        f'N{i}\t{draw.choice(kinds)}\tThe "Brands", Queen {i}\thttps://x.y/{i}.html\t[]\n'
        for i in range(1, 100)
    ]
    (tmp_path / "news.tsv").write_text("".join(news))
    schema, text = draft(tmp_path, "behaviors.tsv", "news.tsv")
    assert schema.names == ("c0", "c1", "c2", "c3", "c4")
    assert schema.explode.model_dump() == {
        "columns": ("c4",),
        "separator": " ",
        "split": "-",
        "into": ("item", "clicked"),
    }
    assert (schema.label.column, schema.item, schema.group) == ("clicked", "item", "c0")
    assert schema.timestamp == TimeRule(column="c2", format="%m/%d/%Y %I:%M:%S %p")
    assert "2019-11-09 to 2019-11-15" in text
    assert (schema.tables["news"].key, schema.tables["news"].on) == ("c0", "item")
    fields = by_column(schema)
    assert fields["c3"].separator == " "
    assert {"c1", "c3", "item", "news.c1", "news.c2"} == set(fields)


def test_events_of_a_shop(tmp_path):
    draw = random.Random(0)
    goods = [
        (
            44600000 + i,
            2103807459595387724 + i % 9,
            draw.choice(["a.b", "", "c.d"]),
            draw.choice(["samsung", ""]),
            round(draw.random() * 500, 2),
        )
        for i in range(120)
    ]
    rows = [
        (
            f"2019-10-01 {i // 3600:02d}:{i // 60 % 60:02d}:{i % 60:02d} UTC",
            draw.choices(["view", "cart", "purchase"], [90, 6, 4])[0],
            *draw.choice(goods),
            draw.randint(0, 300),
            f"72d76fde-{draw.randint(0, 1500):012d}",
        )
        for i in range(2500)
    ]
    header = [
        "event_time",
        "event_type",
        "product_id",
        "category_id",
        "category_code",
        "brand",
        "price",
        "user_id",
        "user_session",
    ]
    for number in range(2):
        write_rows(tmp_path / f"2019-Oct-{number}.csv", header, rows)
    schema, text = draft(tmp_path, "2019-Oct-0.csv", "2019-Oct-1.csv")
    assert schema.data == ("2019-Oct-*.csv",)
    assert schema.label.positive == ("purchase",)
    assert "view, cart, purchase" in text
    assert schema.timestamp.column == "event_time"
    assert (schema.user, schema.item) == ("user_id", "product_id")
    fields = by_column(schema)
    assert {name: field.kind for name, field in fields.items()} == {
        "product_id": "categorical",
        "category_id": "categorical",
        "category_code": "categorical",
        "brand": "categorical",
        "price": "numeric",
        "user_id": "categorical",
    }
    assert fields["price"].quantiles == 8
    assert "# group: user_session" in text


def test_typed_columns_and_what_is_left_out(tmp_path):
    draw, rows = random.Random(0), 1000
    click = [draw.random() < 0.3 for _ in range(rows)]
    columns = {
        "user_id": pa.array([draw.randint(0, 90) for _ in range(rows)], pa.int64()),
        "tags": [[draw.choice("abc") for _ in range(draw.randint(0, 3))] for _ in range(rows)],
        "geo": [{"city": draw.choice("xy"), "lat": draw.random()} for _ in range(rows)],
        "text": ["long " * draw.randint(1, 90) for _ in range(rows)],
        "shown_at": [datetime.datetime(2024, 5, 1) + datetime.timedelta(minutes=i) for i in range(rows)],
        "country": ["nl"] * rows,
        "token": [f"t{i}" for i in range(rows)],
        "outcome": ["paid" if one else draw.choice(["left", "closed"]) for one in click],
        "clicked": click,
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    others = {
        "user_id": [float(value) for value in columns["user_id"].to_pylist()],
        "token": [f"u{i}" for i in range(rows)],
    }
    pq.write_table(pa.table(columns | others), tmp_path / "b.parquet")
    schema, text = draft(tmp_path, "a.parquet", "b.parquet")
    fields = by_column(schema)
    assert set(fields) == {"user_id", "tags", "geo.city", "geo.lat", "text"}
    assert fields["user_id"].type == "integer"  # whole numbers in one file, floats in the other
    assert (fields["tags"].kind, fields["geo.lat"].quantiles, fields["text"].max_characters) == (
        "multi",
        8,
        200,
    )
    left = {
        line.split("column: ")[1].split("}")[0]: line
        for line in text.splitlines()
        if line.startswith("  # - ")
    }
    assert "one value only" in left["country"]
    assert "another value in every row" in left["token"]
    assert "decides the label" in left["outcome"]
    assert (schema.label.column, schema.timestamp.column) == ("clicked", "shown_at")


def test_json_lines_and_a_split_column(tmp_path):
    draw = random.Random(0)
    rows = [
        {
            "User": draw.randint(0, 9),
            "shop": {"name": draw.choice("ab")},
            "fold": draw.choice(["train", "valid", "test"]),
            "label": draw.randint(0, 1),
        }
        for _ in range(200)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    schema, _ = draft(tmp_path, "log.jsonl")
    assert (schema.split, schema.label.column, schema.user) == ("fold", "label", "User")
    assert set(by_column(schema)) == {"User", "shop.name"}


def test_without_a_label_the_draft_says_what_to_fill_in_and_prepare_refuses_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "log.csv", ["name", "place"], [[f"n{i % 7}", f"p{i % 5}"] for i in range(100)])
    with pytest.raises(SystemExit) as ended:
        main(["init", "log.csv", "--out", "schema.yaml"])
    assert ended.value.code == 0
    assert "fill it in" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "schema.yaml", "--out", "made"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said == "error: schema.yaml: label is missing; give {column, positive_from, positive, …}"


def test_the_command_prints_what_prepare_takes(movielens, monkeypatch, capsys):
    monkeypatch.chdir(movielens)
    with pytest.raises(SystemExit) as ended:
        main(["init", "ratings.csv", "movies.csv"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    (movielens / "schema.yaml").write_text(printed.out)
    assert "joined: movies.csv by movieId" in printed.err
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "schema.yaml", "--check"])
    assert ended.value.code == 0
    with pytest.raises(SystemExit) as ended:
        main(["init", "ratings.csv", "--out", "schema.yaml"])
    assert ended.value.code == 2
    assert "it exists" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["init", "ratings.csv", "--out", "below/new.yaml", "--json"])
    assert (ended.value.code, json.loads(capsys.readouterr().out)["complete"]) == (0, True)
    assert load_schema("below/new.yaml").data == ("../ratings.csv",)


def reasons(text):
    """Column that is left out → why."""
    lines = [line for line in text.splitlines() if line.startswith("  # - ")]
    return {line.split("column: ")[1].split(",")[0].split("}")[0]: line.split("   # ")[1] for line in lines}


def test_names_with_types_behind_them(tmp_path):
    """As in RecBole's files: what they mean is what they mean without the type."""
    draw = random.Random(0)
    rows = [
        [draw.randint(1, 60), draw.randint(1, 40), draw.randint(1, 5), 881250949 + 1000 * i]
        for i in range(400)
    ]
    names = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    write_rows(tmp_path / "ml.inter", names, rows, "\t")
    users = [[i, 18 + i, draw.choice("MF")] for i in range(1, 61)]
    write_rows(tmp_path / "ml.user", ["user_id:token", "age:token", "gender:token"], users, "\t")
    schema, _ = draft(tmp_path, "ml.inter", "ml.user")
    assert (schema.label.column, schema.timestamp.column) == ("rating:float", "timestamp:float")
    assert (schema.user, schema.item) == ("user_id:token", "item_id:token")
    assert [field.name for field in schema.fields] == ["User ID", "Age", "Gender", "Item ID"]
    assert {field.kind for field in schema.fields} == {"categorical"}


def test_several_labels_are_suggested(tmp_path):
    """As a comment, because each needs both classes; `prepare` takes it as it is."""
    draw = random.Random(0)
    rows = [
        [
            f"u{draw.randrange(20)}",
            f"i{draw.randrange(30)}",
            10**9 + at,
            at % 2,
            int(at % 6 == 1),
            at % 3 == 0,
        ]
        for at in range(200)
    ]
    write_rows(tmp_path / "log.csv", ["user_id", "item_id", "time", "click", "purchased", "vip"], rows)
    schema, text = draft(tmp_path, "log.csv")
    assert (schema.label.column, schema.labels) == ("click", {})
    [line] = [line for line in text.splitlines() if line.startswith("# labels: ")]
    assert line.partition("   # ")[0] == "# labels: {purchased: {column: purchased}}"
    (tmp_path / "drafted.yaml").write_text(text.replace("# labels:", "labels:"))
    assert load_schema(str(tmp_path / "drafted.yaml")).labels["purchased"].column == "purchased"
    assert "# labels" not in draft_schema([str(write_one_label(tmp_path / "one"))], str(tmp_path)).text


def write_one_label(folder):
    rows = [[f"u{at % 9}", f"i{at % 7}", 10**9 + at, at % 2] for at in range(100)]
    write_rows(folder / "log.csv", ["user_id", "item_id", "time", "click"], rows)
    return folder / "log.csv"


def test_what_came_of_a_click_is_no_field(tmp_path):
    """As in KuaiRand's log: said by the names; and the number of an order, which only orders have, by its
    presence.
    """
    draw, rows = random.Random(0), []
    for i in range(600):
        click = int(draw.random() < 0.3)
        after = [draw.randint(0, 1), draw.randint(0, 90_000), draw.randint(0, 1)]
        order = f"o{draw.randint(0, 99)}" if click else ""
        rows.append(
            [draw.randint(0, 30), draw.randint(0, 40), 1649408076860 + 8000 * i, click, *after, order]
        )
    names = ["user_id", "video_id", "time_ms", "is_click", "is_like", "play_time_ms", "long_view", "basket"]
    write_rows(tmp_path / "log.csv", names, rows)
    schema, text = draft(tmp_path, "log.csv")
    assert (schema.label.column, schema.timestamp.column) == ("is_click", "time_ms")
    assert set(by_column(schema)) == {"user_id", "video_id"}
    left = reasons(text)
    assert all("by its name" in left[name] for name in ("is_like", "play_time_ms", "long_view"))
    assert "decides the label" in left["basket"]


def test_events_and_times_without_names(tmp_path):
    """As in Taobao's UserBehavior: known by their values; an item's number of ten digits is no time."""
    draw = random.Random(0)
    rows = [
        [
            draw.randint(1, 90),
            3442424000 + draw.randint(0, 400),
            draw.choices(["pv", "buy", "cart"], [8, 1, 1])[0],
            1511544070 + 700 * i,
        ]
        for i in range(500)
    ]
    write_rows(tmp_path / "log.csv", None, rows)
    schema, text = draft(tmp_path, "log.csv")
    assert (schema.label.column, schema.label.positive) == ("c2", ("buy",))
    assert "by its values, the most frequent first: pv, " in text
    assert schema.timestamp.column == "c3"
    assert set(by_column(schema)) == {"c0", "c1"}


def test_numbers_that_differ_in_their_last_digits_only_are_ids(tmp_path):
    """As the users of Steam's log: quantiles of them can't be fitted."""
    draw = random.Random(0)
    rows = [
        [151603712 + draw.randint(0, 40), draw.choice(["play", "purchase"]), round(draw.random() * 400, 4)]
        for _ in range(300)
    ]
    write_rows(tmp_path / "log.csv", None, rows)
    schema, _ = draft(tmp_path, "log.csv")
    assert (schema.label.column, schema.label.positive) == ("c1", ("purchase",))
    fields = by_column(schema)
    assert (fields["c0"].kind, fields["c2"].kind) == ("categorical", "numeric")


def test_ids_are_not_perhaps_ratings(tmp_path):
    draw = random.Random(0)
    rows = [[draw.choice([2268318, 2333346]), draw.randint(1, 5), draw.choice("ab")] for _ in range(200)]
    write_rows(tmp_path / "log.csv", None, rows)
    text = draft_schema([str(tmp_path / "log.csv")], str(tmp_path)).text
    assert [line for line in text.splitlines() if "perhaps ratings" in line] == [
        "#     c1: 5 numbers, perhaps ratings"
    ]


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such"):
        draft_schema([str(tmp_path / "nothing.csv")], str(tmp_path))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="no rows"):
        draft_schema([str(tmp_path / "empty.csv")], str(tmp_path))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("movieId", "Movie ID"),
        ("user_id", "User ID"),
        ("userid", "User ID"),
        ("geo.city", "Geo city"),
        ("HTTPStatus", "Http status"),
        ("--", ""),
    ],
)
def test_readable_names(name, meant):
    assert readable(name) == meant


def test_names_of_keys():
    assert are_alike("movieId", "movie_id", "films")
    assert are_alike("movie_id", "id", "movies")
    assert are_alike("movie", "movieId", "x")
    assert not are_alike("user_id", "id", "movies")
    assert not are_alike("id", "id2", "movies")
    assert is_id("productCode")
    assert is_id("age:token")
    assert is_time("time_ms")
    assert is_time("event_time:float")
    assert not is_time("ms")
    assert is_outcome("profile_stay_time")
    assert is_outcome("isLiked")
    assert not is_outcome("is_new_user")
    assert not is_outcome("banner_pos")
    assert not is_id("paid")


@settings(max_examples=500, deadline=None)
@given(text=st.text())
def test_texts_are_the_same_when_they_are_read(text):
    assert yaml.load(f"a: {scalar(text)}   # {shown(text)}", Loader=PlainYaml) == {"a": text}
    assert yaml.load(f"a: {flow({'b': [text, 4.5]})}", Loader=PlainYaml) == {"a": {"b": [text, 4.5]}}


NAMES = st.one_of(
    st.text(min_size=1, max_size=8),
    st.sampled_from(
        [
            "label",
            "clicked",
            "rating",
            "event",
            "time",
            "ts",
            "user_id",
            "item",
            "split",
            "id",
            "table.a",
            "log.x",
            "on",
            "null",
            "true",
            "~",
            "a: b",
            "#",
            "f",
            "key",
            "values",
        ]
    ),
)
CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        [
            "a|b",
            "x,y",
            "N1-1 N2-0",
            "2024-05-01",
            "2024-05-01T10:00:00Z",
            "1714557600",
            "NULL",
            "1",
            "0",
            "unknown",
            "\u2028",
            "a\x00b",
            "https://a.b",
        ]
    ),
)


@st.composite
def tables(draw):
    """Columns of one type each, or of texts."""
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    rows = draw(st.integers(1, 30))
    made = {}
    for name in names:
        maker = draw(st.sampled_from(["clicks", "numbers", "floats", "texts", "lists", "times", "any"]))
        cells = {
            "clicks": st.integers(0, 1),
            "numbers": st.integers(-9, 2**40),
            "floats": st.floats(),
            "texts": st.text(max_size=4),
            "lists": st.lists(st.text("abc", max_size=2), max_size=2),
            "times": st.datetimes(datetime.datetime(1980, 1, 1), datetime.datetime(2100, 1, 1)),
            "any": CELLS.map(lambda cell: None if cell is None else str(cell)),
        }[maker]
        made[name] = draw(
            st.lists(st.none() | cells if draw(st.booleans()) else cells, min_size=rows, max_size=rows)
        )
    return made


def encodable(texts):
    return all(sign < "\ud800" or sign > "\udfff" for text in texts for sign in str(text))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(made=st.lists(tables(), min_size=1, max_size=2), kind=st.sampled_from(["parquet", "csv", "jsonl"]))
def test_whatever_comes_the_draft_is_a_schema_that_can_be_read(tmp_path_factory, made, kind):
    """With a label, and two columns beside it; or it says what to fill in."""
    folder = tmp_path_factory.mktemp("draft")
    names = []
    for number, columns in enumerate(made):
        if not encodable([*columns, *(cell for cells in columns.values() for cell in cells)]):
            return
        path = folder / f"{'log' if number else 'table'}.{kind}"
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        if kind == "parquet":
            pq.write_table(pa.table({name: pa.array(cells) for name, cells in columns.items()}), path)
        elif kind == "csv":
            write_rows(
                path,
                list(columns),
                [["" if cell is None else str(cell) for cell in row.values()] for row in rows],
            )
        else:
            path.write_text("".join(json.dumps(row, default=str, allow_nan=True) + "\n" for row in rows))
        names.append(path.name)
    try:
        drafted = draft_schema([str(folder / name) for name in names], str(folder))
    except DataError:
        return  # what can't be read at all is refused by the reader
    path = folder / "schema.yaml"
    path.write_bytes(drafted.text.encode())
    if not drafted.complete:
        with pytest.raises(ConfigError):
            load_schema(str(path))
        assert "fill in" in drafted.text or "two fields at least" in drafted.text
        return
    source = get_source(str(path), None)
    source.raw_files()
    source.tables()
    for part in source.parts():
        for rows in source.read_part(part):
            assert len(rows.values) >= 1

"""MovieLens' three files described as a log of one's own: the same bytes as the built-in source's."""

import os

import pytest
import yaml

from clickprompt.data.sources.movielens import AGES_1M, GENDERS, JOBS_1M
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.folders import files_below
from tests.support.raw_movielens import ratings, write_1m

FILES = {"format": "csv", "delimiter": "::", "quote": None, "encoding": "latin-1", "nulls": [""]}
SCHEMA = {
    **FILES,
    "data": "ratings.dat",
    "names": ["user", "movie", "stars", "time"],
    "tables": {
        "users": {
            **FILES,
            "data": "users.dat",
            "names": ["user", "gender", "age", "job", "zip"],
            "key": "user",
        },
        "movies": {**FILES, "data": "movies.dat", "names": ["movie", "title", "genres"], "key": "movie"},
    },
    "label": {"column": "stars", "positive_from": 4, "drop": [3]},
    "timestamp": {"column": "time", "unit": "s"},
    "fields": [
        {"name": "User ID", "column": "users.user"},
        {"name": "Gender", "column": "users.gender", "values": GENDERS},
        {"name": "Age", "column": "users.age", "values": AGES_1M},
        {"name": "Job", "column": "users.job", "values": JOBS_1M},
        {"name": "Zipcode", "column": "users.zip"},
        {"name": "Movie ID", "column": "movies.movie"},
        {"name": "Title", "column": "movies.title", "remove": r"\s*\(\d{4}\)\s*$"},
        {"name": "Film genre", "column": "movies.genres", "kind": "multi", "separator": "|"},
    ],
}


def same_bytes(raw, folder, **options):
    path = os.path.join(folder, "schema.yaml")
    with open(path, "w") as stream:
        yaml.safe_dump(
            SCHEMA | {"data": os.path.join(raw, "ratings.dat")} | {"tables": tables(raw)},
            stream,
            sort_keys=False,
        )
    built_in = prepare("movielens-1m", raw, os.path.join(folder, "built-in"), **options)
    own = prepare(path, None, os.path.join(folder, "own"), **options)
    first, second = (
        {
            name: content
            for name, content in files_below(dataset.uri).items()
            if name.startswith(("vocab", "train", "valid", "test"))
        }
        for dataset in (built_in, own)
    )
    assert len(first) > 10
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    for key in ("fields", "counts", "clicks", "bounds", "num_features", "shards"):
        assert built_in.manifest[key] == own.manifest[key], key
    return own


def tables(raw):
    return {
        name: table | {"data": os.path.join(raw, table["data"])} for name, table in SCHEMA["tables"].items()
    }


def test_small_files_in_the_same_format(tmp_path):
    raw = write_1m(str(tmp_path / "raw"), ratings(700))
    own = same_bytes(raw, str(tmp_path), rows_per_shard=100, row_group_rows=16, progress=lambda line: None)
    assert own.manifest["roles"] == {"user": None, "item": None}


@pytest.mark.slow  # the test above, of a million rows
@pytest.mark.skipif(
    "CLICKPROMPT_ML1M" not in os.environ, reason="CLICKPROMPT_ML1M names no folder with MovieLens-1M"
)
def test_the_real_files(ray_session, tmp_path):
    own = same_bytes(os.environ["CLICKPROMPT_ML1M"], str(tmp_path), progress=lambda line: None)
    assert own.num_features == 17_251  # Table 1


def test_keys_that_no_table_has_are_said_and_counted(tmp_path):
    raw = write_1m(
        str(tmp_path / "raw"), [*ratings(90), ("99", "1", 5, 5), ("1", "98", 1, 6), ("99", "98", 4, 7)]
    )
    (tmp_path / "schema.yaml").write_text(
        yaml.safe_dump(SCHEMA | {"data": os.path.join(raw, "ratings.dat")} | {"tables": tables(raw)})
    )
    said = []
    dataset = prepare(str(tmp_path / "schema.yaml"), None, str(tmp_path / "d"), progress=said.append)
    assert "3 rows have a key that no table has: they are kept, without the table's values" in said
    assert dataset.manifest["statistics"]["unmatched"] == 3
    missing = {field["name"]: sum(field["missing"].values()) for field in dataset.manifest["fields"]}
    assert (missing["User ID"], missing["Job"], missing["Movie ID"]) == (2, 2, 2)

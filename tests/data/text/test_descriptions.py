"""A joined table's description stands in the text in a value's place; the value and its id stay."""

import numpy as np
import pyarrow as pa
import pytest

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.sources.check import check_source
from clickprompt.data.sources.table import Table
from clickprompt.data.text import text_vectors
from clickprompt.data.text.template import encode, load_tokenizer, sentence
from clickprompt.data.text.token_table import TokenTable
from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.errors import ConfigError, DataError
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.described import NEW, TEXT, shown, write_described, write_log


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_described(str(tmp_path_factory.mktemp("described")))


def texts_of(dataset: Dataset, field_ids: np.ndarray) -> list[list[str]]:
    values = [
        ["unknown", *dataset.vocabulary(field)["value"].to_pylist()[1:]]
        for field in range(len(dataset.field_names))
    ]
    values[1] = ["unknown", *map(shown, values[1][1:])]
    return [[values[field][i] for field, i in enumerate(row)] for row in field_ids]


def test_tokens_are_those_of_the_titles(made):
    dataset, plm = made
    tokenizer = load_tokenizer(plm)
    table = TokenTable.open(dataset, tokenizer)
    rng = np.random.default_rng(0)
    field_ids = np.stack([rng.integers(0, size, 100) for size in dataset.field_sizes], axis=1)
    rows = texts_of(dataset, field_ids)
    texts = [sentence(dataset.field_names, values, dataset.template) for values in rows]
    assert sum("Movie ID is red" in text for text in texts) > 5
    input_ids, attention_mask = table.assemble(field_ids)
    found = [list(row[:length]) for row, length in zip(input_ids, attention_mask.sum(axis=1), strict=True)]
    assert found == encode(tokenizer, texts, special_tokens=True)
    # Whole titles are masked with their field
    for values, row in zip(rows, table.value_fields(field_ids), strict=True):
        assert (row == 1).sum() == len(encode(tokenizer, [values[1]], special_tokens=False)[0])
    chunks = [text for chunk in text_vectors._texts(dataset) for text in chunk]
    start = dataset.field_sizes[0]
    expected = map(shown, dataset.vocabulary(1)["value"].to_pylist()[1:])
    assert chunks[start + 1 : start + dataset.field_sizes[1]] == [*expected]


def test_ids_are_those_of_a_log_without_titles(made, tmp_path):
    manifest = made[0].manifest
    plain = prepare(
        write_log(str(tmp_path / "log"), text=""), None, str(tmp_path / "data"), row_group_rows=37
    )
    for key in ("fields", "shards", "counts", "num_features", "statistics"):
        assert manifest[key] == plain.manifest[key]
    assert manifest["transform"]["tables"] != plain.manifest["transform"]["tables"]
    assert "text" not in plain.manifest["transform"]["fields"][1]["schema"]


def test_new_rows_have_the_titles_that_the_table_has(made):
    transform = RowTransform.of_dataset(made[0])
    assert transform.columns == ["user", "item", "gender"]
    items = ["3", "03", "3.0", "4", str(NEW), str(NEW + 1), "nothing", None]
    rows = pa.table({"user": ["x"] * 8, "item": items, "gender": ["red"] * 8})
    found = transform(rows)
    expected = [shown("3"), "03", shown("3"), "4", shown(str(NEW)), str(NEW + 1), "nothing", "unknown"]
    assert found.shown(1).to_pylist() == expected
    assert (found.field_ids[:, 1] > 0).tolist() == [True, False, False, True, False, False, False, False]
    numbers = transform(rows.slice(0, 1).set_column(1, "item", pa.array([3.0])))
    assert numbers.shown(1).to_pylist() == [shown("3")]
    assert numbers.field_ids[0, 1] == found.field_ids[0, 1]


def test_a_table_of_titles_alone_cut_checked_and_appended_to(tmp_path):
    cut = ", text: {column: titles.title, max_characters: 5}"
    schema = write_log(str(tmp_path / "log"), text=cut, year=False)
    assert [table["name"] for table in check_source(Table(schema))["tables"]] == ["titles"]
    prepare(schema, None, str(tmp_path / "data"))
    with open(tmp_path / "log" / "log-9.csv", "w") as stream:
        stream.write("user,item,gender,time,click\n")
        stream.writelines(f"u,{25 + row % 3},red,{2_000_000_000 + row},{row % 2}\n" for row in range(40))
    dataset = append(schema, None, str(tmp_path / "data"))
    assert dataset.version == 2
    transform = RowTransform.of_dataset(dataset)
    rows = pa.table({"user": ["u"] * 2, "item": ["3", "25"], "gender": ["red"] * 2})
    found = transform(rows)
    assert found.shown(1).to_pylist() == [shown(item)[:5] for item in ("3", "25")]
    assert (found.field_ids[:, 1] > 0).all()


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (", text: title", ConfigError, "text=title is no column of a table; name one of tables"),
        (", text: films.title", ConfigError, "text=films.title is no column of a table"),
        (", text: titles.name", DataError, "titles.csv: has no column 'name'"),
        (f"{TEXT}, max_characters: 3", ConfigError, "leave values, remove and max_characters out"),
        (f"{TEXT}, kind: multi", ConfigError, "text is a rule of kind categorical, not multi"),
    ],
)
def test_what_is_refused(tmp_path, text, error, said):
    with pytest.raises(error, match=said) as caught:
        prepare(write_log(str(tmp_path / "log"), text=text), None, str(tmp_path / "data"))
    assert "\n" not in str(caught.value)


def test_a_table_of_something_else_is_refused(tmp_path):
    schema = write_log(str(tmp_path / "log"))
    with open(schema) as stream:
        content = stream.read().replace("on: item", "on: user")
    with open(schema, "w") as stream:
        stream.write(content)
    with pytest.raises(ConfigError, match="table titles has for user, and the field's column is item"):
        prepare(schema, None, str(tmp_path / "data"))

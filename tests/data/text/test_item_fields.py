"""Rows as two texts: which fields go where, and that each side's tokens are those of its own sentence."""

import numpy as np
import pytest

from clickprompt.cli.main import main
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset, columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.sources.registry import SOURCES
from clickprompt.data.sources.schema import FieldSchema
from clickprompt.data.text.item_fields import find_item_fields, item_mask
from clickprompt.data.text.template import encode, load_tokenizer, sentence
from clickprompt.data.text.token_table import TokenTable
from clickprompt.data.transform.row_transform import FieldRule
from clickprompt.errors import ConfigError
from clickprompt.training.step_input import _counts
from tests.support.baselines import dotted
from tests.support.raw_movielens import ratings, write_1m
from tests.support.tiny import tiny_config, write_both

ITEM = ("Movie ID", "Film genre")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("item_fields")))


def collated(prepared, max_length=None):
    dataset, plm = prepared
    tokenizer = load_tokenizer(plm)
    mask = item_mask(tiny_config(dataset.uri, plm, **dotted("ctr_bert")), dataset.field_names)
    rows = columns_of(dataset.first_rows("train", 9)) | {"weight": np.array([1] * 8 + [0], dtype=np.float32)}
    collator = Collator(
        layout_of(dataset), TokenTable.open(dataset, tokenizer), max_length=max_length, item_fields=mask
    )
    return dataset, tokenizer, rows, collator(rows)


def test_each_text_is_the_sentence_of_its_fields(prepared):
    dataset, tokenizer, rows, batch = collated(prepared)
    values = [dataset.vocabulary(field)["value"].to_pylist() for field in range(4)]
    for ids, mask, fields in (
        (batch.input_ids, batch.attention_mask, (0, 1)),
        (batch.item_input_ids, batch.item_attention_mask, (2, 3)),
    ):
        names = [dataset.field_names[field] for field in fields]
        for row in range(8):
            shown = [values[field][rows[dataset.columns[field]][row]] for field in fields]
            [expected] = encode(tokenizer, [sentence(names, shown)], special_tokens=True)
            assert ids[row][mask[row].bool()].tolist() == expected
        assert mask[8].sum() == 2, "padding has no field's tokens"


def test_each_text_has_the_longest_length_to_itself(prepared):
    _, _, _, whole = collated(prepared)
    longest = max(whole.attention_mask.sum(1).max(), whole.item_attention_mask.sum(1).max()).item()
    _, _, _, same = collated(prepared, longest)
    assert same.input_ids.equal(whole.input_ids)
    assert same.item_input_ids.equal(whole.item_input_ids)
    _, _, _, cut = collated(prepared, longest - 1)
    assert max(cut.input_ids.shape[1], cut.item_input_ids.shape[1]) < longest


def test_the_step_counts_the_tokens_of_both(prepared):
    class Rows:
        def count_targets(self, batch):
            return batch.row_weight.sum().reshape(1)

    _, _, _, batch = collated(prepared)
    tokens = batch.attention_mask[:8].sum() + batch.item_attention_mask[:8].sum()
    assert _counts(Rows(), batch).tolist() == [8, 8, tokens]  # pyright: ignore


def test_movielens_knows_the_item_s_fields(tmp_path):
    raw, data = write_1m(str(tmp_path / "raw"), ratings(60)), str(tmp_path / "data")
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "movielens-1m", "--raw", raw, "--out", data])
    assert stopped.value.code == 0
    dataset = Dataset.open(data)
    assert find_item_fields(dataset, None) == ("Movie ID", "Title", "Film genre")


@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.name)
def test_the_item_fields_of_known_logs(source):
    own = source.item_fields()
    assert own[0] == source.item_field
    assert not {"User ID", "Gender", "Age", "Location", "Job", "Zipcode"} & {*own}
    assert {*source.fields} - {*own} <= {"User ID", "Gender", "Age", "Location", "Job", "Zipcode"}


def test_in_one_s_own_log_the_item_s_table_tells(prepared):
    dataset, _ = prepared
    rules = [
        FieldRule(FieldSchema(name="User ID", column="who")),
        FieldRule(FieldSchema(name="Gender", column="users.gender"), table="users.csv", on="who"),
        FieldRule(FieldSchema(name="Movie ID", column="what")),
        FieldRule(FieldSchema(name="Film genre", column="films.genre"), table="films.csv", on="what"),
    ]
    manifest = dataset.manifest | {
        "transform": {"fields": [rule.to_json() for rule in rules]},
        "roles": {"user": "User ID", "item": "Movie ID"},
    }
    assert find_item_fields(Dataset(dataset.uri, manifest), None) == ITEM


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (None, "ctr_bert.item_fields is not set, and the dataset has no table of items that would tell; set"),
        (["Movie"], "ctr_bert.item_fields: no field 'Movie'; the fields of .* are User ID, Gender, Movie ID"),
        (["User ID", "Gender", *ITEM], "ctr_bert.item_fields leaves the user's text without a field"),
    ],
)
def test_what_is_refused(prepared, chosen, said):
    with pytest.raises(ConfigError, match=said) as caught:
        find_item_fields(prepared[0], chosen)
    assert "\n" not in str(caught.value)


def test_fields_come_in_the_dataset_s_order(prepared):
    assert find_item_fields(prepared[0], ["Film genre", "Movie ID"]) == ITEM

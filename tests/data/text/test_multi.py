"""The text of rows with several values of a field: a sentence for each, cut and masked as ever."""

import json

import numpy as np
import pytest

from clickprompt.config import load_config
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.lengths import text_lengths
from clickprompt.data.text.masking import IGNORED
from clickprompt.data.text.template import encode, load_tokenizer, sentence
from clickprompt.data.text.token_table import TokenTable
from tests.support.multi import write_with_multi


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    dataset, plm = write_with_multi(str(tmp_path_factory.mktemp("multi")))
    tokenizer = load_tokenizer(plm)
    return dataset, tokenizer, TokenTable.open(dataset, tokenizer)


def ids_of(dataset, rows):
    return np.stack([rows[column] for column in dataset.value_columns], axis=1)


def values_of(dataset, ids):
    """The fields and values of one row's text, in order, by the vocabularies."""
    words = [dataset.vocabulary(field)["value"].to_pylist() for field in range(3)]
    genres = [ids[1], *(place for place in ids[3:] if place)]
    found = [(0, ids[0]), *((1, genre) for genre in genres), (2, ids[2])]
    return [(field, words[field][place] if place else "unknown") for field, place in found]


def test_every_value_is_named(prepared):
    dataset, tokenizer, table = prepared
    ids = ids_of(dataset, columns_of(dataset.read_split("test")))
    ids[0, 1:] = 0
    input_ids, attention_mask = table.assemble(ids)
    fields = table.value_fields(ids)
    lengths = set()
    for row, tokens, mask, of_field in zip(ids, input_ids, attention_mask, fields, strict=True):
        values = values_of(dataset, row)
        text = sentence([dataset.field_names[field] for field, _ in values], [value for _, value in values])
        assert tokens[mask > 0].tolist() == encode(tokenizer, [text], special_tokens=True)[0]
        for field in range(3):
            spoken = " ".join(value for number, value in values if number == field)
            assert tokenizer.decode(tokens[of_field == field]) == spoken
        lengths.add(int(mask.sum()))
        assert mask.sum() == table.lengths(row[None])[0] <= table.max_length
    assert len(lengths) > 2


def test_texts_that_are_cut(prepared):
    """A value's sentence goes as a field's does, and its rows are counted for the field."""
    dataset, _, table = prepared
    ids = ids_of(dataset, columns_of(dataset.read_split("test")))
    limit = int(table.lengths(ids).max()) - 3
    _, attention_mask = table.assemble(ids, None, limit)
    assert attention_mask.sum(axis=1).max() <= limit
    lost = (~table.kept(ids, limit))[:, table.segment_fields == 1].any(axis=1).sum()
    assert text_lengths(dataset, table, limit, ["test"]).lost.get("Film genre", 0) == lost


def test_the_tower_reads_none_of_what_is_hidden(prepared):
    """A field whose ids are dropped or hidden has none left; whole fields are masked together."""
    dataset, _, table = prepared
    columns = columns_of(dataset.read_split("train"))
    ids = ids_of(dataset, columns)
    batch = Collator(layout_of(dataset), None, id_dropout=0.5)(columns)
    found = batch.field_ids.numpy()
    dropped = (found[:, 1] == 0) & (ids[:, 1] > 0)
    assert 0.3 < dropped.sum() / (ids[:, 1] > 0).sum() < 0.7
    assert not found[dropped][:, 3:].any()
    np.testing.assert_array_equal(found[~dropped][:, 3:], ids[~dropped][:, 3:])
    masking = load_config(None, ["masking.mask_scope=field", "masking.mask_rate=0.5"]).masking
    batch = Collator(layout_of(dataset), table, masking)(columns)
    fields, targets = table.value_fields(ids), batch.mlm_labels.numpy() != IGNORED
    of_field = (fields == 1) & (batch.attention_mask.numpy() > 0)
    shares = (targets & of_field).sum(axis=1) / np.maximum(of_field.sum(axis=1), 1)
    assert set(shares.tolist()) == {0.0, 1.0}


def test_its_description_is_json(prepared):
    dataset, _, table = prepared
    assert json.loads(json.dumps(table.meta))["multi"] == dataset.manifest["multi"]

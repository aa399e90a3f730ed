"""Eq. 4's text, and the token table: what it assembles is what the tokenizer makes of whole sentences."""

import json
import os
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt import storage
from clickprompt.data.dataset import vocabulary_schema
from clickprompt.data.text import TokenTable, build_token_table, encode, load_tokenizer, segment, sentence, tokenizer_fingerprint
from clickprompt.errors import ConfigError, DataError
from tests.synthetic import write_dataset
from tests.tokenizers_made_up import byte_level_bpe, metaspace, wordpiece

FAMILIES = {"wordpiece": wordpiece, "byte_level_bpe": byte_level_bpe}
NASTY = ["<mask>", "[SEP]", "</s> [MASK]", " padded ", "Café “ÉÀ”", "日本語", "...", "a.b. "]
NASTY += ["tab\there", "line\nend", "n't", "🎬", "0", ".", " ", "<s>"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The synthetic dataset with values that tempt a tokenizer."""
    dataset = write_dataset(str(tmp_path_factory.mktemp("text") / "d"))
    for field in (0, 2):
        entry = dataset.manifest["fields"][field]
        values = [("" if i == 0 else NASTY[i - 1] if i <= len(NASTY) else f"value {i}") for i in range(entry["size"])]
        table = pa.table([np.arange(entry["size"], dtype=np.int32), values, np.ones(entry["size"], np.int64)], schema=vocabulary_schema())
        pq.write_table(table, os.path.join(dataset.uri, entry["file"]))
    return dataset


@pytest.fixture(autouse=True)
def no_tables(dataset):
    yield
    shutil.rmtree(os.path.join(dataset.uri, "tokens"), ignore_errors=True)


def all_pairs(dataset, rows=600):
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, size, rows) for size in dataset.field_sizes], axis=1)


def texts_of(dataset, field_ids):
    values = [["unknown", *dataset.vocabulary(field)["value"].to_pylist()[1:]] for field in range(len(dataset.columns))]
    return [sentence(dataset.field_names, [values[field][i] for field, i in enumerate(row)]) for row in field_ids]


def test_sentence_is_eq_4():
    assert sentence(["User ID", "Gender"], ["1", "female"]) == "User ID is 1. Gender is female."
    assert segment("Gender", "female", first=True) + segment("Age", "7", first=False) == "Gender is female. Age is 7."


@pytest.mark.parametrize("family", FAMILIES)
def test_assembly_equals_the_tokenizer_on_whole_sentences(dataset, family):
    tokenizer = FAMILIES[family]()
    table = build_token_table(dataset, tokenizer)
    field_ids = all_pairs(dataset)
    input_ids, attention_mask = table.assemble(field_ids)
    expected = encode(tokenizer, texts_of(dataset, field_ids), special_tokens=True)
    lengths = np.array([len(ids) for ids in expected])
    assert input_ids.shape == attention_mask.shape == (600, lengths.max())
    np.testing.assert_array_equal(attention_mask, np.arange(lengths.max()) < lengths[:, None])
    np.testing.assert_array_equal(table.lengths(field_ids), lengths)
    for ids, mask, wanted in zip(input_ids, attention_mask, expected, strict=True):
        assert ids[mask == 1].tolist() == wanted
        assert (ids[mask == 0] == tokenizer.pad_token_id).all()
    assert table.max_length >= lengths.max()


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_spelled_in_values_stay_text(dataset, family):
    tokenizer = FAMILIES[family]()
    table = build_token_table(dataset, tokenizer)
    field_ids = np.zeros((len(NASTY), 4), dtype=np.int64)
    field_ids[:, 0] = np.arange(1, len(NASTY) + 1)
    input_ids, attention_mask = table.assemble(field_ids)
    forbidden = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for ids, mask in zip(input_ids, attention_mask, strict=True):
        assert not forbidden & set(ids[mask == 1][1:-1].tolist())


def test_rows_without_text_are_special_tokens_only(dataset):
    table = build_token_table(dataset, wordpiece())
    field_ids = all_pairs(dataset, 6)
    text = np.array([True, False, True, False, False, True])
    input_ids, attention_mask = table.assemble(field_ids, text)
    whole, _ = table.assemble(field_ids[text])
    np.testing.assert_array_equal(input_ids[text][:, : whole.shape[1]], whole)
    assert attention_mask.sum(axis=1)[~text].tolist() == [2, 2, 2]
    assert input_ids[~text][:, :2].tolist() == [[2, 3]] * 3
    assert table.assemble(field_ids, np.zeros(6, dtype=bool))[0].shape == (6, 2)
    assert table.assemble(field_ids[:0])[0].shape[0] == 0


def test_ids_of_another_dataset_are_refused(dataset):
    table = build_token_table(dataset, wordpiece())
    for wrong in ([[31, 0, 0, 0]], [[-1, 0, 0, 0]], [[0, 0, 0]]):
        with pytest.raises(ValueError, match="field_ids"):
            table.assemble(np.array(wrong))


def test_is_built_once_opened_again_and_sent_as_an_address(dataset):
    tokenizer = wordpiece()
    lines = []
    table = build_token_table(dataset, tokenizer, lines.append)
    assert len(lines) == 4
    assert build_token_table(dataset, tokenizer, lines.append).uri == table.uri
    assert len(lines) == 4
    assert os.listdir(os.path.join(dataset.uri, "tokens")) == [tokenizer_fingerprint(tokenizer)]
    assert isinstance(table.tokens, np.memmap)
    sent = pickle.dumps(table)
    assert len(sent) < 500
    field_ids = all_pairs(dataset, 20)
    for other in (pickle.loads(sent), TokenTable.open(dataset, tokenizer)):
        np.testing.assert_array_equal(other.assemble(field_ids)[0], table.assemble(field_ids)[0])


def test_meta_records_what_the_model_side_needs(dataset):
    tokenizer = byte_level_bpe()
    table = build_token_table(dataset, tokenizer)
    meta = storage.read_json(os.path.join(table.uri, "meta.json"))
    assert meta["fingerprint"] == tokenizer_fingerprint(tokenizer)
    assert (table.mask_id, table.pad_id, table.vocab_size) == (4, 1, len(tokenizer))
    assert table.special_ids == [0, 1, 2, 3, 4]
    assert (meta["prefix"], meta["suffix"]) == ([0], [2])


def test_fingerprint_survives_saving_and_use_but_not_another_text(tmp_path):
    for number, make in enumerate((wordpiece, byte_level_bpe)):
        tokenizer = make()
        before = tokenizer_fingerprint(tokenizer)
        tokenizer(["some text"], padding=True, truncation=True, max_length=3)
        assert tokenizer_fingerprint(tokenizer) == before
        tokenizer.save_pretrained(tmp_path / str(number))
        assert tokenizer_fingerprint(load_tokenizer(str(tmp_path / str(number)))) == before
        assert tokenizer_fingerprint(tokenizer, "{name}: {value}") != before
    assert tokenizer_fingerprint(wordpiece()) != tokenizer_fingerprint(byte_level_bpe())


def test_table_of_another_tokenizer_is_named(dataset):
    with pytest.raises(DataError, match=rf"has no token table.*; run clickprompt tokenize {dataset.uri} --plm"):
        TokenTable.open(dataset, wordpiece())
    build_token_table(dataset, wordpiece())
    present = tokenizer_fingerprint(wordpiece())
    with pytest.raises(DataError, match=rf"has only token tables of other tokenizers \(\S+ {present}\).*run clickprompt tokenize"):
        TokenTable.open(dataset, byte_level_bpe())


@pytest.mark.parametrize("key", ["fingerprint", "dataset"])
def test_table_that_lies_about_itself_is_refused(dataset, key):
    table = build_token_table(dataset, wordpiece())
    path = os.path.join(table.uri, "meta.json")
    with open(path, "w") as stream:
        json.dump(table.meta | {key: "0" * 16}, stream)
    with pytest.raises(DataError, match="of another tokenizer or dataset"):
        TokenTable.open(dataset, wordpiece())


def test_damaged_table_is_refused(dataset):
    table = build_token_table(dataset, wordpiece())
    path = os.path.join(table.uri, "tokens.npy")
    np.save(path, np.zeros(3, dtype=np.int32))
    with pytest.raises(DataError, match="don't belong together"):
        TokenTable.open(dataset, wordpiece())
    os.truncate(path, 20)
    with pytest.raises(DataError, match=r"tokens\.npy: missing or damaged"):
        TokenTable.open(dataset, wordpiece())


def test_tokenizer_whose_parts_dont_join_is_refused_and_leaves_nothing(dataset):
    with pytest.raises(DataError, match="don't join to the tokens of the whole; use a PLM with"):
        build_token_table(dataset, metaspace())
    assert not os.path.exists(os.path.join(dataset.uri, "tokens"))


def test_load_tokenizer_says_what_is_wrong_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"plm\.path is not set"):
        load_tokenizer(None)
    for path in (str(tmp_path / "missing"), str(tmp_path)):
        with pytest.raises(ConfigError, match=f"plm.path={path}: no tokenizer can be loaded from there") as caught:
            load_tokenizer(path)
        assert "\n" not in str(caught.value)

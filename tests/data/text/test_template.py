"""Eq. 4's text, and the token table: what it assembles is what the tokenizer makes of whole sentences."""

import copy
import json
import os
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.schemas import vocabulary_schema
from clickprompt.data.sources.registry import get_source
from clickprompt.data.text import template as text
from clickprompt.data.text import token_table
from clickprompt.data.text.segments import SegmentEncoder, find_encoder
from clickprompt.data.text.template import (
    TEMPLATES,
    encode,
    load_tokenizer,
    segment,
    sentence,
    special_ids,
    tokenizer_fingerprint,
    tokenizer_json,
)
from clickprompt.data.text.token_table import TokenTable, kept_segments
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import ConfigError, DataError
from clickprompt.io import storage
from tests.support.synthetic import write_dataset
from tests.support.tokenizers_made_up import (
    byte_level_bpe,
    digits_apart,
    gpt2,
    sentencepiece,
    sentencepiece_bytes,
    sentencepiece_doubling,
    split_at_spaces,
    unigram,
    unigram_first,
    unigram_words,
    unjoinable,
    wordpiece,
)

UNIGRAMS = (unigram, unigram_first, unigram_words)
SENTENCEPIECES = (sentencepiece, sentencepiece_bytes, sentencepiece_doubling, *UNIGRAMS)
FAMILIES = {
    make.__name__: make
    for make in (wordpiece, byte_level_bpe, gpt2, digits_apart, *SENTENCEPIECES, split_at_spaces)
}
SPECIAL = ("<mask>", "</s>", "<s>", "<extra_id_0>")
NASTY = ["<mask>", "[SEP]", "</s> [MASK]", " padded ", "Café “ÉÀ”", "日本語", "...", "a.b. "]
NASTY += ["tab\there", "line\nend", "n't", "🎬", "0", ".", " ", "<s>"]
NASTY += [
    "",
    "  two  spaces  ",
    "▁",
    " ▁a▁ ",
    "<tool> after <tool>",
    "ﬁ Ａ… e\u0301",
    "no\u00a0break\u200b",
    "\u0301",
    "\ttab\n",
]
NASTY += ["many words " * 60, "oneword" * 40, "a <extra_id_0>"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The synthetic dataset with values that tempt a tokenizer."""
    dataset = write_dataset(str(tmp_path_factory.mktemp("text") / "d"))
    for field in (0, 2):
        entry = dataset.manifest["fields"][field]
        values = [
            ("" if i == 0 else NASTY[i - 1] if i <= len(NASTY) else f"value {i}")
            for i in range(entry["size"])
        ]
        table = pa.table(
            [np.arange(entry["size"], dtype=np.int32), values, np.ones(entry["size"], np.int64)],
            schema=vocabulary_schema(),
        )
        pq.write_table(table, os.path.join(dataset.uri, entry["file"]))
    return dataset


@pytest.fixture(autouse=True)
def no_tables(dataset):
    yield
    shutil.rmtree(os.path.join(dataset.uri, "tokens"), ignore_errors=True)


def all_pairs(dataset, rows=600):
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, size, rows) for size in dataset.field_sizes], axis=1)


def comparable_pairs(dataset, family):
    """Without the rows that a Unigram model's own call reads special tokens in
    (test_table_leaves_the_tokenizer_as_it_is).
    """
    field_ids = all_pairs(dataset)
    if FAMILIES[family] in UNIGRAMS:
        field_ids = field_ids[
            [not any(special in text for special in SPECIAL) for text in texts_of(dataset, field_ids)]
        ]
        assert len(field_ids) > 400
    return field_ids


def values_of(dataset, field_ids):
    values = [
        ["unknown", *dataset.vocabulary(field)["value"].to_pylist()[1:]]
        for field in range(len(dataset.columns))
    ]
    return [[values[field][i] for field, i in enumerate(row)] for row in field_ids]


def texts_of(dataset, field_ids):
    return [
        sentence(dataset.field_names, values, dataset.template) for values in values_of(dataset, field_ids)
    ]


def by_template(dataset, name):
    """The same rows, as prepared with --template."""
    return Dataset(dataset.uri, dataset.manifest | {"template": TEMPLATES[name]})


def value_fields_by_offsets(dataset, tokenizer, field_ids):
    """Row by row, token by token: which value's characters a token of the whole sentence overlaps; and the
    tokens themselves.
    """
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.post_processor = None  # RoBERTa's would cut the spaces off the offsets
    backend.encode_special_tokens = True
    result = []
    for values in values_of(dataset, field_ids):
        whole = sentence(dataset.field_names, values, dataset.template)
        fields = [-1] * len(whole)
        end = 0
        for field, (name, value) in enumerate(zip(dataset.field_names, values, strict=True)):
            before = f"{name} is " if dataset.template == TEMPLATES["sentence"] else ""
            begin = end + len(f"{' ' if field else ''}{before}")
            end = begin + len(value) + 1
            assert whole[begin : end - 1] == value
            fields[begin : end - 1] = [field] * len(value)
        encoding = backend.encode(whole, add_special_tokens=False)
        result.append(
            (encoding.ids, [max(fields[start:stop], default=-1) for start, stop in encoding.offsets])
        )
    return result


def kept_by_hand(lengths, limit):
    """One row of the truncation policy, segment after segment."""
    kept = set(range(len(lengths)))
    while kept and sum(lengths[field] for field in kept) > limit:
        others = kept - {len(lengths) - 1}
        kept.remove(min(others, key=lambda field: (-lengths[field], field)) if others else len(lengths) - 1)
    return kept


def assert_value_fields_are_the_offsets(dataset, tokenizer, field_ids):
    table = build_token_table(dataset, tokenizer)
    found = table.value_fields(field_ids)
    input_ids, attention_mask = table.assemble(field_ids)
    assert found.shape == input_ids.shape
    before, after = len(table.meta["prefix"]), len(table.meta["suffix"])
    for row, (ids, fields) in enumerate(value_fields_by_offsets(dataset, tokenizer, field_ids)):
        length = attention_mask[row].sum()
        assert input_ids[row, before : length - after].tolist() == ids
        assert found[row, before : length - after].tolist() == fields
        assert (found[row, :before] == -1).all()
        assert (found[row, length - after :] == -1).all()


def test_sentence_is_eq_4():
    assert sentence(["User ID", "Gender"], ["1", "female"]) == "User ID is 1. Gender is female."
    assert (
        segment("Gender", "female", first=True) + segment("Age", "7", first=False)
        == "Gender is female. Age is 7."
    )


def test_compact_text_is_values_and_separators():
    assert sentence(["User ID", "Gender"], ["1", "female"], TEMPLATES["compact"]) == "1; female;"


def test_manifest_without_a_template_means_eq_4(dataset):
    manifest = {key: value for key, value in dataset.manifest.items() if key != "template"}
    assert Dataset(dataset.uri, manifest).template == TEMPLATES["sentence"] == "{name} is {value}."


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.sampled(8)
def test_assembly_equals_the_tokenizer_on_whole_sentences(dataset, family, template):
    dataset = by_template(dataset, template)
    tokenizer = FAMILIES[family]()
    table = build_token_table(dataset, tokenizer)
    field_ids = comparable_pairs(dataset, family)
    expected = encode(tokenizer, texts_of(dataset, field_ids), special_tokens=True)
    lengths = np.array([len(ids) for ids in expected])
    input_ids, attention_mask = table.assemble(field_ids)
    assert input_ids.shape == attention_mask.shape == (len(field_ids), lengths.max())
    np.testing.assert_array_equal(attention_mask, np.arange(lengths.max()) < lengths[:, None])
    np.testing.assert_array_equal(table.lengths(field_ids), lengths)
    for ids, mask, wanted in zip(input_ids, attention_mask, expected, strict=True):
        assert ids[mask == 1].tolist() == wanted
        assert (ids[mask == 0] == (tokenizer.pad_token_id or 0)).all()
    assert table.max_length >= lengths.max()


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.sampled(8)
def test_segments_of_random_values_join_to_the_sentence(dataset, family, template):
    dataset = by_template(dataset, template)
    rng = np.random.default_rng(5)
    alphabet = [*" ▁.,;'a1sÉ日\u0301\u00a0\t\n-", "  ", "is ", "User ID", " Gender is", "red 7", "…", "ﬁ"]
    names = dataset.field_names
    rows = [["".join(rng.choice(alphabet, rng.integers(0, 7))) for _ in names] for _ in range(500)]
    tokenizer = FAMILIES[family]()
    encoder = SegmentEncoder(dataset, tokenizer_json(tokenizer), separated=family != "sentencepiece_doubling")
    encoded = [encoder.segments(field, values) for field, values in enumerate(zip(*rows, strict=True))]
    columns = [np.split(one.tokens, np.cumsum(one.lengths)[:-1]) for one in encoded]
    joined = [np.concatenate(parts).tolist() for parts in zip(*columns, strict=True)]
    texts = [sentence(names, values, dataset.template) for values in rows]
    assert joined == encode(tokenizer, texts, special_tokens=False)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "split_at_spaces"])
def test_special_tokens_spelled_in_values_stay_text(dataset, family):
    tokenizer = FAMILIES[family]()
    table = build_token_table(dataset, tokenizer)
    field_ids = np.zeros((len(NASTY), 4), dtype=np.int64)
    field_ids[:, 0] = np.arange(1, len(NASTY) + 1)
    input_ids, attention_mask = table.assemble(field_ids)
    forbidden = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    before, after = len(table.meta["prefix"]), len(table.meta["suffix"])
    for ids, length in zip(input_ids, attention_mask.sum(axis=1), strict=True):
        assert not forbidden & set(ids[before : length - after].tolist())


@pytest.mark.parametrize("family", [make.__name__ for make in UNIGRAMS])
def test_table_leaves_the_tokenizer_as_it_is(dataset, family):
    """A Unigram model's own call takes special tokens for pieces of text; only the table's copy of it
    doesn't.
    """
    tokenizer = FAMILIES[family]()
    before = tokenizer_fingerprint(tokenizer)
    build_token_table(dataset, tokenizer)
    assert tokenizer_fingerprint(tokenizer) == before
    mask = special_ids(tokenizer)["mask"]
    spelled = tokenizer.convert_ids_to_tokens(mask)
    assert spelled == ("<extra_id_0>" if family == "unigram_words" else "<mask>")
    assert mask in encode(tokenizer, [f"a {spelled} b"], special_tokens=False)[0]


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


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.sampled(8)
def test_value_fields_equal_the_tokenizers_offsets_on_whole_sentences(dataset, family, template):
    dataset = by_template(dataset, template)
    assert_value_fields_are_the_offsets(dataset, FAMILIES[family](), comparable_pairs(dataset, family))


REAL = ("CLICKPROMPT_ML100K", "CLICKPROMPT_MINILM")


@pytest.mark.skipif(
    not all(name in os.environ for name in REAL), reason=f"{' or '.join(REAL)} names no folder"
)
def test_value_fields_equal_the_offsets_on_real_values(tmp_path):
    """Every user's and item's values, in random company."""
    dataset = write_dataset(str(tmp_path / "d"))
    columns = {}
    for table in get_source("movielens-100k", os.environ[REAL[0]]).tables().values():
        columns |= {name: table[name].unique().to_pylist() for name in table.column_names}
    for entry, name in zip(
        dataset.manifest["fields"], ("User ID", "Zipcode", "Title", "Film genre"), strict=True
    ):
        entry |= {"name": name, "size": len(columns[name]) + 1}
        ids = np.arange(entry["size"], dtype=np.int32)
        table = pa.table([ids, ["", *columns[name]], np.ones(len(ids), np.int64)], schema=vocabulary_schema())
        pq.write_table(table, os.path.join(dataset.uri, entry["file"]))
    tokenizer = load_tokenizer(os.environ[REAL[1]])
    assert_value_fields_are_the_offsets(dataset, tokenizer, all_pairs(dataset, 1700))


def test_token_that_joins_a_values_end_with_the_templates_full_stop_is_the_values(dataset):
    tokenizer = split_at_spaces()
    table = build_token_table(dataset, tokenizer)
    field_ids = np.zeros((1, 4), dtype=np.int64)
    tokens = tokenizer.convert_ids_to_tokens(table.assemble(field_ids)[0][0].tolist())
    fields = table.value_fields(field_ids)[0].tolist()
    assert [field for token, field in zip(tokens, fields, strict=True) if token == "unknown."] == [0, 1, 2, 3]
    assert sum(field >= 0 for field in fields) == 4


@pytest.mark.parametrize("family", ["wordpiece", "gpt2"])
def test_vocabulary_is_the_distinct_tokens_without_special_ones(dataset, family, monkeypatch):
    monkeypatch.setattr(token_table, "_TOKENS_AT_ONCE", 100)
    table = build_token_table(dataset, FAMILIES[family]())
    assert family == "gpt2" or set(table.tokens.tolist()) & set(table.special_ids)  # [UNK]
    expected = np.setdiff1d(np.unique(table.tokens), table.special_ids)
    np.testing.assert_array_equal(table.vocabulary, expected)
    assert table.vocabulary.dtype == np.int64


def test_value_without_tokens_has_an_empty_span(dataset):
    table = build_token_table(dataset, wordpiece())
    blank = NASTY.index(" ") + 1
    start, stop = table.value_spans[blank]
    assert start == stop
    assert (table.value_fields(np.array([[blank, 0, 0, 0]])) != 0).all()


@pytest.mark.parametrize("family", ["wordpiece", "gpt2", "sentencepiece"])
@pytest.mark.parametrize("max_length", [8, 12, 20, 28, 1000])
def test_truncation_equals_a_loop_over_rows_and_segments(dataset, family, max_length):
    table = build_token_table(dataset, FAMILIES[family]())
    field_ids = all_pairs(dataset, 200)
    has_text = np.random.default_rng(1).random(200) < 0.8
    input_ids, attention_mask = table.assemble(field_ids, has_text, max_length)
    found = table.value_fields(field_ids, has_text, max_length)
    lengths = table.lengths(field_ids, max_length)
    assert found.shape == input_ids.shape
    prefix, suffix = table.meta["prefix"], table.meta["suffix"]
    bases = np.cumsum(dataset.field_sizes) - dataset.field_sizes
    for row, ids in enumerate(field_ids):
        cells = [int(bases[field] + i) for field, i in enumerate(ids)]
        segments = [table.tokens[table.offsets[cell] : table.offsets[cell + 1]].tolist() for cell in cells]
        kept = kept_by_hand([len(part) for part in segments], max_length - len(prefix) - len(suffix))
        tokens, fields = [], []
        for field in sorted(kept):
            tokens += segments[field]
            start, stop = table.value_spans[cells[field]]
            fields += [field if start <= place < stop else -1 for place in range(len(segments[field]))]
        assert lengths[row] == max(len(prefix) + len(tokens) + len(suffix), 1) <= max_length
        if not has_text[row]:
            tokens, fields = [], []
        expected = [*prefix, *tokens, *suffix] or [table.pad_id]
        assert input_ids[row, attention_mask[row] == 1].tolist() == expected
        assert found[row].tolist() == [-1] * len(prefix) + fields + [-1] * (
            len(found[row]) - len(prefix) - len(fields)
        )
        assert set(np.flatnonzero(table.kept(field_ids[row : row + 1], max_length)[0])) == kept


@pytest.mark.parametrize(
    ("lengths", "limit", "kept"),
    [
        ([3, 9, 4, 5], 21, [0, 1, 2, 3]),  # fits
        ([3, 9, 4, 5], 20, [0, 2, 3]),  # the longest goes
        ([5, 5, 5, 5], 15, [1, 2, 3]),  # of equal ones the earlier
        ([3, 4, 5, 99], 110, [0, 1, 3]),  # not the last, be it ever so long
        ([3, 4, 5, 99], 99, [3]),
        ([3, 4, 5, 99], 98, []),  # nothing else is left
        ([3, 9, 4, 5], 0, []),
        ([7], 7, [0]),
        ([7], 6, []),
    ],
)
def test_whole_fields_go_the_longest_first_and_the_last_field_last(lengths, limit, kept):
    assert np.flatnonzero(kept_segments(np.array([lengths]), limit)[0]).tolist() == kept


def test_random_truncations_equal_the_loop():
    rng = np.random.default_rng(3)
    for fields in (1, 2, 5, 9):
        lengths = rng.integers(1, 12, (300, fields))
        limit = int(rng.integers(0, fields * 10))
        kept = kept_segments(lengths, limit)
        assert [set(np.flatnonzero(row)) for row in kept] == [
            kept_by_hand(row.tolist(), limit) for row in lengths
        ]


def test_ids_of_another_dataset_are_refused(dataset):
    table = build_token_table(dataset, wordpiece())
    for wrong in ([[31, 0, 0, 0]], [[-1, 0, 0, 0]], [[0, 0, 0]]):
        with pytest.raises(ValueError, match="field_ids"):
            table.assemble(np.array(wrong))


def test_is_built_once_opened_again_and_sent_as_an_address(dataset):
    tokenizer = wordpiece()
    table = build_token_table(dataset, tokenizer)

    def never(encoder, pieces):
        raise AssertionError("built again")

    assert build_token_table(dataset, tokenizer, never).uri == table.uri
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


def test_decoders_have_neither_padding_nor_a_mask(dataset):
    """A special token pads instead, since it is never a target."""
    table = build_token_table(dataset, gpt2())
    assert (table.mask_id, table.pad_id, table.special_ids) == (None, 0, [0])
    assert (table.meta["prefix"], table.meta["suffix"]) == ([], [])
    table = build_token_table(dataset, sentencepiece())
    assert (table.mask_id, table.pad_id, table.special_ids) == (None, 0, [0, 1, 2])
    assert (table.meta["prefix"], table.meta["suffix"]) == ([1], [])


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
    with pytest.raises(
        DataError,
        match=rf"^{dataset.uri}: run clickprompt tokenize {dataset.uri} --plm \S+ first; .*has no token ",
    ):
        TokenTable.open(dataset, wordpiece())
    build_token_table(dataset, wordpiece())
    present = tokenizer_fingerprint(wordpiece())
    with pytest.raises(
        DataError,
        match=(
            rf"^{dataset.uri}: run clickprompt tokenize {dataset.uri} --plm \S+ first; .*has only token "
            rf"tables of other tokenizers or an older clickprompt: \S+ {present} "
        ),
    ):
        TokenTable.open(dataset, byte_level_bpe())


def test_tables_of_two_templates_are_two(dataset):
    tables = {name: build_token_table(by_template(dataset, name), wordpiece()) for name in TEMPLATES}
    assert len(os.listdir(os.path.join(dataset.uri, "tokens"))) == 2
    for name, table in tables.items():
        assert table.meta["template"] == TEMPLATES[name]
        assert TokenTable.open(by_template(dataset, name), wordpiece()).uri == table.uri
    shutil.rmtree(tables["compact"].uri)
    with pytest.raises(DataError, match="has only token tables of other tokenizers"):
        TokenTable.open(by_template(dataset, "compact"), wordpiece())


def test_table_of_an_older_format_is_not_found(dataset, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(text, "_TABLE_FORMAT", 1)
        build_token_table(dataset, wordpiece())
    with pytest.raises(DataError, match="of other tokenizers or an older clickprompt"):
        TokenTable.open(dataset, wordpiece())
    build_token_table(dataset, wordpiece())
    assert len(os.listdir(os.path.join(dataset.uri, "tokens"))) == 2


META_KEYS = ["fingerprint", "dataset", "template", "field_sizes", "prefix", "suffix", "special_ids"]
META_KEYS += ["all_special_ids", "vocab_size", "max_length", "multi"]


@pytest.mark.parametrize("key", META_KEYS)
@pytest.mark.parametrize("said", ["0" * 16, [10**12], None])
def test_table_that_lies_about_itself_is_refused(dataset, key, said):
    table = build_token_table(dataset, wordpiece())
    with open(os.path.join(table.uri, "meta.json"), "w") as stream:
        json.dump(table.meta | {key: said}, stream)
    if key == "multi" and said is None:
        TokenTable.open(dataset, wordpiece())
        return
    with pytest.raises(DataError, match="damaged, or of another tokenizer or dataset"):
        TokenTable.open(dataset, wordpiece())


@pytest.mark.parametrize("content", ["7", "[]", "{}", "null"])
def test_meta_that_is_something_else_is_refused(dataset, content):
    table = build_token_table(dataset, wordpiece())
    with open(os.path.join(table.uri, "meta.json"), "w") as stream:
        stream.write(content)
    with pytest.raises(DataError, match="damaged"):
        TokenTable.open(dataset, wordpiece())
    with pytest.raises(DataError, match="other tokenizers"):
        TokenTable.open(dataset, byte_level_bpe())


@pytest.mark.parametrize(
    ("name", "index", "number"),
    [
        ("tokens", 3, 10**6),
        ("tokens", -1, -1),
        ("offsets", 0, 2),
        ("offsets", 2, 10**12),
        ("offsets", 2, -5),
        ("value_spans", 5, 1000),
        ("value_spans", 4, -1),
    ],
)
def test_numbers_that_lead_elsewhere_are_refused(dataset, name, index, number):
    table = build_token_table(dataset, wordpiece())
    array = np.array(getattr(table, name)).reshape(-1)
    array[index] = number
    path = os.path.join(table.uri, f"{name}.bin")
    os.remove(path)  # not in place: the table is mapped from the file
    array.tofile(path)
    with pytest.raises(DataError, match="damaged"):
        TokenTable.open(dataset, wordpiece())


def test_damaged_table_is_refused(dataset):
    table = build_token_table(dataset, wordpiece())
    files = [os.path.join(table.uri, f"{name}.bin") for name in ("tokens", "offsets", "value_spans")]
    for path in files:
        with open(path, "rb") as stream:
            whole = stream.read()
        for size, complaint in (
            (0, "missing or damaged"),
            (len(whole) - 3, "missing or damaged"),
            (len(whole) - 8, "damaged|together"),
        ):
            with open(path + "-", "wb") as stream:  # not in place: the table is mapped from the file
                stream.write(whole[:size])
            os.replace(path + "-", path)
            with pytest.raises(DataError, match=complaint):
                TokenTable.open(dataset, wordpiece())
        with open(path, "wb") as stream:
            stream.write(whole)
        TokenTable.open(dataset, wordpiece())
        os.unlink(path)
        with pytest.raises(DataError, match=rf"{os.path.basename(path)}: missing or damaged"):
            TokenTable.open(dataset, wordpiece())
        with open(path, "wb") as stream:
            stream.write(whole)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_separator_is_left_out_only_where_the_tokenizer_adds_its_own(dataset, family, template):
    dataset = by_template(dataset, template)
    tokenizer = FAMILIES[family]()
    assert find_encoder(dataset, tokenizer).separated == (family != "sentencepiece_doubling")


def test_tokenizer_whose_parts_dont_join_is_refused_and_leaves_nothing(dataset):
    with pytest.raises(DataError, match="don't join to the tokens of the whole; use a PLM with"):
        build_token_table(dataset, unjoinable())
    assert not os.path.exists(os.path.join(dataset.uri, "tokens"))


def test_load_tokenizer_says_what_is_wrong_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"plm\.path is not set"):
        load_tokenizer(None)
    for path in (str(tmp_path / "missing"), str(tmp_path)):
        with pytest.raises(
            ConfigError, match=f"plm.path={path}: no tokenizer can be loaded from there"
        ) as caught:
            load_tokenizer(path)
        assert "\n" not in str(caught.value)

"""Texts by a pattern of one's own, against the pattern with its placeholders replaced by hand."""

import numpy as np
import pytest

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.click_text import find_click_text
from clickprompt.data.text.masking import IGNORED, mask_tokens
from clickprompt.data.text.template import (
    TEMPLATES,
    encode,
    is_pattern,
    load_tokenizer,
    segment,
    sentence,
    stored_template,
)
from clickprompt.data.text.token_table import TokenTable
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import InputError, MissingTokensError
from tests.support.synthetic import FIELDS, write_dataset
from tests.support.tiny import CLICK_WORDS, write_plm
from tests.support.tokenizers_made_up import byte_level_bpe, gpt2, sentencepiece, unigram_words, wordpiece

PATTERNS = {
    "all": "{User ID}: a {Gender} user. Film {Movie ID} ({Film genre})",
    "some": "On {Gender} days, see {Film genre}!",
    "ends": "{Gender} {Movie ID}",
    "one": "Watched {Movie ID}",
}
MAKERS = (wordpiece, byte_level_bpe, gpt2, sentencepiece, unigram_words)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_dataset(str(tmp_path_factory.mktemp("pattern") / "d"))


def by(dataset: Dataset, pattern: str) -> Dataset:
    """The same rows, as prepared with --template."""
    template = stored_template(pattern, dataset.field_names)
    return Dataset(dataset.uri, dataset.manifest | {"template": template})


def drawn(dataset: Dataset, rows: int = 200) -> tuple[np.ndarray, list[list[str]]]:
    rng = np.random.default_rng(0)
    field_ids = np.stack([rng.integers(0, size, rows) for size in dataset.field_sizes], axis=1)
    values = [
        ["unknown", *dataset.vocabulary(field)["value"].to_pylist()[1:]]
        for field in range(len(dataset.field_names))
    ]
    return field_ids, [[values[field][i] for field, i in enumerate(row)] for row in field_ids]


def by_hand(pattern: str, names: list[str], values: list[str]) -> tuple[str, list[tuple[int, int, int]]]:
    """The text, and each value's (field, start, end) in it."""
    text, places, rest = "", [], pattern
    while "{" in rest:
        before, _, rest = rest.partition("{")
        name, _, rest = rest.partition("}")
        field = names.index(name)
        text += before
        places.append((field, len(text), len(text) + len(values[field])))
        text += values[field]
    return text + rest, places


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", PATTERNS)
def test_assembled_tokens_and_their_fields_are_the_tokenizers_of_the_text(made, name, make) -> None:
    dataset, tokenizer = by(made, PATTERNS[name]), make()
    table = build_token_table(dataset, tokenizer)
    field_ids, rows = drawn(dataset)
    texts = [by_hand(PATTERNS[name], dataset.field_names, values) for values in rows]
    assert [text for text, _ in texts] == [
        sentence(dataset.field_names, values, dataset.template) for values in rows
    ]
    input_ids, attention_mask = table.assemble(field_ids)
    fields = table.value_fields(field_ids)
    lengths = attention_mask.sum(axis=1)
    expected = encode(tokenizer, [text for text, _ in texts], special_tokens=True)
    assert [list(row[:n]) for row, n in zip(input_ids, lengths, strict=True)] == expected
    assert table.lengths(field_ids).tolist() == lengths.tolist()
    before = len(table.meta["prefix"])
    for (text, places), row in zip(texts, fields, strict=True):
        offsets = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets
        for position, (start, end) in enumerate(offsets):
            of = [
                f for f, a, b in places if start < end and start < b and end > a and text[start:end].strip()
            ]
            if of:
                assert row[before + position] == of[0], (text, text[start:end])


def test_what_is_masked_are_values_of_the_pattern(made) -> None:
    dataset = by(made, PATTERNS["some"])
    table = build_token_table(dataset, wordpiece())
    field_ids, _ = drawn(dataset)
    input_ids, attention_mask = table.assemble(field_ids)
    fields = table.value_fields(field_ids)
    masked, labels = mask_tokens(
        input_ids,
        attention_mask,
        np.arange(len(field_ids)),
        seed=0,
        epoch=0,
        mask_rate=0.5,
        mask_id=table.mask_id,
        special_ids=table.special_ids,
        vocab_size=table.vocab_size,
        scope="field",
        value_fields=fields,
        always_mask=True,
    )
    targets = labels != IGNORED
    assert set(np.unique(fields[targets])) == {1, 3}, "Gender and Film genre"
    assert (masked[targets] == table.mask_id).all()
    assert (np.where(targets, labels, masked) == input_ids).all()


def test_a_text_that_is_too_long_loses_whole_parts(made) -> None:
    dataset = by(made, PATTERNS["all"])
    table = build_token_table(dataset, wordpiece())
    field_ids, rows = drawn(dataset)
    limit = int(table.lengths(field_ids).max()) - 1
    kept = table.kept(field_ids, limit)
    [row, *_] = np.flatnonzero(~kept.all(axis=1))
    parts = [
        segment(name, value, not field, dataset.template)
        for field, (name, value) in enumerate(zip(dataset.field_names, rows[row], strict=True))
        if kept[row, field]
    ]
    whole = encode(wordpiece(), ["".join(parts)], special_tokens=True)[0]
    input_ids, attention_mask = table.assemble(field_ids[row : row + 1], None, limit)
    assert input_ids[0][attention_mask[0] == 1].tolist() == whole


def test_parts_are_cut_behind_punctuation_or_before_words() -> None:
    def parts(pattern: str) -> list[str]:
        names = [name for name in FIELDS if f"{{{name}}}" in pattern]
        return [segment(name, "X", index == 0, pattern) for index, name in enumerate(names)]

    assert parts(PATTERNS["all"]) == ["X:", " a X user.", " Film X", " (X)"]
    assert parts(PATTERNS["some"]) == ["On X days,", " see X!"]
    assert parts("{Gender} likes the {Movie ID}. Yes") == ["X", " likes the X. Yes"]
    assert segment("User ID", "X", True, PATTERNS["some"]) == ""


def test_fields_may_be_written_as_in_code() -> None:
    assert stored_template("{user_id} saw {Film genre}", list(FIELDS)) == "{User ID} saw {Film genre}"
    assert [is_pattern(template) for template in (*TEMPLATES.values(), "Watched {Movie ID}")] == [0, 0, 1]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{Film gener} of {Gender}", "no field 'Film gener'; the nearest is 'Film genre'"),
        ("{Gender} and {Gender}", "Gender comes behind Gender; give every field once"),
        ("{Gender} by {User ID}", "in the order of the dataset's fields: User ID, Gender"),
        ("{Gender}/{Movie ID}", "put a space between Gender and the field behind it"),
        ("{Gender} {", "a brace without its other one"),
        (
            "short",
            "is unknown; known: sentence, compact, or a pattern such as '{User ID} chose {Film genre}.'",
        ),
    ],
)
def test_what_is_refused(pattern, said) -> None:
    with pytest.raises(InputError) as caught:
        stored_template(pattern, list(FIELDS))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_pattern_has_a_token_table_of_its_own(made) -> None:
    build_token_table(by(made, PATTERNS["ends"]), wordpiece())
    with pytest.raises(MissingTokensError):
        TokenTable.open(by(made, "{Gender} on {Movie ID}"), wordpiece())


def test_the_click_is_one_more_sentence(made, tmp_path) -> None:
    dataset = by(made, PATTERNS["all"])
    tokenizer = load_tokenizer(write_plm(str(tmp_path / "plm"), more_words=CLICK_WORDS))
    click = find_click_text(tokenizer, dataset.field_names, dataset.template)
    _, [values, *_] = drawn(dataset)
    text = sentence(dataset.field_names, values, dataset.template)
    [whole, before] = encode(tokenizer, [f"{text} Clicked is yes.", text], special_tokens=False)
    tail = whole[len(before) :]
    assert tail[click.place] == click.answers[1]
    assert [token for place, token in enumerate(click.tokens) if place != click.place] == [
        token for place, token in enumerate(tail) if place != click.place
    ]

"""The history as the text's last part: against a loop that writes whole texts, for several families of
tokenizers; cut, masked, measured, sent on; and what is refused.
"""

import pickle

import numpy as np
import pytest

from clickprompt.config import MaskingConfig, PLMConfig, load_config
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import SPLITS, Dataset, columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.lengths import check_lengths
from clickprompt.data.text.masking import IGNORED
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import TEMPLATES, encode, load_tokenizer, sentence
from clickprompt.data.text.token_table import TokenTable
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import ConfigError, DataError
from clickprompt.models.baselines import check_baseline
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.described import shown, write_log
from tests.support.tiny import write_plm
from tests.support.tokenizers_made_up import byte_level_bpe, unigram_words, wordpiece

LENGTH = 4
TEMPLATE = "By {User ID} of {Gender}: item {Movie ID}, {Film genre}"
TOKENIZERS = {
    "wordpiece": wordpiece,
    "bytes": byte_level_bpe,
    "unigram": unigram_words,
}
CASES = [
    *(
        (kind, template, field)
        for kind in TOKENIZERS
        for template in TEMPLATES
        for field in (None, "Film genre")
    ),
    *((kind, TEMPLATE, None) for kind in TOKENIZERS),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("history-text")
    schema = write_log(str(folder / "log"), more=f"history: {LENGTH}")
    return prepare(schema, None, str(folder / "data"), row_group_rows=37)


@pytest.fixture(scope="module")
def opened(dataset):
    """(dataset, tokenizer, table) of a case; each is built once."""
    made = {}

    def of(kind="wordpiece", template="sentence", field=None, items=3):
        key = kind, template
        if key not in made:
            text = TEMPLATES.get(template, template)
            varied = Dataset(dataset.uri, {**dataset.manifest, "template": text})
            build_token_table(varied, tokenizer := TOKENIZERS[kind]())
            made[key] = varied, tokenizer
        varied, tokenizer = made[key]
        return (
            varied,
            tokenizer,
            open_model_table(varied, tokenizer, PLMConfig(history_items=items, history_field=field)),
        )

    return of


def rows_of(dataset: Dataset, table: TokenTable, split="valid") -> np.ndarray:
    """[B, F + N]: some rows with an unknown value, without a history, and with gaps in it."""
    rows = dataset.read_split(split)
    ids = np.stack([rows[name].to_numpy() for name in table.columns_of(dataset)], axis=1)
    ids[3, :4] = 0
    ids[4, 4:] = 0
    ids[5, 4] = 0
    return ids


def naive_texts(dataset: Dataset, ids: np.ndarray, field: str | None) -> list[str]:
    words = [dataset.vocabulary(number)["value"].to_pylist() for number in range(4)]
    genres = {
        words[1][row["f_movie_id"]]: words[3][row["f_film_genre"]] if row["f_film_genre"] else None
        for split in SPLITS
        for row in dataset.read_split(split).to_pylist()
    }
    texts = []
    for row in ids:
        values = [words[number][place] if place else "unknown" for number, place in enumerate(row[:4])]
        values[1] = shown(values[1])
        text = sentence(dataset.field_names, values, dataset.template)
        items = [words[1][place] for place in row[4:] if place]
        names = [name for item in items if (name := genres[item] if field else shown(item))]
        end = {TEMPLATES["sentence"]: ".", TEMPLATES["compact"]: ";"}.get(dataset.template, ",")
        if names and end != ";":
            text += f" {field or 'Movie ID'} history is"
        for name in names:
            text += f" {name}{end}"
        texts.append(text)
    return texts


@pytest.mark.parametrize(("kind", "template", "field"), CASES)
def test_tokens_are_those_of_the_whole_text(opened, kind, template, field):
    dataset, tokenizer, table = opened(kind, template, field)
    ids = rows_of(dataset, table)
    input_ids, attention_mask = table.assemble(ids)
    expected = encode(tokenizer, naive_texts(dataset, ids, field), special_tokens=True)
    found = [row[mask == 1].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
    assert found == expected
    assert table.lengths(ids).tolist() == [len(row) for row in expected]
    assert max(map(len, expected)) <= table.max_length
    # All else is as without histories
    plain = TokenTable.open(dataset, tokenizer)
    fields, before = table.value_fields(ids), plain.value_fields(ids[:, :4])
    assert (fields[:, : before.shape[1]] == before).all()
    assert (fields[:, before.shape[1] :] == -1).all()
    of_history = table.history_tokens(ids)
    assert (of_history.sum(1) == table.lengths(ids) - plain.lengths(ids[:, :4])).all()
    if field is None:
        assert (of_history.sum(1) > 0).tolist() == (ids[:, 4:] > 0).any(1).tolist()
        assert table.named_items(ids).tolist() == (ids[:, 4:] > 0).sum(1).tolist()


@pytest.mark.parametrize("limit", range(12, 60, 5))
def test_the_oldest_items_go_before_any_field(opened, limit):
    dataset, tokenizer, table = opened()
    ids, plain = rows_of(dataset, table), TokenTable.open(dataset, tokenizer)
    found = table.assemble(ids, max_length=limit)
    assert table.lengths(ids, limit).tolist() == found[1].sum(1).tolist()
    assert found[0].shape[1] <= limit
    cut = 0
    for tokens, mask, row in zip(*found, ids, strict=True):
        own, _ = plain.assemble(row[None, :4], max_length=limit)
        kept = [place for place in row[4:] if place]
        while kept:
            shorter = np.array([[*row[:4], *kept, *[0] * (3 - len(kept))]])
            whole = table.assemble(shorter)[0][0]
            if len(whole) <= limit:
                break
            kept.pop()
            cut += 1
        expected = whole if kept else own[0]
        assert tokens[mask == 1].tolist() == expected.tolist()
    assert cut or limit > 45


@pytest.mark.parametrize("scope", ["tokens", "values", "field"])
@pytest.mark.parametrize("lm", ["masked", "causal", "denoising"])
def test_masks_and_targets_are_those_of_texts_without(opened, scope, lm):
    dataset, tokenizer, table = opened()
    rows = dataset.read_split("valid")
    columns = columns_of(rows) | {"weight": np.arange(len(rows)) % 7 > 0}
    masking = MaskingConfig(mask_rate=0.4, mask_scope=scope, vocabulary="dataset")
    plain, ours = (
        Collator(layout_of(dataset), one, masking, lm=lm, seed=3)(columns, epoch=2)
        for one in (TokenTable.open(dataset, tokenizer), table)
    )
    own = plain.attention_mask.sum(1) - 1
    cut = np.arange(plain.input_ids.shape[1]) < own[:, None].numpy()  # but [SEP]
    for name in ("input_ids", "masked_input_ids", "mlm_labels"):
        before, after = getattr(plain, name).numpy(), getattr(ours, name).numpy()[:, : cut.shape[1]]
        assert (before[cut] == after[cut]).all()
    behind = np.arange(ours.input_ids.shape[1]) >= own[:, None].numpy()
    assert (ours.mlm_labels.numpy()[behind] == IGNORED).all()
    assert (ours.masked_input_ids.numpy()[behind] == ours.input_ids.numpy()[behind]).all()
    lengths, padding = ours.attention_mask.sum(1).numpy(), columns["weight"] == 0
    assert (lengths[padding] == table.fixed_length).all()
    assert (lengths > own.numpy() + 1).mean() > 0.5


def test_a_table_that_is_sent_on_keeps_it_and_without_the_setting_nothing_is_there(opened):
    dataset, tokenizer, table = opened(field="Film genre")
    again, ids = pickle.loads(pickle.dumps(table.with_widths(8))), rows_of(dataset, table)
    assert again.assemble(ids)[1].sum() == table.assemble(ids)[1].sum()
    assert again.assemble(ids)[0].shape[1] % 8 == 0 or again.assemble(ids)[0].shape[1] == table.max_length
    plain = open_model_table(dataset, tokenizer, PLMConfig())
    assert plain.history is None
    assert plain.columns_of(dataset) == dataset.columns
    assert plain.uri == table.uri


def test_lengths_count_it(opened):
    dataset, _, table = opened()
    assert check_lengths(dataset, table, 500, None) is None
    rows = [rows_of(dataset, table, split) for split in SPLITS]
    rows = [
        np.stack([dataset.read_split(s)[c].to_numpy() for c in table.columns_of(dataset)], 1) for s in SPLITS
    ]
    lengths = np.concatenate([table.lengths(ids) for ids in rows])
    limit = int(np.quantile(lengths, 0.7))
    found = check_lengths(dataset, table, 500, limit)
    assert (found.over, found.longest) == ((lengths > limit).sum(), lengths.max())
    lost = sum((table.named_items(ids, limit) < table.named_items(ids)).sum() for ids in rows)
    assert found.histories == lost == found.over
    assert f"tokens and lose the oldest items of their histories ({lost})" in str(found)
    assert found.to_json()["histories"] == lost
    with pytest.raises(DataError, match="to leave out the oldest items of histories, then whole fields"):
        check_lengths(dataset, table, limit, None)


def test_what_is_refused(opened, tmp_path):
    dataset, tokenizer, _ = opened()
    for settings, message in (
        (
            {"history_items": 5},
            r"history_items=5: .* has histories of 4; prepare it with --history 5 or more",
        ),
        (
            {"history_items": 2, "history_field": "Gender"},
            "history_field=Gender: not .*; set one of Movie ID, Film",
        ),
        ({"history_items": 2, "history_field": "Year"}, "history_field=Year: not a field with one value"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_model_table(dataset, tokenizer, PLMConfig(**settings))
    without = Dataset(dataset.uri, {key: one for key, one in dataset.manifest.items() if key != "history"})
    with pytest.raises(ConfigError, match="has no histories; prepare it with --history 2 or more, or set 0"):
        open_model_table(without, tokenizer, PLMConfig(history_items=2))
    pattern = Dataset(dataset.uri, {**dataset.manifest, "template": "{User ID} saw {Movie ID} today"})
    with pytest.raises(ConfigError, match="no single punctuation mark follows Movie ID"):
        open_model_table(pattern, tokenizer, PLMConfig(history_items=2))
    with pytest.raises(
        ConfigError, match="history_field=Title names the items of a history, and history_items is 0"
    ):
        load_config(None, ["plm.history_field=Title"])
    config = load_config(
        None, ["baseline=ctr_bert", "plm.history_items=2", "prompt.num_prompts=0", "data.id_dropout=0"]
    )
    with pytest.raises(
        ConfigError, match=r"plm\.history_items=2: baseline=ctr_bert reads a row as several texts"
    ):
        check_baseline(config, "finetune")


def test_items_that_begin_a_text_without_a_space_are_refused(tmp_path):
    """Byte-level BPE has other tokens for a word with a space before it."""
    schema = write_log(str(tmp_path / "log"), more=f"history: {LENGTH}\ntemplate: compact")
    with open(schema) as stream:
        text = stream.read()
    first = "- {name: User ID, column: user}\n"
    with open(schema, "w") as stream:
        stream.write(text.replace(first, "").replace("- {name: Gender", first + "- {name: Gender"))
    dataset, tokenizer = prepare(schema, None, str(tmp_path / "data")), byte_level_bpe()
    build_token_table(dataset, tokenizer)
    with pytest.raises(
        ConfigError, match=r"tokens of Movie ID in its own place and in a history such as .* differ"
    ):
        open_model_table(dataset, tokenizer, PLMConfig(history_items=2))
    plain = load_tokenizer(write_plm(str(tmp_path / "plm")))
    build_token_table(dataset, plain)
    assert open_model_table(dataset, plain, PLMConfig(history_items=2)).num_items == 2

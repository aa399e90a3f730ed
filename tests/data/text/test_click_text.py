"""The click as the text's last field: against the tokenizer's own tokens of the whole sentence, cut and sent
on; and what is refused.
"""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from clickprompt.config import PLMConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.click_text import find_click_text
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import TEMPLATE, TEMPLATES, encode, load_tokenizer, segment, sentence
from clickprompt.data.text.token_table import TokenTable
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import ConfigError
from tests.support.synthetic import FIELDS, WORDS, write_dataset
from tests.support.tiny import CLICK_WORDS, write_both, write_plm
from tests.support.tokenizers_made_up import byte_level_bpe, gpt2, wordpiece

PACKAGE = Path(__file__).parents[3] / "clickprompt"
CLICK = PLMConfig(click_text=True)


def roberta_like() -> PreTrainedTokenizerFast:
    """Byte-level BPE that has " yes" and " no" as a token each: `byte_level_bpe` has not."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    texts = [
        f"{name} is {word} {i}. Clicked is yes. Clicked is no. yes; no;"
        for name in FIELDS
        for word in WORDS
        for i in range(3)
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = dict(zip(("bos", "pad", "eos", "unk", "mask"), special, strict=True))
    tokens = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", **tokens)


@pytest.fixture(scope="module", params=[(kind, name) for kind in ("bert", "roberta") for name in TEMPLATES])
def made(request, tmp_path_factory):
    kind, template = request.param
    folder = tmp_path_factory.mktemp("click-text")
    tokenizer = (
        roberta_like()
        if kind == "roberta"
        else load_tokenizer(write_plm(str(folder / "plm"), more_words=(*CLICK_WORDS, ";")))
    )
    dataset = write_dataset(str(folder / "data"), template=template)
    build_token_table(dataset, tokenizer)
    return dataset, tokenizer, open_model_table(dataset, tokenizer, CLICK)


def field_ids(dataset: Dataset, rows: int) -> np.ndarray:
    table = dataset.read_split("train").slice(0, rows)
    ids = np.stack([table[column].to_numpy() for column in dataset.columns], axis=1)
    ids[3] = 0  # unknown values
    return ids


def test_tokens_are_those_of_the_whole_sentence(made):
    dataset, tokenizer, table = made
    ids = field_ids(dataset, 50)
    input_ids, attention_mask = table.assemble(ids)
    positions = table.click_positions(attention_mask)
    assert (input_ids[np.arange(50), positions] == tokenizer.mask_token_id).all()
    assert (input_ids == tokenizer.mask_token_id).sum() == 50
    vocabularies = [dataset.vocabulary(field)["value"].to_pylist() for field in range(len(FIELDS))]
    for label, answer in enumerate(("no", "yes")):
        filled = input_ids.copy()
        filled[np.arange(50), positions] = table.click.answers[label]
        for row, (tokens, mask) in enumerate(zip(filled, attention_mask, strict=True)):
            values = [vocabularies[field][i] if i else "unknown" for field, i in enumerate(ids[row])]
            text = sentence(dataset.field_names, values, dataset.template)
            text += segment("Clicked", answer, False, dataset.template)
            assert tokens[mask == 1].tolist() == encode(tokenizer, [text], special_tokens=True)[0]
    assert table.lengths(ids).tolist() == attention_mask.sum(1).tolist()
    fields = table.value_fields(ids)
    assert fields.shape == input_ids.shape
    plain = TokenTable.open(dataset, tokenizer)
    # The values are where they are without the click, and none of its tokens is a value's
    assert (fields[:, : plain.value_fields(ids).shape[1]] == plain.value_fields(ids)).all()
    assert (fields[:, plain.value_fields(ids).shape[1] :] == -1).all()
    assert table.max_length == plain.max_length + len(table.click.tokens)
    assert set(table.click.answers) <= set(table.vocabulary.tolist())
    assert set(plain.vocabulary.tolist()) <= set(table.vocabulary.tolist())
    assert tokenizer.mask_token_id not in table.vocabulary


def test_a_cut_text_keeps_the_click_and_loses_fields(made):
    dataset, tokenizer, table = made
    ids, limit = field_ids(dataset, 50), table.fixed_length + 6
    input_ids, attention_mask = table.assemble(ids, max_length=limit)
    assert input_ids.shape[1] <= limit
    assert table.lengths(ids, limit).tolist() == attention_mask.sum(1).tolist()
    ends = [*table.click.tokens, *table.meta["suffix"]]
    positions = table.click_positions(attention_mask)
    for tokens, mask, position in zip(input_ids, attention_mask, positions, strict=True):
        assert tokens[mask == 1].tolist()[-len(ends) :] == ends
        assert tokens[position] == tokenizer.mask_token_id
    # As many fields as a text without the click has that is shorter by its length
    plain = TokenTable.open(dataset, tokenizer)
    assert (table.kept(ids, limit) == plain.kept(ids, limit - len(table.click.tokens))).all()
    assert not table.kept(ids, limit).all()


def test_a_table_that_is_sent_on_keeps_the_click(made):
    dataset, _, table = made
    again, ids = pickle.loads(pickle.dumps(table)), field_ids(dataset, 9)
    assert again.click == table.click
    assert (again.assemble(ids)[0] == table.assemble(ids)[0]).all()


def test_without_the_setting_nothing_is_added(made):
    dataset, tokenizer, _ = made
    table = open_model_table(dataset, tokenizer, PLMConfig())
    assert table.click is None
    ids = field_ids(dataset, 9)
    assert (table.assemble(ids)[0] == TokenTable.open(dataset, tokenizer).assemble(ids)[0]).all()


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (gpt2, "has no mask token to stand for the click; use another PLM, or set plm.click_text=false"),
        (wordpiece, "yes and no must be a token each, and all others the same; use another PLM"),
        (byte_level_bpe, "yes and no must be a token each"),
    ],
)
def test_tokenizers_that_cannot_write_it(tokenizer, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        find_click_text(tokenizer(), list(FIELDS), TEMPLATE)


@pytest.mark.parametrize("known", [("yes",), ("no",), ()])
def test_a_tokenizer_that_lacks_an_answer(tmp_path, known):
    tokenizer = load_tokenizer(write_plm(str(tmp_path / "plm"), more_words=known))
    with pytest.raises(ConfigError, match=r"\[UNK\].*yes and no must be a token each"):
        find_click_text(tokenizer, list(FIELDS), TEMPLATE)


def test_no_room_for_a_field(tmp_path):
    dataset, plm = write_both(
        str(tmp_path), more_words=("yes", "no", *"clicked", *(f"##{c}" for c in "clicked"))
    )
    tokenizer = load_tokenizer(plm)  # c ##l ##i … is [MASK] . between [CLS] and [SEP]
    for limit in (8, 12):
        with pytest.raises(
            ConfigError, match=f"max_length={limit}: the click.* take 12, which leaves no room"
        ):
            open_model_table(dataset, tokenizer, PLMConfig(click_text=True, max_length=limit))
    assert open_model_table(dataset, tokenizer, PLMConfig(click_text=True, max_length=13)).fixed_length == 12


def test_every_table_that_a_model_reads_is_opened_with_its_settings():
    """Only these may open one without: what has no model."""
    allowed = {
        "data/text/model_table.py",
        "data/text/token_table_build.py",
        "benchmark/pamlm_step.py",
    }
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "TokenTable.open(" in path.read_text()
    }
    assert found == allowed

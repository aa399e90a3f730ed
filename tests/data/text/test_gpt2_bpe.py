"""GPT-2's merges with RoBERTa's special tokens: the pieces that RoBERTa's own files give."""

import json
import os

import pytest
from tokenizers import pre_tokenizers
from tokenizers.models import BPE
from transformers import RobertaTokenizer

from clickprompt.data.sources.registry import get_source
from clickprompt.data.text.gpt2_bpe import write_gpt2_bpe
from clickprompt.data.text.template import encode, load_tokenizer, sentence
from clickprompt.data.transform.row_transform import KEY
from clickprompt.io import storage
from tests.support.log_rows import as_dicts

REAL = ("CLICKPROMPT_ROBERTA_TOKENIZER", "CLICKPROMPT_GPT2_BPE", "CLICKPROMPT_ML100K")
ROWS = 2000


def test_folder_is_a_tokenizer(tmp_path):
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "is", "Ġis", "<|endoftext|>"]
    storage.write_json(str(tmp_path / "encoder.json"), {piece: index for index, piece in enumerate(pieces)})
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\ni s\nĠ is\n")
    assert write_gpt2_bpe(str(tmp_path)) == ["tokenizer.json", "tokenizer_config.json"]

    tokenizer = load_tokenizer(str(tmp_path))
    assert len(tokenizer) == len(pieces) - 1 + 5
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [
        0,
        1,
        2,
        3,
        len(tokenizer) - 1,
    ]
    assert (tokenizer.pad_token_id, tokenizer.mask_token, tokenizer.cls_token, tokenizer.sep_token) == (
        1,
        "<mask>",
        "<s>",
        "</s>",
    )
    [ids] = encode(tokenizer, ["Age is é<mask>"], special_tokens=True)
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<s>",
        "A",
        "g",
        "e",
        "Ġis",
        "Ġ",
        "Ã",
        "©",
        "<",
        "m",
        "a",
        "s",
        "k",
        ">",
        "</s>",
    ]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Age is é<mask>"


@pytest.mark.skipif(not all(name in os.environ for name in REAL), reason=f"needs {', '.join(REAL)}")
def test_real_sentences_are_cut_as_roberta_cuts_them():
    folder = os.environ["CLICKPROMPT_ROBERTA_TOKENIZER"]
    roberta = RobertaTokenizer(
        vocab=os.path.join(folder, "vocab.json"), merges=os.path.join(folder, "merges.txt")
    )
    with open(os.path.join(folder, "vocab.json"), encoding="utf-8") as stream:
        assert isinstance(roberta.backend_tokenizer.model, BPE)
        assert len(roberta) == len(json.load(stream))  # its files were read
    ours = load_tokenizer(os.environ["CLICKPROMPT_GPT2_BPE"])

    source = get_source("movielens-100k", os.environ["CLICKPROMPT_ML100K"])
    sides = {key: {row[KEY]: row for row in table.to_pylist()} for key, table in source.tables().items()}
    rows = as_dicts(next(source.read_part(source.parts()[0])))[:ROWS]
    texts = []
    for row in rows:
        values = {key: value for side, table in sides.items() for key, value in table[row[side]].items()}
        texts.append(sentence(source.fields, [values[field] for field in source.fields]))
    assert len(set(texts)) == ROWS

    pairs = zip(
        encode(ours, texts, special_tokens=True), encode(roberta, texts, special_tokens=True), strict=True
    )
    for text, (own, expected) in zip(texts, pairs, strict=True):
        assert ours.convert_ids_to_tokens(own) == roberta.convert_ids_to_tokens(expected), text

"""The command, with tiny tokenizers; nothing is asserted of the times themselves."""

import json
import os

import numpy as np
import pytest

from clickprompt.benchmark import tokens
from clickprompt.benchmark.tokens import ARMS, require_same_tokens
from clickprompt.cli.main import main
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import RunError
from tests.support.synthetic import write_dataset
from tests.support.tokenizers_made_up import byte_level_bpe, gpt2, sentencepiece, unigram, wordpiece

FAMILIES = {make.__name__: make for make in (wordpiece, byte_level_bpe, gpt2, sentencepiece, unigram)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(str(tmp_path_factory.mktemp("tokens") / "d"))


@pytest.mark.slow
def test_command_prints_one_object_with_its_figures(dataset, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tokens, "_REPEATS", 2)
    plm = str(tmp_path / "plm")
    gpt2().save_pretrained(plm)
    with pytest.raises(SystemExit) as stopped:
        main(
            ["benchmark", "tokens", "--json", "--set", f"data.path={dataset.uri}", "--set", f"plm.path={plm}"]
        )
    output = capfd.readouterr()
    assert stopped.value.code == 0, output.err
    figures = json.loads(output.out)["figures"]
    rates = {f"rows_per_second_{name}" for name in ARMS}
    assert figures.keys() == {"speedup", "speedup_over_call", "tokens_per_row", "table_bytes", *rates}
    for values in figures.values():
        assert 0 < values["min"] <= values["median"] <= values["max"]
    folder = os.path.join(dataset.uri, "tokens")
    [table] = os.listdir(folder)
    stored = sum(
        os.path.getsize(os.path.join(folder, table, file)) for file in os.listdir(os.path.join(folder, table))
    )
    assert 0 < figures["table_bytes"]["median"] < stored


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.sampled(2)
def test_arms_give_the_same_arrays(dataset, family):
    tokenizer = FAMILIES[family]()
    table = build_token_table(dataset, tokenizer)
    field_ids = tokens._field_ids(dataset, table, seed=0)
    sentences = tokens._sentences(dataset, table, field_ids)
    assert [len(batch) for batch in sentences] == [400] * 8  # whole epochs of a dataset smaller than a batch
    assert sentences[0][0].startswith("User ID is ")
    outputs = {}
    for name, make in ARMS.items():
        batches = field_ids if name == "ours" else sentences
        outputs[name] = [make(table, tokenizer)(batch) for batch in batches]
        assert all(array.dtype == np.int64 for batch in outputs[name] for array in batch)
    require_same_tokens(outputs, sentences)


@pytest.mark.parametrize("array", [0, 1])
def test_one_wrong_token_or_mask_is_no_comparison(array):
    sentences = [["one", "two"], ["three", "four"]]
    ours = [(np.arange(6).reshape(2, 3), np.ones((2, 3), dtype=np.int64)) for _ in sentences]
    theirs = [tuple(part.copy() for part in batch) for batch in ours]
    require_same_tokens({"ours": ours, "call": theirs}, sentences)
    theirs[1][array][1, 2] = 0
    with pytest.raises(RunError, match="the tokens of 'four' differ between ours and call"):
        require_same_tokens({"ours": ours, "call": theirs}, sentences)


def test_other_padding_is_no_comparison():
    mask = np.array([[1, 0]])
    outputs = {"ours": [(np.array([[5, 0]]), mask)], "tokenizer": [(np.array([[5, 1]]), mask)]}
    with pytest.raises(RunError, match="the padding differ"):
        require_same_tokens(outputs, [["one"]])

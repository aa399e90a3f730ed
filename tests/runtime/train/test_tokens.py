"""A training tokenizes its dataset where that is all it lacks, and not before everything else is right."""

import shutil

import pytest

from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable, table_uri
from clickprompt.errors import ConfigError
from clickprompt.io import storage
from clickprompt.runtime.train.tokens import check_with_tokens
from tests.support.tiny import tiny_config, write_both


@pytest.fixture
def other_tokenizer(tmp_path):
    """A dataset with a token table, and a PLM whose tokenizer isn't that table's."""
    dataset, plm = write_both(str(tmp_path))
    other = str(tmp_path / "other")
    shutil.copytree(plm, other)
    tokenizer = load_tokenizer(other)
    tokenizer.add_tokens(["extraordinary"])
    tokenizer.save_pretrained(other)
    return dataset, other, load_tokenizer(other)


def test_the_missing_table_is_built(other_tokenizer, tmp_path, capsys):
    dataset, plm, tokenizer = other_tokenizer
    run = str(tmp_path / "run")
    training = check_with_tokens(tiny_config(dataset.uri, plm), "pretrain", run)
    assert training.dataset.fingerprint == dataset.fingerprint
    assert "no token table" in capsys.readouterr().err
    table = TokenTable.open(dataset, tokenizer)
    assert len(table.tokens) > 0
    again = check_with_tokens(tiny_config(dataset.uri, plm), "pretrain", run)
    assert again.order == training.order
    assert "no token table" not in capsys.readouterr().err


def test_nothing_is_built_for_a_run_that_cannot_work(other_tokenizer, tmp_path):
    dataset, plm, tokenizer = other_tokenizer
    config = tiny_config(dataset.uri, plm, pretrain__global_batch_size=25, pretrain__micro_batch_size=12)
    with pytest.raises(ConfigError, match="global_batch_size"):
        check_with_tokens(config, "pretrain", str(tmp_path / "run"))
    assert not storage.exists(table_uri(dataset, tokenizer))
    assert not storage.exists(str(tmp_path / "run"))

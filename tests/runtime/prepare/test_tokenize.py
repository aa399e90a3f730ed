"""The token table on Ray is the one that a single process builds, piece by piece of the vocabularies."""

import os
import shutil

import pyarrow.parquet as pq
import pytest

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.runtime.prepare.tokenize import tokenize
from tests.support.synthetic import write_dataset
from tests.support.tokenizers_made_up import sentencepiece_doubling, unigram, wordpiece

pytestmark = pytest.mark.ray


@pytest.fixture
def dataset(tmp_path):
    dataset = write_dataset(str(tmp_path / "d"))
    for entry in dataset.manifest["fields"]:  # several pieces a field
        path = os.path.join(dataset.uri, entry["file"])
        pq.write_table(pq.read_table(path), path, row_group_size=4)
    return dataset


# Slow: of each tokenizer the table is shown in one process (tests/data/text/test_template.py)
@pytest.mark.slow
@pytest.mark.parametrize("make", [sentencepiece_doubling, wordpiece, unigram])
def test_same_files_as_one_process(ray_session, dataset, tmp_path, make):
    shutil.copytree(dataset.uri, tmp_path / "copy")
    copy = Dataset.open(str(tmp_path / "copy"))
    assert max(dataset.vocabulary_pieces(field) for field in range(len(dataset.columns))) > 3
    distributed, alone = tokenize(dataset, make()), build_token_table(copy, make())
    assert distributed.meta == alone.meta
    for name in ("tokens.bin", "offsets.bin", "value_spans.bin"):
        with (
            open(os.path.join(distributed.uri, name), "rb") as ours,
            open(os.path.join(alone.uri, name), "rb") as theirs,
        ):
            assert ours.read() == theirs.read()


def test_a_table_is_mapped_and_not_read(dataset):
    table = build_token_table(dataset, wordpiece())
    with open("/proc/self/maps") as maps:
        assert os.path.join(os.path.realpath(table.uri), "tokens.bin") in maps.read()

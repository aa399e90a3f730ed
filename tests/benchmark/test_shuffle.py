"""`benchmark shuffle`, with files of GoodReads' size and with a dataset."""

import json

import pytest

from clickprompt.benchmark import shuffle
from clickprompt.benchmark.shuffle import even_layout, measure_shuffle
from clickprompt.cli.main import main
from clickprompt.config import load_config
from clickprompt.errors import ConfigError
from tests.support.synthetic import write_dataset

MEASURES = (
    "row_groups_per_batch",
    "row_groups_ratio",
    "files_per_batch",
    "files_ratio",
    "overlap",
    "rows_read",
)


def test_longer_chunks_mix_more_of_goodreads_files(monkeypatch):
    monkeypatch.setattr(shuffle, "_PAIRS", 8)
    figures, [note] = measure_shuffle(load_config(None, ["data.chunk_batches=4"]))
    chunks = (4, *shuffle.CHUNKS)
    full = {"row_groups_per_batch_full", "files_per_batch_full"}
    assert figures.keys() == {f"{measure}_chunk{chunk}" for measure in MEASURES for chunk in chunks} | full
    medians = {
        measure: [figures[f"{measure}_chunk{chunk}"]["median"] for chunk in chunks] for measure in MEASURES
    }
    for measure in ("row_groups_per_batch", "row_groups_ratio", "files_per_batch", "files_ratio"):
        assert medians[measure] == sorted(medians[measure])
    for measure in ("overlap", "rows_read"):
        assert medians[measure] == sorted(medians[measure], reverse=True)
    assert max(medians["row_groups_ratio"]) < 1
    assert "16,097,632 training rows in 246 files" in note


def test_command_on_a_dataset(tmp_path, capfd):
    dataset = write_dataset(str(tmp_path / "d"))  # 400 rows, 11 row groups, one file
    options = (f"data.path={dataset.uri}", "pretrain.global_batch_size=20", "pretrain.micro_batch_size=10")
    with pytest.raises(SystemExit) as stopped:
        main(
            ["benchmark", "shuffle", "--json", *(part for setting in options for part in ("--set", setting))]
        )
    output = capfd.readouterr()
    assert stopped.value.code == 0, output.err
    result = json.loads(output.out)
    assert result["figures"]["files_ratio_chunk64"]["median"] == 1
    assert result["figures"]["row_groups_ratio_chunk64"]["median"] == pytest.approx(1, abs=0.15)
    assert dataset.uri in result["notes"][0]


def test_made_up_layout_has_the_rows_in_files_of_even_size():
    layout = even_layout(1_000_003)
    assert sum(map(sum, layout)) == 1_000_003
    assert len(layout) == 16
    assert max(map(sum, layout)) - min(map(sum, layout)) <= 1
    assert all(rows == 4096 for file in layout for rows in file[:-1])
    assert all(0 < file[-1] <= 4096 for file in layout)


def test_too_few_rows(tmp_path):
    dataset = write_dataset(str(tmp_path / "d"))
    with pytest.raises(
        ConfigError, match=r"pretrain\.global_batch_size=1024: .* has 400 training rows.*use at most 200"
    ):
        measure_shuffle(load_config(None, [f"data.path={dataset.uri}"]))

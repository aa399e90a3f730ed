"""`prepare --keep-negatives`: which rows are left, also on Ray, in appended files and beside histories."""

import numpy as np
import pytest

from clickprompt.config import RuntimeConfig
from clickprompt.data.keyed_random import random_uniform
from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.errors import InputError
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.prepare.tasks import _NEGATIVES
from tests.support.commands import fails, printed
from tests.support.folders import files_below
from tests.support.log_rows import decoded_rows
from tests.support.weighted import write_log

SMALL = {"rows_per_shard": 100, "row_group_rows": 37}


def rows_of(dataset, split):
    return dataset.read_split(split).to_pandas().sort_values("row_id").reset_index(drop=True)


@pytest.mark.parametrize("more", ["", "weight: weight"])
def test_training_rows_without_a_click_are_sampled(tmp_path, more):
    whole = prepare(write_log(str(tmp_path / "log"), more=more), None, str(tmp_path / "whole"), **SMALL)
    schema = write_log(str(tmp_path / "log2"), more=f"{more}\nkeep_negatives: 0.3")
    sampled = prepare(schema, None, str(tmp_path / "sampled"), **SMALL)
    by_option = prepare(
        str(tmp_path / "log" / "log.yaml"), None, str(tmp_path / "option"), keep_negatives=0.3, **SMALL
    )
    assert (whole.keep_negatives, sampled.keep_negatives, by_option.keep_negatives) == (None, 0.3, 0.3)
    before, found = decoded_rows(whole), decoded_rows(sampled)
    train = rows_of(whole, "train")
    drawn = random_uniform(_NEGATIVES, 0, train["row_id"].to_numpy()) < 0.3
    expected = train[(train["label"] == 1) | drawn]["row_id"].tolist()
    assert rows_of(sampled, "train")["row_id"].tolist() == expected
    assert 0.2 < (len(expected) - train["label"].sum()) / (train["label"] == 0).sum() < 0.4
    for split in ("valid", "test"):
        assert rows_of(sampled, split)["row_id"].tolist() == rows_of(whole, split)["row_id"].tolist()
    assert all(found[row][0] == before[row][0] for row in found)
    assert sampled.manifest["statistics"]["negatives_left_out"] == len(train) - len(expected)
    counted = np.bincount(rows_of(sampled, "train")["f_movie_id"], minlength=sampled.field_sizes[1])
    assert sampled.train_counts()[1].tolist() == counted.tolist()
    assert decoded_rows(by_option) == found
    sampled.verify()


@pytest.mark.slow
def test_histories_are_of_all_rows(tmp_path):
    """Files whose rows are all left out, too."""
    more = "history: 4\nhistory_of: all"
    schema = write_log(str(tmp_path / "log"), rows=150, more=more, files=50)
    whole = prepare(schema, None, str(tmp_path / "whole"), **SMALL)
    sampled = prepare(schema, None, str(tmp_path / "sampled"), keep_negatives=0.05, **SMALL)
    items = [dataset.vocabulary(1)["value"].to_numpy() for dataset in (whole, sampled)]
    for split in SPLITS:
        one, other = (rows_of(dataset, split).set_index("row_id") for dataset in (whole, sampled))
        one = one.loc[other.index]
        for name in whole.history_columns:
            np.testing.assert_array_equal(items[0][one[name]], items[1][other[name]])


def test_appended_rows_are_sampled(tmp_path):
    schema = write_log(str(tmp_path / "log"), more="keep_negatives: 0.3")
    file = tmp_path / "log" / "log-2.csv"
    later = file.read_text()
    file.unlink()
    first = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    file.write_text(later)
    dataset = append(schema, None, str(tmp_path / "out"))
    new = dataset.read_split("train").to_pandas()
    new = new[~new["row_id"].isin(first.read_split("train")["row_id"].to_pylist())]
    assert (random_uniform(_NEGATIVES, 0, new[new["label"] == 0]["row_id"].to_numpy()) < 0.3).all()
    assert 0 < len(new) < 233
    statistics = dataset.manifest["statistics"]
    assert statistics["negatives_left_out"] == 700 - sum(dataset.counts.values())


@pytest.mark.ray
def test_on_ray_the_bytes_are_the_same(tmp_path, ray_session):
    schema = write_log(str(tmp_path / "log"), more="history: 3\nkeep_negatives: 0.2")
    prepare(schema, None, str(tmp_path / "here"), **SMALL)
    prepare(schema, None, str(tmp_path / "ray"), runtime=RuntimeConfig(use_ray="always"), **SMALL)
    assert files_below(str(tmp_path / "here")) == files_below(str(tmp_path / "ray"))


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_shares_that_are_none(tmp_path, share):
    with pytest.raises(
        InputError, match=r"keep_negatives=.*: must be above 0 and below 1; for all rows leave"
    ):
        prepare(write_log(str(tmp_path / "log")), None, str(tmp_path / "out"), keep_negatives=share)
    assert not (tmp_path / "out").exists()


def test_by_its_command(tmp_path, capsys):
    schema = write_log(str(tmp_path / "log"), more="")
    out, here = str(tmp_path / "out"), ["--set", "runtime.use_ray=never", "--json"]
    printed(capsys, "prepare", schema, "--out", out, "--keep-negatives", "0.5", *here)
    line = fails(capsys, "prepare", schema, "--out", out, "--keep-negatives", "0.5", "--append", *here)
    assert "--append goes on with the dataset's own options; leave --keep-negatives out" in line

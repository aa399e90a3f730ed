"""A schema's `weight`: a column beside the rows' others, the same on Ray; and weights that are none."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.errors import DataError
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.commands import fails
from tests.support.folders import files_below
from tests.support.weighted import write_log

SMALL = {"rows_per_shard": 100, "row_group_rows": 37}


def rows_of(dataset):
    whole = pa.concat_tables([dataset.read_split(split) for split in SPLITS])
    return whole.to_pandas().sort_values("row_id").reset_index(drop=True)


def test_the_column_is_the_logs(tmp_path):
    """And without it nothing else differs."""
    dataset = prepare(write_log(str(tmp_path / "log")), None, str(tmp_path / "out"), **SMALL)
    written = pd.concat([pd.read_csv(file) for file in sorted((tmp_path / "log").glob("*.csv"))])
    rows = rows_of(dataset)
    np.testing.assert_array_equal(rows["importance"], written["weight"].to_numpy(np.float32))
    assert dataset.weighted
    for split in SPLITS:
        of_split = dataset.read_split(split).to_pandas()
        weights = of_split["importance"].astype(float)
        expected = [weights.sum(), weights[of_split["label"] == 1].sum()]
        assert dataset.manifest["weights"][split] == pytest.approx(expected, rel=1e-12)
    without = prepare(write_log(str(tmp_path / "log2"), more=""), None, str(tmp_path / "without"), **SMALL)
    assert not without.weighted
    assert not {"weighted", "weights"} & without.manifest.keys()
    pd.testing.assert_frame_equal(rows.drop(columns="importance"), rows_of(without))


def test_rows_are_appended_with_theirs(tmp_path):
    schema = write_log(str(tmp_path / "log"))
    file = tmp_path / "log" / "log-2.csv"
    later = file.read_text()
    file.unlink()
    prepare(schema, None, str(tmp_path / "out"), **SMALL)
    file.write_text(later)
    dataset = append(schema, None, str(tmp_path / "out"))
    rows = rows_of(dataset)
    assert len(rows) == 700
    whole = sum(sums[0] for sums in dataset.manifest["weights"].values())
    assert whole == pytest.approx(rows["importance"].astype(float).sum(), rel=1e-12)


@pytest.mark.ray
def test_on_ray_the_bytes_are_the_same(tmp_path, ray_session):
    schema = write_log(str(tmp_path / "log"))
    prepare(schema, None, str(tmp_path / "here"), **SMALL)
    prepare(schema, None, str(tmp_path / "ray"), runtime=RuntimeConfig(use_ray="always"), **SMALL)
    assert files_below(str(tmp_path / "here")) == files_below(str(tmp_path / "ray"))


def lines(tmp_path, *rows):
    schema = write_log(str(tmp_path / "log"), rows=30, files=1)
    with open(tmp_path / "log" / "log-0.csv", "a") as stream:
        stream.write("".join(f"red 0,1,red,1000000099,{row}\n" for row in rows))
    return schema


@pytest.mark.parametrize("weight", ["-0.5", "", "1e39"])
def test_weights_that_are_none(tmp_path, weight):
    schema = lines(tmp_path, f"1,{weight}")
    with pytest.raises(
        DataError, match=r"line 32: weight=.* is no weight, which is a number from 0 up; mend"
    ):
        prepare(schema, None, str(tmp_path / "out"))


def test_a_word_is_none(tmp_path):
    with pytest.raises(DataError, match=r"line 32: weight='much' is not a number"):
        prepare(lines(tmp_path, "1,much"), None, str(tmp_path / "out"))


def test_a_row_that_is_left_out_needs_none(tmp_path):
    prepare(lines(tmp_path, ","), None, str(tmp_path / "out"))


def test_a_split_in_which_nothing_counts(tmp_path):
    schema = lines(tmp_path, *["1,0"] * 20)
    with pytest.raises(DataError, match="all rows of the valid split have the weight 0, so none counts"):
        prepare(schema, None, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_checked_before(tmp_path, capsys):
    assert "is no weight" in fails(capsys, "prepare", lines(tmp_path, "1,-3"), "--check", "--json")

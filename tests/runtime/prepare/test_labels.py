"""A schema's `labels`: a column each beside the rows' others, the same on Ray; and labels that are none."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.errors import ConfigError, DataError, InputError
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.commands import fails, printed
from tests.support.folders import files_below
from tests.support.labelled import LABELS, write_log

SMALL = {"rows_per_shard": 100, "row_group_rows": 37}


def rows_of(dataset):
    whole = pa.concat_tables([dataset.read_split(split) for split in SPLITS])
    return whole.to_pandas().sort_values("row_id").reset_index(drop=True)


def written(folder):
    return pd.concat([pd.read_csv(file) for file in sorted(folder.glob("*.csv"))], ignore_index=True)


def test_the_columns_are_the_logs(tmp_path):
    """And without them nothing else differs."""
    dataset = prepare(write_log(str(tmp_path / "log")), None, str(tmp_path / "out"), **SMALL)
    log, rows = written(tmp_path / "log"), rows_of(dataset)
    liked, paid = log["liked"].fillna(-1), np.where(log["paid"].isna(), -1, log["paid"] >= 0.01)
    assert rows["label_like"].tolist() == liked.tolist()
    assert rows["label_purchase"].tolist() == paid.tolist()
    assert rows["label_like"].dtype == np.int8
    assert dataset.labels == ("like", "purchase")
    for label in dataset.manifest["labels"]:
        for split in SPLITS:
            column = dataset.read_split(split).to_pandas()[f"label_{label['name']}"]
            assert label["known"][split] == (column >= 0).sum()
            assert label["positive"][split] == (column == 1).sum()
    without = prepare(write_log(str(tmp_path / "log2"), more=""), None, str(tmp_path / "without"), **SMALL)
    assert without.labels == ()
    assert "labels" not in without.manifest
    pd.testing.assert_frame_equal(rows.drop(columns=["label_like", "label_purchase"]), rows_of(without))


def test_rules(tmp_path):
    """As the click's; the click's own column will do, and so will words."""
    more = (
        "labels: {paid: {column: paid, positive_from: 5, missing: negative}, "
        "same: {column: click, positive: [1], unknown: [7]}}"
    )
    said = []
    schema = write_log(str(tmp_path / "log"), more=more)
    dataset = prepare(schema, None, str(tmp_path / "out"), progress=said.append)
    rows, log = rows_of(dataset), written(tmp_path / "log")
    assert rows["label_paid"].tolist() == (log["paid"] >= 5).tolist()
    assert rows["label_same"].tolist() == rows["label"].tolist()
    assert "warning: labels.same click: '7' never occurred; check unknown and positive" in said


def test_rows_are_appended_with_theirs(tmp_path):
    schema = write_log(str(tmp_path / "log"))
    file = tmp_path / "log" / "log-2.csv"
    later = file.read_text()
    file.unlink()
    prepare(schema, None, str(tmp_path / "out"), **SMALL)
    file.write_text(later)
    dataset = append(schema, None, str(tmp_path / "out"))
    rows, log = rows_of(dataset), written(tmp_path / "log")
    assert rows["label_like"].tolist() == log["liked"].fillna(-1).tolist()
    like = dataset.manifest["labels"][0]
    assert sum(like["known"].values()) == (rows["label_like"] >= 0).sum()
    assert sum(like["positive"].values()) == (rows["label_like"] == 1).sum()


@pytest.mark.ray
def test_on_ray_the_bytes_are_the_same(tmp_path, ray_session):
    schema = write_log(str(tmp_path / "log"))
    prepare(schema, None, str(tmp_path / "here"), **SMALL)
    prepare(schema, None, str(tmp_path / "ray"), runtime=RuntimeConfig(use_ray="always"), **SMALL)
    assert files_below(str(tmp_path / "here")) == files_below(str(tmp_path / "ray"))


def test_a_value_that_is_none(tmp_path):
    schema = write_log(str(tmp_path / "log"), rows=30, files=1)
    with open(tmp_path / "log" / "log-0.csv", "a") as stream:
        stream.write("red 0,1,red,1000000099,1,perhaps,0,1\n")
    with pytest.raises(DataError, match=r"line 32: liked='perhaps' is neither 0 nor 1"):
        prepare(schema, None, str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("positive_from: 99", "labels.x: of the 584 training rows that have it, none are positive"),
        ("positive_from: 0", "labels.x: of the 584 training rows that have it, all are positive"),
        ("unknown: [0, 1]", "labels.x: no training row has it, so none is positive"),
    ],
)
def test_a_label_from_which_nothing_is_learned(tmp_path, rule, said):
    column = "click" if "unknown" in rule else "paid"
    schema = write_log(str(tmp_path / "log"), more=f"labels: {{x: {{column: {column}, {rule}}}}}")
    with pytest.raises(DataError, match=said):
        prepare(schema, None, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "labels: {click: {column: liked}}",
            "labels.click: that is the name of `label` itself; give another",
        ),
        ("labels: {Like it: {column: liked}}", "Like it"),
        (
            "labels: {like: {column: genre}}",
            "labels.like: its column 'genre' is a field too: the model would",
        ),
        ("labels: {like: {colum: liked}}", "unknown key labels.like.colum; the nearest known key is column"),
        (
            "labels: {like: {column: liked, positive: [1], positive_from: 1}}",
            "are two rules; give one of them",
        ),
        (
            f"{LABELS}\nkeep_negatives: 0.5",
            "keep_negatives=0.5 with labels: rows left out by their click are",
        ),
    ],
)
def test_mistakes_in_a_schema(tmp_path, more, said):
    with pytest.raises(ConfigError) as raised:
        prepare(write_log(str(tmp_path / "log"), rows=30, more=more), None, str(tmp_path / "out"))
    assert said in str(raised.value)


def test_a_column_that_the_log_has_not(tmp_path):
    schema = write_log(str(tmp_path / "log"), rows=30, more="labels: {like: {column: loved}}")
    with pytest.raises(DataError, match="has no column 'loved', which the schema names"):
        prepare(schema, None, str(tmp_path / "out"))


def test_a_sample_by_the_click_is_none_of_the_others(tmp_path):
    schema = write_log(str(tmp_path / "log"), rows=30)
    with pytest.raises(InputError, match=r"keep_negatives=0\.5: .* has labels besides"):
        prepare(schema, None, str(tmp_path / "out"), keep_negatives=0.5)


def test_checked_before(tmp_path, capsys):
    schema = write_log(str(tmp_path / "log"))
    assert "label like: positive in 55.2% of the 426 rows that have it" in printed(
        capsys, "prepare", schema, "--check"
    )
    schema = write_log(str(tmp_path / "other"), more="labels: {like: {column: user}}")
    assert "user" in fails(capsys, "prepare", schema, "--check", "--json")

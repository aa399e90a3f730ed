"""Learned numbers: standardised as numpy standardises the training rows, by prepare as for new rows; and what
is refused.
"""

import csv
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from clickprompt.config import RuntimeConfig
from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.data.transform.row_transform import FieldRule, RowTransform
from clickprompt.errors import ConfigError, DataError
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.folders import files_below
from tests.support.numbers import write_log

SMALL = {"rows_per_shard": 100, "row_group_rows": 37}


def rows_of(dataset):
    whole = pa.concat_tables([dataset.read_split(split) for split in SPLITS]).to_pandas()
    return whole.sort_values("row_id")


def raw_rows(folder):
    rows = [row for file in sorted(folder.glob("log-*.csv")) for row in csv.DictReader(file.open())]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("more", ["", "keep_negatives: 0.5"])
def test_standardised_by_the_training_rows(tmp_path, more):
    schema = write_log(str(tmp_path / "log"), more=more)
    dataset = prepare(schema, None, str(tmp_path / "out"), **SMALL)
    assert dataset.numbers == (1, 3)
    rows, raw = rows_of(dataset), raw_rows(tmp_path / "log")
    train = dataset.read_split("train")["row_id"].to_numpy()
    for field, column in ((1, "price"), (3, "age")):
        numbers = pd.to_numeric(raw[column], errors="coerce").to_numpy()
        fitted = numbers[train][~np.isnan(numbers[train])]
        mean, deviation = dataset.manifest["transform"]["fields"][field]["scale"]
        assert (mean, deviation) == pytest.approx((fitted.mean(), fitted.std()), rel=1e-12)
        found = rows[f"n_{field:02d}"].to_numpy()
        expected = np.nan_to_num((numbers - mean) / deviation)[rows.row_id]
        assert found / 1e6 == pytest.approx(expected, abs=5.1e-7)
    assert (rows.f_price == 0).to_numpy().tolist() == (raw.price == "").to_numpy()[rows.row_id].tolist()
    dataset.verify()
    by_rule = RowTransform.of_dataset(dataset)(pa.Table.from_pandas(raw)).all_ids[rows.row_id]
    np.testing.assert_array_equal(by_rule, rows[dataset.id_columns].to_numpy())
    # a column of numbers is as a column of text
    typed = raw.assign(price=pd.to_numeric(raw.price, errors="coerce"), age=raw.age.astype(float))
    ids = RowTransform.of_dataset(dataset)(pa.Table.from_pandas(typed)).all_ids[rows.row_id]
    np.testing.assert_array_equal(ids, by_rule)


def test_all_else_is_as_without_them(tmp_path):
    learned = prepare(write_log(str(tmp_path / "log")), None, str(tmp_path / "learned"), **SMALL)
    plain_log = write_log(
        str(tmp_path / "plain"), price="kind: numeric, quantiles: 4", age="kind: numeric, edges: [30, 50]"
    )
    plain = prepare(plain_log, None, str(tmp_path / "without"), **SMALL)
    assert "numbers" not in plain.manifest
    assert all("scale" not in rule for rule in plain.manifest["transform"]["fields"])
    one, other = rows_of(plain), rows_of(learned)
    pd.testing.assert_frame_equal(one, other[one.columns])
    assert learned.manifest["fields"] == plain.manifest["fields"]
    rules = learned.manifest["transform"]["fields"]
    again = [FieldRule.from_json(rule).to_json() for rule in rules]
    assert json.loads(json.dumps(again)) == rules


@pytest.mark.ray
def test_on_ray_the_bytes_are_the_same(tmp_path, ray_session):
    schema = write_log(str(tmp_path / "log"))
    prepare(schema, None, str(tmp_path / "here"), **SMALL)
    prepare(schema, None, str(tmp_path / "ray"), runtime=RuntimeConfig(use_ray="always"), **SMALL)
    assert files_below(str(tmp_path / "here")) == files_below(str(tmp_path / "ray"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: numeric, quantiles: 4", "kind: categorical", "learned is for kind: numeric"),
        (", quantiles: 4", "", "a numeric field has one rule"),
        ("column: price", "column: items.price", "learned is for numbers of the log, and items.price is a"),
    ],
)
def test_schemas_that_make_no_sense(tmp_path, old, new, said):
    schema = tmp_path / "log" / "log.yaml"
    write_log(str(tmp_path / "log"), more="tables: {items: {data: items.csv, key: item}}")
    schema.write_text(schema.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=said):
        prepare(str(schema), None, str(tmp_path / "out"))


def test_what_is_refused(tmp_path):
    schema = write_log(str(tmp_path / "log"))
    prepare(schema, None, str(tmp_path / "out"), **SMALL)
    for file in (tmp_path / "log").glob("log-*.csv"):
        lines = file.read_text().splitlines()
        cells = [line.split(",") for line in lines[1:]]
        file.write_text("\n".join([lines[0], *(",".join([*row[:3], "7", *row[4:]]) for row in cells)]) + "\n")
    with pytest.raises(
        DataError, match="field Age: all numbers of training rows are the same; leave learned out"
    ):
        prepare(schema, None, str(tmp_path / "other"), **SMALL)

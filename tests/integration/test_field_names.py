"""Whatever a field is called: every cell of the prepared dataset, decoded, is the log's."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clickprompt.cli.main import main
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.log_rows import decoded_rows

NAMES = [
    ["genre", "user_id", "price"],  # as their columns
    ["Label", "Row ID", "Timestamp"],
    ["label", "row_id", "timestamp"],
    ["split_key", "order", "step"],
    ["weight", "group", "clicks"],
    ["file", "row", "logit"],
    ["key", "f_key", "log:key"],
    ["f", "F f", "f f f"],
    ["😀", "a 😀 b", "ü"],
    ["x" * 300, "x" * 301, "y" * 300],
    ["users", "user\u00a0id", "item.id"],
    ["1", "2", "3.5"],
    ["no", "yes", "null"],
    ["unknown", "epoch", "seed"],
]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0][:12])
def test_every_cell_is_the_logs(tmp_path, names):
    rng = np.random.default_rng(len(names[0]))
    frame = pd.DataFrame(
        {
            name: rng.choice([f"{name[:5]} {i}" for i in range(4 + number)], 60)
            for number, name in enumerate(names)
        }
    )
    frame["\u2603 clicked"], frame["\u2603 when"] = rng.integers(0, 2, 60), rng.permutation(60)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "log.parquet")
    schema = {
        "data": ["log.parquet"],
        "fields": [{"name": name, "column": name} for name in names],
        "label": {"column": "\u2603 clicked"},
        "timestamp": "\u2603 when",
    }
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema, allow_unicode=True))
    dataset = prepare(
        str(tmp_path / "schema.yaml"),
        None,
        str(tmp_path / "out"),
        rows_per_shard=16,
        row_group_rows=8,
        progress=lambda line: None,
    )
    assert dataset.field_names == names
    found = decoded_rows(dataset)
    assert {row: values for row, (_, values) in found.items()} == {
        row: tuple(values) for row, values in enumerate(frame[names].values.tolist())
    }
    assert {row: label for row, (label, _) in found.items()} == dict(
        enumerate(frame["\u2603 clicked"].tolist())
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["User ID", "user-id"], "the fields 'User ID' and 'user-id' differ in signs and cases only"),
        (["😀", "🎉"], "the fields '😀' and '🎉' differ in signs and cases only"),
        (["a", "a"], "two fields have the name 'a'"),
        (["a\nb", "c"], "is not a name for a field"),
        (["", "c"], "give text, not empty"),
        (["  ", "c"], "is not a name for a field"),
    ],
)
def test_names_that_would_be_one_column_are_refused(tmp_path, capsys, names, said):
    schema = {
        "data": ["log.csv"],
        "fields": [{"name": n, "column": f"c{i}"} for i, n in enumerate(names)],
        "label": {"column": "y"},
    }
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema, allow_unicode=True))
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", str(tmp_path / "schema.yaml"), "--out", str(tmp_path / "out")])
    [line] = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert said in line


def test_a_dataset_of_the_format_before_is_refused_with_the_remedy(tmp_path):
    from clickprompt.errors import DataError
    from tests.support.synthetic import write_dataset

    dataset = write_dataset(str(tmp_path / "d"))
    manifest = {**dataset.manifest, "format_version": 1}
    (tmp_path / "d" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        DataError, match="prepared with format 1, this clickprompt reads 2; run clickprompt prepare again"
    ):
        Dataset.open(dataset.uri)

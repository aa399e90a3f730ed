"""Rows that were shown together go to one split."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare

ROWS = 300


def write(folder, name, draw, **columns):
    """Rows of 60 requests, anywhere among each other, and 50 rows of none."""
    request = [f"{name}{number}" for number in draw.integers(60, size=ROWS - 50)] + [None] * 50
    request = columns.pop("request", pa.array(request).take(draw.permutation(ROWS)))
    values = {"item": draw.integers(9, size=ROWS), "click": draw.integers(2, size=ROWS), "request": request}
    pq.write_table(pa.table(values | columns), folder / f"{name}.parquet")


def prepared(folder, **schema):
    schema |= {"data": "*.parquet", "label": {"column": "click"}, "group": "request"}
    schema["fields"] = [{"name": column, "column": column} for column in ("item", "request")]
    (folder / "log.yaml").write_text(yaml.safe_dump(schema))
    return prepare(str(folder / "log.yaml"), None, str(folder / "d"), seed=5, row_group_rows=64)


def groups(dataset):
    return [dataset.read_split(split)["group"].to_numpy() for split in SPLITS]


def torn(found):
    """Count the groups that two splits have."""
    whole = np.concatenate([np.unique(group[group != -1]) for group in found])
    return len(whole) - len(np.unique(whole))


def test_a_hash_tears_no_request_of_any_file_nor_of_appended_ones(tmp_path):
    draw = np.random.default_rng(1)
    write(tmp_path, "a", draw)
    write(tmp_path, "b", draw, request=pa.array([f"a{number}" for number in draw.integers(60, size=ROWS)]))
    first = groups(prepared(tmp_path))
    write(tmp_path, "c", draw)
    second = groups(append(str(tmp_path / "log.yaml"), None, str(tmp_path / "d")))
    for found, rows in ((first, 2 * ROWS), (second, 3 * ROWS)):
        assert torn(found) == 0
        assert [
            abs(len(group) / rows - share) < 0.03 for group, share in zip(found, (0.8, 0.1, 0.1), strict=True)
        ]
        assert all((group == -1).any() for group in found)  # rows of no request are by themselves


def test_a_time_cuts_no_run_of_a_request(tmp_path):
    """All at one of two instants; requests of seven rows, one after the other."""
    request = pa.array([f"r{number // 7}" for number in range(ROWS)])
    draw = np.random.default_rng(1)
    write(tmp_path, "a", draw, request=request, time=[number // 210 for number in range(ROWS)])
    dataset = prepared(tmp_path, timestamp={"column": "time", "unit": "s"})
    assert torn(groups(dataset)) == 0
    assert dataset.counts == {"train": 238, "valid": 28, "test": 34}


def test_requests_that_lie_among_each_other_move_no_boundary(tmp_path):
    draw = np.random.default_rng(1)
    request = pa.array([f"r{number % 100}" for number in range(ROWS)])
    write(tmp_path, "a", draw, request=request, time=[number // 100 for number in range(ROWS)])
    assert prepared(tmp_path, timestamp={"column": "time", "unit": "s"}).counts == {
        "train": 240,
        "valid": 30,
        "test": 30,
    }

"""Made-up logs through `prepare` against pandas, and the dataset's transform on the log's own rows: exactly
the dataset's ids.
"""

from bisect import bisect_right

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.data.sources.file_options import file_format
from clickprompt.data.sources.reading import file_parts, find_files, read_rows
from clickprompt.data.sources.registry import get_source
from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.data.transform.values import hashes
from clickprompt.errors import DataError
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.prepare.tasks import _hash
from tests.support.naive_prepare import assert_equal, naive_prepare
from tests.support.random_logs import Number, random_log

FAST, ALL = 40, 1000


@pytest.mark.parametrize("seed", range(FAST))
@pytest.mark.sampled(10)
def test_a_random_log_equals_pandas(tmp_path, seed):
    check(tmp_path, seed)


@pytest.mark.parametrize("seed", range(4))
def test_a_random_log_equals_pandas_on_ray(ray_session, tmp_path, seed):
    check(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(FAST, ALL, 40))
def test_a_thousand_random_logs_equal_pandas(ray_session, tmp_path, block):
    for seed in range(block, min(block + 40, ALL)):
        check(tmp_path / str(seed), seed)


def check(folder, seed):
    log = random_log(seed, str(folder / "raw"))
    truth = log.truth
    if log.group is not None:
        truth["group"] = pd.Series(log.group, dtype=object)
    if log.split_by == "hash":
        numbers = np.arange(len(truth))
        if log.group is not None:
            known = hashes(pa.array(log.group, pa.string())).to_numpy()
            numbers = np.where(truth["group"].isna(), numbers, known)
        truth["split_key"] = _hash(8, 0, numbers)
    options = {"rows_per_shard": 40, "row_group_rows": 16, "progress": lambda line: None}
    if cannot_be_prepared(log):
        with pytest.raises(
            DataError,
            match=(
                r"rows are left|no user and item|is a click|are clicks|no row of the log has "
                r"a|can't be cut"
            ),
        ):
            prepare(log.schema, None, str(folder / "out"), **options)
        assert [entry.name for entry in folder.iterdir()] == ["raw"]
        return
    dataset = prepare(log.schema, None, str(folder / "out"), **options)
    _, left = naive_prepare(truth, k_core=log.k_core, split_by=log.split_by)
    buckets = {}
    for rule in dataset.manifest["transform"]["fields"]:
        name, edges = rule["schema"]["name"], rule["edges"]
        if edges is not None:
            assert len(edges) < rule["schema"]["quantiles"]
            truth[name] = [
                named(edges, value) if isinstance(value, Number) else value for value in truth[name]
            ]
            # in the order of the numbers that are left, or of the table
            buckets[name] = [
                *dict.fromkeys(named(edges, value) for value in log.tables.get(name, left[name]))
            ]
    splits, values = naive_prepare(truth, k_core=log.k_core, split_by=log.split_by)
    assert_equal(dataset, splits, values | log.tables | buckets)
    transform_gives_the_datasets_ids(log, dataset)


def cannot_be_prepared(log):
    """A split would be empty, there is one class only, a column never has a value, or quantiles no two
    numbers in training rows.
    """
    splits, _ = naive_prepare(log.truth, k_core=log.k_core, split_by=log.split_by)
    labels = np.concatenate([split["label"] for split in splits.values()])
    fields = log.truth[log.truth["label"].notna()].drop(
        columns=["label", *log.tables, *(["group"] if log.group is not None else [])]
    )
    with open(log.schema) as stream:
        cut = [field["name"] for field in yaml.safe_load(stream)["fields"] if "quantiles" in field]
    uncut = any(
        len({value for value in splits["train"][name] if isinstance(value, Number)}) < 2 for name in cut
    )
    return (
        min(map(len, splits.values())) == 0
        or len(set(labels)) < 2
        or (fields == "unknown").all().any()
        or uncut
    )


def named(edges, value):
    place = bisect_right(edges, value)
    if place == 0:
        return f"below {edges[0]:g}"
    return f"{edges[-1]:g} or more" if place == len(edges) else f"{edges[place - 1]:g} to {edges[place]:g}"


def transform_gives_the_datasets_ids(log, dataset):
    transform, source = RowTransform.of_dataset(dataset), get_source(log.schema, None)
    how = file_format(transform.options)
    found = []
    for uri in source.files():
        for file in find_files(uri, how):
            for part in file_parts(file, how):
                found += [
                    transform(rows, ("",)).field_ids for rows in read_rows(part, transform.columns, how)
                ]
    ids = np.concatenate(found)
    for split in SPLITS:
        rows = dataset.read_split(split)
        expected = np.stack([rows[column].to_numpy() for column in dataset.columns], axis=1)
        np.testing.assert_array_equal(ids[rows["row_id"].to_numpy()], expected)

"""A thousand made-up logs, each stored in one of the ways that its meaning can be: what is read is what was
meant.
"""

import math

import pytest

from clickprompt.data.sources.raw import table_key
from clickprompt.data.sources.registry import get_source
from clickprompt.data.transform.row_transform import KEY
from tests.support.random_logs import Number, random_log


def read(source):
    """label, timestamp and each field of all rows; of a joined field by its table."""
    source.raw_files()
    tables, found = source.tables(), {name: [] for name in ("label", "timestamp", *source.fields)}
    for part in source.parts():
        for rows in source.read_part(part):
            found["label"] += rows.label.to_pylist()
            found["timestamp"] += rows.timestamp.to_pylist()
            for name in source.fields:
                found[name] += (
                    rows.values[name].to_pylist()
                    if name in rows.values
                    else joined(rows, tables[table_key("things")], name)
                )
    return found


def joined(rows, table, name):
    by_key = dict(zip(table[KEY].to_pylist(), table[name].to_pylist(), strict=True))
    return [by_key.get(key) for key in rows.values[table_key("things")].to_pylist()]


@pytest.mark.parametrize("block", range(20))
@pytest.mark.sampled(5)
def test_what_is_read_is_what_was_meant(tmp_path, block):
    for seed in range(50 * block, 50 * block + 50):
        log = random_log(seed, str(tmp_path / str(seed)), prepared=False)
        found = read(get_source(log.schema, None))
        assert found.pop("label") == [None if math.isnan(label) else label for label in log.truth["label"]], (
            seed
        )
        assert found.pop("timestamp") == log.truth["timestamp"].tolist(), seed
        for name, values in found.items():
            meant = [None if value == "unknown" else value for value in log.truth[name]]
            if any(
                isinstance(value, Number) for value in meant
            ):  # in buckets only when the training rows are known
                values = [value if value is None else float(value) for value in values]
            assert values == meant, (seed, name)


@pytest.mark.slow
def test_the_thousand_logs_have_all_that_they_could(tmp_path):
    """Or the test above would pass for want of anything to read."""
    kinds, types, files = set(), set(), set()
    for seed in range(300):
        log = random_log(seed, str(tmp_path / str(seed)), prepared=False)
        source = get_source(log.schema, None)
        source.raw_files()
        for rule in source.rules():
            kinds |= {
                key
                for key, value in rule.schema.model_dump(exclude_defaults=True).items()
                if value is not None
            }
            types |= {*rule.kinds}
        files |= {name.split(".", 1)[1] for name in (uri.rsplit("/", 1)[-1] for uri in source.files())}
    assert {
        "edges",
        "round",
        "quantiles",
        "log",
        "separator",
        "take",
        "values",
        "max_characters",
        "type",
    } <= kinds
    assert {"integer", "float", "decimal", "text", "list"} <= types
    assert {"parquet", "csv", "csv.gz", "jsonl", "tsv"} <= files

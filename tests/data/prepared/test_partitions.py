"""Values divided by their hash: every one in one partition, wherever it stands."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickprompt.data.prepared import partitions
from clickprompt.data.prepared.partitions import IdPart, by_partition, ids_of, partition_of, partitions_for
from clickprompt.io import storage


@given(st.lists(st.text(max_size=5), max_size=30), st.integers(1, 7), st.integers(0, 5))
def test_a_value_has_one_partition_wherever_it_stands(values, partitions, skipped):
    array = pa.array(values, pa.string())
    alone = [int(partition_of(pa.array([value]), partitions)[0]) for value in values]
    assert partition_of(array, partitions).tolist() == alone
    assert partition_of(array.slice(skipped), partitions).tolist() == alone[skipped:]
    assert set(alone) <= set(range(partitions))
    found = by_partition(array, partitions)
    assert len(found) == partitions
    for partition, indices in enumerate(found):
        assert indices.tolist() == [index for index, one in enumerate(alone) if one == partition]


def test_long_texts_are_hashed_a_few_at_a_time(monkeypatch):
    """At once they would take many times their own memory."""
    values = pa.array(["x" * (3 * number % 70) + str(number) for number in range(200)])
    expected = partition_of(values, 7).tolist()
    sizes, hashes = [], partitions._hashes

    def noted(bounds, content):
        sizes.append(int(bounds[-1] - bounds[0]))
        return hashes(bounds, content)

    monkeypatch.setattr(partitions, "_BYTES", 100)
    monkeypatch.setattr(partitions, "_hashes", noted)
    assert partition_of(values, 7).tolist() == expected
    assert len(sizes) > 50
    assert max(sizes) < 100 + 73


@pytest.mark.parametrize("values", [[f"user-{n}" for n in range(70_000)], ["\0" * n for n in range(7_000)]])
def test_partitions_are_alike_in_size(values):
    sizes = np.bincount(partition_of(pa.array(values), 7), minlength=7)
    expected = len(values) / 7
    assert (abs(sizes - expected) < 5 * expected**0.5).all()


def test_there_are_as_many_as_the_rows_need():
    assert [partitions_for(rows) for rows in (0, 1, 1 << 22, (1 << 22) + 1, 20_122_040)] == [1, 1, 1, 2, 5]


def test_ids_come_from_the_partition_of_the_code(tmp_path):
    local = [[0, 1, 0, 2], [], [1, 2, 0]]
    parts, code, offset = [], 0, 0
    for number, ids in enumerate(local):
        uri = str(tmp_path / str(number))
        storage.write_bytes(uri, np.array(ids, dtype=np.int32).tobytes())
        parts.append(IdPart(uri, code, offset))
        code, offset = code + len(ids), offset + max(ids, default=0)
    codes = np.array([6, 0, 4, 3, 5, 1, 4], dtype=np.int32)
    assert ids_of(codes, parts).tolist() == [0, 0, 3, 2, 4, 1, 3]

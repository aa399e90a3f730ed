"""How a step's rows are divided into micro-batches: every row once, as many parts, and the fewest tokens."""

import itertools

import numpy as np
import pytest

from clickprompt.data.micro_batches import equal_in_rows, equal_in_tokens


def padded(lengths, parts):
    return [len(part) * max(int(lengths[part].max()), 1) for part in parts]


def least(lengths, number):
    """The smallest possible largest part, by trying every cut of the sorted rows into `number` parts."""
    lengths = np.sort(lengths)[::-1]
    cuts = itertools.combinations(range(1, len(lengths)), number - 1)
    return min(
        max(
            (stop - start) * max(int(lengths[start]), 1)
            for start, stop in itertools.pairwise((0, *cut, len(lengths)))
        )
        for cut in cuts
    )


@pytest.mark.parametrize("seed", range(20))
def test_largest_part_has_as_few_tokens_as_any_cut_gives(seed):
    draws = np.random.default_rng(seed)
    rows = int(draws.integers(1, 11))
    size = int(draws.integers(1, rows + 1))
    lengths = draws.integers(0, 40, rows)
    parts = equal_in_tokens(lengths, size)
    assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
    assert len(parts) == len(equal_in_rows(lengths, size)) == -(-rows // size)
    assert all(len(part) for part in parts)
    assert max(padded(lengths, parts)) == least(lengths, len(parts))


def test_real_lengths_need_less_at_the_peak():
    lengths = np.random.default_rng(0).lognormal(3.9, 0.35, 1024).astype(np.int64) + 10
    by_rows, by_tokens = equal_in_rows(lengths, 64), equal_in_tokens(lengths, 64)
    assert max(padded(lengths, by_tokens)) < 0.7 * max(padded(lengths, by_rows))
    assert len(by_tokens[0]) < 64 < len(by_tokens[-1])


def test_texts_of_one_length_and_no_texts_are_cut_by_rows():
    for lengths in (np.full(48, 9), np.zeros(48, dtype=np.int64)):
        parts = equal_in_tokens(lengths, 16)
        assert [part.tolist() for part in parts] == [part.tolist() for part in equal_in_rows(lengths, 16)]


def test_no_rows_no_parts():
    assert equal_in_tokens(np.array([], dtype=np.int64), 4) == equal_in_rows(np.array([]), 4) == []

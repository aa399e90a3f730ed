"""PA-MLM's masks: their rates, what they never touch, and that nothing but (seed, epoch, row_id, position) decides them."""

import numpy as np
import pytest

from clickprompt.data.keyed_random import random_bits, random_uniform
from clickprompt.data.masking import IGNORED, mask_tokens

SPECIAL, MASK, VOCABULARY = [0, 100, 101, 102, 103], 103, 1000
OPTIONS = {"seed": 5, "epoch": 2, "mask_rate": 0.15, "mask_id": MASK, "special_ids": SPECIAL, "vocab_size": VOCABULARY}


def rows_of_text(rows, width, seed=0):
    """[CLS] tokens [SEP] padding, of different lengths."""
    rng = np.random.default_rng(seed)
    ordinary = np.setdiff1d(np.arange(VOCABULARY), SPECIAL)
    input_ids = rng.choice(ordinary, (rows, width))
    lengths = rng.integers(3, width + 1, rows)
    attention_mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    input_ids[:, 0] = 101
    input_ids[np.arange(rows), lengths - 1] = 102
    input_ids[attention_mask == 0] = 0
    return input_ids, attention_mask, np.arange(rows) * 7


def test_rates_over_a_million_tokens_are_within_three_sigma():
    rng = np.random.default_rng(1)
    input_ids = rng.choice(np.setdiff1d(np.arange(VOCABULARY), SPECIAL), (20_000, 50))
    masked, labels = mask_tokens(input_ids, np.ones_like(input_ids), np.arange(20_000), **OPTIONS)
    target = labels != IGNORED

    def within(count, trials, rate):
        return abs(count - trials * rate) <= 3 * np.sqrt(trials * rate * (1 - rate))

    targets = int(target.sum())
    assert within(targets, input_ids.size, 0.15)
    is_mask, stays = masked[target] == MASK, masked[target] == input_ids[target]
    assert within(is_mask.sum(), targets, 0.8)
    by_chance = 0.1 / (VOCABULARY - len(SPECIAL))  # a random token may be the token itself
    assert within(stays.sum(), targets, 0.1 + by_chance)
    assert within((~is_mask & ~stays).sum(), targets, 0.1 - by_chance)
    counts = np.bincount(masked[target][~is_mask & ~stays], minlength=VOCABULARY)
    assert counts[SPECIAL].sum() == 0
    expected = counts.sum() / (VOCABULARY - len(SPECIAL))
    assert abs(np.delete(counts, SPECIAL) - expected).max() < 6 * np.sqrt(expected)
    by_position = target.mean(axis=0)
    assert abs(by_position - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / 20_000)


def test_special_tokens_and_padding_are_never_targets():
    input_ids, attention_mask, row_ids = rows_of_text(500, 30)
    masked, labels = mask_tokens(input_ids, attention_mask, row_ids, **(OPTIONS | {"mask_rate": 0.999}))
    untouchable = np.isin(input_ids, SPECIAL) | (attention_mask == 0)
    assert (labels[untouchable] == IGNORED).all()
    assert (masked[untouchable] == input_ids[untouchable]).all()
    assert (labels != IGNORED).sum() > 0.99 * (~untouchable).sum()
    target = labels != IGNORED
    assert (labels[target] == input_ids[target]).all()
    assert (masked[~target] == input_ids[~target]).all()


def test_masks_depend_on_neither_batch_nor_padding_nor_order():
    input_ids, attention_mask, row_ids = rows_of_text(64, 20)
    masked, labels = mask_tokens(input_ids, attention_mask, row_ids, **OPTIONS)
    order = np.random.default_rng(2).permutation(64)[:17]
    wider = [np.pad(array[order], ((0, 0), (0, 9))) for array in (input_ids, attention_mask)]
    masked_again, labels_again = mask_tokens(*wider, row_ids[order], **OPTIONS)
    np.testing.assert_array_equal(masked_again[:, :20], masked[order])
    np.testing.assert_array_equal(labels_again[:, :20], labels[order])
    assert (labels_again[:, 20:] == IGNORED).all()


@pytest.mark.parametrize("change", [{"seed": 6}, {"epoch": 3}])
def test_masks_change_with_seed_and_epoch(change):
    input_ids, attention_mask, row_ids = rows_of_text(64, 20)
    first, second = (mask_tokens(input_ids, attention_mask, row_ids, **(OPTIONS | c))[1] != IGNORED for c in ({}, change))
    both = (first & second).sum() / first.sum()
    assert both < 0.4  # independent masks share 15%


def test_input_is_left_alone_and_no_rows_are_no_problem():
    input_ids, attention_mask, row_ids = rows_of_text(8, 20)
    before = input_ids.copy()
    mask_tokens(input_ids, attention_mask, row_ids, **OPTIONS)
    np.testing.assert_array_equal(input_ids, before)
    masked, labels = mask_tokens(input_ids[:0], attention_mask[:0], row_ids[:0], **OPTIONS)
    assert masked.shape == labels.shape == (0, 20)


def test_splitmix64_gives_its_published_sequence():
    """State 1234567's outputs, as in the reference implementation's well-known test vector."""
    gamma = 0x9E3779B97F4A7C15
    states = [(1234567 + i * gamma) % 2**64 for i in range(3)]
    signed = np.array(states, dtype=np.uint64).view(np.int64)
    assert random_bits(signed).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keyed_bits_are_distinct_and_uniform():
    bits = random_bits(3, 9, np.arange(-5, 100_000))
    assert len(np.unique(bits)) == 100_005
    assert random_bits(1, 2)[0] != random_bits(2, 1)[0]
    uniform = random_uniform(3, 9, np.arange(100_000))
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(np.histogram(uniform, bins=20, range=(0, 1))[0] - 5000).max() < 5 * np.sqrt(5000)

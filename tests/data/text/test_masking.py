"""PA-MLM's masks: their rates, what they never touch, and that nothing but (seed, epoch, row_id, position or
field) decides them.
"""

import numpy as np
import pytest

from clickprompt.data.keyed_random import random_bits, random_uniform
from clickprompt.data.text.masking import IGNORED, mask_tokens, next_token_labels, restoring_labels

SPECIAL, MASK, VOCABULARY = [0, 100, 101, 102, 103], 103, 1000
OPTIONS = {
    "seed": 5,
    "epoch": 2,
    "mask_rate": 0.15,
    "mask_id": MASK,
    "special_ids": SPECIAL,
    "vocab_size": VOCABULARY,
}


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


def values_in(attention_mask, num_fields=6, seed=0):
    """value_fields: each row's text is segments of 1–3 template tokens and a value of 1–4, one value at a
    time.
    """
    rng = np.random.default_rng(seed)
    value_fields = np.full(attention_mask.shape, -1, dtype=np.int16)
    for row, length in enumerate(attention_mask.sum(axis=1)):
        place = 1
        for field in range(num_fields):
            place += rng.integers(1, 4)
            stop = min(place + rng.integers(1, 5), length - 1)
            value_fields[row, place:stop] = field
            place = stop
    return value_fields


def within(count, trials, rate):
    return abs(count - trials * rate) <= 3 * np.sqrt(trials * rate * (1 - rate))


@pytest.mark.parametrize("scope", ["tokens", "values", "field"])
def test_rates_over_a_million_tokens_are_within_three_sigma(scope):
    rng = np.random.default_rng(1)
    rows, width = (
        20_000,
        100 if scope == "values" else 50,
    )  # half the tokens are values': a million of what is drawn
    input_ids = rng.choice(np.setdiff1d(np.arange(VOCABULARY), SPECIAL), (rows, width))
    value_fields = np.broadcast_to(
        np.repeat(np.array([-1, 0, -1, 1, -1, 2, -1, 3, -1, 4], np.int16), width // 10), input_ids.shape
    )
    masked, labels = mask_tokens(
        input_ids,
        np.ones_like(input_ids),
        np.arange(rows),
        **OPTIONS,
        scope=scope,
        value_fields=None if scope == "tokens" else value_fields,
    )
    target = labels != IGNORED
    targets = int(target.sum())
    if scope == "field":
        whole = target[:, value_fields[0] >= 0].reshape(rows, 5, -1)
        assert (whole == whole[:, :, :1]).all()
        assert within(whole[:, :, 0].sum(), rows * 5, 0.15)
    else:
        assert within(targets, 1_000_000, 0.15)
    if scope != "tokens":
        assert not target[value_fields < 0].any()
    is_mask, stays = masked[target] == MASK, masked[target] == input_ids[target]
    assert within(is_mask.sum(), targets, 0.8)
    by_chance = 0.1 / (VOCABULARY - len(SPECIAL))  # a random token may be the token itself
    assert within(stays.sum(), targets, 0.1 + by_chance)
    assert within((~is_mask & ~stays).sum(), targets, 0.1 - by_chance)
    counts = np.bincount(masked[target][~is_mask & ~stays], minlength=VOCABULARY)
    assert counts[SPECIAL].sum() == 0
    expected = counts.sum() / (VOCABULARY - len(SPECIAL))
    assert abs(np.delete(counts, SPECIAL) - expected).max() < 6 * np.sqrt(expected)
    by_position = target.mean(axis=0)[value_fields[0] >= 0] if scope != "tokens" else target.mean(axis=0)
    assert abs(by_position - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / rows)


@pytest.mark.parametrize("scope", ["tokens", "values", "field"])
def test_special_tokens_and_padding_are_never_targets(scope):
    input_ids, attention_mask, row_ids = rows_of_text(500, 30)
    value_fields = values_in(attention_mask)
    input_ids[:, 5] = SPECIAL[1]  # as an unknown word inside a value
    masked, labels = mask_tokens(
        input_ids,
        attention_mask,
        row_ids,
        **(OPTIONS | {"mask_rate": 0.999}),
        scope=scope,
        value_fields=value_fields,
    )
    untouchable = np.isin(input_ids, SPECIAL) | (attention_mask == 0)
    if scope != "tokens":
        untouchable |= value_fields < 0
    assert (labels[untouchable] == IGNORED).all()
    assert (masked[untouchable] == input_ids[untouchable]).all()
    assert (labels != IGNORED).sum() > 0.99 * (~untouchable).sum()
    target = labels != IGNORED
    assert (labels[target] == input_ids[target]).all()
    assert (masked[~target] == input_ids[~target]).all()


@pytest.mark.parametrize("scope", ["tokens", "values", "field"])
def test_text_of_special_tokens_only_has_no_targets(scope):
    input_ids, attention_mask = np.full((3, 2), SPECIAL[1]), np.ones((3, 2), dtype=np.int64)
    value_fields = np.full((3, 2), -1, dtype=np.int16)
    masked, labels = mask_tokens(
        input_ids,
        attention_mask,
        np.arange(3),
        **(OPTIONS | {"mask_rate": 0.999}),
        scope=scope,
        value_fields=value_fields,
    )
    assert (labels == IGNORED).all()
    np.testing.assert_array_equal(masked, input_ids)
    assert (restoring_labels(input_ids, attention_mask, SPECIAL) == IGNORED).all()
    assert (next_token_labels(input_ids, attention_mask, SPECIAL) == IGNORED).all()


def test_scope_tokens_draws_what_it_always_drew():
    """Masks of a seed are part of what makes a run repeatable: this sum was taken before there were
    scopes.
    """
    input_ids, attention_mask, row_ids = rows_of_text(64, 20)
    masked, labels = mask_tokens(input_ids, attention_mask, row_ids, **OPTIONS)
    weights = np.arange(1, masked.size + 1).reshape(masked.shape)
    assert int((masked * weights).sum() + (labels * weights * 3).sum()) == 25943728


def test_scope_values_masks_the_same_tokens_as_scope_tokens_where_they_are_values():
    input_ids, attention_mask, row_ids = rows_of_text(300, 30)
    value_fields = values_in(attention_mask)
    of_tokens = mask_tokens(input_ids, attention_mask, row_ids, **OPTIONS)
    of_values = mask_tokens(
        input_ids, attention_mask, row_ids, **OPTIONS, scope="values", value_fields=value_fields
    )
    is_value = value_fields >= 0
    for some, all_of_them, otherwise in zip(
        of_values, of_tokens, (input_ids, np.full_like(input_ids, IGNORED)), strict=True
    ):
        np.testing.assert_array_equal(some, np.where(is_value, all_of_them, otherwise))


def test_scope_field_masks_whole_values_and_a_token_loop_agrees():
    input_ids, attention_mask, row_ids = rows_of_text(300, 30)
    value_fields = values_in(attention_mask)
    masked, labels = mask_tokens(
        input_ids,
        attention_mask,
        row_ids,
        **OPTIONS,
        scope="field",
        value_fields=value_fields,
        always_mask=True,
    )
    values = chosen = 0
    for row in range(300):
        for field in range(6):
            places = np.flatnonzero(value_fields[row] == field)
            if not len(places):
                continue
            is_target = labels[row, places] != IGNORED
            assert is_target.all() or not is_target.any()
            values, chosen = values + 1, chosen + is_target[0]
            if is_target.all():
                assert (masked[row, places] == MASK).all()
    assert within(chosen, values, 0.15)
    assert (labels[value_fields < 0] == IGNORED).all()


@pytest.mark.parametrize("scope", ["tokens", "values", "field"])
def test_always_mask_keeps_the_targets_and_replaces_every_one(scope):
    input_ids, attention_mask, row_ids = rows_of_text(300, 30)
    options = OPTIONS | {"scope": scope, "value_fields": values_in(attention_mask)}
    _, labels = mask_tokens(input_ids, attention_mask, row_ids, **options)
    masked, always = mask_tokens(input_ids, attention_mask, row_ids, **options, always_mask=True)
    np.testing.assert_array_equal(labels, always)
    np.testing.assert_array_equal(masked, np.where(labels != IGNORED, MASK, input_ids))


@pytest.mark.parametrize("with_values", [False, True])
def test_next_token_labels_equal_a_loop(with_values):
    input_ids, attention_mask, _ = rows_of_text(60, 25)
    input_ids[:, 7] = SPECIAL[1]
    value_fields = values_in(attention_mask) if with_values else None
    labels = next_token_labels(input_ids, attention_mask, SPECIAL, value_fields)
    for row in range(60):
        for place in range(25):
            after = (row, place + 1)
            is_text = place + 1 < 25 and attention_mask[after] and input_ids[after] not in SPECIAL
            is_target = is_text and (value_fields is None or value_fields[after] >= 0)
            assert labels[row, place] == (input_ids[after] if is_target else IGNORED)
    assert next_token_labels(input_ids[:0], attention_mask[:0], SPECIAL).shape == (0, 25)


def test_restoring_labels_are_all_of_the_text():
    input_ids, attention_mask, _ = rows_of_text(60, 25)
    labels = restoring_labels(input_ids, attention_mask, SPECIAL)
    for row in range(60):
        for place in range(25):
            is_text = attention_mask[row, place] and input_ids[row, place] not in SPECIAL
            assert labels[row, place] == (input_ids[row, place] if is_text else IGNORED)


@pytest.mark.parametrize("scope", ["tokens", "values", "field"])
def test_masks_depend_on_neither_batch_nor_padding_nor_order(scope):
    input_ids, attention_mask, row_ids = rows_of_text(64, 20)
    value_fields = values_in(attention_mask)
    masked, labels = mask_tokens(
        input_ids, attention_mask, row_ids, **OPTIONS, scope=scope, value_fields=value_fields
    )
    order = np.random.default_rng(2).permutation(64)[:17]
    wider = [np.pad(array[order], ((0, 0), (0, 9))) for array in (input_ids, attention_mask)]
    values = np.pad(value_fields[order], ((0, 0), (0, 9)), constant_values=-1)
    masked_again, labels_again = mask_tokens(
        *wider, row_ids[order], **OPTIONS, scope=scope, value_fields=values
    )
    np.testing.assert_array_equal(masked_again[:, :20], masked[order])
    np.testing.assert_array_equal(labels_again[:, :20], labels[order])
    assert (labels_again[:, 20:] == IGNORED).all()
    assert (labels != IGNORED).any()


@pytest.mark.parametrize("scope", ["tokens", "values", "field"])
@pytest.mark.parametrize("change", [{"seed": 6}, {"epoch": 3}])
def test_masks_change_with_seed_and_epoch(change, scope):
    input_ids, attention_mask, row_ids = rows_of_text(64, 20)
    options = OPTIONS | {"scope": scope, "value_fields": values_in(attention_mask)}
    first, second = (
        mask_tokens(input_ids, attention_mask, row_ids, **(options | c))[1] != IGNORED for c in ({}, change)
    )
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

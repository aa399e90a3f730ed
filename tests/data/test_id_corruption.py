"""Hidden and replaced ids: what the tower sees, which cells are targets, and that draws follow keys alone."""

import numpy as np
import pytest

from clickprompt.config import MaskingConfig, PretrainConfig
from clickprompt.data.id_corruption import IdCorruption

COUNTS = [np.array([50, 400, 100, 0, 500]), np.array([0, *range(1, 21)]), np.array([9])]
ROWS = 4000


def corruption(hide_ids=0.0, **pretrain):
    masking = MaskingConfig(mask_rate=0.3, hide_ids=hide_ids)
    return IdCorruption(COUNTS, masking, PretrainConfig(**pretrain), seed=3)


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    ids = np.stack([generator.integers(0, len(count), ROWS) for count in COUNTS], axis=1)
    masked = generator.random(ids.shape) < 0.3
    return ids, np.arange(ROWS), np.arange(ROWS) % 50 > 0, masked


def apply(draws, rows, part=slice(None), epoch=1):
    ids, row_ids, real, masked = (values[part] for values in rows)
    in_text = np.ones_like(masked)
    return draws.apply(ids, ids, row_ids, real, epoch, masked=masked, in_text=in_text)


def test_hidden_values_are_a_share_of_the_masked_ones(rows):
    ids, _, _, masked = rows
    found = apply(corruption(hide_ids=0.4), rows)
    changed = found.field_ids != ids
    assert not changed[~masked].any()
    assert (found.field_ids[changed] == 0).all()
    share = changed[masked & (ids > 0)].mean()
    assert share == pytest.approx(0.4, abs=0.04)
    assert not found.id_targets.any()
    assert not found.text_id_targets.any()


def test_replaced_values_come_by_their_frequency_in_training(rows):
    ids, _, real, masked = rows
    found = apply(corruption(hide_ids=0.5, id_objective="replaced", id_rate=0.5), rows)
    changed = found.field_ids != ids
    hidden = changed & masked
    assert (found.field_ids[hidden] == 0).all()
    replaced = changed & ~masked
    assert (found.field_ids[replaced] > 0).all()
    # Every known value that the tower sees, replaced or not, is a target; padding and unknown values aren't
    assert (found.id_targets == (real[:, None] & (ids > 0) & ~hidden)).all()
    corrupted = replaced[:, 0] & (ids[:, 0] == 3)  # never its own replacement, for training never has it
    shares = np.bincount(found.field_ids[corrupted, 0], minlength=5) / corrupted.sum()
    assert shares == pytest.approx([0, 0.4, 0.1, 0, 0.5], abs=0.06)
    assert (~masked & (ids[:, [0]] == 3))[:, 0].sum() * 0.5 == pytest.approx(corrupted.sum(), rel=0.15)


def test_masked_values_are_restored_and_so_is_what_the_text_shows(rows):
    ids, _, real, masked = rows
    found = apply(corruption(hide_ids=0.5, id_objective="masked", id_rate=0.2, text_id_weight=1), rows)
    changed = found.field_ids != ids
    assert (found.field_ids[changed] == 0).all()
    assert (found.id_targets == (changed & real[:, None])).all()
    assert (found.text_id_targets == (changed & ~masked & real[:, None])).all()
    assert changed[~masked & (ids > 0)].mean() == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("objective", ["replaced", "masked"])
def test_draws_follow_rows_and_epochs_alone(rows, objective):
    draws = corruption(hide_ids=0.5, id_objective=objective, text_id_weight=1)
    whole = apply(draws, rows)
    for part in (slice(7, 8), slice(None, None, -3)):
        some = apply(draws, rows, part)
        for name in ("field_ids", "id_targets", "text_id_targets"):
            assert (getattr(some, name) == getattr(whole, name)[part]).all(), name
    assert (apply(draws, rows, epoch=2).field_ids != whole.field_ids).any()


def test_candidates_are_all_values_of_training_or_drawn_ones():
    draws = corruption(id_objective="masked", id_candidates=10)
    first, again, other = draws.candidates(4), draws.candidates(4), draws.candidates(5)
    assert (first.ids == again.ids).all()
    assert first.ids[first.fields == 0].tolist() == [1, 2, 4]
    assert (first.log_q[first.fields == 0] == 0).all()
    drawn = first.ids[first.fields == 1]
    assert len(drawn) == 10
    assert (drawn != other.ids[other.fields == 1]).any()
    assert not (first.fields == 2).any()
    # log Q of a drawn value: how often it is expected among the candidates
    np.testing.assert_allclose(np.exp(first.log_q[first.fields == 1]), 10 * drawn / 210, rtol=1e-6)
    ids = np.array([[1, 20, 0], [4, 1, 0]])
    np.testing.assert_allclose(np.exp(draws.log_q(ids)), [[1, 200 / 210, 1], [1, 10 / 210, 1]], rtol=1e-6)
    counts = np.bincount(
        np.concatenate([(c := draws.candidates(step)).ids[c.fields == 1] for step in range(2000)])
    )
    np.testing.assert_allclose(counts / 20_000, COUNTS[1] / 210, atol=0.006)


def test_no_draws_where_nothing_is_corrupted(tmp_path):
    settings = PretrainConfig(), MaskingConfig()
    assert IdCorruption.of(None, settings[1], settings[0], 0) is None

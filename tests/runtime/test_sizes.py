"""A pipeline's sizes: within the time given, none too small to mean anything, whole where time suffices."""

import itertools

import pytest

from clickprompt.errors import ConfigError
from clickprompt.runtime.pipeline.sizes import FEWEST_STEPS, Pace, fit

MINUTE = 60.0


def paces(start: float = 5.0, plm_step: float = 0.3, validation: float = 20.0) -> dict[str, Pace]:
    return {
        "pretrain": Pace(2000, 0.4, 3, start),
        "scratch": Pace(1200, 0.01, 1, start, 0.5, 0.5),
        "without": Pace(1200, 0.01, 1, start, 0.5, 0.5),
        "with": Pace(1200, plm_step, 3, start, validation, validation, optional=True),
    }


@pytest.mark.parametrize(
    ("minutes", "start", "plm_step", "validation"),
    itertools.product([2, 5, 10, 30, 90, 600], [2.0, 15.0], [0.05, 0.3, 5.0], [0.1, 20.0, 400.0]),
)
def test_all_that_is_trained_fits_and_has_a_meaning(minutes, start, plm_step, validation):
    given = paces(start, plm_step, validation)
    sizes = fit(given, minutes * MINUTE)
    assert {"pretrain", "scratch", "without"} <= sizes.keys()
    assert sum(size.seconds for size in sizes.values()) <= minutes * MINUTE + 1e-6
    for name, size in sizes.items():
        pace = given[name]
        assert FEWEST_STEPS <= size.steps <= pace.steps
        fixed = pace.start + pace.evaluation + size.steps * pace.step
        if not pace.validation:
            assert size.validate_every is None
            assert size.seconds == pytest.approx(fixed)
            continue
        assert size.validate_every is not None
        validations = -(-size.steps // size.validate_every)
        assert 1 <= validations <= 20
        assert size.seconds == pytest.approx(fixed + validations * pace.validation)


def test_more_minutes_never_give_fewer_steps():
    before: dict[str, int] = {}
    for minutes in range(2, 60):
        now = {name: size.steps for name, size in fit(paces(), minutes * MINUTE).items()}
        if now.keys() == before.keys():
            assert all(now[name] >= steps * 0.99 for name, steps in before.items()), minutes
        before = now
    assert before.keys() == paces().keys()
    assert now == {name: pace.steps for name, pace in paces().items()}


def test_time_that_one_stage_does_not_need_goes_to_the_others():
    alone = fit({"pretrain": paces()["pretrain"]}, 300.0)["pretrain"].steps
    beside_small = fit({"pretrain": paces()["pretrain"], "small": Pace(30, 0.01, 7, 1.0)}, 300.0)
    assert beside_small["small"].steps == 30
    assert beside_small["pretrain"].steps == pytest.approx(alone - 1.3 / 0.4, abs=1)


def test_what_may_be_left_out_is_left_out_first_and_the_rest_is_refused_with_a_time_that_is_enough():
    assert "with" not in fit(paces(validation=1000.0), 5 * MINUTE)
    with pytest.raises(
        ConfigError, match=r"pipeline.minutes: 0.2 are left.* give about (\d+) more"
    ) as refused:
        fit(paces(), 12.0)
    more = int(str(refused.value).rpartition("about ")[2].split()[0])
    assert fit(paces(), 12.0 + more * MINUTE)


def test_without_a_limit_all_steps_are_taken():
    sizes = fit(paces(), None)
    assert {name: size.steps for name, size in sizes.items()} == {
        name: pace.steps for name, pace in paces().items()
    }


def test_a_stage_with_fewer_steps_than_the_fewest_keeps_them():
    assert fit({"small": Pace(7, 1.0, 1, 1.0, 2.0, 2.0)}, 1000.0)["small"].steps == 7

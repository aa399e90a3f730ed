import heapq
import random

import pytest

from clickprompt.tuning.halving import Rungs


def test_compared_at_rungs_with_those_that_started_earlier():
    rungs = Rungs(grace=1, factor=2, apart=1)
    assert rungs.goes_on(0, 1, 0.70), "the first has nobody before it"
    assert rungs.goes_on(1, 1, 0.75)
    assert not rungs.goes_on(2, 1, 0.72), "below the median of 0.70 and 0.75"
    assert rungs.goes_on(3, 1, 0.74)
    assert rungs.goes_on(0, 2, 0.80)
    assert not rungs.goes_on(1, 2, 0.79)
    assert rungs.goes_on(0, 3, 0.10), "3 is no rung"
    assert rungs.goes_on(0, 4, 0.10), "4 is one, and nobody was there"


def test_the_first_comparison_is_after_the_grace_period():
    rungs = Rungs(grace=3, factor=4, apart=1)
    for validations in range(1, 12):
        rungs.goes_on(0, validations, 0.9)
    assert [validations for validations in range(1, 12) if not rungs.goes_on(1, validations, 0.1)] == [3]


@pytest.mark.parametrize("apart", [1, 2, 4])
def test_who_is_a_little_faster_of_those_that_run_at_a_time_changes_nothing(apart):
    """Trials as a sweep runs them: `apart` at a time, the next one when one is over; every validation takes
    about as long.
    """

    def stopped(seed):
        pace = random.Random(seed)
        rungs, left, gone = Rungs(1, 2, apart), list(range(16)), set()
        running = []  # (when its next validation is there, place, which one that is)
        now = 0.0
        while left or running:
            while left and len(running) < apart:
                heapq.heappush(running, (now + 0.5 + pace.uniform(0.9, 1.1), left.pop(0), 1))
            now, place, number = heapq.heappop(running)
            goes_on = rungs.goes_on(place, number, random.Random(place).random() * 0.1 + 0.01 * number)
            if goes_on and number < 4:
                heapq.heappush(running, (now + pace.uniform(0.9, 1.1), place, number + 1))
            elif not goes_on:
                gone.add((place, number))
        return gone

    assert len(stopped(0)) > 4
    assert all(stopped(seed) == stopped(0) for seed in range(1, 50))

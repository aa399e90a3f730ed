"""Decide which trials of a sweep go on, by asynchronous successive halving (ASHA, Li et al. 2020) in a
repeatable form.
"""

import math

import numpy as np

__all__ = ["Rungs"]


class Rungs:
    """Decisions after `grace`, grace × factor, grace × factor², … validations: a trial goes on if it is among
    the best 1/factor of the earlier ones.

    The earlier ones are trials that started at least `apart` places (the number that run at a time) before
    it. Ray's ASHAScheduler takes those that got there first; among trials that run side by side that is
    chance, and the same sweep, or one that was killed and continued, would stop other trials. Ray's also
    remembers its rungs only in pickles.
    """

    def __init__(self, grace: int, factor: float, apart: int):
        self._grace, self._factor, self._apart = grace, factor, apart
        # validations → place in the order of starting → AUC
        self._rungs: dict[int, dict[int, float]] = {}

    def goes_on(self, place: int, validations: int, auc: float) -> bool:
        """Return whether the trial goes on after so many validations, the last of which found `auc`."""
        if not self._is_rung(validations):
            return True
        rung = self._rungs.setdefault(validations, {})
        rung[place] = auc
        before = [value for other, value in rung.items() if other <= place - self._apart]
        return not before or auc >= float(np.percentile(before, 100 * (1 - 1 / self._factor)))

    def _is_rung(self, validations: int) -> bool:
        exponent = 0
        while (rung := math.ceil(self._grace * self._factor**exponent)) < validations:
            exponent += 1
        return rung == validations

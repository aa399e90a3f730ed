"""Which trials of a sweep go on: asynchronous successive halving (ASHA, Li et al. 2020), decided so that it
can be repeated.
"""

import math

import numpy as np

__all__ = ["Rungs"]


class Rungs:
    """A trial is looked at after `grace`, grace × factor, grace × factor², … validations: it goes on where it
    is among the best 1/factor of those that were there before.

    Those before are trials that started at least `apart` (as many as run at a time) places earlier, and not,
    as in Ray's ASHAScheduler, whoever got there first: of trials that run side by side that is chance, and
    the same sweep, or one that was killed and goes on, would stop others. Nor does Ray's remember its rungs
    without pickles.
    """

    def __init__(self, grace: int, factor: float, apart: int):
        self._grace, self._factor, self._apart = grace, factor, apart
        self._rungs: dict[int, dict[int, float]] = {}  # validations → place in the order of starting → AUC

    def goes_on(self, place: int, validations: int, auc: float) -> bool:
        """After so many validations, of which the last one found `auc`."""
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

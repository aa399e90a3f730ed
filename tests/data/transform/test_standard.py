"""Learned numbers as numpy standardises them."""

import numpy as np
import pyarrow as pa
import pytest

from clickprompt.data.transform.standard import Scale, standardised


def test_as_numpy_does():
    numbers = np.random.default_rng(0).lognormal(3, 2, 500)
    scale = Scale(float(numbers.mean()), float(numbers.std()))
    found = standardised(pa.array(numbers), scale)
    assert found.dtype == np.int64
    assert found / 1e6 == pytest.approx((numbers - numbers.mean()) / numbers.std(), abs=5e-7)
    assert found.mean() / 1e6 == pytest.approx(0, abs=1e-6)
    assert found.std() / 1e6 == pytest.approx(1, abs=1e-6)


def test_missing_and_far_away():
    found = standardised(pa.array([None, 7.0, 9.0, 1e300, -1e300]), Scale(7.0, 2.0))
    assert found.tolist() == [0, 0, 1_000_000, 2_000_000_000, -2_000_000_000]
    assert (found.astype(np.int32) == found).all()

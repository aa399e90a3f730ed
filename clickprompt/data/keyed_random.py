"""Random bits as a pure function of integer keys, vectorised. There is no generator state, so neither order
nor batching can matter.

The mixer is splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
"""

import numpy as np

__all__ = ["random_bits", "random_uniform"]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _splitmix64(state: np.ndarray) -> np.ndarray:
    """Apply one step of splitmix64, a bijection of uint64."""
    state = state + _GAMMA
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def random_bits(*keys: int | np.ndarray) -> np.ndarray:
    """Return uint64 of the keys' broadcast shape, a different value for every order of the same keys.

    With all keys but the last one fixed, this is a bijection of the last key: no two of its values give the
    same bits.
    """
    state = np.zeros((1,), dtype=np.uint64)
    for key in keys:
        # int64 → uint64 keeps negative keys (padding rows have row_id -1) distinct instead of failing
        state = _splitmix64(state ^ np.asarray(key).astype(np.int64).view(np.uint64))
    return state


def random_uniform(*keys: int | np.ndarray) -> np.ndarray:
    """Return float64 in [0, 1) of the keys' broadcast shape."""
    return (random_bits(*keys) >> np.uint64(11)) * 2.0**-53

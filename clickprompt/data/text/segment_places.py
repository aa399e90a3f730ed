"""Where the tokens of segments are: in a token table, and in a row of a batch.

Shape legend: B rows, F segments of a row.
"""

import numpy as np

__all__ = ["between", "kept_segments", "places"]


def places(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the places of parts' tokens, one part after the other: `counts` from `starts` on, any shape."""
    flat = counts.ravel()
    # the k-th token of all is k − (tokens of the parts before its own) places after its part's start
    return np.repeat(starts.ravel() - (np.cumsum(flat) - flat), flat) + np.arange(int(flat.sum()))


def between(starts: np.ndarray, ends: np.ndarray, width: int) -> np.ndarray:
    """Return [B, width] bool: the positions from `starts` [B] up to `ends` [B]."""
    positions = np.arange(width)
    return (positions >= starts[:, None]) & (positions < ends[:, None])


def kept_segments(lengths: np.ndarray, limit: int) -> np.ndarray:
    """Return [B, F] bool: which segments of `lengths` [B, F] tokens stay so that each row has at most `limit`
    tokens.

    A row that is too long loses its longest segment, the earlier of two equal ones, until it fits; the last
    field goes last.
    """
    kept = np.ones(lengths.shape, dtype=bool)
    over = np.flatnonzero(lengths.sum(axis=1) > limit)
    if len(over):
        rows = lengths[over]
        order = np.argsort(-rows[:, :-1], axis=1, kind="stable")  # the fields in the order in which they go
        order = np.concatenate([order, np.full((len(over), 1), rows.shape[1] - 1)], axis=1)
        ordered = np.take_along_axis(rows, order, axis=1)
        before = np.cumsum(ordered, axis=1) - ordered  # tokens already gone when a field's turn comes
        goes = rows.sum(axis=1, keepdims=True) - before > limit
        lost = np.zeros_like(goes)
        np.put_along_axis(lost, order, goes, axis=1)
        kept[over] = ~lost
    return kept

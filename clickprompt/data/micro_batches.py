"""Divide a worker's rows into the micro-batches of a step.

A micro-batch is padded to its longest text, so rows are sorted by length first: texts of like length come
together. The number of micro-batches follows from the number of rows alone, as every worker must have as
many.
"""

import numpy as np

__all__ = ["equal_in_rows", "equal_in_tokens"]


def equal_in_rows(lengths: np.ndarray, rows: int) -> list[np.ndarray]:
    """Cut the rows, longest first, into ⌈B / rows⌉ parts of `rows` rows each; lengths [B]: tokens of each.

    Returns the rows' numbers in `lengths`, part by part.
    """
    order = _longest_first(lengths)
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def equal_in_tokens(lengths: np.ndarray, rows: int) -> list[np.ndarray]:
    """Cut the rows, longest first, into as many parts as `equal_in_rows`, so that the largest of them has as
    few tokens, padding included, as it can: parts of few long texts and of many short ones.
    """
    order = _longest_first(lengths)
    tokens = np.maximum(lengths[order], 1).tolist()
    number = -(-len(order) // rows)
    low, high = 1, max(tokens, default=1) * rows  # which is enough for parts of equal rows
    while low < high:
        most = (low + high) // 2
        if len(_starts(tokens, most, number)) <= number:
            high = most
        else:
            low = most + 1
    parts = np.split(order, _starts(tokens, low, number)[1:])
    while len(parts) < number:  # fewer parts held all rows
        largest = max(range(len(parts)), key=lambda part: len(parts[part]))
        parts[largest : largest + 1] = np.array_split(parts[largest], 2)
    return parts if len(order) else []


def _longest_first(lengths: np.ndarray) -> np.ndarray:
    # Stable, so that the parts are the same wherever it runs
    return np.argsort(-lengths, kind="stable")


def _starts(tokens: list[int], most: int, number: int) -> list[int]:
    """Return where parts of at most `most` tokens begin, tokens falling: `number` + 1 of them at most."""
    starts, at = [], 0
    while at < len(tokens) and len(starts) <= number:
        if tokens[at] > most:  # not even one row fits
            return list(range(number + 1))
        starts.append(at)
        at += most // tokens[at]
    return starts

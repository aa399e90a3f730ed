"""Sums of attention over the prompts (Table 7) and the figures made of them; scoring/attention.py measures
it.

Shape legend: F fields, L layers, K prompts per layer.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["AttentionSums", "summarise_attention"]


@dataclass(frozen=True)
class AttentionSums:
    """Sums over rows: `weights` [F, L, K], and how many `rows` [F] have a token of the masked field."""

    weights: np.ndarray
    rows: np.ndarray

    def __add__(self, other: "AttentionSums") -> "AttentionSums":
        return AttentionSums(self.weights + other.weights, self.rows + other.rows)


def summarise_attention(sums: AttentionSums, field_names: list[str]) -> dict[str, dict[str, Any]]:
    """Return per field: "rows"; "scores" [K] of the last layer (Table 7), which sum to 1; "layers" [L, K]
    likewise; "on_prompts" [L], the share of all attention that goes to prompts. A field of which no row has a
    token is left out.
    """
    figures = {}
    for name, weights, rows in zip(field_names, sums.weights, sums.rows, strict=True):
        if rows:
            layers = weights / weights.sum(axis=1, keepdims=True)
            figures[name] = {
                "rows": int(rows),
                "scores": layers[-1].tolist(),
                "layers": layers.tolist(),
                "on_prompts": (weights.sum(axis=1) / rows).tolist(),
            }
    return figures

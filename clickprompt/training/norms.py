"""How large the CTR tower's weights are, as a run begins and ends, beside fresh ones (result.json's `norms`).

Pretrained weights may be many times as large as fresh ones. Then they train and overfit at another pace, and
the regularisation that suits fresh ones doesn't suit them. A table's figure is, by field, the standard
deviation σ of training/init_parts.py, over the values that training rows of this dataset have (of sharded
tables, those that worker 0 keeps); a matrix's is its root mean square. Biases and norms aren't shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clickprompt.models.layers import ALL_ROWS
from clickprompt.training.init_parts import chosen_rows, deviations

__all__ = ["FACTOR", "Norms", "far_from_fresh"]

FACTOR = 3.0
"""how many times as large or as small as fresh ones copied weights may be before a run warns of them"""
_ENTRIES = 32  # the deviation of fewer random numbers may be far off by chance
_SHOWN = 4  # names in a warning

Figures = dict[str, Any]
"""{"tables": {table: {field: σ}}, "tower": {matrix: rms}}"""


class Norms:
    """The figures of one run."""

    def __init__(
        self,
        fresh: Mapping[str, Tensor],
        tables: Sequence[str],
        field_names: Sequence[str],
        trained: Sequence[NDArray[np.bool_]],
        rows: slice = ALL_ROWS,
    ) -> None:
        """fresh: the model's tensors by name, before anything is copied into them; `tables` are those with a
        row per feature value; trained: [size] per field; rows: those that the model has of its tables.
        """
        self._tables, self._field_names, self._rows = tables, field_names, rows
        self._trained = chosen_rows(trained, rows)
        self._fresh = self._start = self._figures(fresh)
        self._widths = {name: fresh[name].shape[1] for name in tables}

    def begin(self, start: Mapping[str, Tensor]) -> None:
        """Take the tensors that the run begins with."""
        self._start = self._figures(start)

    def end(self, weights: Mapping[str, Tensor]) -> Figures:
        """Return all figures, each as {"fresh", "start", "end"}; `weights` are those of the run's export."""
        last = self._figures({**weights, **{name: weights[name][self._rows] for name in self._tables}})

        def joined(fresh: Any, start: Any, end: Any) -> Any:
            if isinstance(fresh, dict):
                return {name: joined(fresh[name], start[name], end[name]) for name in fresh}
            return {"fresh": fresh, "start": start, "end": end}

        return joined(self._fresh, self._start, last)

    def far(self) -> tuple[list[str], list[str]]:
        """Describe the (fields, matrices) that begin more than FACTOR times as large or as small as fresh
        ones.
        """
        fields = [
            _described(field, self._start["tables"][table][field], figure)
            for table, figures in self._fresh["tables"].items()
            for (field, figure), rows in zip(figures.items(), self._trained, strict=True)
            if rows.sum() * self._widths[table] >= _ENTRIES
            and _is_far(self._start["tables"][table][field], figure)
        ]
        matrices = [
            _described(name, self._start["tower"][name], figure)
            for name, figure in self._fresh["tower"].items()
            if _is_far(self._start["tower"][name], figure)
        ]
        return list(dict.fromkeys(fields)), matrices

    def _figures(self, weights: Mapping[str, Tensor]) -> Figures:
        return {
            "tables": {
                name: dict(zip(self._field_names, deviations(weights[name], self._trained), strict=True))
                for name in self._tables
            },
            "tower": {
                name: _root_mean_square(tensor)
                for name, tensor in weights.items()
                if name.startswith("ctr.") and name not in self._tables and tensor.ndim > 1
            },
        }


def far_from_fresh(init: str, norms: Norms) -> str | None:
    """Return a line that names what a finetuning took over far larger or smaller than fresh, and the remedy;
    None if there is nothing of the kind.
    """
    fields, matrices = norms.far()
    parts = []
    if fields:
        parts.append(f"embeddings of {_some(fields)}; finetune.init_scale=0.02 scales them to fresh ones")
    if matrices:
        parts.append(f"{_some(matrices)}; finetune.init_parts=tables leaves the tower out")
    if not parts:
        return None
    return (
        f"finetune.init={init}: differs from fresh weights by more than {FACTOR:g} times: {'; '.join(parts)}"
    )


def _is_far(start: float | None, fresh: float | None) -> bool:
    return bool(fresh) and start is not None and not fresh / FACTOR <= start <= fresh * FACTOR


def _described(name: str, start: float, fresh: float) -> str:
    return f"{name} ({start:.3g}, fresh {fresh:.3g})"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _root_mean_square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64)) / tensor.numel() ** 0.5

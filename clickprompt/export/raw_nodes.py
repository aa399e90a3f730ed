"""The nodes of an ONNX graph that look values up (raw_graph.py).

Shape legend: B rows, L values of a list, M of them that a field keeps, V values that have an id.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from clickprompt.config import MILLION, MOST_DEVIATIONS
from clickprompt.data.text.template import UNKNOWN
from clickprompt.data.transform.standard import Scale
from clickprompt.export.intervals import Intervals

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ML_DOMAIN", "Nodes"]

ML_DOMAIN = "ai.onnx.ml"


class Nodes:
    """Builder of the nodes that come before the model's."""

    def __init__(self) -> None:
        self.made: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def add(
        self, operator: str, *inputs: "ir.Value", domain: str = "", outputs: int = 1, **attributes: Any
    ) -> "ir.Value":
        """Add a node and return its first output."""
        import onnx_ir

        name = f"raw/{len(self.made)}"
        values = [onnx_ir.Value(name=f"{name}:{number}") for number in range(outputs)]
        self.made.append(onnx_ir.node(operator, inputs, attributes, domain=domain, name=name, outputs=values))
        return values[0]

    def constant(self, values: Any) -> "ir.Value":
        import onnx_ir

        name = f"raw/constant/{len(self.constants)}"
        array = np.asarray(values)
        tensor = onnx_ir.tensor(array, name=name)
        shape = onnx_ir.Shape(array.shape)
        self.constants.append(
            onnx_ir.Value(name=name, const_value=tensor, type=onnx_ir.TensorType(tensor.dtype), shape=shape)
        )
        return self.constants[-1]

    def look_up(self, values: "ir.Value", keys: np.ndarray, ids: np.ndarray, default: int = 0) -> "ir.Value":
        """Look up `values`: int64 of the same shape, a key's id, or `default` for anything else."""
        import onnx_ir

        if not len(keys):  # a dictionary has at least one
            keys, ids = np.zeros(1, keys.dtype), np.full(1, default)
        attributes: dict[str, Any]
        if keys.dtype == object:
            attributes = {
                "keys_strings": [str(key) for key in keys],
                "values_int64s": ids.tolist(),
                "default_int64": default,
            }
        else:
            tensors = {
                "keys_tensor": keys,
                "values_tensor": ids.astype(np.int64),
                "default_tensor": np.array([default]),
            }
            attributes = {name: onnx_ir.tensor(tensor) for name, tensor in tensors.items()}
        return self.add("LabelEncoder", values, domain=ML_DOMAIN, **attributes)

    def find(self, numbers: "ir.Value", found: Intervals) -> "ir.Value":
        """Look up the interval that each number lies in: its id, 0 if there is none or for NaN; [B] int64."""
        steps = len(found.lows).bit_length()
        padding = 2**steps - 1 - len(found.lows)
        lows = self.constant(np.concatenate([[-np.inf], found.lows, np.full(padding, np.inf)]))
        highs = self.constant(np.concatenate([[-np.inf], found.highs, np.full(padding, -np.inf)]))
        ids = self.constant(np.concatenate([[0], found.ids, np.zeros(padding)]).astype(np.int64))
        none = place = self.constant(np.int64(0))
        for step in reversed(range(steps)):
            ahead = self.add("Add", place, self.constant(np.int64(2**step)))
            reached = self.add("GreaterOrEqual", numbers, self.add("Gather", lows, ahead))
            place = self.add("Where", reached, ahead, place)
        inside = self.add("LessOrEqual", numbers, self.add("Gather", highs, place))
        return self.add("Where", inside, self.add("Gather", ids, place), none)

    def first(self, values: "ir.Value", keys: np.ndarray, ids: np.ndarray) -> "ir.Value":
        """Look up the first of `values` [B, L] that isn't missing: its id, 0 if all are; [B] int64."""
        column = self.add("Concat", self.add("Shape", values, start=0, end=1), self.constant([1]), axis=0)
        last = (self.add("Expand", self.constant([[end]]), column) for end in (0, 1))  # L may be 0
        found, present = (
            self.look_up(values, keys, ids),
            self.look_up(values, np.array([""], object), np.array([0]), default=1),
        )
        found, present = (
            self.add("Concat", own, more, axis=1) for own, more in zip((found, present), last, strict=True)
        )
        place = self.add("ArgMax", present, axis=1, keepdims=1)
        return self.add("Squeeze", self.add("GatherElements", found, place, axis=1), self.constant([1]))

    def several(self, values: "ir.Value", keys: np.ndarray, ids: np.ndarray, most: int) -> "ir.Value":
        """Look up the first M of `values` [B, L] that aren't missing: the ids of those that have one, in
        their order, then 0 (`in_places`); [B, M] int64.
        """
        one, none = self.constant(np.int64(1)), self.constant(np.int64(0))
        missing = np.array(["", UNKNOWN], object)
        present = self.look_up(values, missing, np.zeros(2, np.int64), default=1)
        among = self.add("LessOrEqual", self._rank(present), self.constant(np.int64(most)))
        found = self.look_up(values, keys, ids)
        known = self.add("And", among, self.add("Greater", self.add("Mul", found, present), none))
        known = self.add("Where", known, one, none)
        rank = self.add("Mul", self._rank(known), known)
        last = self.constant([2])
        here = self.add("Equal", self.add("Unsqueeze", rank, last), self.constant(np.arange(1, most + 1)))
        placed = self.add("Where", here, self.add("Unsqueeze", found, last), none)
        return self.add("ReduceSum", placed, self.constant([1]), keepdims=0)

    def _rank(self, chosen: "ir.Value") -> "ir.Value":
        """Count the chosen ones (1, not 0) of each row up to each place, [B, L]."""
        return self.add("CumSum", chosen, self.constant(np.int64(1)))

    def standardised(self, numbers: "ir.Value", scale: Scale) -> "ir.Value":
        """Do what standard.py does: [B] double → [B] int64."""
        mean, most = self.constant(scale.mean), float(MOST_DEVIATIONS)
        found = self.add("Where", self.add("IsNaN", numbers), mean, numbers)
        found = self.add("Div", self.add("Sub", found, mean), self.constant(scale.deviation))
        found = self.add("Clip", found, self.constant(-most), self.constant(most))
        found = self.add("Round", self.add("Mul", found, self.constant(float(MILLION))))
        return self.add("Cast", found, to=7)  # int64

"""The CTR model as a graph that runs without this package: ONNX, or a program of torch.export.

Both take `field_ids` [B, F] int64, each field counted from 0 (with further values of fields,
config/multi.py, histories, config/history.py, and numbers, config/numbers.py, [B, F + V + N + K]), and give
`logit` [B] float32 (Eq. 10 before the sigmoid), for any B ≥ 1, and `logit_<name>` [B] of each further label
that the model learned. An ONNX graph may have the transform's
look-ups before that, and then takes raw rows (raw_graph.py).
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.errors import InputError
from clickprompt.export.raw_graph import OPSET, add_lookups

__all__ = ["GRAPHS", "GraphFormat", "graph_outputs"]

Logits = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""maps input name → [B, …] to logits [B], or of several tasks [B, 1 + T]"""


@dataclass(frozen=True)
class GraphFormat:
    file: str
    needs: tuple[str, ...]
    """packages that aren't installed with clickprompt"""
    save: Callable[[torch.export.ExportedProgram, str, RowTransform | None, Sequence[str]], None]
    load: Callable[[str], Logits]
    """loads the graph in a file as a function to logits, on one thread"""

    def require(self) -> None:
        """Raises InputError naming packages that aren't installed."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(
                f"{self.file} needs {', '.join(missing)}, which isn't installed; run pip install "
                f"{' '.join(self.needs)}"
            )

    def write(
        self,
        model: nn.Module,
        num_fields: int,
        path: str,
        lookups: RowTransform | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        """Write `model`, in eval mode on the CPU, to `path`. lookups: what comes before it in an
        ONNX graph; tasks: the labels besides the click, of which the graph has an output each.
        """
        model = _PerTask(model) if tasks else model
        batch = torch.export.Dim("batch", min=1)
        example = torch.zeros(3, num_fields, dtype=torch.int64)  # sizes 0 and 1 would be taken for constants
        with torch.no_grad(), _quiet():
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
            self.save(program, path, lookups, graph_outputs(tasks))


def graph_outputs(tasks: Sequence[str]) -> list[str]:
    """Return the names of a graph's outputs, each [B]; a program gives them in this order."""
    return ["logit", *(f"logit_{name}" for name in tasks)]


class _PerTask(nn.Module):
    """A model whose logits [B, 1 + T] are outputs of their own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, field_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.model(field_ids).unbind(1)


def _save_onnx(
    program: torch.export.ExportedProgram, path: str, lookups: RowTransform | None, outputs: Sequence[str]
) -> None:
    opset = OPSET if lookups else None
    written = torch.onnx.export(
        program,
        input_names=["field_ids"],
        output_names=[*outputs],
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert written is not None
    if lookups:
        add_lookups(written.model, lookups)
    written.save(path)  # weights of more than 1.5 GiB are in model.onnx.data, beside it


def _load_onnx(path: str) -> Logits:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return lambda inputs: _together(session.run(outputs, dict(inputs)))


def _together(outputs: Sequence[Any]) -> np.ndarray:
    """Return the one output [B], or several [B, outputs]."""
    return np.asarray(outputs[0]) if len(outputs) == 1 else np.stack(outputs, axis=1)


def _save_program(
    program: torch.export.ExportedProgram, path: str, lookups: RowTransform | None, outputs: Sequence[str]
) -> None:
    assert lookups is None
    # The only thing in the archive that would be a pickle: weights are raw bytes, the graph is JSON
    program.example_inputs = None
    torch.export.save(program, path)


def _load_program(path: str) -> Logits:
    # Safe only because `_save_program` has just written it: torch.export.load unpickles whatever an archive
    # marks as pickled
    with _quiet():
        module = torch.export.load(path).module()

    @torch.no_grad()
    def logits(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        found = module(torch.from_numpy(inputs["field_ids"]))
        return _together([found] if isinstance(found, torch.Tensor) else found)

    return logits


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's remarks on itself: operators of packages that aren't installed, functions it will
    rename.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


GRAPHS = {
    "onnx": GraphFormat("model.onnx", ("onnx", "onnxscript", "onnxruntime"), _save_onnx, _load_onnx),
    "torch-export": GraphFormat("model.pt2", (), _save_program, _load_program),
}

"""The CTR model as a graph that runs without this package: ONNX, or a program of torch.export.

Both take `field_ids` [B, F] int64, each field counted from 0 (with further values of fields,
config/multi.py, histories, config/history.py, and numbers, config/numbers.py, [B, F + V + N + K]), and give
`logit` [B] float32 (Eq. 10 before the sigmoid), for any B ≥ 1. An ONNX graph may have the transform's
look-ups before that, and then takes raw rows (raw_graph.py).
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from clickprompt.data.transform.row_transform import RowTransform
from clickprompt.errors import InputError
from clickprompt.export.raw_graph import OPSET, add_lookups

__all__ = ["GRAPHS", "GraphFormat"]

Logits = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""maps input name → [B, …] to logits [B]"""


@dataclass(frozen=True)
class GraphFormat:
    file: str
    needs: tuple[str, ...]
    """packages that aren't installed with clickprompt"""
    save: Callable[[torch.export.ExportedProgram, str, RowTransform | None], None]
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
        self, model: nn.Module, num_fields: int, path: str, lookups: RowTransform | None = None
    ) -> None:
        """Write `model`, in eval mode on the CPU, to `path`. lookups: what comes before it in an
        ONNX graph.
        """
        batch = torch.export.Dim("batch", min=1)
        example = torch.zeros(3, num_fields, dtype=torch.int64)  # sizes 0 and 1 would be taken for constants
        with torch.no_grad(), _quiet():
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
            self.save(program, path, lookups)


def _save_onnx(program: torch.export.ExportedProgram, path: str, lookups: RowTransform | None) -> None:
    opset = OPSET if lookups else None
    written = torch.onnx.export(
        program,
        input_names=["field_ids"],
        output_names=["logit"],
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
    return lambda inputs: np.asarray(session.run(["logit"], dict(inputs))[0])


def _save_program(program: torch.export.ExportedProgram, path: str, lookups: RowTransform | None) -> None:
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
        return module(torch.from_numpy(inputs["field_ids"])).numpy()

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

"""The CTR model as a graph that runs without this package: ONNX, or a program of torch.export.

Both take `field_ids` [B, F] int64, each field counting from 0, and give `logit` [B] float32 (Eq. 10 before the sigmoid), for any B ≥ 1.
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from clickprompt.errors import InputError
from clickprompt.models.ctr import CTRModel

__all__ = ["GRAPHS", "GraphFormat"]

Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class GraphFormat:
    file: str
    needs: tuple[str, ...]
    """packages that aren't installed with clickprompt"""
    save: Callable[[Any, str], None]
    load: Callable[[str], Logits]
    """the logits by the graph in the file, on one thread"""

    def require(self) -> None:
        """Raises InputError naming packages that aren't there."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(f"{self.file} needs {', '.join(missing)}, which isn't installed; run pip install {' '.join(self.needs)}")

    def write(self, model: CTRModel, num_fields: int, path: str) -> None:
        """`model` in eval mode, on the CPU."""
        batch = torch.export.Dim("batch", min=1)
        example = torch.zeros(3, num_fields, dtype=torch.int64)  # sizes 0 and 1 would be taken for constants
        with torch.no_grad(), _quiet():
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
            self.save(program, path)


def _save_onnx(program: torch.export.ExportedProgram, path: str) -> None:
    written = torch.onnx.export(program, input_names=["field_ids"], output_names=["logit"], dynamo=True, verbose=False)
    assert written is not None
    written.save(path)


def _load_onnx(path: str) -> Logits:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda field_ids: torch.from_numpy(session.run(["logit"], {"field_ids": field_ids.numpy()})[0])


def _save_program(program: torch.export.ExportedProgram, path: str) -> None:
    program.example_inputs = None  # the only thing in the archive that would be a pickle: weights are raw bytes, the graph is JSON
    torch.export.save(program, path)


def _load_program(path: str) -> Logits:
    # Only what `_save_program` has just written: torch.export.load unpickles whatever an archive marks as pickled
    with _quiet():
        module = torch.export.load(path).module()

    @torch.no_grad()
    def logits(field_ids: torch.Tensor) -> torch.Tensor:
        return module(field_ids)

    return logits


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on itself: operators of packages that aren't installed, functions it will rename."""
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

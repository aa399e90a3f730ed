"""Check that a restored model is the one that was saved, by its loss on a few fixed rows."""

import math

import torch

from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset, columns_of
from clickprompt.errors import RunError
from clickprompt.training.checkpoint import TrainState
from clickprompt.training.engine import Engine

__all__ = ["Probe"]

_ROWS = 16
_TOLERANCE = 1e-4  # relative; other kernels or thread counts change the loss by less, another model by more


class Probe:
    """Mean loss of the training split's first rows, without dropout.

    Every worker scores the same rows, as ZeRO-3 requires.
    """

    def __init__(self, engine: Engine, collator: Collator, dataset: Dataset):
        self._engine = engine
        rows = dataset.first_rows("train", _ROWS)
        self._batch = collator(columns_of(rows)).to(engine.device)
        self._targets = [count or 1.0 for count in engine.objective.count_targets(self._batch).tolist()]

    @torch.no_grad()
    def __call__(self) -> float:
        model = self._engine.model
        training = model.training
        model.eval()
        objective = self._engine.objective
        with torch.compiler.set_stance("force_eager"):  # compiling takes longer than all calls of this
            sums = objective(self._batch).tolist()
        model.train(training)
        return sum(
            weight * total / targets
            for weight, total, targets in zip(objective.terms.values(), sums, self._targets, strict=True)
        )

    def check(self, state: TrainState, checkpoint: str) -> None:
        """Raise RunError if the engine, restored from `checkpoint`, computes another loss than was saved."""
        if state.probe_loss is None:
            return
        found = self()
        if not math.isclose(found, state.probe_loss, rel_tol=_TOLERANCE):
            raise RunError(
                f"{checkpoint}: the model restored at step {state.step} has a loss of {found:.6g} on the "
                f"probe rows, the saved one had {state.probe_loss:.6g}; a file, the PLM or the dataset is "
                "another than it was: bring that back, or start another --run"
            )

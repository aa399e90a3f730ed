"""Write a run's exports: one per validation while it trains, and one at its end. Only rank 0 uses this."""

from typing import Any

import torch

from clickprompt.data.text.template import tokenizer_fingerprint
from clickprompt.errors import DataError, InputError
from clickprompt.export.format import publish, write_export
from clickprompt.io import storage
from clickprompt.runtime.train.training_run import TrainingRun
from clickprompt.training.checkpoint import TrainState, checkpoint_name, load_state

__all__ = ["Exports"]


class Exports:
    """The exports of one run.

    `<run>/validations/step-N` holds weights that are or were validated and may still become the run's result;
    `<run>/export` holds the result.
    """

    def __init__(self, training: TrainingRun, plm: dict[str, Any] | None, tokenizer: Any):
        self._training = training
        self._plm = plm
        self._tokenizer = tokenizer
        self._folder = storage.join(training.run, "validations")
        self._final = storage.join(training.run, "export")

    def at(self, step: int) -> str:
        return storage.join(self._folder, checkpoint_name(step))

    def write(self, weights: dict[str, torch.Tensor], step: int, *, final: bool = False) -> None:
        storage.patiently(
            lambda: write_export(
                self._final if final else self.at(step),
                weights,
                plm=self._plm,
                objective=self._training.objective,
                config=self._training.config,
                dataset=self._training.dataset,
                tokenizer=self._tokenizer,
                tokenizer_fingerprint=tokenizer_fingerprint(self._tokenizer, self._training.dataset.template)
                if self._tokenizer is not None
                else None,
                step=step,
            )
        )

    def finish(self, best_step: int) -> None:
        """Publish the best validation's export as the run's. Raises DataError if it isn't there."""
        best = self.at(best_step)
        if storage.patiently(lambda: storage.exists(best)):
            with storage.local_copy(best) as folder:
                storage.patiently(lambda: publish(folder, self._final))
        # Both are as they should be if a run that was killed right after publishing goes on
        elif not storage.patiently(lambda: storage.exists(self._final)):
            raise missing(best)
        self._delete(self._training.order.total_steps, self._needed_by("kept"))

    def prune(self, state: TrainState) -> None:
        """Delete exports up to `state.step` that neither this state nor a checkpoint in storage needs."""
        self._delete(
            state.step,
            {state.best_step, state.validating} | self._needed_by("checkpoints") | self._needed_by("kept"),
        )

    def _needed_by(self, folder: str) -> set[int | None]:
        checkpoints = storage.join(self._training.run, folder)
        needed = set()
        for name in storage.patiently(lambda: storage.list_names(checkpoints)):
            if not name.startswith("step-"):
                continue
            try:
                state = storage.patiently(lambda name=name: load_state(storage.join(checkpoints, name)))
            except InputError:  # half a checkpoint, or Ray Train has just deleted it
                continue
            needed |= {state.best_step, state.validating}
        return needed

    def _delete(self, up_to: int, needed: set[int | None]) -> None:
        names = storage.patiently(lambda: storage.list_names(self._folder))
        kept = {checkpoint_name(step) for step in needed if step is not None}
        for name in names:
            # A name may have a suffix: what a killed worker was writing
            if name not in kept and name[: len(checkpoint_name(0))] <= checkpoint_name(up_to):
                storage.patiently(lambda name=name: storage.delete_tree(storage.join(self._folder, name)))
        if not storage.patiently(lambda: storage.list_names(self._folder)):
            storage.patiently(lambda: storage.delete_tree(self._folder))


def missing(export: str) -> DataError:
    return DataError(
        f"{export}: not there, and the run's newest checkpoint asks for it; copy a run's validations/ along "
        "with its checkpoints"
    )

"""Write a run's exports: one per validation while it trains, and one at its end. Only rank 0 uses this."""

from typing import Any

import torch

from clickprompt.config import FinetuneConfig
from clickprompt.data.text.template import tokenizer_fingerprint
from clickprompt.errors import DataError, InputError
from clickprompt.export.format import publish, write_export
from clickprompt.export.model_card import write_card
from clickprompt.io import storage
from clickprompt.models import given_vectors
from clickprompt.models.text_projection import fold
from clickprompt.runtime.train.training_run import TrainingRun
from clickprompt.training.averaging import mean_with, steps_before, write_snapshot
from clickprompt.training.checkpoint import TrainState, checkpoint_name, load_state

__all__ = ["Exports"]

_SNAPSHOT = ".safetensors"


class Exports:
    """The exports of one run.

    `<run>/validations/step-N` holds weights that are or were validated and may still become the run's result;
    `<run>/export` holds the result. With `finetune.average_validations`,
    `<run>/validations/step-N.safetensors` holds the weights after step N before they are averaged.
    """

    def __init__(self, training: TrainingRun, plm: dict[str, Any] | None, tokenizer: Any):
        self._training = training
        self._plm = plm
        self._tokenizer = tokenizer
        self._folder = storage.join(training.run, "validations")
        self.final = storage.join(training.run, "export")

    def at(self, step: int) -> str:
        return storage.join(self._folder, checkpoint_name(step))

    def write(self, weights: dict[str, torch.Tensor], step: int, *, final: bool = False) -> None:
        """Write an export of these weights, which are changed to what it holds."""
        vectors = self._training.text_vectors
        if vectors is not None:
            fold(weights, vectors.vectors, self._training.dataset.field_sizes)
        given_vectors.fold(weights, self._training.vectors, self._training.dataset.field_sizes)
        storage.patiently(
            lambda: write_export(
                self.final if final else self.at(step),
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
        if final:
            self._write_card()

    def averaged(self, weights: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """Return the weights that the validation after `step` scores (training/averaging.py), and keep the
        given ones for the validations after it.

        Raises DataError if those of an earlier one are missing.
        """
        stage = self._training.stage
        if not isinstance(stage, FinetuneConfig) or stage.average_validations == 1:
            return weights
        earlier = [self._snapshot(past) for past in self._averaged_before(step)]
        for uri in earlier:
            if not storage.patiently(lambda uri=uri: storage.exists(uri)):
                raise missing(uri)
        storage.patiently(lambda: write_snapshot(self._snapshot(step), weights))
        return storage.patiently(lambda: mean_with(weights, earlier))

    def _snapshot(self, step: int) -> str:
        return storage.join(self._folder, _snapshot_name(step))

    def _averaged_before(self, step: int) -> list[int]:
        """Return the steps of the validations whose weights one after `step` is averaged with."""
        stage = self._training.stage
        if not isinstance(stage, FinetuneConfig):
            return []
        return steps_before(step, stage.validate_every, stage.average_validations - 1)

    def finish(self, best_step: int) -> None:
        """Publish the best validation's export as the run's. Raises DataError if it isn't there."""
        best = self.at(best_step)
        if storage.patiently(lambda: storage.exists(best)):
            with storage.local_copy(best) as folder:
                storage.patiently(lambda: publish(folder, self.final))
        # Both are as they should be if a run that was killed right after publishing goes on
        elif not storage.patiently(lambda: storage.exists(self.final)):
            raise missing(best)
        self._write_card()
        self._delete(self._training.order.total_steps, self._needed_by("kept"))

    def _write_card(self) -> None:
        storage.patiently(lambda: write_card(self.final, self._training.dataset))

    def prune(self, state: TrainState) -> None:
        """Delete exports up to `state.step` that neither this state nor a checkpoint in storage needs."""
        needed = self._needed(state) | self._needed_by("checkpoints") | self._needed_by("kept")
        self._delete(state.step, needed)

    def _needed(self, state: TrainState) -> set[str]:
        """Return the names of what a run that continues from this state may read."""
        exports = {checkpoint_name(step) for step in (state.best_step, state.validating) if step is not None}
        return exports | {_snapshot_name(step) for step in self._averaged_before(state.step + 1)}

    def _needed_by(self, folder: str) -> set[str]:
        checkpoints = storage.join(self._training.run, folder)
        needed: set[str] = set()
        for name in storage.patiently(lambda: storage.list_names(checkpoints)):
            if not name.startswith("step-"):
                continue
            try:
                state = storage.patiently(lambda name=name: load_state(storage.join(checkpoints, name)))
            except InputError:  # half a checkpoint, or Ray Train has just deleted it
                continue
            needed |= self._needed(state)
        return needed

    def _delete(self, up_to: int, needed: set[str]) -> None:
        names = storage.patiently(lambda: storage.list_names(self._folder))
        for name in names:
            # A name may have a suffix: a snapshot's, or that of what a killed worker was writing
            if name not in needed and name[: len(checkpoint_name(0))] <= checkpoint_name(up_to):
                place = storage.join(self._folder, name)
                delete = _delete_file if _SNAPSHOT in name else storage.delete_tree
                storage.patiently(lambda place=place, delete=delete: delete(place))
        if not storage.patiently(lambda: storage.list_names(self._folder)):
            storage.patiently(lambda: storage.delete_tree(self._folder))


def _snapshot_name(step: int) -> str:
    return checkpoint_name(step) + _SNAPSHOT


def _delete_file(uri: str) -> None:
    if storage.exists(uri):
        storage.delete_file(uri)


def missing(export: str) -> DataError:
    return DataError(
        f"{export}: not there, and the run's newest checkpoint asks for it; copy a run's validations/ along "
        "with its checkpoints"
    )

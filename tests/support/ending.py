"""What ends a training at a step, on Ray and in one process alike; and what a run has left to compare."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from clickprompt.config import Config
from clickprompt.errors import RunError
from clickprompt.export.format import export_of, load_weights
from clickprompt.io import storage
from clickprompt.runtime.train.train import run_training
from clickprompt.training.checkpoint import newest_complete
from clickprompt.training.metrics_log import read_metrics

_TIMES = {"seconds", "wait_seconds"}


@dataclass(frozen=True)
class EndsBefore:
    """Wraps a training's batches (`around`): the run fails before this step, counted from 0."""

    step: int

    def __call__(self, batches, writer, rank):
        return self._until(batches), writer

    def _until(self, batches):
        for step, columns in batches:
            if step >= self.step:
                raise RunError("ended by the test")
            yield step, columns


def ended_and_continued(config: Config, stage: str, run: str, whole: str) -> None:
    """Assert that a run which ends before its seventh step is, when the same command has continued it, the
    undisturbed run `whole`.
    """
    with pytest.raises(RunError, match="ended by the test"):
        run_training(config, stage, run, around=EndsBefore(6))
    run_training(config, stage, run)
    are_the_same(run, whole)


def lines_of(run: str) -> list[dict]:
    """Every line of the metrics, without its times."""
    return [{key: value for key, value in line.items() if key not in _TIMES} for line in read_metrics(run)]


def newest_state(run: str) -> tuple[dict[str, torch.Tensor], dict]:
    """What the newest checkpoint of one worker holds: weights and moments, and the loop's state. (After a
    resume, the order of tensors in the file isn't that of an undisturbed run.)
    """
    with storage.local_copy(str(newest_complete(f"{run}/checkpoints"))) as folder:
        return load_file(f"{folder}/state-00000.safetensors"), storage.read_json(f"{folder}/trainer.json")


def are_the_same(one: str, other: str) -> None:
    """Assert that two runs have the same losses, validations, weights, moments and result, to the bit."""
    assert lines_of(one) == lines_of(other)
    (our_state, our_place), (their_state, their_place) = newest_state(one), newest_state(other)
    assert our_place == their_place
    _equal(our_state, their_state)
    _equal(load_weights(export_of(one)), load_weights(export_of(other)))
    results = [storage.read_json(storage.join(run, "result.json")) for run in (one, other)]
    for result in results:
        for key in ("run", "export", "seconds", "seconds_per_step", "peak_memory_gib"):
            del result[key]
    assert results[0] == results[1]


def _equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])] == []

"""Compare the evaluations of two models over several seeds (`clickprompt compare`)."""

from collections.abc import Sequence
from typing import Any

from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.seeds import compare_seeds
from clickprompt.export.format import export_of, weights_checksum
from clickprompt.io import storage

__all__ = ["compare_evaluated_runs"]


def compare_evaluated_runs(runs: Sequence[str], against: Sequence[str], split: str) -> dict[str, Any]:
    """Apply `compare_seeds` to the results of `clickprompt evaluate`.

    Also raises DataError for a run that wasn't evaluated.
    """
    for names in (runs, against):
        if len(names) < 2:
            raise InputError(
                f"{len(names)} run against {len(against)}: a t-test over seeds needs two pairs or more; "
                "train further seeds"
            )
    results, base_results = ([_evaluation_of(run, split) for run in names] for names in (runs, against))
    return compare_seeds(results, base_results)


def _evaluation_of(run: str, split: str) -> dict[str, Any]:
    """Read a run's evaluation. Raises DataError if its present weights weren't scored on the split."""
    run = storage.native(run)
    export = export_of(run)
    path = storage.join(run, f"evaluation-{split}.json")
    result = storage.read_json(path) if storage.exists(path) else {}
    if result.get("weights") != weights_checksum(export):
        raise DataError(
            f"{run}: its weights weren't evaluated on the {split} split; run `clickprompt evaluate --run "
            f"{run} --split {split}` first"
        )
    return result

"""Compare several seeds of one model with the same seeds of another: their evaluations, and Student's paired
t-test over the seeds.
"""

import statistics
from collections.abc import Sequence
from typing import Any, cast

from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.metrics import relative_improvement
from clickprompt.evaluation.ranking import in_order
from clickprompt.evaluation.significance import paired_t_test

__all__ = ["compare_seeds"]

_UNDEFINED: dict[str, Any] = {
    "mean": None,
    "sd": None,
    "against_mean": None,
    "against_sd": None,
    "t_test": None,
}


def compare_seeds(
    results: Sequence[dict[str, Any]], base_results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Compare what `evaluate` returned for runs of one model and of another, in any order; runs pair up by
    their seeds.

    Returns {"split", "rows", "runs", "auc", "log_loss", "ranking"}. "runs" has for each seed "seed", "run",
    "auc", "log_loss" and the other run's under "against"; the last two have "mean", "sd", "against_mean",
    "against_sd" and "t_test" (`paired_t_test`), "auc" also "relative_improvement" (Table 2's Rel.Impr, of the
    means). "ranking" has the same for each figure of the users' rankings that all runs have, and GAUC.

    If all rows are of one class, all of "auc" is None.

    Raises InputError if seeds don't pair up, there are fewer than two pairs or t is undefined, DataError for
    different test sets.
    """
    first = results[0]
    for result in (*results, *base_results):
        if (result["dataset_fingerprint"], result["split"]) != (first["dataset_fingerprint"], first["split"]):
            raise DataError(
                f"{result['run']}: evaluated on another dataset's {result['split']} split than "
                f"{first['run']}; only runs on the same rows compare, evaluate both on one dataset"
            )
    ours, theirs = _by_seed(results), _by_seed(base_results)
    if ours.keys() != theirs.keys():
        seeds = (", ".join(map(str, sorted(arm))) for arm in (ours, theirs))
        raise InputError(
            "seeds {} against seeds {}: runs pair up by their seeds; "
            "give both models' runs of the same seeds".format(*seeds)
        )
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours)]
    figures = {
        metric: _compared(found, base_found) if None not in (*found, *base_found) else _UNDEFINED.copy()
        for metric in ("auc", "log_loss")
        for found, base_found in [([run[metric] for run, _ in pairs], [base[metric] for _, base in pairs])]
    }
    figures["auc"]["relative_improvement"] = relative_improvement(
        figures["auc"]["mean"], figures["auc"]["against_mean"]
    )
    lines = [{"seed": run["seed"], **_scores(run), "against": _scores(base)} for run, base in pairs]
    return {
        "split": first["split"],
        "rows": first["rows"],
        "runs": lines,
        **figures,
        "ranking": _rankings([run for run, _ in pairs], [base for _, base in pairs]),
    }


def _rankings(runs: list[dict[str, Any]], bases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Compare each figure that all runs have: GAUC and those of their users' rankings."""
    ours, theirs = ([_ranked(run) for run in arm] for arm in (runs, bases))
    found = {}
    for name in ours[0]:
        values, base_values = ([run.get(name) for run in arm] for arm in (ours, theirs))
        if None not in (*values, *base_values):
            found[name] = _ranking_compared(cast(Any, values), cast(Any, base_values))
    return found


def _ranking_compared(values: list[float], base_values: list[float]) -> dict[str, Any]:
    try:
        return _compared(values, base_values)
    except InputError:  # the same difference in all pairs, as where every user has a hit at k
        means = {"mean": statistics.mean(values), "against_mean": statistics.mean(base_values)}
        return {**_UNDEFINED, **means}


def _ranked(result: dict[str, Any]) -> dict[str, float | None]:
    gauc = (result.get("gauc") or {}).get("value")
    figures = (result.get("ranking") or {}).get("figures", {})
    return {"gauc": gauc, **{name: figures[name] for name in in_order(figures)}}


def _by_seed(results: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for result in results:
        other = found.setdefault(result["seed"], result)
        if other is not result:
            raise InputError(
                f"{other['run']} and {result['run']} have the same seed {result['seed']}; give one "
                "run of each seed"
            )
    return found


def _compared(values: list[float], base_values: list[float]) -> dict[str, Any]:
    return {
        "mean": statistics.mean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "against_mean": statistics.mean(base_values),
        "against_sd": statistics.stdev(base_values) if len(base_values) > 1 else None,
        "t_test": paired_t_test(values, base_values)._asdict(),
    }


def _scores(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("run", "auc", "log_loss")}

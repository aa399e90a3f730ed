"""Compute the figures of a campaign's outcomes."""

from collections.abc import Sequence
from typing import Any

from clickprompt.benchmark.faults.plan import EVERY
from clickprompt.benchmark.faults.runs import Runs
from clickprompt.benchmark.faults.settings import FAULT_KINDS
from clickprompt.benchmark.measure import Figures, figure

__all__ = ["summary"]

_RECOVERED = "s from the strike to the step that had been reached"
_REPLACED = "s from the kill to as many models that answer"
_INTERVALS = f"checkpoint intervals, each {EVERY} steps"


def summary(outcomes: list[dict[str, Any]], runs: Runs) -> tuple[Figures, list[str]]:
    compared = [outcome for outcome in outcomes if "loss_difference" in outcome]
    used = sorted({outcome["arm"] for outcome in outcomes})
    intervals = {arm: runs.interval(arm) for arm in used}
    figures = {
        "faults": figure([len(outcomes)], "faults"),
        "survived": figure([sum(outcome["survived"] for outcome in outcomes)], "faults"),
        "local": figure([len(_local(outcomes))], "faults with the local engine in at least one command"),
        "lost_rows": figure(
            [sum(outcome["lost"] for outcome in compared)], "rows, of all epochs of all runs"
        ),
        "repeated_rows": figure(
            [sum(outcome["repeated"] for outcome in compared)], "rows, of all epochs of all runs"
        ),
    }
    for arm, seconds in intervals.items():
        figures[f"checkpoint_interval_{arm}"] = figure([seconds], f"s, of {EVERY} steps on two workers")
    if runs.other_seed:
        figures["seed_spread"] = figure(
            [runs.seed_spread(arm) for arm in used], "of the last epoch's mean loss, relative"
        )
    if compared:
        figures["loss_difference"] = figure(
            [outcome["loss_difference"] for outcome in compared], "of any step's loss, or a score, relative"
        )
    trained = [outcome for outcome in compared if outcome["kind"] != "replica"]
    figures |= _recovery("recovery", trained, intervals)
    notes = []
    for kind in FAULT_KINDS:
        own = [outcome for outcome in outcomes if outcome["kind"] == kind]
        if own:
            of_kind = {
                **_recovery(f"recovery_{kind}", _by_last(own, "ray"), intervals),
                **_recovery(f"recovery_{kind}_local", _by_last(own, "local"), intervals),
            }
            figures |= of_kind
            notes.append(_note(kind, own, of_kind))
    served = [outcome for outcome in compared if outcome["kind"] == "replica"]
    if served:
        for key, unit in (
            ("requests", "requests a fault"),
            ("in_flight", "requests with the killed model"),
            ("failed_first", "requests a fault whose first try ended with an error"),
            ("longest_seconds", "s, of the longest request of a fault"),
        ):
            figures[f"replica_{key}"] = figure([outcome[key] for outcome in served], unit)
    notes.append(f"every fault's outcome: {runs.folder}/*/outcome.json")
    return figures, notes


def _local(outcomes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [outcome for outcome in outcomes if "local" in outcome["engines"]]


def _by_last(outcomes: Sequence[dict[str, Any]], engine: str) -> list[dict[str, Any]]:
    """Return those whose last command, the one that recovers, trains there."""
    return [outcome for outcome in outcomes if outcome["engines"][-1] == engine]


def _recovery(name: str, outcomes: Sequence[dict[str, Any]], intervals: dict[str, float]) -> Figures:
    """Return the seconds of those that have some and, of trainings, the checkpoint intervals they make."""
    recovered = [outcome for outcome in outcomes if outcome.get("recovery_seconds") is not None]
    if not recovered:
        return {}
    seconds = [outcome["recovery_seconds"] for outcome in recovered]
    if recovered[0]["kind"] == "replica":
        return {name: figure(seconds, _REPLACED)}
    in_intervals = [outcome["recovery_seconds"] / intervals[outcome["arm"]] for outcome in recovered]
    return {name: figure(seconds, _RECOVERED), f"{name}_intervals": figure(in_intervals, _INTERVALS)}


def _note(kind: str, own: Sequence[dict[str, Any]], figures: Figures) -> str:
    found = f"{kind}: {sum(outcome['survived'] for outcome in own)} of {len(own)} survived"
    if local := _local(own):
        found += f", {len(local)} of them with the local engine"
    for name, values in figures.items():
        if name.endswith("_intervals"):
            found += f" ({values['median']:.1f} checkpoint intervals)"
        else:
            where = " on the local engine" if name.endswith("_local") else ""
            found += f", recovered{where} in {values['median']:.1f} s"
    return found

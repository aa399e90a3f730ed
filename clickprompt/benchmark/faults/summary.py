"""Compute the figures of a campaign's outcomes."""

import statistics
from typing import Any

from clickprompt.benchmark.faults.plan import EVERY
from clickprompt.benchmark.faults.runs import Runs
from clickprompt.benchmark.faults.settings import FAULT_KINDS
from clickprompt.benchmark.measure import Figures, figure

__all__ = ["summary"]


def summary(outcomes: list[dict[str, Any]], runs: Runs) -> tuple[Figures, list[str]]:
    compared = [outcome for outcome in outcomes if "loss_difference" in outcome]
    recovered = [outcome for outcome in compared if outcome["recovery_seconds"] is not None]
    used = sorted({outcome["arm"] for outcome in outcomes})
    intervals = {arm: runs.interval(arm) for arm in used}
    figures = {
        "faults": figure([len(outcomes)], "faults"),
        "survived": figure([sum(outcome["survived"] for outcome in outcomes)], "faults"),
        "lost_rows": figure(
            [sum(outcome["lost"] for outcome in compared)], "rows, of all epochs of all runs"
        ),
        "repeated_rows": figure(
            [sum(outcome["repeated"] for outcome in compared)], "rows, of all epochs of all runs"
        ),
        "checkpoint_interval": figure(list(intervals.values()), f"s, of {EVERY} steps"),
    }
    if runs.other_seed:
        figures["seed_spread"] = figure(
            [runs.seed_spread(arm) for arm in used], "of the last epoch's mean loss, relative"
        )
    if compared:
        figures["loss_difference"] = figure(
            [outcome["loss_difference"] for outcome in compared], "of any step's loss, relative"
        )
    if recovered:
        seconds = [outcome["recovery_seconds"] for outcome in recovered]
        in_intervals = [outcome["recovery_seconds"] / intervals[outcome["arm"]] for outcome in recovered]
        figures["recovery"] = figure(seconds, "s from the strike to the step that had been reached")
        figures["recovery_intervals"] = figure(in_intervals, "checkpoint intervals")
    notes = []
    for kind in FAULT_KINDS:
        own = [outcome for outcome in outcomes if outcome["kind"] == kind]
        if own:
            times = [
                outcome["recovery_seconds"] for outcome in own if outcome.get("recovery_seconds") is not None
            ]
            median = f", recovered in {statistics.median(times):.1f} s" if times else ""
            notes.append(
                f"{kind}: {sum(outcome['survived'] for outcome in own)} of {len(own)} survived{median}"
            )
    notes.append(f"every fault's outcome: {runs.folder}/*/outcome.json")
    return figures, notes

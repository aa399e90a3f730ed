"""What a report opens with: the answer and, for a pipeline, the table of what pretraining was worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clickprompt.report.answer import Answer
from clickprompt.report.compared import Comparison
from clickprompt.report.page import Block, Section
from clickprompt.report.run import Run, finite
from clickprompt.report.table import Column, Table, auc, count, heading, interval_of, p_value, signed

__all__ = ["Outcome", "opening", "outcomes"]


@dataclass(frozen=True)
class Outcome:
    """One line of the table."""

    model: str
    run: str
    rows: int | None
    """training rows, whose labels it has seen"""
    steps: int | None
    best_step: int | None
    """step whose weights validation chose; before the last one unless the model was still improving"""
    auc: float | None
    """None if all rows are of one class"""
    auc_interval: Sequence[float] | None
    """95%, rows clustered by `intervals_by`"""
    intervals_by: str
    """user, request or row"""
    log_loss: float | None
    difference: float | None
    """AUC less the first line's; None in the first line"""
    interval: Sequence[float] | None
    """95% of the difference; paired, by user if one is known, else by row"""
    p_value: float | None
    """of the difference, two-sided; paired, as the interval"""


def outcomes(runs: Sequence[Run], found: Sequence[Comparison], names: Mapping[str, str]) -> list[Outcome]:
    """Return the lines of the runs in `names` (address → name), in the runs' order.

    found: their comparisons with the first of them; none if there are too many rows to compare. If all rows
    belong to one user, the tests are DeLong's.
    """
    figures = {one.run.uri: one.figures or {} for one in found}
    return [_outcome(run, figures.get(run.uri, {}), names[run.uri]) for run in runs if run.uri in names]


def _outcome(run: Run, figures: Mapping[str, Any], name: str) -> Outcome:
    test = figures.get("user_bootstrap") or figures.get("delong") or {}
    scores = run.evaluation or {}
    return Outcome(
        model=name,
        run=run.uri,
        rows=run.result.get("rows"),
        steps=run.result.get("step"),
        best_step=run.result.get("best_step"),
        auc=finite(scores.get("auc")),
        auc_interval=scores.get("auc_interval"),
        intervals_by=scores.get("intervals_by", "user"),
        log_loss=finite(scores.get("log_loss")),
        difference=test.get("difference"),
        interval=test.get("interval"),
        p_value=test.get("p_value"),
    )


def opening(
    said: Answer, lines: Sequence[Outcome], split: str, click_rate: Mapping[str, Any] | None
) -> Section:
    """Show the answer and, for a pipeline, the lines below it. click_rate: figures of `click_rate_only`."""
    by = {line.intervals_by for line in lines}
    columns = [
        Column("model"),
        Column("AUC", auc, "undefined"),
        Column("log loss", auc),
        Column(heading(by), interval_of(auc), interval=True),
        Column("difference", signed),
        Column("95% of the difference", interval_of(signed), interval=True),
        Column("p", p_value),
        Column("labelled rows", count),
        Column("best step", count),
        Column("of steps", count),
    ]
    rows = [
        [
            line.model,
            line.auc,
            line.log_loss,
            line.auc_interval,
            line.difference,
            line.interval,
            line.p_value,
            line.rows,
            line.best_step,
            line.steps,
        ]
        for line in lines
    ]
    if rows and click_rate:
        rows.append(["click rate only", click_rate["auc"], click_rate["log_loss"], *[None] * 7])
    how = "whole users are drawn (bootstrap)" if by == {"user"} else "rows are taken as independent (DeLong)"
    note = (
        f"the same {split} rows for all; differences are in AUC and paired, and {how}; best step: chosen by "
        "validation"
    )
    blocks = [Block("What pretraining was worth", Table(columns, rows), note=note)] if rows else []
    return Section("Result", blocks=blocks, lead=said.sentence, points=[*said.cautions, *said.notices])

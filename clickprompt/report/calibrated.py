"""Reliability: one chart of dots, and the calibration errors."""

from collections.abc import Sequence
from typing import Any

from clickprompt.evaluation.calibration import joined_bins
from clickprompt.report.charts import Line
from clickprompt.report.dots import reliability
from clickprompt.report.page import Block, Section
from clickprompt.report.run import Run
from clickprompt.report.table import Column, Table, auc, count, interval_of, number
from clickprompt.report.training import legend

__all__ = ["FEWEST_ROWS", "calibration"]

FEWEST_ROWS = 50
"""fewest rows of a dot; with fewer, its interval says next to nothing"""

_INTRO = (
    "Of the rows predicted at 30%, are 30% clicked? A dot is a bin of predictions, and its line Wilson's 95% "
    "interval, which takes rows as independent of each other. On the dashed line predictions are right."
)


def calibration(runs: Sequence[Run], click_rate: dict[str, Any] | None) -> Section | None:
    """click_rate: the figures of `click_rate_only`, whose error stands beside the runs'."""
    found = {
        bins: [
            (run, figures)
            for run in runs
            if (figures := ((run.evaluation or {}).get("calibration") or {}).get(bins))
            and figures.get("curve")
        ]
        for bins in ("equal_mass", "equal_width")
    }
    mass, width = found["equal_mass"], found["equal_width"]
    if not mass and not width:
        return None
    blocks = [_reliability(mass)] if mass else []
    blocks.append(_errors(mass, width, click_rate))
    if width:
        title = "Reliability, bins of equal width"
        blocks.append(Block(title, _table(width), in_markdown=False, folded=True))
    return Section("Calibration", _INTRO, blocks)


def _reliability(members: Sequence[tuple[Run, dict[str, Any]]]) -> Block:
    title, lines = "Reliability", []
    for run, figures in members:
        bins = joined_bins(figures["curve"], FEWEST_ROWS)
        tips = [
            f"{run.name}: predicted {auc(one['prediction'])}, clicked {auc(one['click_rate'])} "
            f"{interval_of(auc)(one['interval'])} of {one['rows']:,} rows"
            for one in bins
        ]
        points = [(one["prediction"], one["click_rate"]) for one in bins]
        lines.append(Line(run.name, run.number, points, [one["interval"] for one in bins], tips=tips))
    drawn = [line for line in lines if line.points]
    chart = (
        (lambda width: reliability(title, drawn, width, x_label="predicted", y_label="clicked"))
        if drawn
        else None
    )
    note = (
        f"bins of about equally many rows; neighbours are joined until a dot stands for {FEWEST_ROWS} or more"
        if drawn
        else f"no chart: there are fewer than {FEWEST_ROWS} rows"
    )
    return Block(
        title,
        _table(members),
        chart,
        note,
        legend([run for run, _ in members]),
        in_markdown=False,
        folded=True,
    )


def _errors(
    mass: Sequence[tuple[Run, dict[str, Any]]],
    width: Sequence[tuple[Run, dict[str, Any]]],
    click_rate: dict[str, Any] | None,
) -> Block:
    columns = [Column("run"), Column("equally many rows", auc), Column("equal width", auc)]
    columns += [Column("mean prediction", auc), Column("click rate", auc)]
    by_width = {run.number: figures["error"] for run, figures in width}
    rows = []
    for run, figures in mass or width:
        weights = [one.get("weight", one["rows"]) for one in figures["curve"]]
        total = sum(weights)
        means = [
            sum(weight * one[key] for weight, one in zip(weights, figures["curve"], strict=True)) / total
            for key in ("prediction", "click_rate")
        ]
        rows.append([run.name, figures["error"] if mass else None, by_width.get(run.number), *means])
    if click_rate:
        error, predicted = click_rate["calibration_error"], click_rate["prediction"]
        rows.append(["click rate only", error, error, predicted, rows[0][-1]])
    note = "ECE, in 15 bins of either kind: the mean distance from the dashed line, weighted by rows"
    return Block("Expected calibration error", Table(columns, rows), note=note, half=True)


def _table(members: Sequence[tuple[Run, dict[str, Any]]]) -> Table:
    columns = [Column("run"), Column("from", number), Column("to", number), Column("rows", count)]
    columns += [Column("mean prediction", auc), Column("share of clicks", auc)]
    columns.append(Column("95% interval", interval_of(auc), interval=True))
    keys = ("lower", "upper", "rows", "prediction", "click_rate")
    rows = [
        [run.name, *(one[key] for key in keys), tuple(one["interval"])]
        for run, figures in members
        for one in figures["curve"]
    ]
    return Table(columns, rows)

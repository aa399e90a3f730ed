"""What `evaluate` found about the labels beside the click."""

from collections.abc import Sequence

from clickprompt.report.evaluated import UNDEFINED
from clickprompt.report.page import Block, Section
from clickprompt.report.run import Run, finite
from clickprompt.report.table import Column, Table, auc, count, interval_of, percent

__all__ = ["labels"]


def labels(runs: Sequence[Run]) -> Section | None:
    """Return a table of every run's figures of each further label, over the rows that have it."""
    found = [(run, of_run) for run in runs if (of_run := (run.evaluation or {}).get("labels"))]
    if not found:
        return None
    columns = [Column("label"), Column("run"), Column("rows", count), Column("positive", percent)]
    columns += [Column("AUC", auc, UNDEFINED), Column("95% interval", interval_of(auc), interval=True)]
    columns += [Column("log loss", auc), Column("GAUC", auc), Column("calibration error", auc)]
    rows = []
    for name in dict.fromkeys(name for _, of_run in found for name in of_run):
        for run, figures in ((run, of_run[name]) for run, of_run in found if name in of_run):
            interval = figures["auc_interval"]
            rows.append(
                [
                    name,
                    run.name,
                    figures["rows"],
                    figures["positive_rate"],
                    finite(figures["auc"]),
                    (float(interval[0]), float(interval[1])) if interval else None,
                    finite(figures["log_loss"]),
                    finite((figures["gauc"] or {}).get("value")),
                    finite(figures["calibration_error"]),
                ]
            )
    intro = (
        "Labels that the model learns as tasks beside the click, over the rows in which each is known. The "
        "click's figures, which chose the weights, stand elsewhere."
    )
    return Section("Further labels", intro, [Block("Figures by label", Table(columns, rows))])

"""How large the CTR tower's weights were, beside fresh ones."""

from collections.abc import Iterator, Sequence
from typing import Any

from clickprompt.report.page import Block, Section
from clickprompt.report.run import Run, finite
from clickprompt.report.table import Column, Table, number

__all__ = ["norms"]


def norms(runs: Sequence[Run]) -> Section | None:
    rows = [
        [run.name, name, *(finite(figures.get(key)) for key in ("fresh", "start", "end"))]
        for run in runs
        for name, figures in _figures(run.result.get("norms"))
    ]
    if not rows:
        return None
    columns = [Column("run"), Column("weights")]
    columns += [Column(when, number) for when in ("fresh", "start", "end", "start / fresh", "end / fresh")]
    table = Table(columns, [[*row, _ratio(row[3], row[2]), _ratio(row[4], row[2])] for row in rows])
    note = (
        "embeddings by field: standard deviation over the values that training rows have; matrices: root "
        "mean square; start: with what finetune.init gave; end: of the export"
    )
    return Section(
        "Size of the weights",
        blocks=[Block("Weights beside fresh ones", table, note=note, folded=True, full=True)],
    )


def _figures(found: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (what a figure is of, its values)."""
    if not isinstance(found, dict):
        return
    for table, fields in (found.get("tables") or {}).items():
        kind = "linear term" if "linear_terms" in table else "embedding"
        for field, figures in fields.items():
            yield f"{field}, {kind}", figures
    for name, figures in (found.get("tower") or {}).items():
        yield name.removeprefix("ctr."), figures


def _ratio(value: float | None, fresh: float | None) -> float | None:
    return value / fresh if value is not None and fresh else None

"""What a table's runs say: means over the seeds, relative improvements, and paired tests."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from clickprompt.errors import InputError
from clickprompt.evaluation.metrics import relative_improvement
from clickprompt.evaluation.significance import paired_t_test
from clickprompt.tables.plan import Names, PaperTable

__all__ = ["RowFigures", "accuracy", "holm", "marks"]


@dataclass
class RowFigures:
    """A row's figures over its seeds."""

    names: Names
    seeds: list[int] = field(default_factory=list)
    auc: list[float] = field(default_factory=list)
    """of each seed"""
    log_loss: list[float] = field(default_factory=list)
    paper: list[float] = field(default_factory=list)
    missing: str | None = None
    """why there are no figures"""
    improvement: float | None = None
    """Rel.Impr, of the means"""
    against: Names | None = None
    """the row that it is tested against"""
    p: float | None = None
    """of Student's paired t-test over the seeds, two-sided"""
    p_holm: float | None = None
    """after Holm's correction for the table's tests"""

    @property
    def mean_auc(self) -> float | None:
        return statistics.mean(self.auc) if self.auc else None

    @property
    def mean_log_loss(self) -> float | None:
        return statistics.mean(self.log_loss) if self.log_loss else None

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "mean_auc": self.mean_auc, "mean_log_loss": self.mean_log_loss}


def accuracy(table: PaperTable, rows: Sequence[RowFigures]) -> list[RowFigures]:
    """Fill in improvements and tests.

    Where the table names a row of `improvement`, Rel.Impr is that row's over each other, and the `tested`
    rows are tested against the best of the rest (Table 2). Elsewhere it is each row's over its `over`, and
    tested against it.
    """
    by_names = {row.names: row for row in rows}
    if table.improvement is not None:
        ours = [row for row in rows if row.names[0] in table.tested and row.auc]
        others = [row for row in rows if row.names[0] not in table.tested and row.auc]
        whose = by_names.get((table.improvement,))
        for row in others:
            if whose is not None and whose.auc:
                row.improvement = relative_improvement(whose.mean_auc, row.mean_auc)
        if others:
            best = max(others, key=lambda row: row.mean_auc or 0.0)
            for row in ours:
                _test(row, best)
    else:
        for line in table.rows:
            row, over = by_names[line.names], by_names.get(line.over or ())
            if over is not None and row.auc and over.auc:
                row.improvement = relative_improvement(row.mean_auc, over.mean_auc)
                _test(row, over)
    tested = [row for row in rows if row.p is not None]
    for row, corrected in zip(tested, holm([row.p or 0.0 for row in tested]), strict=True):
        row.p_holm = corrected
    return list(rows)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down correction of m tests (Holm 1979): the k-th smallest p times m − k + 1, never
    less than a smaller one's and at most 1.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = largest
    return corrected


def marks(rows: Sequence[RowFigures]) -> dict[tuple[Names, str], str]:
    """Return which cells are "best" or "second": (row, "auc" or "log_loss") → mark, by what is shown."""
    found: dict[tuple[Names, str], str] = {}
    for name, sign in (("auc", -1), ("log_loss", 1)):
        shown = {
            row.names: round(sign * value, 4)
            for row in rows
            if (value := getattr(row, f"mean_{name}")) is not None
        }
        for mark, value in zip(("best", "second"), sorted(set(shown.values())), strict=False):
            found |= {(names, name): mark for names, own in shown.items() if own == value}
    return found


def _test(row: RowFigures, against: RowFigures) -> None:
    """Test the AUCs of the seeds that both have; fewer than two pairs, or equal differences, have no test."""
    pairs = [
        (row.auc[row.seeds.index(seed)], against.auc[against.seeds.index(seed)])
        for seed in row.seeds
        if seed in against.seeds
    ]
    row.against = against.names
    try:
        row.p = paired_t_test([own for own, _ in pairs], [other for _, other in pairs]).p_value
    except InputError:
        row.p = None

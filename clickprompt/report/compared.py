"""Compare runs on the same rows: relative improvement, and whether a difference is more than chance."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import DataError, InputError
from clickprompt.evaluation.comparison import compare, paired_logits
from clickprompt.evaluation.metrics import auc_or_none, log_loss, relative_improvement
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.evaluation.significance import paired_t_test
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.report.charts import Bar, Value, bars
from clickprompt.report.page import Block, Section
from clickprompt.report.run import Run, same_but_for_the_seed
from clickprompt.report.table import (
    Column,
    Table,
    auc,
    count,
    interval_of,
    number,
    p_value,
    signed,
    signed_percent,
)

__all__ = ["Comparison", "check_same_rows", "compare_predictions", "compared"]

_MOST_ROWS = 20_000_000  # the same limit as for `evaluate`, which also sorts in memory


@dataclass(frozen=True)
class Comparison:
    run: Run
    auc: float | None
    """None if all rows are of one class"""
    log_loss: float
    figures: dict[str, Any] | None
    """figures of evaluation/comparison.py; None for the base itself"""


def check_same_rows(runs: Sequence[Run], base: Run, split: str) -> None:
    """Raises DataError if evaluated runs have different datasets, and so different test sets."""
    for kind in ("evaluation", "recovery"):
        members = [run for run in runs if getattr(run, kind) and run.fingerprint]
        for run in members:
            first = base if base in members else members[0]
            if run.fingerprint != first.fingerprint:
                raise DataError(
                    f"{run.uri}: scored on another {split} set than {first.uri} (datasets "
                    f"{str(run.fingerprint)[:12]} and {str(first.fingerprint)[:12]}); only runs on "
                    "the same rows compare, make a report of each"
                )


def compare_predictions(
    runs: Sequence[Run], base: Run, split: str, data: str | None
) -> tuple[list[Comparison], str]:
    """Return every run with predictions beside the base, which comes first, and remarks.

    Raises DataError if predictions are damaged or don't have the same rows and labels.
    """
    places = {run.number: storage.join(run.uri, "predictions", split) for run in runs}
    scored = [run for run in runs if storage.list_names(places[run.number])]
    if base not in scored or len(scored) < 2:
        return [], ""
    if (rows := (base.evaluation or {}).get("rows") or 0) > _MOST_ROWS:
        return [], f"No comparison: {rows:,} rows are more than the {_MOST_ROWS:,} that are sorted in memory."
    base_table = read_predictions(places[base.number])
    others = [(run, _paired(run, base, base_table, places[run.number])) for run in scored if run is not base]
    users, note = _users(base, base_table, split, data)
    labels, base_logits = base_table["label"].to_numpy(), base_table["logit"].to_numpy()
    found = [Comparison(base, auc_or_none(labels, base_logits), log_loss(labels, base_logits), None)]
    for run, logits in others:
        say(f"comparing {run.name} with {base.name}")
        figures = compare(users, labels, logits, base_logits)
        found.append(Comparison(run, auc_or_none(labels, logits), log_loss(labels, logits), figures))
    return found, note


def _paired(run: Run, base: Run, base_table: pa.Table, place: str) -> np.ndarray:
    try:
        return paired_logits(base_table, read_predictions(place))
    except DataError as error:
        raise DataError(f"{run.uri} beside {base.uri}: {error}") from error


def _users(base: Run, predictions: pa.Table, split: str, data: str | None) -> tuple[np.ndarray, str]:
    """Return the user of each prediction, [N]; if the dataset can't be read, one user for all of them, and a
    remark.
    """
    path, version = data or base.config.get("data.path"), base.config.get("data.version")
    try:
        if not path:
            raise InputError("its configuration names no dataset")
        dataset = Dataset.open(storage.native(str(path)), version or 1)
        name = ((base.evaluation or {}).get("long_tail") or {}).get("user") or dataset.field_names[0]
        column = dataset.columns[dataset.field_names.index(name)]
        rows = pa.concat_tables(dataset.shard_tables(split, ["row_id", column])).sort_by("row_id")
        if not rows["row_id"].equals(predictions["row_id"]):
            raise InputError("its rows are not those of the predictions")
    except (InputError, ValueError) as error:
        return np.zeros(
            len(predictions), dtype=np.int64
        ), f"No bootstrap by user: the dataset can't be read ({error}); --data says where it is."
    return rows[column].to_numpy(), f"Users are those of the field {name}."


def compared(found: Sequence[Comparison], base: Run, note: str) -> Section | None:
    if not found:
        return Section("Comparison", note) if note else None
    differences = interval_of(signed)
    columns = [
        Column("run"),
        Column("AUC", auc, "undefined"),
        Column("log loss", auc),
        Column("Rel.Impr", signed_percent),
        Column("difference in AUC", signed),
    ]
    columns += [Column("95% by user", differences, interval=True), Column("p by user", p_value)]
    columns += [Column("95% by DeLong", differences, interval=True), Column("p by DeLong", p_value)]
    rows, drawn = [], []
    for one in found:
        if one.figures is None:
            rows.append(
                [
                    f"{one.run.name} (base)",
                    one.auc,
                    one.log_loss,
                    None if one.auc is None else 0.0,
                    *[None] * 5,
                ]
            )
            continue
        if one.auc is None or found[0].auc is None:  # one class: only the log loss can be compared
            rows.append([one.run.name, one.auc, one.log_loss, *[None] * 6])
            continue
        by_user, by_row = one.figures["user_bootstrap"] or {}, one.figures["delong"]
        tests = [by_user.get("interval"), by_user.get("p_value"), by_row["interval"], by_row["p_value"]]
        rows.append(
            [
                one.run.name,
                one.auc,
                one.log_loss,
                relative_improvement(one.auc, found[0].auc),
                one.auc - found[0].auc,
                *tests,
            ]
        )
        interval = by_user.get("interval") or by_row["interval"]
        tip = f"{one.run.name}: {signed(one.auc - found[0].auc)} {differences(interval)}"
        drawn.append(
            Bar(
                one.run.name,
                "",
                [
                    Value(
                        one.run.number,
                        one.auc - found[0].auc,
                        signed(one.auc - found[0].auc),
                        interval,
                        tip=tip,
                    )
                ],
            )
        )
    title = f"Against {base.name}"
    intro = (
        "Rel.Impr is AUC / AUC of the base − 1 (Table 2). The bootstrap draws whole users, whose rows are "
        "not independent; DeLong's test "
        f"takes rows as independent, so its intervals are too narrow where users have many. {note}"
    )
    kind = "bootstrap by user" if note.startswith("Users") else "DeLong"
    blocks = [
        Block(title, Table(columns, rows), note="the same test rows for all"),
    ]
    if drawn:
        blocks.append(
            Block(
                f"Difference in AUC from {base.name}",
                Table([columns[0], columns[4]], [[row[0], row[4]] for row in rows[1:]]),
                lambda width: bars("Difference in AUC", drawn, width, base=0.0, axis="difference in AUC"),
                f"lines are 95% intervals ({kind})",
                in_markdown=False,
            )
        )
    return Section("Comparison", intro, [*blocks, *_over_seeds(found, base)])


def _over_seeds(found: Sequence[Comparison], base: Run) -> list[Block]:
    """Make the paired t-test of every configuration that shares two or more seeds with the base's."""
    groups: dict[str, dict[str, Comparison]] = defaultdict(dict)
    for one in found:
        if "seed" in one.run.config and one.auc is not None:
            groups[same_but_for_the_seed(one.run)].setdefault(str(one.run.config["seed"]), one)
    base_key = same_but_for_the_seed(base)
    bases = groups.get(base_key, {})
    columns = [
        Column("runs"),
        Column("against"),
        Column("seeds", count),
        Column("mean AUC", auc),
        Column("mean of base", auc),
    ]
    columns += [Column("Rel.Impr", signed_percent), Column("t", number), Column("p", p_value)]
    columns.append(Column("95% of the difference", interval_of(signed), interval=True))
    rows = []
    for key, members in groups.items():
        seeds = sorted(set(members) & set(bases))
        if key == base_key or len(seeds) < 2:
            continue
        values, base_values = (
            [value for seed in seeds if (value := of[seed].auc) is not None] for of in (members, bases)
        )
        mean, base_mean = float(np.mean(values)), float(np.mean(base_values))
        names = [", ".join(of[seed].run.name for seed in seeds) for of in (members, bases)]
        try:
            test = paired_t_test(values, base_values)
            tested = [test.t, test.p_value, test.interval]
        except InputError:  # all seeds differ by the same: t is undefined
            tested = [None, None, None]
        rows.append([*names, len(seeds), mean, base_mean, relative_improvement(mean, base_mean), *tested])
    note = "configurations that differ in more than the seed, paired seed by seed: Student's paired t-test"
    return [Block("Over seeds", Table(columns, rows), note=note)] if rows else []

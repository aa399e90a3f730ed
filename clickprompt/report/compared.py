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
from clickprompt.report.charts import Bar, Value
from clickprompt.report.dots import ladder
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

__all__ = ["Comparison", "OverSeeds", "check_same_rows", "compare_predictions", "compared", "over_seeds"]

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
    users, weights, note = _users(base, base_table, split, data)
    labels, base_logits = base_table["label"].to_numpy(), base_table["logit"].to_numpy()
    of_base = auc_or_none(labels, base_logits, weights), log_loss(labels, base_logits, weights)
    found = [Comparison(base, *of_base, None)]
    for run, logits in others:
        say(f"comparing {run.name} with {base.name}")
        figures = compare(users, labels, logits, base_logits, weights)
        of_run = auc_or_none(labels, logits, weights), log_loss(labels, logits, weights)
        found.append(Comparison(run, *of_run, figures))
    return found, note


def _paired(run: Run, base: Run, base_table: pa.Table, place: str) -> np.ndarray:
    try:
        return paired_logits(base_table, read_predictions(place))
    except DataError as error:
        raise DataError(f"{run.uri} beside {base.uri}: {error}") from error


def _users(
    base: Run, predictions: pa.Table, split: str, data: str | None
) -> tuple[np.ndarray | None, np.ndarray | None, str]:
    """Return the user of each prediction, [N], its weight, [N], if rows have them, and a remark; no user if
    the log names none or the dataset can't be read.
    """
    path, version = data or base.config.get("data.path"), base.config.get("data.version")
    try:
        if not path:
            raise InputError("its configuration names no dataset")
        dataset = Dataset.open(storage.native(str(path)), version or 1)
        known = (base.evaluation or {}).get("intervals_by", "user") == "user"
        name = ((base.evaluation or {}).get("long_tail") or {}).get("user") or dataset.field_names[0]
        column = dataset.columns[dataset.field_names.index(name)]
        weight = ["importance"] if dataset.weighted else []
        rows = pa.concat_tables(dataset.shard_tables(split, ["row_id", column, *weight])).sort_by("row_id")
        if not rows["row_id"].equals(predictions["row_id"]):
            raise InputError("its rows are not those of the predictions")
    except (InputError, ValueError) as error:
        note = f"No bootstrap by user: the dataset can't be read ({error}); --data says where it is."
        return None, None, note
    weights = rows["importance"].to_numpy() if dataset.weighted else None
    if not known:
        return None, weights, "The log names no user, so rows are taken as independent of each other."
    return rows[column].to_numpy(), weights, f"Users are those of the field {name}."


def compared(found: Sequence[Comparison], base: Run, note: str) -> Section | None:
    if not found:
        return Section("Comparison", note) if note else None
    by_user = any((one.figures or {}).get("user_bootstrap") for one in found)
    intro = (
        "Rel.Impr is AUC / AUC of the base − 1 (the paper's Table 2). The bootstrap draws whole users, whose "
        "rows are not independent; DeLong's test takes rows as independent, so its intervals are too narrow "
        f"where users have many. {note}"
    )
    blocks = [_against(found, base, "user_bootstrap" if by_user else "delong")]
    if drawn := _drawn(found):
        title, axis = f"Difference in AUC from {base.name}", "difference in AUC"
        columns = [Column("run"), Column(axis, signed)]
        table = Table(columns, [[bar.name, bar.values[0].value] for bar in drawn])
        kind = "bootstrap by user" if by_user else "DeLong"
        blocks.append(
            Block(
                title,
                table,
                lambda width: ladder(title, drawn, width, base=0.0, axis=axis),
                f"lines are 95% intervals ({kind})",
                in_markdown=False,
            )
        )
    if by_user and len(found) > 1:
        blocks.append(_by_delong(found, base))
    return Section("Comparison", intro, [*blocks, *_seeds_table(found, base)])


def _against(found: Sequence[Comparison], base: Run, test: str) -> Block:
    """Make the table of all runs; test: "user_bootstrap" or "delong"."""
    what = "by user" if test == "user_bootstrap" else "by DeLong"
    columns = [Column("run"), Column("AUC", auc, "undefined"), Column("log loss", auc)]
    columns += [Column("Rel.Impr", signed_percent), Column("difference in AUC", signed)]
    columns += [Column(f"95% {what}", interval_of(signed), interval=True), Column(f"p {what}", p_value)]
    rows = []
    for one in found:
        name = one.run.name if one.figures else f"{one.run.name} (base)"
        line: list[Any] = [name, one.auc, one.log_loss]
        if one.auc is None or found[0].auc is None:  # one class: only the log loss can be compared
            rows.append([*line, *[None] * 4])
        elif one.figures is None:
            rows.append([*line, 0.0, *[None] * 3])
        else:
            figures = one.figures[test] or {}
            gain = relative_improvement(one.auc, found[0].auc)
            difference = one.auc - found[0].auc
            rows.append([*line, gain, difference, figures.get("interval"), figures.get("p_value")])
    draws = next(
        (
            figures["resamples"]
            for one in found
            if (figures := (one.figures or {}).get("user_bootstrap")) and figures.get("resamples")
        ),
        None,
    )
    note = "the same test rows for all"
    if test == "user_bootstrap" and draws:
        note += f"; with {draws:,} draws no p is below {2 / (draws + 1):.3f}"
    return Block(f"Against {base.name}", Table(columns, rows), note=note)


def _by_delong(found: Sequence[Comparison], base: Run) -> Block:
    columns = [Column("run"), Column("difference in AUC", signed)]
    columns += [Column("95% by DeLong", interval_of(signed), interval=True), Column("p by DeLong", p_value)]
    rows = [
        [one.run.name, test["difference"], test["interval"], test["p_value"]]
        for one in found
        if (test := (one.figures or {}).get("delong"))
    ]
    title = f"DeLong's test against {base.name}"
    return Block(title, Table(columns, rows), note="as if rows were independent", folded=True, full=True)


def _drawn(found: Sequence[Comparison]) -> list[Bar]:
    drawn, base_auc = [], found[0].auc
    for one in found[1:]:
        if one.auc is None or base_auc is None or one.figures is None:
            continue
        difference = one.auc - base_auc
        test = one.figures["user_bootstrap"] or one.figures["delong"]
        if test is None:
            continue
        interval = test["interval"]
        shown = signed(difference)
        tip = f"{one.run.name}: {shown} {interval_of(signed)(interval)}"
        drawn.append(Bar(one.run.name, shown, [Value(one.run.number, difference, shown, interval, tip=tip)]))
    return drawn


@dataclass(frozen=True)
class OverSeeds:
    """One configuration against the base's, over the seeds that both have."""

    members: list[Comparison]
    bases: list[Comparison]
    mean: float
    base_mean: float
    t: float | None
    """None if all seeds differ by the same; so are the next two"""
    p_value: float | None
    interval: tuple[float, float] | None


def over_seeds(found: Sequence[Comparison], base: Run) -> list[OverSeeds]:
    """Make the paired t-test of every configuration that shares two or more seeds with the base's."""
    groups: dict[str, dict[str, Comparison]] = defaultdict(dict)
    for one in found:
        if "seed" in one.run.config and one.auc is not None:
            groups[same_but_for_the_seed(one.run)].setdefault(str(one.run.config["seed"]), one)
    base_key = same_but_for_the_seed(base)
    bases = groups.get(base_key, {})
    tests = []
    for key, members in groups.items():
        seeds = sorted(set(members) & set(bases))
        if key == base_key or len(seeds) < 2:
            continue
        values, base_values = (
            [value for seed in seeds if (value := of[seed].auc) is not None] for of in (members, bases)
        )
        try:
            test = paired_t_test(values, base_values)
            tested = (test.t, test.p_value, test.interval)
        except InputError:  # all seeds differ by the same: t is undefined
            tested = (None, None, None)
        ours, theirs = ([of[seed] for seed in seeds] for of in (members, bases))
        tests.append(OverSeeds(ours, theirs, float(np.mean(values)), float(np.mean(base_values)), *tested))
    return tests


def _seeds_table(found: Sequence[Comparison], base: Run) -> list[Block]:
    columns = [Column("runs"), Column("against"), Column("seeds", count)]
    columns += [Column("mean AUC", auc), Column("mean of base", auc)]
    columns += [Column("Rel.Impr", signed_percent), Column("t", number), Column("p", p_value)]
    columns.append(Column("95% of the difference", interval_of(signed), interval=True))
    rows = []
    for test in over_seeds(found, base):
        names = [", ".join(one.run.name for one in side) for side in (test.members, test.bases)]
        gain = relative_improvement(test.mean, test.base_mean)
        figures = [test.mean, test.base_mean, gain, test.t, test.p_value, test.interval]
        rows.append([*names, len(test.members), *figures])
    note = "configurations that differ in more than the seed, paired seed by seed: Student's paired t-test"
    return [Block("Over seeds", Table(columns, rows), note=note)] if rows else []

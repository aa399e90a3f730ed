"""What `evaluate` found about finetuned runs: the long tail, cold start, AUC by value, latency."""

from collections.abc import Sequence
from typing import Any

from clickprompt.evaluation.slices import judged
from clickprompt.report.charts import Bar, Value
from clickprompt.report.dots import dots, ladder
from clickprompt.report.page import Block, Section
from clickprompt.report.run import Run, finite
from clickprompt.report.table import Column, Table, auc, count, interval_of, signed_percent
from clickprompt.report.training import legend

__all__ = ["by_value", "cold_start", "latency", "long_tail"]

_READINGS = {
    "seen": "the rarest values that occur in training",
    "with_unseen": "the same, and the values that never do",
}
UNDEFINED = "undefined"
_MOST_VALUES = 12  # values of a field that are drawn; the table has all


def long_tail(runs: Sequence[Run]) -> Section | None:
    members = [(run, tail) for run in runs if (tail := (run.evaluation or {}).get("long_tail"))]
    if not members:
        return None
    first = members[0][1]
    user, item = first["user"], first["item"]
    share = f"{first['share']:.0%}"
    intro = (
        f"Rows by whether their {user} and their {item} are among the rarest {share} in training "
        "(the paper's Table 6), in two readings of what the paper leaves open. An AUC of 0.5 is chance."
    )
    blocks = []
    for reading, meaning in _READINGS.items():
        kinds = [
            (
                ", ".join(
                    f"{'tail' if figures[key] else 'other'} {name}"
                    for key, name in (("tail_user", user), ("tail_item", item))
                ),
                place,
            )
            for place, figures in enumerate(first[reading])
        ]
        groups = [(kind, [(run, tail[reading][place]) for run, tail in members]) for kind, place in kinds]
        blocks.append(_subsets(f"Long tail: {meaning}", "rows of", groups))
    return Section("Long tail", intro, blocks)


def cold_start(runs: Sequence[Run]) -> Section | None:
    members = [(run, found) for run in runs if (found := (run.evaluation or {}).get("cold_start"))]
    names = dict.fromkeys(name for _, found in members for name in found)
    groups = [
        (
            "every value seen" if name == "none" else f"new {name}",
            [(run, found[name]) for run, found in members if name in found],
        )
        for name in names
    ]
    block = (
        _subsets("Cold start: rows with a value that never occurs in training", "rows with", groups)
        if groups
        else None
    )
    return Section("Cold start", blocks=[block]) if block else None


def _subsets(
    title: str, what: str, groups: Sequence[tuple[str, Sequence[tuple[Run, dict[str, Any]]]]]
) -> Block:
    """Make a dot for each run and subset. An AUC without enough rows of both classes is called undefined."""
    columns = [
        Column(what),
        Column("run"),
        Column("rows", count),
        Column("clicks", count),
        Column("AUC", auc, UNDEFINED),
    ]
    columns += [
        Column("95% interval", interval_of(auc), interval=True),
        Column("log loss", auc),
        Column("Rel.Impr", signed_percent),
    ]
    rows, drawn = [], []
    for name, members in groups:
        values = []
        for run, figures in members:
            value, ends = finite(figures.get("auc")), figures.get("auc_interval")
            interval = (float(ends[0]), float(ends[1])) if ends else None
            gain = (figures.get("against") or {}).get("relative_improvement")
            rows.append(
                [
                    name,
                    run.name,
                    figures["rows"],
                    figures["clicks"],
                    value,
                    interval,
                    finite(figures.get("log_loss")),
                    gain,
                ]
            )
            shown = UNDEFINED if value is None else auc(value)
            tip = f"{run.name}: {shown}" + (f" {interval_of(auc)(interval)}" if interval else "")
            values.append(Value(run.number, value, shown, interval, tip=tip))
        first = members[0][1]
        drawn.append(Bar(name, f"{first['rows']:,} rows, {first['clicks']:,} clicks", values))
    if all(row[-1] is None for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    runs = list({run.number: run for _, members in groups for run, _ in members}.values())
    note = "lines are 95% intervals" if any(row[5] for row in rows) else ""
    chart = (
        (lambda width: dots(title, drawn, width, base=0.5, axis="AUC"))
        if any(row[4] is not None for row in rows)
        else None
    )
    return Block(title, Table(columns, rows), chart, note, legend(runs))


def by_value(runs: Sequence[Run]) -> Section | None:
    """Draw the most frequent values of each field; the tables have all."""
    names = dict.fromkeys(name for run in runs for name in (run.evaluation or {}).get("by_value") or {})
    blocks = [_values(name, runs) for name in names]
    intro = (
        "Of every field of at most 1,000 values, the most frequent values first. Lines are 95% intervals: by "
        "user where one is known, and by row where each value is one user."
    )
    return Section("AUC by value", intro, blocks) if blocks else None


def _values(name: str, runs: Sequence[Run]) -> Block:
    columns = [Column("value"), Column("run"), Column("rows", count), Column("clicks", count)]
    columns += [
        Column("AUC", auc, UNDEFINED),
        Column("95% interval", interval_of(auc), interval=True),
    ]
    members = [run for run in runs if ((run.evaluation or {}).get("by_value") or {}).get(name)]
    rows, drawn = [], {}
    for run in members:
        for found in (run.evaluation or {})["by_value"][name]:
            shown = str(found["value"]) if found["value"] is not None else "unknown"
            value, ends = finite(found["auc"]), found.get("auc_interval")
            interval = (float(ends[0]), float(ends[1])) if ends else None
            rows.append([shown, run.name, found["rows"], found["clicks"], value, interval])
            if value is not None and judged(found["rows"], found["clicks"]):
                tip = f"{shown}, {run.name}: {auc(value)}"
                tip += f" {interval_of(auc)(interval)}" if interval else ""
                bar = drawn.setdefault(shown, (found["rows"], []))
                bar[1].append(Value(run.number, value, auc(value), interval, tip=tip))
    rows.sort(key=lambda row: (-row[2], row[0]))
    chosen = sorted(drawn.items(), key=lambda pair: (-pair[1][0], pair[0]))[:_MOST_VALUES]
    groups = [Bar(shown, f"{count(number)} rows", values) for shown, (number, values) in chosen]
    title = f"AUC by {name}"
    chart = (lambda width: ladder(title, groups, width, base=0.5, axis="AUC")) if groups else None
    among = len({row[0] for row in rows})
    note = f"the {len(groups)} most frequent of {among:,} values" if among > len(groups) > 0 else ""
    if not groups:
        large = any(judged(row[2], row[3]) for row in rows)
        note = "left out for so many rows" if large else "no value has ten clicks and ten other rows"
    return Block(title, Table(columns, rows), chart, note, legend(members), in_markdown=False, folded=True)


def latency(runs: Sequence[Run]) -> Section | None:
    found = [run for run in runs if (finite((run.evaluation or {}).get("ms_per_batch")) or 0) > 0]
    if not found:
        return None
    batch = {(run.evaluation or {}).get("batch") for run in found}
    rows, drawn = [], []
    for run in found:
        figures = run.evaluation or {}
        median, p99 = finite(figures["ms_per_batch"]) or 0.0, finite(figures.get("ms_per_batch_p99"))
        rows.append([run.name, run.objective, figures.get("batch"), median, p99])
        interval = (median, p99) if p99 is not None else None
        tip = f"{run.name}: median {_ms(median)} ms" + (f", p99 {_ms(p99)} ms" if p99 is not None else "")
        value = Value(run.number, median, _ms(median), interval, tip=tip)
        drawn.append(Bar(run.name, f"{_ms(median)} ms", [value]))
    columns = [Column("run"), Column("objective"), Column("batch", count)]
    table = Table([*columns, Column("median ms", _ms), Column("p99 ms", _ms)], rows)
    size = f"a batch of {batch.pop()} rows" if len(batch) == 1 else "a batch"
    note = (
        f"milliseconds for {size}, one thread: the median, and a line to the 99th percentile "
        "(the paper's Table 8)"
    )
    title, axis = "Inference latency", "ms per batch, logarithmic"
    chart = (lambda width: ladder(title, drawn, width, axis=axis, log=True)) if drawn else None
    return Section("Latency", blocks=[Block(title, table, chart, note)])


def _ms(value: float) -> str:
    """Format milliseconds with three or more figures."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"

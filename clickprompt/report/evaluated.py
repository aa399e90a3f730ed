"""What `evaluate` found about finetuned runs: calibration, the long tail, cold start, AUC by value,
latency.
"""

from collections.abc import Sequence
from typing import Any

from clickprompt.report.charts import Bar, Line, Value, bars, xy
from clickprompt.report.page import Block, Section
from clickprompt.report.run import Run, finite
from clickprompt.report.table import Column, Table, auc, count, interval_of, number
from clickprompt.report.training import legend

__all__ = ["by_value", "calibration", "cold_start", "latency", "long_tail"]

_READINGS = {
    "seen": "the rarest values that occur in training",
    "with_unseen": "the same, and the values that never do",
}
UNDEFINED = "undefined"


def calibration(runs: Sequence[Run]) -> Section | None:
    blocks = []
    for bins, shape in (
        ("equal_width", "15 bins of equal width"),
        ("equal_mass", "15 bins of about equally many rows"),
    ):
        found = [(run, (run.evaluation or {}).get("calibration", {}).get(bins)) for run in runs]
        if members := [(run, figures) for run, figures in found if figures and figures.get("curve")]:
            blocks.append(_reliability(f"Reliability, {shape.removeprefix('15 ')}", shape, members))
    intro = (
        "Of the rows predicted at 30%, are 30% clicked? Whiskers are Wilson's 95% intervals, which "
        "treat rows as independent of each other."
    )
    return Section("Calibration", intro, blocks) if blocks else None


def _reliability(title: str, shape: str, members: Sequence[tuple[Run, dict[str, Any]]]) -> Block:
    columns = [
        Column("run"),
        Column("from", number),
        Column("to", number),
        Column("rows", count),
        Column("mean prediction", auc),
    ]
    columns += [Column("share of clicks", auc), Column("95% interval", interval_of(auc), interval=True)]
    rows, lines, strips = [], [], []
    for run, figures in members:
        curve = figures["curve"]
        rows += [
            [
                run.name,
                *(bin_[key] for key in ("lower", "upper", "rows", "prediction", "click_rate")),
                tuple(bin_["interval"]),
            ]
            for bin_ in curve
        ]
        points = [(bin_["prediction"], bin_["click_rate"]) for bin_ in curve]
        tips = [
            f"{run.name}: predicted {x:.3f}, clicked {y:.3f} of {bin_['rows']:,} rows"
            for (x, y), bin_ in zip(points, curve, strict=True)
        ]
        lines.append(
            Line(
                run.name,
                run.number,
                points,
                [tuple(bin_["interval"]) for bin_ in curve],
                marked=True,
                tips=tips,
            )
        )
        most = max(bin_["rows"] for bin_ in curve)
        strips.append([(bin_["lower"], bin_["upper"], bin_["rows"] / most) for bin_ in curve])
    errors = ", ".join(f"{run.name} {figures['error']:.4f}" for run, figures in members)
    note = f"{shape}; below: each bin's rows. Expected calibration error: {errors}"

    def chart(width: float) -> str:
        height = min(width * 0.8, 360) + 14 * len(strips)
        return xy(
            title,
            lines,
            width,
            x_label="predicted",
            y_label="clicked",
            square=True,
            strip=strips,
            height=height,
        )

    return Block(
        title, Table(columns, rows), chart, note, legend([run for run, _ in members]), in_markdown=False
    )


def long_tail(runs: Sequence[Run]) -> Section | None:
    members = [(run, tail) for run in runs if (tail := (run.evaluation or {}).get("long_tail"))]
    if not members:
        return None
    first = members[0][1]
    user, item = first["user"], first["item"]
    share = f"{first['share']:.0%}"
    intro = (
        f"Rows by whether their {user} and their {item} are among the rarest {share} in training "
        "(Table 6), in two readings of what the paper leaves open. Bars begin at 0.5, which is "
        "chance."
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
    """Make a bar for each run and subset. An AUC without enough rows of both classes is called undefined."""
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
        Column("Rel.Impr", lambda v: f"{v:+.2%}"),
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
        figures = members[0][1]
        drawn.append(Bar(name, f"{figures['rows']:,} rows, {figures['clicks']:,} clicks", values))
    if all(row[-1] is None for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    runs = list({run.number: run for _, members in groups for run, _ in members}.values())
    note = "lines are 95% intervals" if any(row[5] for row in rows) else ""
    chart = (
        (lambda width: bars(title, drawn, width, base=0.5, axis="AUC"))
        if any(row[4] is not None for row in rows)
        else None
    )
    return Block(title, Table(columns, rows), chart, note, legend(runs))


def by_value(runs: Sequence[Run]) -> Section | None:
    """Make tables to unfold, one for each field."""
    names = dict.fromkeys(name for run in runs for name in (run.evaluation or {}).get("by_value") or {})
    columns = [
        Column("value"),
        Column("run"),
        Column("rows", count),
        Column("clicks", count),
        Column("AUC", auc, UNDEFINED),
    ]
    blocks = []
    for name in names:
        rows = [
            [
                str(found["value"]) if found["value"] is not None else "unknown",
                run.name,
                found["rows"],
                found["clicks"],
                finite(found["auc"]),
            ]
            for run in runs
            for found in ((run.evaluation or {}).get("by_value") or {}).get(name, ())
        ]
        rows.sort(key=lambda row: (-row[2], row[0]))
        blocks.append(Block(f"AUC by {name}", Table(columns, rows), in_markdown=False, folded=True))
    intro = "Of every field of at most 1,000 values, the most frequent values first."
    return Section("AUC by value", intro, blocks) if blocks else None


def latency(runs: Sequence[Run]) -> Section | None:
    found = [run for run in runs if finite((run.evaluation or {}).get("ms_per_batch")) is not None]
    if not found:
        return None
    batch = {(run.evaluation or {}).get("batch") for run in found}
    rows, drawn = [], []
    for run in found:
        figures = run.evaluation or {}
        median, p99 = finite(figures["ms_per_batch"]), finite(figures.get("ms_per_batch_p99"))
        rows.append([run.name, run.objective, figures.get("batch"), median, p99])
        shown = f"{median:.2f} ms" + (f" (p99 {p99:.2f})" if p99 is not None else "")
        drawn.append(
            Bar(
                run.name,
                "",
                [
                    Value(
                        run.number, median, shown, (median or 0, p99) if p99 is not None else None, tip=shown
                    )
                ],
            )
        )
    columns = [
        Column("run"),
        Column("objective"),
        Column("batch", count),
        Column("median ms", lambda value: f"{value:.2f}"),
    ]
    table = Table([*columns, Column("p99 ms", lambda value: f"{value:.2f}")], rows)
    size = f"a batch of {batch.pop()} rows" if len(batch) == 1 else "a batch"
    note = f"milliseconds for {size}, one thread, median; the line ends at the 99th percentile (Table 8)"
    title = "Inference latency"
    return Section(
        "Latency",
        blocks=[
            Block(title, table, lambda width: bars(title, drawn, width, base=0.0, axis="ms per batch"), note)
        ],
    )

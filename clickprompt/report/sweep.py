"""A sweep's trials: every one of them, how much each searched key matters, and the AUC along each key."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from clickprompt.report.charts import Axis, Bar, Line, Value, axis_of, bars, parallel, xy
from clickprompt.report.page import Block, Section
from clickprompt.report.places import Places
from clickprompt.report.run import Run, finite
from clickprompt.report.table import Column, Table, auc, count, minus, number, percent

__all__ = ["importance", "points_of", "searched_keys", "sweep"]

_OF_A_TRIAL = {
    "trial",
    "point",
    "seed",
    "status",
    "valid_auc",
    "best_step",
    "steps",
    "seconds",
    "pretrain",
    "run",
    "error",
}
_GROUPS = 4  # number of groups for a key with more values than _DISTINCT
_DISTINCT = 8


def searched_keys(trials: Sequence[dict[str, Any]]) -> list[str]:
    return [
        key
        for key in (trials[0] if trials else {})
        if key not in _OF_A_TRIAL and len({str(trial[key]) for trial in trials}) > 1
    ]


def points_of(trials: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the finished trials of each point of the search, one per seed. A stopped trial's AUC is of fewer
    steps, so it isn't among them.
    """
    points = defaultdict(list)
    for trial in trials:
        if trial["status"] == "finished" and finite(trial["valid_auc"]) is not None:
            points[trial["point"]].append(trial)
    return list(points.values())


def importance(trials: Sequence[dict[str, Any]], key: str) -> tuple[float, float] | None:
    """Return (share, what chance alone gives): the key's main effect, η² = Σ_v n_v (ā_v − ā)² / Σ_p (a_p −
    ā)², where a_p is a point's mean validation AUC over its seeds, ā their mean and ā_v that of the n_v
    points whose key has the value v.

    Values of a key with no effect take (groups − 1) / (points − 1) of the variance on average. A key of more
    than eight numbers is cut into quarters. None if nothing varies, or every point has a value of its own.
    """
    points = [
        (statistics.fmean(trial["valid_auc"] for trial in point), point[0][key])
        for point in points_of(trials)
    ]
    groups = _grouped(points)
    if not 1 < len(groups) < len(points):
        return None
    mean = statistics.fmean(value for value, _ in points)
    total = sum((value - mean) ** 2 for value, _ in points)
    between = sum(len(group) * (statistics.fmean(group) - mean) ** 2 for group in groups)
    return (between / total, (len(groups) - 1) / (len(points) - 1)) if total else None


def _grouped(points: Sequence[tuple[float, Any]]) -> list[list[float]]:
    values = {value for _, value in points}
    if len(values) > _DISTINCT and all(isinstance(value, int | float) for value in values):
        ordered = sorted(points, key=lambda point: point[1])
        cuts = [len(ordered) * group // _GROUPS for group in range(_GROUPS + 1)]
        return [[value for value, _ in ordered[start:end]] for start, end in itertools.pairwise(cuts)]
    groups = defaultdict(list)
    for value, name in points:
        groups[name].append(value)
    return list(groups.values())


def sweep(run: Run, title: str, places: Places) -> Section | None:
    trials = [
        {
            key: (places.text if key == "error" else places.value)(value) if isinstance(value, str) else value
            for key, value in trial.items()
        }
        for trial in run.trials or []
    ]
    keys = searched_keys(trials)
    if not trials:
        return None
    points = points_of(trials)
    states = ", ".join(
        f"{sum(trial['status'] == status for trial in trials)} {status}"
        for status in ("finished", "stopped", "failed")
    )
    intro = (
        f"{len(trials)} trials ({states}) of {len({trial['point'] for trial in trials})} points, by "
        "validation AUC. Only finished trials are compared: a stopped one's AUC is of fewer steps."
    )
    blocks = [_best(points, keys)] if points else []
    if points and keys:
        blocks += [_coordinates(trials, keys), *_importances(trials, keys)]
        blocks += [_along(points, key) for key in sorted(keys, key=lambda key: key != "prompt.num_prompts")]
    blocks.append(_all(trials, keys))
    return Section(
        title,
        intro,
        blocks,
        texts=[("best.yaml (the file itself is ready for --config)", places.config(run.best_text))]
        if run.best_text
        else [],
    )


def _best(points: Sequence[list[dict[str, Any]]], keys: Sequence[str]) -> Block:
    rows = []
    for point in points:
        values = [trial["valid_auc"] for trial in point]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        rows.append(
            [
                *(point[0][key] for key in keys),
                len(values),
                statistics.fmean(values),
                deviation,
                min(values),
                max(values),
            ]
        )
    rows.sort(key=lambda row: -row[len(keys) + 1])
    columns = [
        *(Column(key, _setting) for key in keys),
        Column("seeds", count),
        Column("mean valid AUC", auc),
        Column("SD over seeds", auc),
    ]
    table = Table([*columns, Column("lowest", auc), Column("highest", auc)], rows, shown=12)
    return Block(
        "Points, best first",
        table,
        note="mean validation AUC over the seeds of a point; that of the best is flattered by the "
        "choice, its test AUC is not",
    )


def _setting(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return minus(f"{value:g}" if isinstance(value, float) else str(value)) if number else str(value)


def _coordinates(trials: Sequence[dict[str, Any]], keys: Sequence[str]) -> Block:
    finished = [trial for point in points_of(trials) for trial in point]
    aucs = [trial["valid_auc"] for trial in finished]
    low, high = min(aucs), max(aucs)
    axes = [axis_of(_short(key, keys), [trial[key] for trial in finished]) for key in keys]
    scale = Line("", 0, [(0, low), (0, high)])
    ticks = [(value, auc(value)) for value in (low, high)] if high > low else [(low, auc(low))]
    axes.append(
        Axis(
            "valid AUC", {value: value for _, value in scale.points} | {value: value for value in aucs}, ticks
        )
    )
    lines = []
    for trial in finished:
        tip = (
            ", ".join(f"{_short(key, keys)} {_setting(trial[key])}" for key in keys)
            + f", seed {trial['seed']}: {trial['valid_auc']:.4f}"
        )
        share = (trial["valid_auc"] - low) / (high - low) if high > low else 1.0
        lines.append(([*(trial[key] for key in keys), trial["valid_auc"]], share, tip))
    table = Table(
        [*(Column(key, _setting) for key in keys), Column("seed", count), Column("valid AUC", auc)],
        [[*(trial[key] for key in keys), trial["seed"], trial["valid_auc"]] for trial in finished],
    )
    title = "Finished trials"
    note = "a line is a trial; the darker, the higher its AUC"
    return Block(
        title,
        table,
        lambda width: parallel(title, axes, lines, width, best="best trial"),
        note,
        in_markdown=False,
    )


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the end of a dotted name, if no other key ends like it."""
    parts = key.split(".")
    for depth in range(1, len(parts)):
        end = ".".join(parts[-depth:])
        if sum(other == end or other.endswith(f".{end}") for other in keys) == 1:
            return end
    return key


def _importances(trials: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[Block]:
    found = sorted(
        ((key, figures) for key in keys if (figures := importance(trials, key))), key=lambda pair: -pair[1][0]
    )
    if not found:
        return []
    title = "Importance of each key"
    note = (
        "Share of the variance of a point's mean validation AUC that the key's main effect explains: "
        "Σ_v n_v (ā_v − ā)² / Σ_p (a_p − ā)², for points p and a key's values v (quarters of them if "
        "a key has more than 8). A key without effect has (values − 1) / (points − 1) on average, "
        "shown as “by chance”. Joint effects of several keys are in neither."
    )
    table = Table(
        [Column("key"), Column("share of variance", percent), Column("by chance", percent)],
        [[key, *shares] for key, shares in found],
    )
    drawn = [
        Bar(key, f"by chance {chance:.0%}", [Value(0, share, percent(share), tip=f"{key}: {share:.1%}")])
        for key, (share, chance) in found
    ]
    return [
        Block(title, table, lambda width: bars(title, drawn, width, base=0.0, axis="share of variance"), note)
    ]


def _along(points: Sequence[list[dict[str, Any]]], key: str) -> Block:
    """Draw for each value the best of its points, as the mean over seeds with the lowest and highest seed;
    pale: all finished trials.
    """
    by_value: dict[Any, list[list[float]]] = defaultdict(list)
    for point in points:
        by_value[point[0][key]].append([trial["valid_auc"] for trial in point])
    axis = axis_of(key, list(by_value))
    columns = [
        Column(key, _setting),
        Column("points", count),
        Column("best point's mean AUC", auc),
        Column("its seeds", count),
    ]
    columns += [Column("its lowest", auc), Column("its highest", auc), Column("mean of all points", auc)]
    rows = []
    for value in axis.places:
        best = max(by_value[value], key=statistics.fmean)
        overall = statistics.fmean(statistics.fmean(values) for values in by_value[value])
        rows.append(
            [value, len(by_value[value]), statistics.fmean(best), len(best), min(best), max(best), overall]
        )
    line = Line(
        "best point",
        0,
        [(axis.places[row[0]], row[2]) for row in rows],
        [(row[4], row[5]) if row[3] > 1 else None for row in rows],
        dots=[
            (axis.places[value], each)
            for value, found in by_value.items()
            for values in found
            for each in values
        ],
        marked=True,
        tips=[f"{key} {_setting(row[0])}: best point {row[2]:.4f} over {row[3]} seeds" for row in rows],
    )
    what = "K" if key == "prompt.num_prompts" else key
    title = f"AUC along {what}"
    note = (
        "line: the best point of each value, mean over its seeds, whiskers from its lowest to its "
        "highest seed; pale: every finished trial"
    )

    def chart(width: float) -> str:
        return xy(title, [line], width, x_label=key, y_label="validation AUC", x_ticks=axis.ticks)

    return Block(title, Table(columns, rows), chart, note)


def _all(trials: Sequence[dict[str, Any]], keys: Sequence[str]) -> Block:
    columns = [
        Column("trial"),
        *(Column(key, _setting) for key in keys),
        Column("seed", count),
        Column("status"),
        Column("valid AUC", auc),
    ]
    columns += [
        Column("best step", count),
        Column("steps", count),
        Column("seconds", number),
        Column("error"),
    ]
    names = ["trial", *keys, "seed", "status", "valid_auc", "best_step", "steps", "seconds", "error"]
    rows = [
        [str(trial.get(name)) if name == "trial" else trial.get(name) for name in names] for trial in trials
    ]
    return Block("All trials", Table(columns, rows), in_markdown=False, folded=True, full=True)

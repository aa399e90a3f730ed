"""What was run, and how training went."""

from collections.abc import Mapping, Sequence
from typing import Any

from clickprompt.evaluation.ranking import in_order
from clickprompt.report.charts import Line, xy
from clickprompt.report.page import Block, Section
from clickprompt.report.places import Places
from clickprompt.report.run import Run, finite
from clickprompt.report.table import Column, Table, auc, count, heading, interval_of, number, percent

__all__ = ["curves", "legend", "smoothed", "summary"]

_POINTS = 200  # most points of a curve


def legend(runs: Sequence[Run]) -> list[tuple[str, int]]:
    return [(run.name, run.number) for run in runs] if len(runs) > 1 else []


def summary(runs: Sequence[Run], split: str, places: Places, click_rate: Mapping[str, Any] | None) -> Section:
    """Show the runs' figures, with those of `click_rate_only` below them, and how they were trained."""
    blocks = []
    scored = [run for run in runs if run.evaluation]
    if scored:
        columns = [Column("run"), Column("AUC", auc, "undefined"), Column("log loss", auc)]
        by = {(run.evaluation or {}).get("intervals_by", "user") for run in scored}
        columns += [Column(heading(by), interval_of(auc), interval=True)]
        columns += [Column("GAUC", auc), Column("ECE", auc), Column("rows", count)]
        rows = [_scores(run) for run in scored]
        if click_rate:
            error = click_rate["calibration_error"]
            rows.append(
                ["click rate only", *(click_rate[key] for key in ("auc", "log_loss")), None, None, error]
            )
            rows[-1].append(None)
        note = "GAUC: mean of the users' AUCs, by rows; ECE: expected calibration error"
        if click_rate:
            rate = percent(click_rate["prediction"])
            note += f"; click rate only: {rate}, that of the training rows, predicted for every row"
        blocks.append(Block(f"Scores on {split}", Table(columns, rows), note=note))
        blocks += [
            _ranking(scored, split, *of)
            for of in (("ranking", "user"), ("ranking_by_request", "request"))
            if any((run.evaluation or {}).get(of[0]) for run in scored)
        ]
    columns = [Column("run"), Column("stage"), Column("model"), Column("seed"), Column("steps", count)]
    columns += [Column("of steps", count), Column("best step", count), Column("validation AUC", auc)]
    columns.append(Column("minutes", lambda value: f"{value:,.1f}"))
    rows = [_training(run) for run in runs]
    shown = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
    table = Table([columns[place] for place in shown], [[row[place] for place in shown] for row in rows])
    blocks.append(Block("Training", table))
    folders = "\n".join(f"{run.name}: {places.of(run.uri)}" for run in runs)
    return Section("Runs", blocks=blocks, texts=[("Folders, from that of this file", folders)])


def _scores(run: Run) -> list[Any]:
    found = run.evaluation or {}
    calibration = (found.get("calibration") or {}).get("equal_mass") or {}
    return [
        run.name,
        finite(found.get("auc")),
        finite(found.get("log_loss")),
        found.get("auc_interval"),
        finite((found.get("gauc") or {}).get("value")),
        finite(calibration.get("error")),
        found.get("rows"),
    ]


def _ranking(runs: Sequence[Run], split: str, key: str, group: str) -> Block:
    """Make the table of how well the rows of each user or request are ranked."""
    found = [(run, ranked) for run in runs if (ranked := (run.evaluation or {}).get(key))]
    names = in_order({name for _, ranked in found for name in ranked["figures"]})
    columns = [Column("run"), *(Column(name.replace("_", " "), auc) for name in names)]
    columns += [Column(f"{group}s", count), Column("left out", count)]
    rows = [
        [
            run.name,
            *(finite(ranked["figures"].get(name)) for name in names),
            ranked["groups"],
            ranked["groups_left_out"],
        ]
        for run, ranked in found
    ]
    note = (
        f"mean over the {group}s; those with rows of one class are left out; ties: the mean over their orders"
    )
    return Block(f"Ranking on {split}, by {group}", Table(columns, rows), note=note)


def _training(run: Run) -> list[Any]:
    result = run.result
    seconds = finite(result.get("seconds"))
    return [
        run.name,
        run.stage or None,
        _model(run) or None,
        str(run.config["seed"]) if "seed" in run.config else None,
        result.get("step") or (run.steps[-1]["step"] if run.steps else None),
        result.get("planned_steps"),
        result.get("best_step"),
        finite(result.get("best_auc") if run.trials is None else (result.get("best") or {}).get("valid_auc")),
        seconds / 60 if seconds is not None else None,
    ]


def _model(run: Run) -> str:
    """Describe in the configuration's words what was trained."""
    if not run.config or run.stage == "sweep":
        return ""
    backbone, prompts = run.config.get("ctr.backbone"), run.config.get("prompt.num_prompts")
    plm = str(run.config.get("plm.path") or "").rstrip("/").split("/")[-1]
    if run.objective == "pretrain_ids":
        return f"{backbone}, on ids ({run.config.get('pretrain.id_objective')})"
    if run.objective == "without_plm":
        if run.config.get("ctr.text_embeddings", "none") != "none":
            backbone = f"{backbone} + frozen {plm}"
        return f"{backbone}, {'initialised by ' + _last(run) if _last(run) else 'from scratch'}"
    start = f", initialised by {_last(run)}" if _last(run) else ""
    if (baseline := run.config.get("baseline", "none")) != "none":
        return f"{baseline}: {plm or 'PLM'}{start}"
    return f"{backbone} + {plm or 'PLM'}, K = {prompts}{start}"


def _last(run: Run) -> str:
    return (
        str(run.config.get("finetune.init") or "").rstrip("/").split("/")[-1]
        if run.stage == "finetune"
        else ""
    )


def curves(runs: Sequence[Run]) -> Section | None:
    blocks = []
    stages = {
        run.stage or "training": [other for other in runs if other.stage == run.stage and other.steps]
        for run in runs
    }
    for stage, members in stages.items():
        if members:
            blocks.append(_losses(stage, members))
    if validated := [run for run in runs if run.validations]:
        blocks.append(_validations(validated))
    return Section("Learning curves", blocks=blocks) if blocks else None


def _losses(stage: str, runs: Sequence[Run]) -> Block:
    """Draw the losses. A point is the mean over a window of steps, so that the page doesn't grow with the
    run; the line smooths the points, which stand behind it.
    """
    columns = [Column("run"), Column("first step", count), Column("last step", count), Column("loss", number)]
    columns += [Column("learning-rate factor", number), Column("gradient norm", number)]
    window = -(-max(len(run.steps) for run in runs) // _POINTS)
    rows, lines = [], []
    for run in runs:
        points = []
        for start in range(0, len(run.steps), window):
            steps = run.steps[start : start + window]
            means = [_mean(steps, key) for key in ("loss", "lr_factor", "gradient_norm")]
            rows.append([run.name, steps[0]["step"], steps[-1]["step"], *means])
            if means[0] is not None:
                points.append(((steps[0]["step"] + steps[-1]["step"]) / 2, means[0]))
        tips = [f"{run.name}, step {step:,.0f}: loss {number(loss)}" for step, loss in points]
        smooth = smoothed([loss for _, loss in points])
        drawn = [(step, loss) for (step, _), loss in zip(points, smooth, strict=True)]
        behind = points if smooth != [loss for _, loss in points] else []
        lines.append(Line(run.name, run.number, drawn, behind=behind, tips=tips))
    note = "every step" if window == 1 else f"means of {window} steps"
    note += "; strong: smoothed" if any(line.behind for line in lines) else ""
    title = f"Loss of {stage}" if stage != "training" else "Loss"
    drawn_lines = [line for line in lines if line.points]
    chart = (
        (lambda width: xy(title, drawn_lines, width, x_label="step", y_label="loss")) if drawn_lines else None
    )
    return Block(title, Table(columns, rows), chart, note, legend(runs), in_markdown=False, named=True)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the moving mean over a twentieth of the points, centred, so that it doesn't lag behind. Near the
    first point the window narrows to it, because losses begin steeply; the last points have what is left of
    it. Fewer than forty points are left as they are.
    """
    half = len(values) // 40
    return [
        sum(values[place - min(half, place) : place + min(half, place) + 1])
        / len(values[place - min(half, place) : place + min(half, place) + 1])
        for place in range(len(values))
    ]


def _mean(steps: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [value for step in steps if (value := finite(step.get(key))) is not None]
    return sum(values) / len(values) if values else None


def _validations(runs: Sequence[Run]) -> Block:
    rows = [[run.name, step, value] for run in runs for step, value in run.validations]
    table = Table([Column("run"), Column("step", count), Column("validation AUC", auc)], rows)
    lines = []
    for run in runs:
        points = [(float(step), value) for step, value in run.validations if finite(value) is not None]
        tips = [f"{run.name}, step {step:,.0f}: validation AUC {auc(value)}" for step, value in points]
        lines.append(Line(run.name, run.number, points, marked=True, tips=tips))
    lines = [line for line in lines if line.points]
    chart = (
        (lambda width: xy("Validation AUC", lines, width, x_label="step", y_label="AUC")) if lines else None
    )
    return Block(
        "Validation AUC",
        table,
        chart,
        "each point: the weights after that many steps",
        legend(runs),
        in_markdown=False,
        named=True,
    )

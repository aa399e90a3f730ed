"""What was run, and how training went."""

from collections.abc import Sequence
from typing import Any

from clickprompt.report.charts import Line, xy
from clickprompt.report.page import Block, Section
from clickprompt.report.run import Run, finite
from clickprompt.report.table import Column, Table, auc, count, interval_of, number

__all__ = ["curves", "legend", "summary"]

_POINTS = 200  # most points of a curve


def legend(runs: Sequence[Run]) -> list[tuple[str, int]]:
    return [(run.name, run.number) for run in runs] if len(runs) > 1 else []


def summary(runs: Sequence[Run], split: str) -> Section:
    columns = [
        Column("run"),
        Column("stage"),
        Column("model"),
        Column("seed"),
        Column("steps", count),
        Column("valid AUC", auc),
        Column("at step", count),
        Column(f"{split} AUC", auc),
        Column("95% by user", interval_of(auc), interval=True),
        Column("log loss", auc),
        Column("GAUC", auc),
        Column("ECE", auc),
        Column("minutes", lambda value: f"{value:,.1f}"),
    ]
    rows = [_summary_line(run) for run in runs]
    shown = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
    table = Table([columns[place] for place in shown], [[row[place] for place in shown] for row in rows])
    facts = [f"{run.name}: {run.uri}" for run in runs]
    note = (
        "valid AUC: of the best weights; ECE: expected calibration error, bins of about equally many rows"
        + _data(runs)
    )
    return Section("Runs", blocks=[Block("Summary", table, note=note)], texts=[("Folders", "\n".join(facts))])


def _summary_line(run: Run) -> list[Any]:
    found, result = run.evaluation or {}, run.result
    calibration = (found.get("calibration") or {}).get("equal_mass") or {}
    seconds = finite(result.get("seconds"))
    return [
        run.name,
        run.stage or None,
        _model(run) or None,
        str(run.config["seed"]) if "seed" in run.config else None,
        result.get("step") or (run.steps[-1]["step"] if run.steps else None),
        finite(result.get("best_auc") if run.trials is None else (result.get("best") or {}).get("valid_auc")),
        result.get("best_step"),
        finite(found.get("auc")),
        found.get("auc_interval"),
        finite(found.get("log_loss")),
        finite((found.get("gauc") or {}).get("value")),
        finite(calibration.get("error")),
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
        return f"{backbone}, {'initialised by ' + _last(run) if _last(run) else 'from scratch'}"
    return f"{backbone} + {plm or 'PLM'}, K = {prompts}" + (
        f", initialised by {_last(run)}" if _last(run) else ""
    )


def _last(run: Run) -> str:
    return (
        str(run.config.get("finetune.init") or "").rstrip("/").split("/")[-1]
        if run.stage == "finetune"
        else ""
    )


def _data(runs: Sequence[Run]) -> str:
    """Describe the dataset, if it is the same for all."""
    sets = [run.result.get("dataset") or {} for run in runs]
    first = sets[0]
    if not first or any(found.get("fingerprint") != first.get("fingerprint") for found in sets):
        return ""
    fingerprint = str(first.get("fingerprint"))[:12]
    return f"; dataset {first.get('path')}, version {first.get('version')}, fingerprint {fingerprint}"


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
    """Draw the losses. A point is the mean over a window of steps, so that no average lags behind and the
    page doesn't grow with the run.
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
        tips = [f"{run.name}, step {step:,.0f}: loss {loss:.4g}" for step, loss in points]
        lines.append(Line(run.name, run.number, points, tips=tips))
    note = "every step" if window == 1 else f"a point is the mean of {window} consecutive steps"
    title = f"Loss of {stage}" if stage != "training" else "Loss"
    drawn = [line for line in lines if line.points]
    chart = (lambda width: xy(title, drawn, width, x_label="step", y_label="loss")) if drawn else None
    return Block(title, Table(columns, rows), chart, note, legend(runs), in_markdown=False, named=True)


def _mean(steps: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [value for step in steps if (value := finite(step.get(key))) is not None]
    return sum(values) / len(values) if values else None


def _validations(runs: Sequence[Run]) -> Block:
    rows = [[run.name, step, value] for run in runs for step, value in run.validations]
    table = Table([Column("run"), Column("step", count), Column("validation AUC", auc)], rows)
    lines = []
    for run in runs:
        points = [(float(step), value) for step, value in run.validations if finite(value) is not None]
        tips = [f"{run.name}, step {step:,.0f}: validation AUC {value:.4f}" for step, value in points]
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

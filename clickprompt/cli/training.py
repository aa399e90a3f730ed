"""Commands that train: pretrain, finetune, tune, pipeline."""

from typing import Annotated

import typer

from clickprompt.cli.following import after_finetuning, after_pipeline, after_pretraining
from clickprompt.cli.format import outcomes_table, sweep_table
from clickprompt.cli.labels import valid_labels
from clickprompt.cli.options import ConfigOption, JsonOption, RunOption, SetOption, app, finish, load_config
from clickprompt.io.progress import say


@app.command()
def pretrain(
    run: RunOption, config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """Pretrain: PA-MLM trains the CTR model and the PLM together (§3.5.1)."""
    _train("pretrain", run, config, overrides, as_json)


@app.command()
def finetune(
    run: RunOption, config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """Finetune for click prediction, with the PLM (Eq. 9) or without it (Eq. 10, --set
    finetune.with_plm=false).
    """
    _train("finetune", run, config, overrides, as_json)


def _train(stage: str, run: str, config: str | None, overrides: list[str] | None, as_json: bool) -> None:
    settings = load_config(config, overrides)
    from clickprompt.runtime.train.train import run_training

    result = run_training(settings, stage, run)
    auc = ""
    if result.get("best_auc") is not None:
        auc = f", best valid AUC {result['best_auc']:.4f} at step {result['best_step']}"
    if result.get("best_log_loss") is not None:
        auc = (
            f", best valid log loss {result['best_log_loss']:.4f} (AUC {result['best_auc']:.4f}) "
            f"at step {result['best_step']}"
        )
    loss = f", last loss {result['last_loss']:.4f}" if result.get("last_loss") is not None else ""
    finish(
        as_json,
        result,
        f"{stage}: {result['step']} of {result['planned_steps']} steps{loss}{auc}{valid_labels(result)}: "
        f"{result['export']}",
        then=after_finetuning(run)
        if stage == "finetune"
        else after_pretraining(run, config, overrides, with_plm=settings.pretrain.with_plm),
    )


@app.command()
def tune(
    run: RunOption,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="run the sweep even if its space has more points than tune.max_points"),
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search over any configuration keys (tune.space). Each pretraining runs once; the finetunings build on
    it.
    """
    settings = load_config(config, overrides)
    from clickprompt.runtime.tune.tune import run_tune

    result = run_tune(settings, run, yes=yes)
    best, counts = result["best"], result["trials"]
    if counts["failed"]:
        say(
            f"{counts['failed']} of {sum(counts.values())} trials failed, see {run}/trials.parquet; "
            "the same command tries them again"
        )
    trials = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    text = f"{sweep_table(result)}\n{len(result['pretrains'])} pretrainings; finetunings: {trials}"
    finish(
        as_json,
        result,
        f"{text}\nbest: point {best['point']}, valid AUC {best['valid_auc']:.4f}: {best['config']}",
    )


@app.command()
def pipeline(
    run: RunOption,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="YAML file that describes your own log (clickprompt init), or a known log's name; default: "
            "pipeline.source",
        ),
    ] = None,
    raw: Annotated[
        str | None, typer.Option("--raw", help="folder with a known log's raw files; default: fetch them")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help="time in which all should end: fewer steps where it is short"),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run everything: prepare, pretrain, finetune in three ways, evaluate, and print what pretraining was
    worth. With SOURCE and no --config, by the preset own-log.
    """
    settings = load_config(config or ("own-log" if source else None), overrides)
    from clickprompt.config import replaced
    from clickprompt.runtime.pipeline.pipeline import run_pipeline

    given = {"pipeline.source": source, "pipeline.raw": raw, "pipeline.minutes": minutes}
    settings = replaced(settings, {key: value for key, value in given.items() if value is not None})

    result = run_pipeline(settings, run)
    text = f"{outcomes_table(result)}\neverything: {run}; report: {result['report']}"
    finish(as_json, result, text, then=after_pipeline(run))

"""Commands that measure and use a trained run: evaluate, recovery, attention, explain, compare, report,
predict.
"""

import os
import re
from typing import Annotated

import typer

from clickprompt.cli.following import after_evaluating
from clickprompt.cli.format import (
    attention_table,
    comparison,
    explain_table,
    recovery_table,
    seeds_table,
    slices_table,
    split_line,
)
from clickprompt.cli.options import (
    ConfigOption,
    JsonOption,
    RunOption,
    SetOption,
    SplitOption,
    app,
    finish,
    load_run_config,
)
from clickprompt.errors import InputError
from clickprompt.io.progress import say

DataOption = Annotated[str | None, typer.Option(help="prepared dataset, if it has moved")]


@app.command()
def evaluate(
    run: RunOption,
    split: SplitOption = "test",
    data: DataOption = None,
    against: Annotated[
        str | None, typer.Option(help="finetuned run, already evaluated, to compare this one with")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a split with a finetuned run: predictions, AUC, log loss, and milliseconds per batch."""
    settings = load_run_config(run, config, overrides)
    from clickprompt.runtime.score.evaluate import evaluate as run_evaluate
    from clickprompt.runtime.score.evaluate import is_pretrained

    for option, given in (("--run", run), ("--against", against)):
        if given and is_pretrained(given):
            raise InputError(
                f"{option} {given}: a pretraining run, which predicts no clicks; clickprompt recovery --run "
                f"{given} shows what it restores"
            )
    [result] = run_evaluate([run], split, config=settings, data=data, against=against)
    compared = f"{comparison(result)}\n" if against else ""
    text = f"{slices_table(result)}\n{compared}{split_line(result)}"
    finish(as_json, result, text, then=after_evaluating(run, predicts=True))


@app.command()
def recovery(
    run: RunOption,
    split: SplitOption = "test",
    data: DataOption = None,
    against: Annotated[
        str | None, typer.Option(help="pretraining run, already measured, to compare this one with")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what a pretraining run restores: the share of masked values recovered per field, with a row's
    own prompts, with another row's, and without.
    """
    settings = load_run_config(run, config, overrides)
    from clickprompt.runtime.score.evaluate import evaluate_recovery

    result = evaluate_recovery(run, split, config=settings, data=data, against=against)
    text = f"{recovery_table(result)}\n{split}: {result['recovery']}"
    finish(as_json, result, text, then=after_evaluating(run, predicts=False))


@app.command()
def attention(
    run: RunOption,
    rows: Annotated[int, typer.Option("--rows", help="number of rows to average over")] = 1000,
    split: SplitOption = "test",
    data: DataOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what the PLM reads from the prompts where a field is masked (Table 7)."""
    settings = load_run_config(run, config, overrides)
    from clickprompt.runtime.score.evaluate import evaluate_attention

    result = evaluate_attention(run, split, rows, config=settings, data=data)
    text = f"{attention_table(result)}\n{split}: {result['attention']}"
    finish(as_json, result, text, then=after_evaluating(run, predicts=False))


@app.command()
def explain(
    run: RunOption,
    split: SplitOption = "test",
    repeats: Annotated[
        int, typer.Option("--repeats", help="number of times that each field is permuted")
    ] = 5,
    rows: Annotated[
        int, typer.Option("--rows", help="number of rows whose CTR logit is attributed to their fields")
    ] = 5,
    data: DataOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what each field is worth to a finetuned run: the AUC that is lost when its values are permuted
    among the rows, and single rows' logits by field.
    """
    settings = load_run_config(run, config, overrides)
    from clickprompt.runtime.score.explain import explain as run_explain

    result = run_explain(run, split, repeats=repeats, rows=rows, config=settings, data=data)
    text = f"{explain_table(result)}\n{split}: {result['explain']}"
    finish(as_json, result, text, then=after_evaluating(run, predicts=True))


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN…", help="finetuned runs of one model, one per seed, already evaluated"),
    ],
    against: Annotated[
        list[str], typer.Option("--against", help="run of the other model, with the same seeds; repeatable")
    ],
    split: SplitOption = "test",
    as_json: JsonOption = False,
) -> None:
    """Compare several seeds of two models: means, Rel.Impr, and whether the difference exceeds what seeds
    alone cause (paired t-test).
    """
    from clickprompt.runtime.score.compare import compare_evaluated_runs

    result = compare_evaluated_runs(runs, against, split)
    finish(as_json, result, seeds_table(result))


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN…", help="folders or URIs of runs: pretrained, finetuned, sweeps"),
    ],
    out: Annotated[
        str | None,
        typer.Option("--out", help="file or URI to write; default: report.html in the first run's folder"),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="run that the others are compared with; default: the first"),
    ] = None,
    split: SplitOption = "test",
    data: DataOption = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="print the tables in Markdown, too")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML file about runs: curves, calibration, long tail, attention, sweep, comparison. It can be
    read without a network.
    """
    from clickprompt.report.make import make_report

    result = make_report(runs, out, base=base, split=split, data=data)
    tables = result.pop("markdown")
    if as_markdown:
        result["markdown"] = tables
        say(f"report: {result['report']}")
    finish(as_json, result, tables if as_markdown else f"report: {result['report']}")


@app.command()
def predict(
    run: RunOption,
    rows: Annotated[
        list[str],
        typer.Option(
            "--rows", help="Parquet, CSV or JSON-lines files or patterns, local or URIs; repeatable"
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="folder or URI of the predictions; default: scored/NAME OF THE FIRST FILE in the run",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="column to copy into the predictions; repeatable")
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score new raw rows with a finetuned run. A value that is not in the dataset counts as unknown, but a
    model with a PLM still reads its text.
    """
    settings = load_run_config(run, config, overrides)
    from clickprompt.io import storage
    from clickprompt.runtime.score.predict import predict as run_predict

    stem = re.sub(r"[^\w-]+", "_", os.path.basename(rows[0]).partition(".")[0]).strip("_")
    out = out or storage.join(run, "scored", stem or "rows")  # a pattern may have no name: *.parquet
    result = run_predict(run, rows, out, keep=keep or [], runtime=settings.runtime, data=data)
    unknown = ", ".join(f"{name} {share:.1%}" for name, share in result["unknown"].items() if share) or "none"
    figures = f"{result['rows']:,} rows of {result['files']} files, {result['rows_per_second']:,.0f} rows/s"
    finish(as_json, result, f"missing or not seen before: {unknown}\n{figures}: {out}")

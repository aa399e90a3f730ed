"""The command that makes the paper's tables: reproduce."""

from typing import Annotated

import typer

from clickprompt.cli.options import ConfigOption, JsonOption, RunOption, SetOption, app, finish, load_config


@app.command()
def reproduce(
    run: RunOption,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="table-2 … table-9, or all")],
    dataset: Annotated[
        str,
        typer.Option("--dataset", help="one of the paper's datasets, or movielens-100k"),
    ] = "movielens-100k",
    budget: Annotated[
        str, typer.Option("--budget", help="how much is spent: smoke, cpu, gpu or paper")
    ] = "smoke",
    raw: Annotated[
        str | None, typer.Option("--raw", help="folder with the raw files; default: fetch them")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="seeds a row; default: the budget's")] = None,
    tries: Annotated[int | None, typer.Option("--tries", help="tries a row; default: the budget's")] = None,
    row: Annotated[
        list[str] | None,
        typer.Option("--row", help="make this row only, by its first cell (repeatable); default: all"),
    ] = None,
    at_once: Annotated[int, typer.Option("--at-once", help="runs to make at a time, several on Ray")] = 1,
    plan: Annotated[bool, typer.Option("--plan", help="say what it would cost, and end")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a table of the paper, from raw data to the page: train every row with as many tries and seeds,
    score the test split once, and put the paper's figures beside ours.
    """
    settings = load_config(config, overrides)
    from clickprompt.runtime.reproduce.reproduce import reproduce as make

    result = make(
        table,
        dataset,
        budget,
        run,
        raw=raw,
        seeds=seeds,
        tries=tries,
        only=row or (),
        at_once=at_once,
        config=settings,
        plan_only=plan,
    )
    if plan:
        finish(as_json, result, f"nothing was trained; the same command without --plan makes it: {run}")
        return
    text = "\n\n".join(made["markdown"] for made in result["files"])
    finish(as_json, result, f"{text}\nall tables: {result['page']}")

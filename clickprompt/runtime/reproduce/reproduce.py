"""Make tables of the paper, from raw data to the page (`clickprompt reproduce`).

Every run lies below `<run>/runs/` under a name made of what decides its weights (tables/plan.py), so tables
share runs, the same command continues after any interruption, and more seeds or tries add to what is there.
Validation alone chooses among the tries; the test split is scored when all runs of a table are there.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import clickprompt
from clickprompt.config import Config
from clickprompt.errors import ConfigError, InputError
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.report.paper_tables import write_page, write_table
from clickprompt.runtime.reproduce.costs import costs, costs_table
from clickprompt.runtime.reproduce.inputs import check_dataset_name, open_dataset, stand_ins
from clickprompt.runtime.reproduce.runs import Runs
from clickprompt.runtime.score.evaluate import evaluate, evaluate_attention
from clickprompt.tables.figures import RowFigures, accuracy
from clickprompt.tables.plan import TABLES, Budget, PaperTable, Row, tries_of

__all__ = ["reproduce"]

_ATTENTION_ROWS = 1000


def reproduce(
    name: str,
    dataset_name: str,
    budget_name: str,
    run: str,
    *,
    raw: str | None = None,
    seeds: int | None = None,
    tries: int | None = None,
    only: Sequence[str] = (),
    at_once: int = 1,
    config: Config | None = None,
    plan_only: bool = False,
) -> dict[str, Any]:
    """Make a table, or "all", on a dataset with a budget; return {"run", "tables", "page", "plan"}.

    Each table is in `<run>/tables/` as JSON, Markdown, LaTeX and CSV, all of them on `<run>/tables.html`.

    raw: folder of the dataset's raw files, where they can't be fetched.
    seeds, tries: in place of the budget's.
    only: names of the rows to make, by their first cell; default: all.
    at_once: runs that are made at a time; several on Ray.
    config: what the user has set; it goes before the plan's settings.
    plan_only: end after saying what it would cost.

    Raises InputError for what can't work, before anything is trained. A run that fails later is a marked
    cell.
    """
    config = config or Config()
    tables = [PaperTable.read(each) for each in (TABLES if name == "all" else [name])]
    rows = _wanted(tables, only)
    budget = Budget.read(budget_name, seeds, tries)
    check_dataset_name(dataset_name)
    if at_once < 1:
        raise InputError(f"--at-once {at_once}: give a number from 1 up")
    if at_once > 1 and config.runtime.use_ray == "never":
        raise ConfigError(f"runtime.use_ray=never: --at-once {at_once} needs Ray; leave runtime.use_ray out")
    if config.runtime.use_ray == "always":
        raise ConfigError("runtime.use_ray=always: reproduce chooses by each run; leave runtime.use_ray out")
    run = storage.native(run)
    dataset = open_dataset(dataset_name, budget, run, raw, config)
    plms = stand_ins((row.plm for row in rows if row.plm), budget, dataset, config)
    runs = Runs(run, dataset, dataset_name, budget, plms, config, at_once)
    plan = costs(runs, rows)
    for line in costs_table(plan):
        say(line)
    if plan_only:
        return {"run": run, "plan": plan}
    runs.make(runs.first_pieces(rows))
    runs.make(runs.further_pieces(rows))
    results = [_result(table, runs) for table in tables]
    made = []
    for result in results:
        storage.write_json(_place(run, result, "json"), result)
        made.append(write_table(result, storage.join(run, "tables")))
    page = write_page(_all_results(run, dataset_name), storage.join(run, "tables.html"))
    return {"run": run, "tables": results, "files": made, "page": page, "plan": plan}


def _wanted(tables: Sequence[PaperTable], only: Sequence[str]) -> list[Row]:
    """Return the rows to make. Raises InputError for a name that none has."""
    rows = [row for table in tables for row in table.rows]
    known = dict.fromkeys(row.names[0] for row in rows)
    if unknown := [name for name in only if name not in known]:
        raise InputError(f"--row {unknown[0]}: no such row; the first column has {', '.join(known)}")
    return [row for row in rows if not only or row.names[0] in only]


def _place(run: str, result: dict[str, Any], kind: str) -> str:
    return storage.join(run, "tables", f"{result['table']}-{result['dataset']}.{kind}")


def _all_results(run: str, dataset_name: str) -> list[dict[str, Any]]:
    """Return every table of the run on a dataset, those made before, too."""
    places = [_place(run, {"table": table, "dataset": dataset_name}, "json") for table in TABLES]
    found = [storage.read_json(place) for place in places if storage.exists(place)]
    return [result for result in found if result["version"] == clickprompt.__version__]


def _result(table: PaperTable, runs: Runs) -> dict[str, Any]:
    """Score what the table's rows have, and return its figures."""
    lines = {row.names: _line(row, runs) for row in table.rows}
    kinds = {"accuracy": _accuracy, "long-tail": _long_tail, "attention": _attention, "latency": _latency}
    return {
        "version": clickprompt.__version__,
        "table": table.name,
        "title": table.title,
        "kind": table.kind,
        "dataset": runs.dataset_name,
        "columns": table.columns,
        "budget": {"name": runs.budget.name, "seeds": runs.budget.seeds, "tries": runs.budget.tries},
        **kinds[table.kind](table, runs, lines),
        "notes": _notes(table, runs, lines),
        "settings": [
            f"{key}={value}" for key, value in (runs.budget.changes | runs.budget.with_text).items()
        ],
    }


def _line(row: Row, runs: Runs) -> dict[str, Any]:
    """Return what is known of a row before the test split is scored."""
    missing, chosen = runs.missing(row), runs.chosen(row)
    if missing is None and chosen is None:
        names = [
            piece.name for piece in runs.pieces(row, tries_of(row, runs.budget, runs.dataset_name)[0], 0)
        ]
        missing = next((runs.failed[name] for name in names if name in runs.failed), "its runs aren't there")
    return {
        "names": list(row.names),
        "missing": missing,
        "tried": chosen.tried if chosen else [],
        "chosen": chosen.best.changes if chosen else None,
        "runs": dict(chosen.finetunings) if chosen else {},
    }


def _scores(runs: Runs, folder: str) -> dict[str, Any]:
    """Return the test figures of a run, which is scored once."""
    place = storage.join(folder, "evaluation-test.json")
    if storage.exists(place):
        return storage.read_json(place)
    return evaluate([folder], "test", config=runs.given)[0]


def _accuracy(table: PaperTable, runs: Runs, lines: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    figures = []
    for row in table.rows:
        line = lines[row.names]
        scores = {seed: _scores(runs, folder) for seed, folder in line["runs"].items()}
        if any(score["auc"] is None for score in scores.values()):
            scores, line["missing"] = {}, "all test rows are of one class, which have no AUC"
        figures.append(
            RowFigures(
                row.names,
                list(scores),
                [score["auc"] for score in scores.values()],
                [score["log_loss"] for score in scores.values()],
                list(row.paper.get(runs.dataset_name, [])),
                line["missing"],
            )
        )
    return {
        "rows": [
            {**lines[found.names], **found.as_json(), "names": list(found.names)}
            for found in accuracy(table, figures)
        ]
    }


def _long_tail(table: PaperTable, runs: Runs, lines: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Table 6: AUC and log loss of four parts of the test rows, means over the seeds."""
    cells = {(True, True): "both", (False, True): "item", (True, False): "user", (False, False): "neither"}
    rows = []
    for row in table.rows:
        scores = [_scores(runs, folder) for folder in lines[row.names]["runs"].values()]
        paper = table.paper.get(runs.dataset_name, {}).get(row.names[0], {})
        parts: dict[str, Any] = {}
        for score in scores:
            for part in score["long_tail"]["with_unseen"]:
                cell = parts.setdefault(
                    cells[part["tail_user"], part["tail_item"]],
                    {"rows": part["rows"], "auc": [], "log_loss": []},
                )
                cell["auc"].append(part["auc"])
                cell["log_loss"].append(part["log_loss"])
        for cell in parts.values():
            for name in ("auc", "log_loss"):
                values = cell[name]
                cell[name] = None if None in values else statistics.mean(values)
        rows.append({**lines[row.names], "parts": parts, "paper": paper})
    return {"rows": rows}


def _attention(table: PaperTable, runs: Runs, lines: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Table 7: the last layer's attention on each prompt where a field is masked, of the first seed."""
    [row] = table.rows
    if runs.missing(row) is not None:
        return {"rows": [], "missing": runs.missing(row)}
    pretraining = runs.pieces(row, tries_of(row, runs.budget, runs.dataset_name)[0], 0)[0].name
    if not runs.is_there(pretraining):
        return {"rows": [], "missing": runs.failed.get(pretraining, "its pretraining isn't there")}
    folder = runs.uri(pretraining)
    place = storage.join(folder, "attention-test.json")
    found = (
        storage.read_json(place)
        if storage.exists(place)
        else evaluate_attention(folder, "test", _ATTENTION_ROWS, config=runs.given)
    )
    fields = [
        {"names": [name], **found["fields"][name]}
        for name in runs.dataset.field_names
        if name in found["fields"]
    ]
    return {"rows": fields, "run": folder, "masked_rows": found["rows"]}


def _latency(table: PaperTable, runs: Runs, lines: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Table 8: milliseconds a batch of 128 rows, all models in turns in one process."""
    there = {names: line["runs"][0] for names, line in lines.items() if 0 in line["runs"]}
    place = storage.join(runs.folder, "latency.json")
    timed: dict[str, dict[str, float]] = storage.read_json(place) if storage.exists(place) else {}
    if timed.keys() != set(there.values()):  # only models of one process compare
        scores = evaluate(list(there.values()), "test", config=runs.given) if there else []
        timed = {
            score["run"]: {"ms": score["ms_per_batch"], "ms_p99": score["ms_per_batch_p99"]}
            for score in scores
        }
        storage.write_json(place, timed)
    none = {"ms": None, "ms_p99": None}
    return {
        "rows": [
            {
                **lines[row.names],
                **timed.get(there.get(row.names, ""), none),
                "paper": row.paper.get(runs.dataset_name, []),
            }
            for row in table.rows
        ]
    }


def _notes(table: PaperTable, runs: Runs, lines: dict[Any, dict[str, Any]]) -> list[str]:
    """Return what differs from the paper."""
    notes = []
    budget, counts = runs.budget, runs.dataset.counts
    read = {row.plm for row in table.rows if row.plm and runs.missing(row) is None}
    notes += [f"{runs.plms[name].name} stands for the paper's {name}." for name in sorted(filter(None, read))]
    if runs.dataset_name not in table.datasets:
        notes.append(f"The paper has no {runs.dataset_name}.")
    if runs.dataset.manifest.get("options", {}).get("split") == "hash":
        notes.append("Rows are split by a hash, not by time, so the figures don't compare with the paper's.")
    if budget.sample is not None:
        notes.append(f"Only {budget.sample:.0%} of the users: this shows that it runs, not what it is worth.")
    notes.append(
        f"{counts['train']:,} training and {counts['test']:,} test rows; budget {budget.name}: "
        f"{_number(budget.seeds, 'seed', 'seeds')}, {_number(budget.tries, 'try', 'tries')} a row, chosen by "
        "validation AUC on the first seed."
    )
    for line in lines.values():
        if line["missing"]:
            notes.append(f"{', '.join(line['names'])}: not made, because {line['missing']}.")
    return notes


def _number(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"

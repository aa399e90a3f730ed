"""The paper's tables as `clickprompt reproduce` has made them: a page, Markdown, LaTeX and CSV."""

import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import clickprompt
from clickprompt.io import storage
from clickprompt.report.page import Block, Section, markdown, page
from clickprompt.report.places import Places
from clickprompt.report.table import Column, Table, auc, count, number, p_value, signed_percent
from clickprompt.tables.figures import RowFigures, marks

__all__ = ["write_page", "write_table"]

_SIGNIFICANT = 0.05
_PARTS = {
    "both": ("tail", "tail"),
    "item": ("other", "tail"),
    "user": ("tail", "other"),
    "neither": ("other", "other"),
}
"""Table 6's four parts → (user, item)"""


def write_table(result: dict[str, Any], folder: str) -> dict[str, str]:
    """Write a table's Markdown, LaTeX and CSV into the folder; return their places and the Markdown."""
    places = Places(storage.join(folder, "table"), ())
    section, name = _section(result, places), f"{result['table']}-{result['dataset']}"
    texts = {
        "md": markdown([section]),
        "tex": _latex(result, section),
        "csv": section.blocks[0].table.csv(),
    }
    files = {kind: storage.join(folder, f"{name}.{kind}") for kind in texts}
    for kind, text in texts.items():
        storage.write_bytes(files[kind], text.encode())
    return {**files, "markdown": texts["md"]}


def write_page(results: Sequence[dict[str, Any]], place: str) -> str:
    """Write all tables to one page, and return its place."""
    made = (
        f"Made by clickprompt {clickprompt.__version__} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. "
        "The file loads nothing from a network."
    )
    dataset = results[0]["dataset"]
    sections = [_section(result, Places(place, ())) for result in results]
    storage.write_bytes(place, page("The paper's tables", dataset, sections, made).encode())
    return place


def _section(result: dict[str, Any], places: Places) -> Section:
    makers: dict[str, Callable[[dict[str, Any], Places], Table]] = {
        "accuracy": _accuracy,
        "long-tail": _long_tail,
        "attention": _attention,
        "latency": _latency,
    }
    title, _, what = result["title"].partition(": ")
    table = makers[result["kind"]](result, places)
    return Section(
        title,
        blocks=[Block(f"{what[0].upper()}{what[1:]}, {result['dataset']}", table, full=True)],
        under=[places.text(note) for note in result["notes"]],
        texts=[("Settings that the budget gives every row", "\n".join(result["settings"]))],
    )


def _names(result: dict[str, Any]) -> list[Column]:
    return [Column(name) for name in result["columns"]]


def _accuracy(result: dict[str, Any], places: Places) -> Table:
    figures = [
        RowFigures(
            tuple(row["names"]),
            **{key: row[key] for key in ("seeds", "auc", "log_loss", "improvement", "p", "p_holm")},
        )
        for row in result["rows"]
    ]
    marked = marks(figures)
    first = len(result["columns"])
    rows, cells = [], {}
    for place, (row, figure) in enumerate(zip(result["rows"], figures, strict=True)):
        for column, name in ((first, "auc"), (first + 2, "log_loss")):
            if mark := marked.get((figure.names, name)):
                cells[place, column] = mark
        rows.append(
            [
                *row["names"],
                figure.mean_auc,
                statistics.stdev(figure.auc) if len(figure.auc) > 1 else None,
                figure.mean_log_loss,
                figure.improvement,
                figure.p_holm,
                *(row["paper"] or [None, None]),
                _links(row, places),
            ]
        )
    columns = [
        *_names(result),
        Column("AUC", auc, missing="not made"),
        Column("sd", auc),
        Column("Log Loss", auc),
        Column("Rel.Impr", signed_percent),
        Column("p (Holm)", _starred),
        Column("paper's AUC", auc),
        Column("paper's Log Loss", auc),
        Column("runs by seed", link=True),
    ]
    return Table(columns, rows, marks=cells)


def _starred(p: float) -> str:
    return f"{p_value(p)}{'*' if p < _SIGNIFICANT else ''}"


def _links(row: dict[str, Any], places: Places) -> list[tuple[str, str]]:
    return [(str(seed), places.of(run)) for seed, run in row["runs"].items()]


def _long_tail(result: dict[str, Any], places: Places) -> Table:
    rows = []
    for part, (user, item) in _PARTS.items():
        for row in result["rows"]:
            found = row["parts"].get(part, {})
            paper = row["paper"].get(part, [None, None])
            rows.append(
                [
                    user,
                    item,
                    *row["names"],
                    found.get("rows"),
                    found.get("auc"),
                    found.get("log_loss"),
                    *paper,
                    _links(row, places),
                ]
            )
    columns = [
        Column("User"),
        Column("Item"),
        *_names(result),
        Column("test rows", count),
        Column("AUC", auc),
        Column("Log Loss", auc),
        Column("paper's AUC", auc),
        Column("paper's Log Loss", auc),
        Column("runs by seed", link=True),
    ]
    return Table(columns, rows)


def _attention(result: dict[str, Any], places: Places) -> Table:
    rows = result["rows"]
    prompts = len(rows[0]["scores"]) if rows else 0
    columns = [*_names(result), *(Column(f"prompt {place + 1}", auc) for place in range(prompts))]
    return Table(columns, [[*row["names"], *row["scores"]] for row in rows])


def _latency(result: dict[str, Any], places: Places) -> Table:
    columns = [
        *_names(result),
        Column("ms a batch of 128", number, missing="not made"),
        Column("99th percentile", number),
        Column("paper's ms", number),
    ]
    rows = [[*row["names"], row["ms"], row["ms_p99"], *(row["paper"] or [None])] for row in result["rows"]]
    return Table(columns, rows)


def _latex(result: dict[str, Any], section: Section) -> str:
    """Return a tabular environment for booktabs, best in bold and second best underlined."""
    table = section.blocks[0].table
    shown = [place for place, column in enumerate(table.columns) if not column.link]
    head = " & ".join(_tex(table.columns[place].name) for place in shown)
    texts = len(result["columns"])
    lines = [
        "\\begin{table}",
        f"\\caption{{{_tex(result['title'])}, {_tex(result['dataset'])}. {_tex(' '.join(section.under))}}}",
        f"\\begin{{tabular}}{{{'l' * texts}{'r' * (len(shown) - texts)}}}",
        "\\toprule",
        f"{head} \\\\",
        "\\midrule",
    ]
    wrap = {"best": "\\textbf{%s}", "second": "\\underline{%s}"}
    for line, row in enumerate(table.rows):
        cells = [
            wrap.get(table.marks.get((line, place), ""), "%s") % _tex(table.columns[place].text(row[place]))
            for place in shown
        ]
        lines.append(f"{' & '.join(cells)} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])


def _tex(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\N{MINUS SIGN}", "$-$").replace("–", "--")

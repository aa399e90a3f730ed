"""A table that is shown as HTML, downloaded as CSV and printed as Markdown. Cells hold the figures
themselves; columns say how they are shown.
"""

import base64
import csv
import io
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

__all__ = [
    "Column",
    "Table",
    "auc",
    "count",
    "heading",
    "interval_of",
    "minus",
    "number",
    "p_value",
    "percent",
    "plain",
    "share",
    "signed",
    "signed_percent",
]


def minus(text: str) -> str:
    """Return a figure's text with real minus signs, U+2212."""
    return text.replace("-", "\N{MINUS SIGN}")


def auc(value: float) -> str:
    return minus(f"{value:.4f}")


def signed(value: float) -> str:
    return minus(f"{value:+.4f}")


def percent(value: float) -> str:
    return minus(f"{value:.1%}")


def share(value: float) -> str:
    """Format a share that may be 0, or next to it."""
    return "0" if not value else "< 0.1%" if 0 < value < 0.0005 else percent(value)


def signed_percent(value: float) -> str:
    return minus(f"{value:+.2%}")


def count(value: float) -> str:
    return minus(f"{value:,.0f}")


def number(value: float) -> str:
    return minus(f"{value:.4g}")


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def heading(by: Collection[str]) -> str:
    """Return what a column of intervals is called. by: the runs' `intervals_by`."""
    return "95% by user" if {*by} == {"user"} else "95%"


def interval_of(show: Callable[[float], str]) -> Callable[[Sequence[float]], str]:
    return lambda ends: f"[{show(ends[0])}, {show(ends[1])}]"


@dataclass(frozen=True)
class Column:
    name: str
    show: Callable[[Any], str] = str
    """function that formats a cell; default: as text"""
    missing: str = "–"
    interval: bool = False
    """whether its cells are (low, high), which become two columns of the CSV"""
    link: bool = False
    """whether its cells are lists of (text, address relative to the page)"""

    def text(self, value: Any) -> str:
        if self.link:
            return ", ".join(text for text, _ in value)
        gone = value is None or (isinstance(value, float) and not math.isfinite(value))
        return self.missing if gone else self.show(value)

    def html(self, value: Any) -> str:
        if self.link:
            return ", ".join(f'<a href="{escape(to)}">{escape(text)}</a>' for text, to in value)
        return escape(self.text(value))

    def csv_names(self) -> list[str]:
        return [f"{self.name} low", f"{self.name} high"] if self.interval else [self.name]

    def csv_values(self, value: Any) -> list[Any]:
        if not self.interval:
            return [self.text(value)] if self.link else [value]
        return [None, None] if value is None else list(value)


@dataclass(frozen=True)
class Table:
    columns: list[Column]
    rows: list[list[Any]]
    shown: int = 60
    """number of rows in the page and in Markdown; the CSV has all"""
    marks: dict[tuple[int, int], str] = field(default_factory=dict)
    """(row, column) → "best" or "second", which are bold and underlined"""

    def html(self, label: str) -> str:
        """Return the table as HTML. It scrolls in a box of its own if the page is too narrow."""
        sides = ["" if texts else ' class="n"' for texts in self._of_texts()]
        head = "".join(
            f'<th scope="col"{side}>{escape(column.name)}</th>'
            for column, side in zip(self.columns, sides, strict=True)
        )
        body = ""
        for line, row in enumerate(self.rows[: self.shown]):
            first, *cells = (
                _marked(column.html(value), self.marks.get((line, place)))
                for place, (column, value) in enumerate(zip(self.columns, row, strict=True))
            )
            named = f'<th scope="row"{sides[0]}><span class="name">{first}</span></th>'
            others = (f"<td{side}>{cell}</td>" for side, cell in zip(sides[1:], cells, strict=True))
            body += f"<tr>{named}{''.join(others)}</tr>"
        hidden = len(self.rows) > self.shown
        more = (
            f"<p class=note>The first {self.shown} of {len(self.rows):,} rows; the CSV has all.</p>"
            if hidden
            else ""
        )
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}"
        )

    def csv(self) -> str:
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\r\n")
        writer.writerow([name for column in self.columns for name in column.csv_names()])
        for row in self.rows:
            writer.writerow(
                [
                    part
                    for column, value in zip(self.columns, row, strict=True)
                    for part in column.csv_values(value)
                ]
            )
        return stream.getvalue()

    def csv_address(self) -> str:
        """Return a data: address, so that a link downloads it from a file, without a network or a script."""
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(self.csv().encode()).decode()

    def markdown(self) -> str:
        lines = [
            [column.name for column in self.columns],
            ["---" if texts else "---:" for texts in self._of_texts()],
        ]
        lines = [[plain(cell) for cell in line] for line in lines]
        lines += [
            [
                _marked(plain(cell), self.marks.get((line, place)))
                for place, cell in enumerate(self._texts(row))
            ]
            for line, row in enumerate(self.rows[: self.shown])
        ]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def _of_texts(self) -> list[bool]:
        """Return which columns hold texts and are therefore aligned left."""
        return [any(isinstance(row[place], str) for row in self.rows) for place in range(len(self.columns))]

    def _texts(self, row: list[Any]) -> list[str]:
        return [column.text(value) for column, value in zip(self.columns, row, strict=True)]


def _marked(text: str, mark: str | None) -> str:
    tag = {"best": "b", "second": "u"}.get(mark or "")
    return f"<{tag}>{text}</{tag}>" if tag else text


def plain(text: str) -> str:
    """Escape everything that Markdown, or HTML in it, would act on."""
    for sign in ("\\", "`", "*", "_", "|"):
        text = text.replace(sign, "\\" + sign)
    return " ".join(escape(text.replace("](", "]\\("), quote=False).split())

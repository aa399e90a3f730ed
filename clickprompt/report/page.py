"""Write the report as one HTML file that loads nothing from a network, and as Markdown. Everything that comes
from a run is escaped.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources

from clickprompt.report.svg import colour
from clickprompt.report.table import Table, plain

__all__ = ["Block", "Section", "markdown", "page"]

_WIDE, _NARROW = 536, 344  # half of the page's column; the width of a small phone


@dataclass(frozen=True)
class Block:
    """A table, or a figure with the table behind it."""

    title: str
    table: Table
    chart: Callable[[float], str] | None = None
    """draws the chart at a width"""
    note: str = ""
    legend: Sequence[tuple[str, int]] = ()
    """names and colours"""
    in_markdown: bool = True
    named: bool = False
    """whether the wide chart names its parts by itself"""
    full: bool = False
    """whether it is as wide as the page"""
    folded: bool = False
    """whether the table has to be unfolded though there is no chart"""
    half: bool = False
    """whether a table without a chart is as wide as a chart"""

    def html(self) -> str:
        note = f"<span>{escape(self.note)}</span>" if self.note else ""
        caption = f"<figcaption><b>{escape(self.title)}</b>{note}</figcaption>"
        table = self.table.html(self.title)
        link = (
            f'<a class="csv" download="{_slug(self.title)}.csv" href="{self.table.csv_address()}" '
            f'aria-label="Download as CSV: {escape(self.title)}">CSV</a>'
        )
        size = " full" if self.full or not (self.half or self.folded or self.chart) else ""
        shown = ""
        if self.chart is not None:
            wide, narrow = self.chart(2 * _WIDE + 36 if self.full else _WIDE), self.chart(_NARROW)
            legend = _legend(self.legend, "legend narrow" if self.named else "legend")
            shown = f'{legend}<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        elif not self.folded:
            shown = table
        behind = (
            f"<details><summary>Table<span hidden> of {escape(self.title)}</span></summary>{table}</details>"
            if shown != table
            else ""
        )
        under = f'<div class="under">{link}{behind}</div>'
        return f'<figure class="block{size}">{caption}<div>{shown}{under}</div></figure>'


@dataclass(frozen=True)
class Section:
    title: str
    intro: str = ""
    blocks: Sequence[Block] = ()
    texts: Sequence[tuple[str, str]] = field(default=())
    """(summary, preformatted text), folded"""
    commands: Sequence[tuple[str, str]] = field(default=())
    """(purpose, command)"""
    lead: str = ""
    """what the whole report says, in large letters above everything"""
    points: Sequence[str] = ()
    """sentences below it, one a line"""
    under: Sequence[str] = ()
    """sentences below the blocks, one a line"""

    def html(self) -> str:
        intro = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        intro += "".join(f'<p class="point">{escape(point)}</p>' for point in self.points)
        intro += f"<p>{escape(self.intro)}</p>" if self.intro else ""
        blocks = (
            f'<div class="grid2">{"".join(block.html() for block in self.blocks)}</div>'
            if self.blocks
            else ""
        )
        texts = "".join(
            f"<details><summary>{escape(name)}</summary><pre tabindex=0>{escape(text)}</pre></details>"
            for name, text in self.texts
        )
        commands = "".join(
            f"<li>{escape(what)}: <code>{escape(command)}</code></li>" for what, command in self.commands
        )
        listed = f"<ul>{commands}</ul>" if commands else ""
        name = _slug(self.title)
        heading = f'<h2 id="{name}">{escape(self.title)}</h2>'
        under = "".join(f'<p class="point">{escape(line)}</p>' for line in self.under)
        return f'<section aria-labelledby="{name}">{heading}{intro}{blocks}{under}{texts}{listed}</section>'


def page(title: str, subtitle: str, sections: Sequence[Section], made: str) -> str:
    """Return the whole file, which opens with the section that has a lead. Its policy allows only the one
    script and the one style sheet whose SHA-256 it names, and loads nothing.
    """
    style, script = (
        resources.files("clickprompt.report").joinpath(name).read_text() for name in ("page.css", "page.js")
    )
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    first, rest = [one for one in sections if one.lead], [one for one in sections if not one.lead]
    links = "".join(
        f'<li><a href="#{_slug(section.title)}">{escape(section.title)}</a></li>' for section in rest
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">\n'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>\n<style>{style}</style></head>\n'
        '<body><header><div class="column"><div><h1>ClickPrompt report</h1>'
        f'<div class="soft">{escape(subtitle)}</div></div>'
        f'<button id="theme" type="button" hidden>Dark</button></div></header>\n'
        '<div class="column"><main>'
        + "\n".join(section.html() for section in first)
        + f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
        + "\n".join(section.html() for section in rest)
        + f'</main>\n<footer class="soft">{escape(made)}</footer></div>\n'
        f'<div id="tip" role="status" hidden></div>\n<script>{script}</script></body></html>\n'
    )


def markdown(sections: Sequence[Section]) -> str:
    """Return the tables that belong in a paper."""
    parts = []
    for section in sections:
        tables = [block for block in section.blocks if block.in_markdown]
        parts += [f"## {plain(section.title)}\n"] if tables or section.lead else []
        parts += [f"{plain(text)}\n" for text in (section.lead, *section.points) if text]
        parts += [
            f"{plain(block.title)}{note}\n\n{block.table.markdown()}\n"
            for block in tables
            for note in [f" ({plain(block.note)})" if block.note else ""]
        ]
        parts += [f"{plain(line)}\n" for line in section.under]
    return "\n".join(parts)


def _legend(entries: Sequence[tuple[str, int]], name: str) -> str:
    if not entries:
        return ""
    rectangle = '<rect y="2" width="16" height="7" class="{colour} fill"/>'
    swatch = f'<svg viewBox="0 0 16 10" aria-hidden="true">{rectangle}</svg>'
    items = "".join(
        f"<li>{swatch.format(colour=colour(number))}{escape(name)}</li>" for name, number in entries
    )
    return f'<ul class="{name}">{items}</ul>'


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "table"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

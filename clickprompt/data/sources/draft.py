"""Draft a commented schema (data/sources/schema.py) from a sample of unknown files (`clickprompt init`).

The draft guesses which files are the log and which are joined to it, what a click, a time, a user and an item
is, and which columns are fields. It gives a reason for each guess, where the user can correct it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clickprompt.config import CLICK, LABEL_NAME
from clickprompt.data.prepared.dataset import SPLITS, slug
from clickprompt.data.sources import draft_names
from clickprompt.data.sources.draft_columns import field_rule, why_not
from clickprompt.data.sources.draft_files import FileGroup, group_files
from clickprompt.data.sources.draft_joins import DraftJoin, join_table
from clickprompt.data.sources.draft_label import Label
from clickprompt.data.sources.draft_log import DraftLog, as_log
from clickprompt.data.sources.draft_look import Look
from clickprompt.data.sources.draft_names import readable, unused
from clickprompt.data.sources.draft_times import Times, looks_like_times, times_of
from clickprompt.data.sources.draft_yaml import flow, scalar, shown
from clickprompt.data.sources.leaks import decides_label
from clickprompt.data.transform.instants import day_of
from clickprompt.data.transform.values import kind_of
from clickprompt.errors import InputError

__all__ = ["Draft", "draft_schema"]

_HIGHEST_RATING = 100


@dataclass(frozen=True)
class Draft:
    """A draft: `text` is the YAML, `complete` says whether `prepare` accepts it as it is, and `notes` are for
    the user, not for the file.
    """

    text: str
    complete: bool
    notes: list[str]


@dataclass
class _Entry:
    """A field, or a column that isn't one, and why."""

    column: str
    name: str
    rule: dict[str, Any]
    remark: str
    reason: str = ""
    hard: bool = field(default=False)  # `prepare` would refuse it

    def line(self) -> str:
        given = {"name": self.name, "column": self.column, **self.rule}
        if self.reason:
            return f"  # - {flow(given)}   # {self.reason}"
        return f"  - {flow(given)}   # {self.remark}"


def draft_schema(given: Sequence[str], folder: str) -> Draft:
    """Draft a schema for the files, folders and patterns `given`. folder: where the schema will be.

    Raises InputError if none is given, DataError for files that aren't there or can't be read.
    """
    if not given:
        raise InputError("no files; give those of the log, and of items and users if there are any")
    logs = [as_log(group) for group in group_files(given, folder)]
    log = max(logs, key=DraftLog.score)  # the first of equals
    notes = [note for one in logs for note in one.group.notes]
    label = log.labels[0] if log.labels else None
    looks = {one.name: one for one in log.looks}
    left: list[str] = []
    tables = []
    for other in logs:
        if other is log:
            continue
        if len(other.group.data) > 1:
            left.append(f"{other.group.shown}: a table is one file, folder or pattern; left out")
        elif joined := join_table(log, other.group, label, tables):
            tables.append(joined)
        else:
            left.append(
                f"{other.group.shown}: no column has keys, each once, that a column of the log has too; "
                "left out"
            )
    time, split, times = _ways_to_split(looks, label, log.group.made_names)
    entries = _entries(log, label, tables, {time, split})
    complete = label is not None and sum(not entry.reason for entry in entries) >= 2
    lines = [
        f"# Drafted from {log.group.sample.num_rows:,} rows of {log.group.shown}. Every line is a guess: "
        "correct it, then look at it with",
        "#     clickprompt prepare THIS_FILE --check",
        *_data_lines(log.group),
        *_explode_lines(log),
        *_label_lines(log, label),
        *_time_lines(time, split, times, looks),
        *_role_lines(log, looks, label, tables),
        *_table_lines(tables, left),
        "fields:                           # in the order of the text",
        *(entry.line() for entry in entries),
    ]
    if sum(not entry.reason for entry in entries) < 2:
        lines.append(
            "  # a schema has two fields at least: take some of the columns above, or give more files"
        )
    if not any(not entry.reason for entry in entries):
        lines[lines.index("fields:                           # in the order of the text")] = "# fields:"
    notes += left
    used = sum(not entry.reason for entry in entries)
    notes.append(
        f"the log: {log.group.shown}; {_count(used, 'field')}, {_count(len(entries) - used, 'column')} left "
        "out with the reason"
    )
    notes += [f"joined: {table.group.shown} by {table.key}" for table in tables]
    notes.append(
        f"label: {label.column}" if label else "label: no column looks like one; fill it in before preparing"
    )
    return Draft("\n".join(lines) + "\n", complete, notes)


def _ways_to_split(
    looks: dict[str, Look], label: Label | None, nameless: bool
) -> tuple[str | None, str | None, dict[str, Times]]:
    """Find the column of times, or the one that says train, valid or test; and all columns of times."""
    for one in looks.values():
        if draft_names.is_split(one.name) and not one.missing and {*one.found()} == {*SPLITS}:
            return None, one.name, {}
    times = {
        name: span
        for name, one in looks.items()
        if (label is None or name != label.column) and (span := times_of(one, nameless))
    }
    # Among several, prefer one that has such a name and tells moments apart, not only days
    ranked = sorted(times, key=lambda name: (not draft_names.is_time(name), -looks[name].distinct))
    return (ranked[0] if ranked else None), None, times


def _entries(
    log: DraftLog, label: Label | None, tables: Sequence[DraftJoin], ways: set[str | None]
) -> list[_Entry]:
    """List the log's columns in order, each followed by those of the tables that it is the key to."""
    known = {one.name: one for one in log.looks}
    answer = label.of(known[label.column]) if label else None
    others = {one.column for one in log.labels[1:] if one.sure}
    taken: set[str] = set()
    entries = []
    for one in log.looks:
        if one.name not in ways and (label is None or one.name != label.column):
            entry = _entry(one, one.name, [readable(one.name)], taken, True)
            if not entry.reason and one.name in others:
                entry.reason = "may be another label: leave it out unless it is known before the click"
            if not entry.reason and draft_names.is_outcome(one.name):
                entry.reason = (
                    "what came of it, by its name: a leak? leave it out unless it is known before the click"
                )
            if not entry.reason and answer is not None and _leaks(one, answer):
                entry.reason = (
                    "its value decides the label: a leak? leave it out unless it is known before the click"
                )
            if not entry.reason and one.name == log.request:
                entry.reason = "another value in every row of the file: nothing can be learned of it"
            entries.append(entry)
        for table in tables:
            if table.on == one.name:
                for column in table.looks:
                    if column.name != table.key:
                        names = [
                            readable(column.name),
                            f"{readable(table.name)} {readable(column.name).lower()}",
                        ]
                        entries.append(_entry(column, f"{table.name}.{column.name}", names, taken, False))
    for entry in sorted(
        (entry for entry in entries if entry.reason and not entry.hard),
        key=lambda entry: "leak" in entry.reason,
    ):
        if sum(not one.reason for one in entries) < 2:
            entry.remark, entry.reason = f"there are few columns, or it would be left out: {entry.reason}", ""
    return entries


def _entry(one: Look, column: str, names: Sequence[str], taken: set[str], of_log: bool) -> _Entry:
    rule, remark = field_rule(one)
    reason = _said(why_not(one, rule, of_log))
    found = f"{_count(one.distinct, 'value')}, such as {shown(one.example)}" if one.distinct else "no value"
    if one.missing:
        found += f"; missing in {one.missing / one.rows:.1%}"
    hard = reason.startswith(("can't", "no value"))
    return _Entry(
        column, unused(names, taken), rule, f"{found}{'; ' if remark else ''}{remark}", reason, hard
    )


def _leaks(one: Look, answer: np.ndarray) -> bool:
    rows = ~np.isnan(answer)
    return bool(rows.any()) and decides_label(one.codes[rows], answer[rows])


def _data_lines(group: FileGroup) -> list[str]:
    lines = (
        [f"data: {flow(group.data)}"]
        if len(group.data) <= 3
        else ["data:", *(f"  - {scalar(name)}" for name in group.data)]
    )
    lines += [f"{key}: {flow(value)}" for key, value in group.settings.items()]
    if group.made_names:
        lines[-1] += "   # the file has no header line: give its columns their names here and below"
    return lines


def _explode_lines(log: DraftLog) -> list[str]:
    return [f"explode: {flow(log.explode)}   # a row for each of what was shown"] if log.explode else []


def _label_lines(log: DraftLog, label: Label | None) -> list[str]:
    if label is None:
        names = ", ".join(scalar(one.name) for one in log.looks)
        return [
            "# label: {column: …}   # fill in: no column looks like clicks (0 and 1), ratings or events",
            "#     a rule: {column: rating, positive_from: 4}, {column: event, positive: [purchase]}, or a "
            "column of 0 and 1",
            f"#     the columns: {names}",
            *(
                f"#     {scalar(one.name)}: {one.distinct} numbers, perhaps ratings"
                for one in log.looks
                if _few_numbers(one)
            ),
        ]
    others = ", ".join(scalar(other.column) for other in log.labels[1:])
    return [
        f"label: {flow(label.rule)}   # {label.remark}",
        *([f"# other columns that may be the label: {others}"] if others else []),
        *_further_lines(log.labels[1:]),
    ]


def _further_lines(labels: Sequence[Label]) -> list[str]:
    """Suggest those that are labels by their names as further ones, which a model learns beside the click."""
    rules = {name: one.rule for one in labels if one.sure and re.match(LABEL_NAME, name := slug(one.column))}
    rules.pop(CLICK, None)
    if not rules:
        return []
    return [f"# labels: {flow(rules)}   # to learn them as well, each from the rows that have it"]


def _few_numbers(one: Look) -> bool:
    return (
        one.numbers is not None
        and 2 <= one.distinct <= 10
        and np.nanmax(np.abs(one.numbers)) <= _HIGHEST_RATING
        and not draft_names.is_id(one.name)
    )


def _time_lines(
    time: str | None, split: str | None, times: dict[str, Times], looks: dict[str, Look]
) -> list[str]:
    if split:
        return [f"split: {scalar(split)}   # train, valid or test"]
    if time:
        others = [scalar(name) for name in times if name != time]
        of = times[time]
        rule = flow({"column": time, "format": of.format}) if of.format else scalar(time)
        more = f"; or its format is {' or '.join(of.others)}" if of.others else ""
        more += f"; other times: {', '.join(others)}" if others else ""
        return [
            f"timestamp: {rule}   # {day_of(of.first)} to {day_of(of.last)} in the sample{more}; the split "
            "is by it"
        ]
    unread = [one for one in looks.values() if one.present and looks_like_times(one)]
    lines = ["# timestamp: …   # no column of times that can be read: the split is by a hash of the row"]
    for one in unread[:3]:
        example = one.column.filter(one.column.is_valid())[0].as_py()
        form = f"or has values like {shown(str(example))}: set its format, such as %d/%m/%Y"
        lines.append(
            f"#     {scalar(one.name)} may be one, but is missing in some rows, is all the same, {form}"
        )
    return lines


def _role_lines(
    log: DraftLog, looks: dict[str, Look], label: Label | None, tables: Sequence[DraftJoin]
) -> list[str]:
    usable = [
        name
        for name, one in looks.items()
        if not one.problem and one.present and (label is None or name != label.column)
    ]
    usable = [name for name in usable if kind_of(looks[name].column.type) not in ("list", "time", "other")]
    user = next((name for name in usable if draft_names.is_user(name)), None)
    item = (
        log.explode["into"][0]
        if log.explode and "into" in log.explode
        else next((name for name in usable if draft_names.is_item(name)), None)
    )
    item = item or next((table.on for table in tables if table.on != user), None)
    request = log.request or next(
        (name for name in usable if draft_names.is_request(name) and not looks[name].unique()), None
    )
    session = next((name for name in usable if draft_names.is_session(name)), None)
    lines = [
        f"user: {scalar(user)}"
        if user
        else "# user: …   # the column that says whose a row is, for figures by user",
        f"item: {scalar(item)}"
        if item
        else "# item: …   # the column that says what was shown, for the long tail",
    ]
    if request:
        lines.append(f"group: {scalar(request)}   # rows that were shown together, for AUC by request")
    elif session:
        lines.append(
            f"# group: {scalar(session)}   # if rows of one value were shown together: AUC by request"
        )
    return lines


def _table_lines(tables: Sequence[DraftJoin], left: Sequence[str]) -> list[str]:
    lines = ["tables:"] if tables else []
    for table in tables:
        data = table.group.data[0]
        said = (
            {"data": data, "key": table.key}
            | ({"on": table.on} if table.on != table.key else {})
            | table.group.settings
        )
        lines.append(f"  {scalar(table.name)}: {flow(said)}")
    return lines + [f"# {_said(line)}" for line in left]


def _said(text: str) -> str:
    """Format a text for a comment: on one line, without signs that YAML refuses."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

"""The files of a draft as a log: its columns, what its labels may be, and whether its rows are lists of what
was shown.
"""

# pyarrow.compute creates its functions when it is imported, so pyright does not see them
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from clickprompt.data.prepared.dataset import slug
from clickprompt.data.sources.draft_columns import is_impressions
from clickprompt.data.sources.draft_files import FileGroup
from clickprompt.data.sources.draft_label import Label, label_candidates
from clickprompt.data.sources.draft_look import Look, look
from clickprompt.data.sources.draft_names import unused
from clickprompt.data.sources.draft_times import looks_like_times, times_of
from clickprompt.data.sources.schema import Explode
from clickprompt.data.transform.explode import exploded
from clickprompt.data.transform.values import kind_of

__all__ = ["DraftLog", "as_log"]

_EXPLODED = 4000  # rows of a sample whose lists are looked into


@dataclass
class DraftLog:
    """The group of files that is the log, with its rows as they are after `explode`."""

    group: FileGroup
    looks: list[Look]
    explode: dict[str, Any] | None
    labels: list[Label]
    request: str | None = None  # of exploded rows: what says which belonged together

    def score(self) -> tuple[bool, bool, bool]:
        return (
            bool(self.labels and self.labels[0].sure),
            any(times_of(one, self.group.made_names) for one in self.looks),
            bool(self.labels),
        )


def as_log(group: FileGroup) -> DraftLog:
    """Return the files as a log, exploded if they hold lists of what was shown."""
    sample = group.sample
    looks = [
        look(name, sample.column(name).combine_chunks(), group.nulls, group.kinds[name])
        for name in sample.column_names
    ]
    shown = next((one for one in looks if is_impressions(one)), None)
    if shown is None:
        return _of_lists(group, looks) or DraftLog(group, looks, None, label_candidates(looks))
    taken = {slug(name) for name in sample.column_names}
    into = [unused([name], taken) for name in ("item", "clicked")]
    explode = {"columns": [shown.name], "separator": " ", "split": "-", "into": into}
    made = _exploded(group, explode)
    label = Label(into[1], {"column": into[1]}, "1 behind what was shown is a click", True)
    return DraftLog(group, made, explode, [label], _request(looks, [shown.name]))


def _of_lists(group: FileGroup, looks: Sequence[Look]) -> DraftLog | None:
    """Return the log whose rows are elements of lists: those that are as long as each other in every row, and
    of which one is a better label than the columns that aren't lists.
    """
    others = label_candidates(looks)
    if any(label.sure for label in others):
        return None
    alike: dict[tuple[str, bytes], list[str]] = {}
    for one in looks:
        if kind_of(one.column.type) == "list" and not one.problem and one.present:
            lengths = pc.fill_null(pc.list_value_length(one.column), 0).to_numpy(zero_copy_only=False)
            alike.setdefault((one.name.rpartition(".")[0], lengths.tobytes()), []).append(one.name)
    for names in alike.values():
        if len(names) > 1:
            explode = {"columns": names}
            made = _exploded(group, explode)
            labels = label_candidates([one for one in made if one.name in names])
            if labels and (labels[0].sure or not others):
                return DraftLog(group, made, explode, labels, _request(looks, names))
    return None


def _request(looks: Sequence[Look], lists: Sequence[str]) -> str | None:
    """Return the column that is another in every row and no time: rows that are exploded from one have it in
    common.
    """
    unique = (one for one in looks if one.unique() and one.name not in lists)
    return next((one.name for one in unique if not looks_like_times(one)), None)


def _exploded(group: FileGroup, explode: dict[str, Any]) -> list[Look]:
    sample = group.sample.slice(0, _EXPLODED).combine_chunks()
    rows, _ = exploded(sample, Explode.model_validate(explode))
    kinds = {name: {kind_of(rows.schema.field(name).type)} for name in rows.column_names}
    kept = {name: found for name, found in group.kinds.items() if name not in explode["columns"]}
    return [
        look(name, rows.column(name).combine_chunks(), group.nulls, (kinds | kept)[name])
        for name in rows.column_names
    ]

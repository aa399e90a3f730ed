"""Find the columns of a sample that may say what was clicked, each with a schema rule to read it by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.data.sources.draft_look import Look
from clickprompt.data.sources.draft_names import EVENTS, LABELS, RATINGS, last_part, plain_name
from clickprompt.data.sources.draft_yaml import flow, shown
from clickprompt.data.transform.values import BadValue, kind_of, labels

__all__ = ["Label", "label_candidates"]

_TRUTHS = frozenset({"0", "1", "true", "false"})
_ANSWERS = {"yes": "no", "y": "n", "t": "f", "ja": "nein", "oui": "non", "si": "no"}
_MOST_EVENTS = 30
_SPECIFIC = (
    *(
        "purchase",
        "purchased",
        "buy",
        "bought",
        "order",
        "transaction",
        "checkout",
        "conversion",
        "pay",
        "paid",
        "addtocart",
        "cart",
    ),
    *(
        "install",
        "book",
        "booking",
        "apply",
        "like",
        "favorite",
        "fav",
        "share",
        "click",
        "clicked",
        "play",
        "read",
        "detail",
        "pv",
    ),
)
"""what users do, the rarest and most telling first"""
_SHOWN = (
    "view",
    "impression",
    "show",
    "shown",
    "exposure",
    "display",
    "skip",
    "ignore",
    "search",
    "wishlist",
)


@dataclass(frozen=True)
class Label:
    """A possible label. `rule`: the schema's label; `sure`: whether its name says so, and not only its
    values.
    """

    column: str
    rule: dict[str, Any]
    remark: str
    sure: bool

    def of(self, found: Look) -> np.ndarray:
        """Apply the rule: [N] float, NaN where the row is left out."""
        rule = {"positive_from": None, "positive": None, "drop": (), "missing": "drop", **self.rule}
        label, _ = labels(
            found.column,
            positive_from=rule["positive_from"],
            positive=rule["positive"],
            drop=rule["drop"],
            missing=rule["missing"],
            nulls=found.nulls,
        )
        return label.cast(pa.float64()).to_numpy(zero_copy_only=False)


def label_candidates(looks: Sequence[Look]) -> list[Label]:
    """Return the candidates, best first. Every one can be read as its rule says."""
    ranked: list[tuple[int, int, Label]] = []
    for place, found in enumerate(looks):
        candidate = _candidate(found)
        if candidate is not None and _reads(candidate[1], found):
            ranked.append((candidate[0], place, candidate[1]))
    return [label for _, _, label in sorted(ranked, key=lambda entry: entry[:2])]


def _candidate(found: Look) -> tuple[int, Label] | None:
    """Return (rank, 0 for the best; label)."""
    name = plain_name(found.name)
    if name not in (*LABELS, *RATINGS, *EVENTS):
        name = plain_name(last_part(found.name))
    if found.problem or not found.present or kind_of(found.column.type) in ("list", "time", "other", "null"):
        return None
    values = {value.lower() for value in found.found()[: _MOST_EVENTS + 1]}
    if values <= _TRUTHS:
        if name in LABELS:
            return LABELS.index(name), Label(
                found.name, {"column": found.name}, "1 and true are clicks", True
            )
        if len(values) > 1 and name not in (*RATINGS, *EVENTS):
            return 1000, Label(
                found.name, {"column": found.name}, "a column of 0 and 1: is 1 a click?", False
            )
    if found.distinct < 2:
        return None
    if (yes := _yes(found, values)) and name not in (*RATINGS, *EVENTS):
        rule = {"column": found.name, "positive": [yes]}
        if name in LABELS:
            return LABELS.index(name), Label(found.name, rule, f"{yes} is a click", True)
        return 1000, Label(found.name, rule, f"a column of yes and no: is {yes} a click?", False)
    if found.numbers is not None and (name in RATINGS or (name in LABELS and found.distinct <= _MOST_EVENTS)):
        least, step = _positive_from(found)
        remark = (
            f"from {np.nanmin(found.numbers):g} to {np.nanmax(found.numbers):g}; which of them are "
            "clicks is your decision"
        )
        if step is not None:
            remark += f'; to leave out what is neither, add drop: ["{step:g}"]'
        return 100 + (name not in RATINGS), Label(
            found.name, {"column": found.name, "positive_from": least}, remark, True
        )
    if name in (*EVENTS, *LABELS) and found.distinct <= _MOST_EVENTS:
        events = found.found()
        chosen = _most_specific(events)
        remark = f"its values, the most frequent first: {', '.join(map(shown, events))}"
        return 200, Label(found.name, {"column": found.name, "positive": [chosen]}, remark, name in EVENTS)
    known = {plain_name(value) for value in values}
    if len(known) > 1 and known <= {*_SPECIFIC, *_SHOWN, "removefromcart"}:
        events = found.found()
        remark = f"by its values, the most frequent first: {', '.join(map(shown, events))}"
        rule = {"column": found.name, "positive": [_most_specific(events)]}
        return 300, Label(found.name, rule, remark, True)
    return None


def _yes(found: Look, values: set[str]) -> str | None:
    """Return the value that says yes, as the column writes it, if the others are one that says no."""
    yes = next((yes for yes, no in _ANSWERS.items() if values == {yes, no}), None)
    written = [value for value in found.found() if value.lower() == yes]
    return written[0] if len(written) == 1 and found.distinct == 2 else None


def _positive_from(found: Look) -> tuple[float, float | None]:
    """Return the number in the sample nearest above three quarters of the scale (4 for 1 to 5), so that both
    classes occur, and the number below it.
    """
    assert found.numbers is not None
    steps = np.unique(found.numbers[~np.isnan(found.numbers)])
    wanted = np.ceil(steps[0] + 0.75 * (steps[-1] - steps[0]))
    place = max(1, min(int(np.searchsorted(steps, wanted)), len(steps) - 1))
    return float(steps[place]), float(steps[place - 1]) if place > 1 else None


def _most_specific(events: Sequence[str]) -> str:
    """Return the most telling event. `events`: the most frequent first."""
    known = {plain_name(event): event for event in events}
    return next((known[name] for name in _SPECIFIC if name in known), events[-1])


def _reads(label: Label, found: Look) -> bool:
    try:
        label.of(found)
        flow(label.rule)
    except (BadValue, pa.ArrowException):
        return False
    return True

"""The labels of a log beside the click (`labels:` in its schema), and what to know of their rules."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from clickprompt.config import label_columns
from clickprompt.data.sources.raw import Findings
from clickprompt.data.sources.schema import FurtherLabel, LabelRule
from clickprompt.data.transform.columns import BadValue
from clickprompt.data.transform.values import labels

__all__ = ["further_labels", "never_occurred"]


def further_labels(
    rules: Mapping[str, FurtherLabel],
    columns: Mapping[str, pa.Array],
    nulls: Sequence[str],
    findings: Findings,
) -> dict[str, pa.Array]:
    """Return column (config/tasks.py) → [N] int8: 1, 0, or −1 where a row's label isn't known. Values of the
    rules that occur are added to the findings. Raises BadValue as `labels` does.
    """
    found = {}
    for column, (name, rule) in zip(label_columns([*rules]), rules.items(), strict=True):
        try:
            label, counts = labels(
                columns[rule.column],
                positive_from=rule.positive_from,
                positive=rule.positive,
                drop=rule.unknown,
                missing="negative" if rule.missing == "negative" else "drop",
                nulls=nulls,
            )
        except BadValue as error:
            error.column = error.column or rule.column
            raise
        findings.occurred |= {_named(name, value) for value in counts.found}
        found[column] = label.fill_null(-1)
    return found


def never_occurred(label: LabelRule, more: Mapping[str, FurtherLabel], findings: Findings) -> list[str]:
    """Return a warning for each rule that has values which the log hasn't."""

    def warning(what: str, never: Sequence[str], left_out: str) -> list[str]:
        values = ", ".join(map(repr, never))
        return [f"{what}: {values} never occurred; check {left_out} and positive"] if never else []

    of_click = [value for value in (*label.drop, *(label.positive or ())) if value not in findings.occurred]
    found = warning(f"label {label.column}", of_click, "drop")
    for name, rule in more.items():
        values = (*rule.unknown, *(rule.positive or ()))
        never = [value for value in values if _named(name, value) not in findings.occurred]
        found += warning(f"labels.{name} {rule.column}", never, "unknown")
    return found


def _named(name: str, value: str) -> str:
    """Return a value as one of this label's; tabs tell it from the click's."""
    return f"{name}\t{value}"

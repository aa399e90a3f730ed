"""What is checked and said of further labels (`labels:` in a schema) before they are trained on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clickprompt.data.sources.raw import Source
from clickprompt.errors import DataError

__all__ = ["check_labels", "say_labels"]


def check_labels(source: Source, labels: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError for a label that training rows have in one class only, or not at all."""
    for label in labels:
        known, positive = label["known"]["train"], label["positive"]["train"]
        if positive not in (0, known):
            continue
        what = f"of the {known:,} training rows that have it, {'all' if known and positive else 'none'} are"
        if not known:
            what = "no training row has it, so none is"
        raise DataError(
            f"{source.raw_dir}: labels.{label['name']}: {what} positive: there is nothing to learn; "
            "check its rule"
        )


def say_labels(
    labels: Sequence[Mapping[str, Any]], rows: Mapping[str, int], progress: Callable[[str], None]
) -> None:
    """Print how often each label is positive, and of how many rows it is known, split by split."""
    for label in labels:
        shares = []
        for split, number in rows.items():
            known, positive = label["known"][split], label["positive"][split]
            rate = f"{positive / known:.1%}" if known else "–"
            shares.append(rate if known == number else f"{rate} of the {known / number:.1%} that have it")
        progress(f"label {label['name']}: positive in {' / '.join(shares)}")

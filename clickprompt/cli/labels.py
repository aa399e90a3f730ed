"""What is printed of labels beside the click."""

from typing import Any

__all__ = ["checked_labels", "label_lines", "valid_labels"]


def label_lines(result: dict[str, Any]) -> str:
    """Format the figures of each further label of a split: a line each, with the line's beginning; empty if
    there are none.
    """
    return "".join(f"\n{name}: {_figures(figures)}" for name, figures in (result.get("labels") or {}).items())


def valid_labels(result: dict[str, Any]) -> str:
    """Format the validation AUC of each further label that a finetuning learned, behind the click's."""
    found = result.get("valid_labels") or {}
    return "".join(f", {name} {_number(scores['auc'])}" for name, scores in found.items())


def _figures(figures: dict[str, Any]) -> str:
    interval = figures["auc_interval"]
    auc = _number(figures["auc"]) + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
    rate = "" if figures["positive_rate"] is None else f", {figures['positive_rate']:.1%} positive"
    gauc = (figures["gauc"] or {}).get("value")
    return (
        f"AUC {auc}, log loss {_number(figures['log_loss'])}, GAUC {_number(gauc)}, calibration error "
        f"{_number(figures['calibration_error'])} of {figures['rows']:,} rows that have it{rate}"
    )


def _number(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.4f}"


def checked_labels(found: dict[str, Any]) -> list[str]:
    """Format how often each further label is positive in a sample."""
    return [
        f"label {name}: positive in {'–' if label['rate'] is None else format(label['rate'], '.1%')} of the "
        f"{label['known']:,} rows that have it"
        for name, label in found.get("labels", {}).items()
    ]

"""What commands print: a result's figures as tables for people."""

import time
from typing import Any

__all__ = ["attention_table", "comparison", "job_line", "recovery_table", "slices_table"]


def attention_table(result: dict[str, Any]) -> str:
    """Table 7: a line per masked field, the last layer's attention over the prompts; then how much of all attention they get."""
    prompts = "".join(f"{number:>9}" for number in range(1, result["num_prompts"] + 1))
    lines = [f"attention over the prompts, last layer, {result['rows']:,} rows", f"{'masked':<20}{prompts}{'on prompts':>12}"]
    for name, field in result["fields"].items():
        scores = "".join(f"{score:>9.4f}" for score in field["scores"])
        lines.append(f"{name:<20}{scores}{field['on_prompts'][-1]:>12.2%}")
    return "\n".join(lines)


def comparison(result: dict[str, Any]) -> str:
    against = result["against"]
    base = f"AUC {against['auc']:.4f}, log loss {against['log_loss']:.4f}"
    lines = [f"against {result['base']}: {base}, Rel.Impr {against['relative_improvement']:+.2%}"]
    for name, key in (("DeLong, rows independent", "delong"), ("bootstrap by user", "user_bootstrap")):
        if test := against[key]:
            low, high = test["interval"]
            lines.append(f"  {name}: difference in AUC {test['difference']:+.5f} [{low:+.5f}, {high:+.5f}], p = {test['p_value']:.3g}")
    return "\n".join(lines)


def job_line(job: dict[str, Any]) -> str:
    """Id, state, exit status, when it began (UTC), for how long it ran, what it is and its run."""
    began = time.strftime("%Y-%m-%d %H:%M", time.gmtime(job["started"])) if job["started"] else "–"
    seconds = (job["ended"] or time.time()) - job["started"] if job["started"] else 0
    status = job["status"].lower() + (f" ({job['exit_code']})" if job["exit_code"] else "")
    return f"{job['job_id']:<28}  {status:<16}{began:<18}{seconds:>8.0f} s  {job['job'] or '–'}  {job['run'] or ''}".rstrip()


def slices_table(result: dict[str, Any]) -> str:
    """Table 6 in both readings of the long tail, and the rows with values that training never had."""
    tail = result["long_tail"]
    lines = [f"{'rows of':<52}{'rows':>10}{'clicks':>10}{'AUC':>9}{'log loss':>10}" + (f"{'Rel.Impr':>10}" if "base" in result else "")]
    for reading, title in (("seen", "the rarest seen in training"), ("with_unseen", "the same and those never seen")):
        lines.append(f"long tail: {title}, {tail['share']:.0%} of {tail['user']} and {tail['item']}")
        for figures in tail[reading]:
            kinds = (f"{'tail' if figures[key] else 'other'} {tail[name]}" for key, name in (("tail_user", "user"), ("tail_item", "item")))
            lines.append(_slice_line("  " + ", ".join(kinds), figures))
    lines.append("never seen in training:")
    lines += [_slice_line(f"  {name}", figures) for name, figures in result["cold_start"].items()]
    return "\n".join(lines)


def _slice_line(label: str, figures: dict[str, Any]) -> str:
    auc = "–" if figures["auc"] is None else f"{figures['auc']:.4f}"
    loss = "–" if figures["log_loss"] is None else f"{figures['log_loss']:.4f}"
    improvement = f"{figures['against']['relative_improvement']:>+10.2%}" if figures.get("against") else ""
    return f"{label:<52}{figures['rows']:>10,}{figures['clicks']:>10,}{auc:>9}{loss:>10}{improvement}"


def recovery_table(result: dict[str, Any]) -> str:
    """A line per field, and beneath it one for its values that occur in training where that isn't all of them."""
    heading = f"{'masked values of':<20}{'rows':>7}{'tokens':>8}{'own':>8}{'permuted':>10}{'ratio':>8}{'difference [95% interval]':>34}"
    lines = [heading + (f"{'against':>10}{'difference [95% interval]':>34}" if result["against"] else "")]
    for name, field in result["fields"].items():
        for label, figures in ((name, field), ("  seen in training", field["seen"])):
            if figures is field or 0 < figures["rows"] < field["rows"]:
                against = (field["against"] if figures is field else field["against"]["seen"]) if result["against"] else None
                lines.append(_recovery_line(label, figures, against))
    return "\n".join(lines)


def _recovery_line(label: str, figures: dict[str, Any], against: dict[str, Any] | None) -> str:
    ratio = f"{figures['ratio']:.2f}×" if figures["ratio"] is not None else "–"
    line = f"{label:<20}{figures['rows']:>7,}{figures['targets']:>8,}{_share(figures['own']):>8}{_share(figures['permuted']):>10}{ratio:>8}"
    line += f"{_difference(figures):>34}"
    return line + (f"{_share(against['against']):>10}{_difference(against):>34}" if against else "")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _difference(figures: dict[str, Any]) -> str:
    if figures["difference"] is None:
        return "–"
    interval = figures["interval"]
    return f"{figures['difference']:+.2%}" + (f" [{interval[0]:+.2%}, {interval[1]:+.2%}]" if interval else " [one user only]")

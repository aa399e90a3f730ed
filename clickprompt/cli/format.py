"""Text tables for people: what the commands print of a result's figures."""

import textwrap
import time
import unicodedata
from collections.abc import Sequence
from typing import Any

from clickprompt.cli.labels import checked_labels, label_lines

__all__ = [
    "attention_table",
    "check_table",
    "comparison",
    "explain_table",
    "job_line",
    "outcomes_table",
    "recovery_table",
    "seeds_table",
    "slices_table",
    "split_line",
    "sweep_table",
]

_METRICS = ("auc", "log_loss")
_WIDTH = 106  # of a text below a table, in characters
_ONE_CLASS = "undefined (all rows are of one class)"


def attention_table(result: dict[str, Any]) -> str:
    """Format Table 7: one line per masked field with the last layer's attention over the prompts, and the
    share of all attention that goes to them.
    """
    prompts = "".join(f"{number:>9}" for number in range(1, result["num_prompts"] + 1))
    lines = [
        f"attention over the prompts, last layer, {result['rows']:,} rows",
        f"{'masked':<20}{prompts}{'on prompts':>12}",
    ]
    for name, field in result["fields"].items():
        scores = "".join(f"{score:>9.4f}" for score in field["scores"])
        lines.append(f"{name:<20}{scores}{field['on_prompts'][-1]:>12.2%}")
    return "\n".join(lines)


def check_table(found: dict[str, Any]) -> str:
    """Format what `prepare --check` found: the files, the splits, one line per field, and the warnings."""
    files = found["files"]
    lines = []
    if files:
        dates = f", {files['first']} to {files['last']}" if "first" in files else ""
        lines.append(f"{files['rows']:,} rows of Parquet, {files['row_groups']:,} row groups{dates}")
    dropped = f"{found['dropped']:,} more dropped by the label rule or because a key was missing"
    lines.append(
        f"{found['rows']:,} rows of a sample, {found['label_rate']:.1%} clicks, {dropped}; all below is of "
        "the sample:"
    )
    lines += checked_labels(found)
    for name, split in found["splits"].items():
        if split["rows"]:
            dates = f", {split['first']} to {split['last']}" if split["first"] else ""
            unseen = sorted(
                ((share, field) for field, share in split["unseen"].items() if share >= 0.01), reverse=True
            )[:3]
            new = (
                f"; never seen in train: {', '.join(f'{field} {share:.0%}' for share, field in unseen)}"
                if unseen
                else ""
            )
            lines.append(
                f"{name}, split by {found['split']}: {split['rows']:,} rows, {split['label_rate']:.1%} "
                f"clicks{dates}{new}"
            )
    head = ["field", "kind", "distinct", "missing", "in all files", "example"]
    rows = [
        [
            _fit(field["name"], 40),
            field["kind"],
            f"{field['distinct']:,}",
            f"{field['missing']:.1%}",
            "" if field["missing_in_files"] is None else f"{field['missing_in_files']:.1%}",
            _fit(field["example"], 60),
        ]
        for field in found["fields"]
    ]
    if not files:
        head, rows = [*head[:4], head[5]], [[*row[:4], row[5]] for row in rows]
    written = _aligned([head, *rows], left={0, 1, len(head) - 1})
    lines.append(written[0])
    for line, field in zip(written[1:], found["fields"], strict=True):
        lines += [line, *(f"  warning: {warning}" for warning in field["warnings"])]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in found["warnings"])])


def _fit(text: str, width: int) -> str:
    """Make the text one line of at most `width` characters."""
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    return text if len(text) <= width else text[: width - 1] + "…"


def _aligned(rows: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    """Lay out rows as lines with columns as wide as their widest cell. Columns not in `left` are aligned
    right.
    """
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = []
        for place, cell in enumerate(row):
            blanks = " " * (widths[place] - _width(cell))
            padded.append(cell + blanks if place in left else blanks + cell)
        lines.append("  ".join(padded).rstrip())
    return lines


def _width(text: str) -> int:
    """Count the terminal columns of a text: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in text
    )


def comparison(result: dict[str, Any]) -> str:
    against = result["against"]
    if against["auc"] is None:
        return f"against {result['base']}: AUC and Rel.Impr {_ONE_CLASS}, log loss {against['log_loss']:.4f}"
    base = f"AUC {against['auc']:.4f}, log loss {against['log_loss']:.4f}"
    lines = [f"against {result['base']}: {base}, Rel.Impr {_gain(against['relative_improvement'])}"]
    for name, key in (("DeLong, rows independent", "delong"), ("bootstrap by user", "user_bootstrap")):
        if test := against[key]:
            low, high = test["interval"]
            lines.append(
                f"  {name}: difference in AUC {test['difference']:+.5f} [{low:+.5f}, {high:+.5f}], p = "
                f"{test['p_value']:.3g}"
            )
    for key, groups in (("ranking", "users"), ("ranking_by_request", "requests")):
        for name, of in against.get(key, {}).items():
            if of["t_test"]:
                lines.append(
                    f"  {name.replace('_', ' ')} over {groups}: {of['value']:.4f}, {_t_test(of['t_test'])}"
                )
    return "\n".join(lines)


def explain_table(result: dict[str, Any]) -> str:
    """Format one line per field, the most important first, and the attributions of single rows."""
    of = f"{result['rows']:,} rows, mean of {result['repeats']} permutations"
    lines, table = [f"AUC {result['auc']:.4f}; {of}:"], [["permuted field", "loss of AUC", "95% by user"]]
    for name, field in sorted(result["fields"].items(), key=lambda item: -item[1]["drop"]):
        ends = "–" if field["interval"] is None else "[{:+.4f}, {:+.4f}]".format(*field["interval"])
        table.append([_fit(name, 40), f"{field['drop']:+.4f}", ends])
    lines += _aligned(table, left={0})
    if found := result["attributions"]:
        lines.append(f"CTR logits by field, from {found['baseline_logit']:+.3f} if all values are unknown:")
        for row in found["rows"]:
            parts = sorted(row["fields"].items(), key=lambda item: -abs(item[1]["attribution"]))
            named = [
                (name, _fit(part["value"] or "unknown", 30), part["attribution"]) for name, part in parts
            ]
            shown = ", ".join(f"{share:+.3f} {name}={value}" for name, value, share in named)
            head = f"  row {row['row_id']}, {'click' if row['label'] else 'no click'}"
            lines.append(f"{head}, {row['ctr_logit']:+.3f}: {shown}")
    return "\n".join(lines)


def job_line(job: dict[str, Any]) -> str:
    """Format a job: id, state, exit status, start (UTC), duration, command and run."""
    began = time.strftime("%Y-%m-%d %H:%M", time.gmtime(job["started"])) if job["started"] else "–"
    seconds = (job["ended"] or time.time()) - job["started"] if job["started"] else 0
    status = job["status"].lower() + (f" ({job['exit_code']})" if job["exit_code"] else "")
    line = f"{job['job_id']:<28}  {status:<16}{began:<18}{seconds:>8.0f} s  "
    return f"{line}{job['job'] or '–'}  {job['run'] or ''}".rstrip()


def outcomes_table(result: dict[str, Any]) -> str:
    """Format what the pipeline ends with: one line per model and one of the click rate alone, what they show,
    and what they don't.
    """
    by = {row.get("intervals_by", "user") for row in result["rows"]}  # earlier results have no other
    interval, paired = ("95% by user", "95%, paired by user") if by == {"user"} else ("95%", "95%, paired")
    lines = [
        f"{'model':<25}{'best step':>11}{'test AUC':>10}{interval:>18}{'difference':>12}{paired:>21}{'p':>7}"
    ]
    for row in result["rows"]:
        interval = "–" if row["interval"] is None else "[{:+.4f}, {:+.4f}]".format(*row["interval"])
        gain = "–" if row["difference"] is None else f"{row['difference']:+.4f}"
        p_value = "–" if row["p_value"] is None else f"{row['p_value']:.2g}"
        steps = f"{row['best_step']} of {row['steps']}"
        lines.append(
            f"{row['model']:<25}{steps:>11}{_auc(row):>10}{_interval(row):>18}{gain:>12}{interval:>21}{p_value:>7}"
        )
    if result.get("click_rate_only"):  # a result of an earlier version has none
        auc = _auc(result["click_rate_only"])
        lines.append(f"{'click rate only':<25}{'–':>11}{auc:>10}{'–':>18}{'–':>12}{'–':>21}{'–':>7}")
    texts = [result["conclusion"], *([result["notice"]] if result["notice"] else [])]
    return "\n".join([*lines, *(textwrap.fill(text, _WIDTH) for text in texts)])


def _auc(figures: dict[str, Any]) -> str:
    return "undefined" if figures["auc"] is None else f"{figures['auc']:.4f}"


def seeds_table(result: dict[str, Any]) -> str:
    """Format one line per seed, the means, and Student's test of both metrics."""
    heading = (
        f"{'':<14}{'AUC':>9}{'against':>9}{'difference':>12}{'log loss':>9}{'against':>9}{'difference':>12}"
    )
    lines = [f"{result['split']}, {result['rows']:,} rows, {len(result['runs'])} seeds", heading]
    for run in result["runs"]:
        lines.append(
            _seeds_line(
                f"seed {run['seed']}", *((run[metric], run["against"][metric]) for metric in _METRICS)
            )
        )
    for key in ("mean", "sd"):
        lines.append(
            _seeds_line(
                key, *((result[metric][key], result[metric][f"against_{key}"]) for metric in _METRICS)
            )
        )
    lines.append(f"Rel.Impr {_gain(result['auc']['relative_improvement'])}; paired t-tests over the seeds:")
    for label, metric in (("AUC", "auc"), ("log loss", "log_loss")):
        test = result[metric]["t_test"]
        if test is None:
            lines.append(f"  {label}: {_ONE_CLASS}")
            continue
        lines.append(f"  {label}: {_t_test(test)}")
    for name, of in result["ranking"].items():
        means = f"{of['mean']:.4f} against {of['against_mean']:.4f}"
        test = f", {_t_test(of['t_test'])}" if of["t_test"] else ""
        lines.append(f"  {name.replace('_', ' ')} by user: {means}{test}")
    return "\n".join(lines)


def _t_test(test: dict[str, Any]) -> str:
    low, high = test["interval"]
    return (
        f"difference {test['difference']:+.5f} [{low:+.5f}, {high:+.5f}], t = {test['t']:.2f} on "
        f"{test['degrees_of_freedom']} degrees of freedom, p = {test['p_value']:.3g}"
    )


def _rankings(result: dict[str, Any]) -> str:
    """Format one line for each kind of groups: users, and requests."""
    lines = ""
    for key, groups in (("ranking", "users"), ("ranking_by_request", "requests")):
        found = result.get(key)
        if found is None or not found["groups"]:
            continue
        figures = ", ".join(
            f"{name.replace('_', ' ')} {value:.4f}" for name, value in found["figures"].items()
        )
        lines += (
            f"\n{result['split']}, ranked within {found['groups']:,} {groups} "
            f"({found['groups_left_out']:,} with rows of one class left out): {figures}"
        )
    return lines


def _seeds_line(label: str, *pairs: tuple[float | None, float | None]) -> str:
    line = f"{label:<14}"
    for ours, base in pairs:
        less = "" if ours is None or base is None or label == "sd" else f"{ours - base:+.4f}"
        line += f"{_metric(ours):>9}{_metric(base):>9}{less:>12}"
    return line


def _metric(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _gain(value: float | None) -> str:
    """Format a Rel.Impr."""
    return "–" if value is None else f"{value:+.2%}"


def slices_table(result: dict[str, Any]) -> str:
    """Format Table 6 in both readings of the long tail, and the rows with values that training never had."""
    tail = result["long_tail"]
    heading = f"{'rows of':<52}{'rows':>10}{'clicks':>10}{'AUC':>9}{'95% interval':>18}{'log loss':>10}"
    lines = [heading + (f"{'Rel.Impr':>10}" if "base" in result else "")]
    for reading, title in (
        ("seen", "the rarest seen in training"),
        ("with_unseen", "the same and those never seen"),
    ):
        lines.append(f"long tail: {title}, {tail['share']:.0%} of {tail['user']} and {tail['item']}")
        for figures in tail[reading]:
            kinds = (
                f"{'tail' if figures[key] else 'other'} {tail[name]}"
                for key, name in (("tail_user", "user"), ("tail_item", "item"))
            )
            lines.append(_slice_line("  " + ", ".join(kinds), figures))
    lines.append("never seen in training:")
    lines += [_slice_line(f"  {name}", figures) for name, figures in result["cold_start"].items()]
    return "\n".join(lines)


def split_line(result: dict[str, Any]) -> str:
    """Format the figures of a whole split, below a notice of what was left out because the split is large."""
    bound = f" ± {result['auc_bound']:.1e}" if result["auc_bound"] else ""
    interval = f" {_interval(result)}" if result["auc_interval"] else ""
    gauc = "–" if result["gauc"]["value"] is None else f"{result['gauc']['value']:.4f}"
    error = result["calibration"]["equal_mass"]["error"]
    latency = (
        f"{result['ms_per_batch']:.2f} ms per batch of {result['batch']} "
        f"(99% below {result['ms_per_batch_p99']:.2f})"
    )
    of_requests = (result.get("auc_by_request") or {}).get("value")
    by_request = "" if of_requests is None else f", AUC by request {of_requests:.4f}"
    auc = _ONE_CLASS if result["auc"] is None else f"{result['auc']:.4f}"
    figures = (
        f"AUC {auc}{bound}{interval}, log loss {result['log_loss']:.4f}, GAUC {gauc}{by_request}, "
        f"calibration error {error:.4f}"
    )
    left_out = f"{result['left_out']}\n" if result["left_out"] else ""
    whole = f"{left_out}{result['split']}: {figures}, {latency}: {result['predictions']}"
    return whole + label_lines(result) + _rankings(result)


def _slice_line(label: str, figures: dict[str, Any]) -> str:
    auc = "–" if figures["auc"] is None else f"{figures['auc']:.4f}"
    loss = "–" if figures["log_loss"] is None else f"{figures['log_loss']:.4f}"
    improvement = f"{_gain(figures['against']['relative_improvement']):>10}" if figures.get("against") else ""
    line = f"{label:<52}{figures['rows']:>10,}{figures['clicks']:>10,}"
    return f"{line}{auc:>9}{_interval(figures):>18}{loss:>10}{improvement}"


def _interval(figures: dict[str, Any]) -> str:
    """Format the confidence interval of an AUC."""
    return "–" if figures["auc_interval"] is None else "[{:.4f}, {:.4f}]".format(*figures["auc_interval"])


def recovery_table(result: dict[str, Any]) -> str:
    """Format one line per field, and below it one for the values that also occur in training, unless that is
    all of them.
    """
    heading = f"{'masked values of':<20}{'rows':>7}{'tokens':>8}{'own':>8}{'permuted':>10}{'ratio':>8}"
    heading += f"{'difference [95% interval]':>34}"
    lines = [heading + (f"{'against':>10}{'difference [95% interval]':>34}" if result["against"] else "")]
    for name, field in result["fields"].items():
        for label, figures in ((name, field), ("  seen in training", field["seen"])):
            if figures is field or 0 < figures["rows"] < field["rows"]:
                against = (
                    (field["against"] if figures is field else field["against"]["seen"])
                    if result["against"]
                    else None
                )
                lines.append(_recovery_line(label, figures, against))
    return "\n".join(lines)


def _recovery_line(label: str, figures: dict[str, Any], against: dict[str, Any] | None) -> str:
    ratio = f"{figures['ratio']:.2f}×" if figures["ratio"] is not None else "–"
    line = f"{label:<20}{figures['rows']:>7,}{figures['targets']:>8,}"
    line += (
        f"{_share(figures['own']):>8}{_share(figures['permuted']):>10}{ratio:>8}{_difference(figures):>34}"
    )
    return line + (f"{_share(against['against']):>10}{_difference(against):>34}" if against else "")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _difference(figures: dict[str, Any]) -> str:
    if figures["difference"] is None:
        return "–"
    interval = figures["interval"]
    return f"{figures['difference']:+.2%}" + (
        f" [{interval[0]:+.2%}, {interval[1]:+.2%}]" if interval else " [one user only]"
    )


def sweep_table(result: dict[str, Any]) -> str:
    """Format one line per point, best first: the searched keys' values and the mean AUC of its seeds."""
    cells = [
        [
            "point",
            *result["keys"],
            "valid AUC",
            *(["seeds: lowest, highest"] if result["points"][0]["seeds"] > 1 else []),
            "status",
        ]
    ]
    for row in result["points"]:
        auc = "–" if row["valid_auc"] is None else f"{row['valid_auc']:.4f}"
        values = [_value(row["values"][key]) for key in result["keys"]]
        spread = "–" if row["lowest"] is None else f"{row['lowest']:.4f}, {row['highest']:.4f}"
        cells.append(
            [str(row["point"]), *values, auc, *([spread] if row["seeds"] > 1 else []), row["status"]]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells
    )


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

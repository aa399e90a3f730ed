"""`clickprompt report`: read the runs, put the sections together, write the file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import clickprompt
from clickprompt.errors import InputError
from clickprompt.io import storage
from clickprompt.report import evaluated, prompts, settings, training
from clickprompt.report.compared import check_same_rows, compare_predictions, compared
from clickprompt.report.norms import norms
from clickprompt.report.opening import conclusion, opening, outcomes
from clickprompt.report.page import markdown, page
from clickprompt.report.run import Run, read_runs
from clickprompt.report.sweep import sweep

__all__ = ["make_report"]


def make_report(
    uris: Sequence[str],
    out: str | None = None,
    *,
    base: str | None = None,
    split: str = "test",
    data: str | None = None,
    models: Mapping[str, str] | None = None,
    caveat: str | None = None,
) -> dict[str, Any]:
    """Write the report on the runs to `out` (default: report.html in the first one's folder), whole or not at
    all.

    `base` is the run that the others are compared with (default: the first evaluated one); `data` is where
    its dataset has moved to. With `models`, names by the address of evaluated runs, the report opens with one
    table of these, what it shows, and `caveat`, what it doesn't. Returns {"report", "runs", "base",
    "sections", "comparisons", "markdown"}, and with `models` "outcomes", the lines of that table, and
    "conclusion".
    Raises InputError for no runs, a base that isn't among them, what `read_runs` refuses, and runs of
    different test sets.
    """
    if not uris:
        raise InputError("no runs; give the --run folder of at least one")
    runs = read_runs(uris, split)
    base_run = _base(runs, base)
    check_same_rows(runs, base_run, split)
    found, note = compare_predictions(runs, base_run, split, data)
    sweeps = [run for run in runs if run.trials is not None]
    lines = outcomes(runs, found, models or {})
    shows = conclusion(lines) if lines else ""
    sections = [
        opening(lines, f"{shows} {caveat or ''}".strip(), split) if lines else None,
        training.summary(runs, split),
        compared(found, base_run, note),
        training.curves(runs),
        norms(runs),
        evaluated.calibration(runs),
        evaluated.long_tail(runs),
        evaluated.cold_start(runs),
        evaluated.by_value(runs),
        evaluated.latency(runs),
        prompts.attention(runs),
        prompts.recovery(runs),
        *(sweep(run, f"Sweep {run.name}" if len(sweeps) > 1 else "Sweep") for run in sweeps),
        settings.configurations(runs),
        settings.environment(runs),
        settings.missing(runs, split, bool(found)),
    ]
    shown = [section for section in sections if section is not None]
    made = (
        f"Made by clickprompt {clickprompt.__version__} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. "
        "The file loads nothing from a network."
    )
    title = f"ClickPrompt: {runs[0].name}" + (f" and {len(runs) - 1} more" if len(runs) > 1 else "")
    subtitle = f"{', '.join(run.name for run in runs)}; {split} split"
    place = out or storage.join(runs[0].uri, "report.html")
    storage.write_bytes(place, page(title, subtitle, shown, made).encode())
    return {
        "report": storage.native(place),
        "runs": [run.uri for run in runs],
        "base": base_run.uri,
        "sections": [section.title for section in shown],
        "comparisons": [
            {
                "run": one.run.uri,
                "auc": one.auc,
                "log_loss": one.log_loss,
                **({"against": one.figures} if one.figures else {}),
            }
            for one in found
        ],
        "markdown": markdown(shown),
        **({"outcomes": [asdict(line) for line in lines], "conclusion": shows} if lines else {}),
    }


def _base(runs: Sequence[Run], base: str | None) -> Run:
    if base is None:
        return next((run for run in runs if run.evaluation), runs[0])
    for run in runs:
        if run.uri == storage.native(base.rstrip("/")):
            return run
    raise InputError(
        f"--base {base}: not one of the runs; give it among them, too: {', '.join(run.uri for run in runs)}"
    )

"""`clickprompt report`: read the runs, put the sections together, write the file."""

import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import clickprompt
from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from clickprompt.report import evaluated, prompts, settings, training
from clickprompt.report.answer import answer
from clickprompt.report.calibrated import calibration
from clickprompt.report.compared import check_same_rows, compare_predictions, compared
from clickprompt.report.data import click_rate_of, data_section, dataset_of
from clickprompt.report.explained import explained
from clickprompt.report.labels import labels
from clickprompt.report.norms import norms
from clickprompt.report.opening import opening, outcomes
from clickprompt.report.page import markdown, page
from clickprompt.report.places import Places
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
    its dataset has moved to. The report opens with the answer (report/answer.py), to which `caveat` adds what
    the runs don't show, and with `models`, names by the address of evaluated runs, with a table of these.
    Returns {"report", "runs", "base", "sections", "answer", "cautions", "click_rate_only", "comparisons",
    "markdown"}, and with `models` "outcomes", the lines of that table, and "conclusion", answer and cautions
    without the caveat.
    Raises InputError for no runs, a base that isn't among them, what `read_runs` refuses, figures that no
    command writes, and runs of different test sets.
    """
    if not uris:
        raise InputError("no runs; give the --run folder of at least one")
    with _as_written(uris):
        return _made(uris, out, base, split, data, models or {}, caveat)


@contextmanager
def _as_written(uris: Sequence[str]) -> Iterator[None]:
    """Raise DataError if the runs' files hold figures that no command writes there. Each section finds out by
    itself what it can't show.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"{', '.join(uris)}: there are figures that clickprompt doesn't write "
            f"({type(error).__name__} {error}, {os.path.basename(where.filename)} line {where.lineno}); were "
            "the files changed? Evaluate again, or leave the run out"
        ) from error


def _made(
    uris: Sequence[str],
    out: str | None,
    base: str | None,
    split: str,
    data: str | None,
    models: Mapping[str, str],
    caveat: str | None,
) -> dict[str, Any]:
    runs = read_runs(uris, split)
    base_run = _base(runs, base)
    check_same_rows(runs, base_run, split)
    found, note = compare_predictions(runs, base_run, split, data)
    sweeps = [run for run in runs if run.trials is not None]
    place = storage.native(out or storage.join(runs[0].uri, "report.html"))
    dataset = dataset_of(runs, base_run, data)
    places = Places(place, runs, [dataset.uri] if dataset else [storage.native(data)] if data else [])
    click_rate = click_rate_of(dataset, split)
    lines = outcomes(runs, found, models)
    note = places.text(note)
    said = answer(runs, found, base_run, split, click_rate=click_rate, names=models, note=note, caveat=caveat)
    sections = [
        opening(said, lines, split, click_rate),
        training.summary(runs, split, places, click_rate),
        data_section(dataset, places),
        compared(found, base_run, note),
        training.curves(runs),
        norms(runs),
        calibration(runs, click_rate),
        labels(runs),
        evaluated.long_tail(runs),
        evaluated.cold_start(runs),
        evaluated.by_value(runs),
        explained(runs),
        evaluated.latency(runs),
        prompts.attention(runs),
        prompts.recovery(runs),
        *(sweep(run, f"Sweep {run.name}" if len(sweeps) > 1 else "Sweep", places) for run in sweeps),
        settings.configurations(runs, places),
        settings.environment(runs),
        settings.missing(runs, split, bool(found), places),
    ]
    shown = [section for section in sections if section is not None]
    made = (
        f"Made by clickprompt {clickprompt.__version__} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. "
        "The file loads nothing from a network."
    )
    title = f"ClickPrompt: {runs[0].name}" + (f" and {len(runs) - 1} more" if len(runs) > 1 else "")
    subtitle = f"{', '.join(run.name for run in runs)}; {split} split"
    storage.write_bytes(place, page(title, subtitle, shown, made).encode())
    return {
        "report": place,
        "runs": [run.uri for run in runs],
        "base": base_run.uri,
        "sections": [section.title for section in shown],
        "answer": said.sentence,
        "cautions": [*said.cautions, *said.notices],
        "click_rate_only": click_rate,
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
        **({"outcomes": [asdict(line) for line in lines], "conclusion": str(said)} if lines else {}),
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

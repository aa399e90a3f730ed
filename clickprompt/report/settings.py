"""How the runs' configurations differ, and what they ran on."""

import re
from collections.abc import Sequence
from typing import Any

from clickprompt.io.environment import environment as machine
from clickprompt.report.page import Block, Section
from clickprompt.report.places import Places
from clickprompt.report.run import Run
from clickprompt.report.table import Column, Table, minus

__all__ = ["configurations", "environment", "missing"]

_ELSEWHERE = ("tune.", "pipeline.", "faults.")
# Keys that a stage doesn't use
_UNUSED = {
    "pretrain": ("finetune.", *_ELSEWHERE),
    "finetune": ("pretrain.", "masking.", *_ELSEWHERE),
    "": _ELSEWHERE,
}


def configurations(runs: Sequence[Run], places: Places) -> Section | None:
    described = [run for run in runs if run.config]
    if not described:
        return None
    used = [
        {
            key: value
            for key, value in run.config.items()
            if not key.startswith(_UNUSED.get(run.stage, _UNUSED[""]))
        }
        for run in described
    ]
    keys = dict.fromkeys(key for config in used for key in config)
    different = [key for key in keys if len({repr(config[key]) for config in used if key in config}) > 1]
    rows = [
        [key, *(_text(places.value(config[key])) if key in config else None for config in used)]
        for key in different
    ]
    table = Table([Column("key"), *(Column(run.name, _shown) for run in described)], rows)
    blocks = (
        [
            Block(
                "Keys that differ",
                table,
                note="– where a run's stage has no use for the key, or its configuration is older",
            )
        ]
        if rows
        else []
    )
    intro = "" if rows or len(described) < 2 else "The runs' configurations are the same."
    return Section(
        "Configuration",
        intro,
        blocks,
        texts=[(f"config.yaml of {run.name}", places.config(run.config_text)) for run in described],
    )


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def _shown(text: str) -> str:
    """Return a figure with a real minus sign, and the end of a long path, which is the part that differs; the
    CSV has all of it.
    """
    if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text):
        return minus(text)
    return f"…{text[-30:]}" if len(text) > 32 and "/" in text else text


def environment(runs: Sequence[Run]) -> Section:
    """Describe the environment that the runs recorded, or else, and marked as such, that of the machine which
    makes the report.
    """
    recorded = [(run, found) for run in runs if isinstance(found := run.result.get("environment"), dict)]
    if recorded:
        keys = dict.fromkeys(key for _, found in recorded for key in found)
        rows = [
            [key, *(_text(found[key]) if key in found else None for _, found in recorded)] for key in keys
        ]
        table = Table([Column("what"), *(Column(run.name) for run, _ in recorded)], rows)
        return Section(
            "Environment",
            "As the trainings' drivers recorded it.",
            [Block("Versions of the runs", table, in_markdown=False)],
        )
    intro = (
        "These runs recorded no versions. This is the machine that made the report, which need not be "
        "the one that ran them."
    )
    table = Table([Column("what"), Column("found")], [[what, found] for what, found in machine().items()])
    block = Block("Versions on the machine of this report", table, in_markdown=False)
    return Section("Environment", intro, [block])


def missing(runs: Sequence[Run], split: str, compared: bool, places: Places) -> Section | None:
    """List what the report could also show, and the commands that make it, from the report's folder."""
    trained = [run for run in runs if run.stage != "sweep"]
    finetuned = [run for run in trained if run.objective in ("with_plm", "without_plm")]
    pretrained = [run for run in trained if run.objective == "pretrain"]
    prompted = [
        run
        for run in trained
        if run.objective in ("pretrain", "with_plm") and run.config.get("prompt.num_prompts")
    ]
    wanted = f" --split {split}" if split != "test" else ""
    commands = []
    for run in finetuned:
        if not run.evaluation or not run.evaluation.get("long_tail"):
            what = f"calibration, long tail, cold start, AUC by value and latency of {run.name}"
            commands.append((what, f"clickprompt evaluate --run {places.of(run.uri)}{wanted}"))
    commands += [
        (f"what each field is worth to {run.name}", f"clickprompt explain --run {places.of(run.uri)}{wanted}")
        for run in finetuned
        if not run.explained
    ]
    commands += [
        (f"masked values restored by {run.name}", f"clickprompt recovery --run {places.of(run.uri)}{wanted}")
        for run in pretrained
        if not run.recovery
    ]
    commands += [
        (
            f"prompt attention of {run.name} (masked language models)",
            f"clickprompt attention --run {places.of(run.uri)}{wanted} --rows 1000",
        )
        for run in prompted
        if not run.attention
    ]
    if not compared and finetuned:
        first = places.of(finetuned[0].uri)
        others = "RUN" if len(finetuned) < 2 else " ".join(places.of(run.uri) for run in finetuned[1:])
        commands.append(
            (
                "a comparison, once all are evaluated",
                f"clickprompt report {first} {others}",
            )
        )
    if all(run.trials is None for run in runs):
        commands.append(("a sweep", "clickprompt tune --run SWEEP, then clickprompt report SWEEP"))
    return (
        Section(
            "Not shown",
            "Figures that these runs don't have yet, and the commands that make them, in this file's folder.",
            commands=commands,
        )
        if commands
        else None
    )

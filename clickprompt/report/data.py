"""What the runs were trained and scored on, and what its click rate alone is worth."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clickprompt.data.prepared.dataset import SPLITS, Dataset
from clickprompt.data.transform.instants import day_of
from clickprompt.errors import InputError
from clickprompt.evaluation import click_rate
from clickprompt.io import storage
from clickprompt.report.page import Block, Section
from clickprompt.report.places import Places
from clickprompt.report.run import Run
from clickprompt.report.table import Column, Table, count, percent, share

__all__ = ["click_rate_of", "data_section", "dataset_of"]


def dataset_of(runs: Sequence[Run], base: Run, data: str | None) -> Dataset | None:
    """Return the base's dataset (else that of the first run that names one) if it can be opened and is the
    one on which the run was trained. data: where it has moved to.
    """
    for run in (base, *runs):
        recorded = run.result.get("dataset") or {}
        place = data or recorded.get("path") or run.config.get("data.path")
        if not place:
            continue
        try:
            version = recorded.get("version") or run.config.get("data.version")
            dataset = Dataset.open(storage.native(str(place)), version)
        except (InputError, ValueError):
            continue
        if run.fingerprint in (None, dataset.fingerprint):
            return dataset
    return None


def click_rate_of(dataset: Dataset | None, split: str) -> dict[str, Any] | None:
    """Return the figures of predicting the training click rate for a split (evaluation/click_rate.py)."""
    return None if dataset is None else click_rate.click_rate_of(dataset.manifest, split)


def data_section(dataset: Dataset | None, places: Places) -> Section | None:
    if dataset is None:
        return None
    manifest = dataset.manifest
    fields, counts = manifest["fields"], manifest["counts"]
    bounds, clicks = manifest.get("bounds") or {}, manifest.get("clicks") or {}
    dated = len({moment for ends in bounds.values() for moment in ends}) > 1
    columns = [Column("split"), Column("rows", count), Column("clicks", count), Column("click rate", percent)]
    columns += [Column("from"), Column("to")] if dated else []
    rows = []
    for split in SPLITS:
        clicked = clicks.get(split)
        line = [split, counts[split], clicked, None if clicked is None else clicked / counts[split]]
        rows.append([*line, *map(day_of, bounds[split])] if dated else line)
    version = manifest.get("version", 1)
    options = manifest.get("options") or {}
    split_by = f", split by {options['split']}" if options.get("split") else ""
    note = f"{places.of(dataset.uri)}, version {version}{split_by}, fingerprint {dataset.fingerprint[:12]}"
    if kept := options.get("keep_negatives"):
        note += f"; of the training rows without a click {kept:g} were kept"
    if manifest.get("weighted"):
        note += "; rows have weights, by which figures are, but not these counts"
    for label in manifest.get("labels") or ():
        known = label["known"]["train"]
        note += f"; {label['name']}: {label['positive']['train'] / known:.1%} of {known:,} training rows"
    blocks = [Block("Splits", Table(columns, rows), note=note, half=True)]
    if any("unseen_in_train" in field for field in fields):
        blocks.append(_unseen(fields, counts))
    blocks[0] = replace(blocks[0], half=all(block.half for block in blocks))
    return Section("Data", blocks=blocks)


def _unseen(fields: Sequence[dict[str, Any]], counts: dict[str, int]) -> Block:
    """Show the rows of each split whose value of a field no training row has, and those without a value."""
    columns = [Column("field"), Column("values", count)]
    columns += [Column(f"unseen in {split}", share) for split in SPLITS[1:]]
    missing = any(any((field.get("missing") or {}).values()) for field in fields)
    columns += [Column(f"missing in {split}", share) for split in SPLITS] if missing else []
    rows = []
    for field in fields:
        unseen, empty = field.get("unseen_in_train") or {}, field.get("missing") or {}
        shares = [_share(unseen.get(split), counts[split]) for split in SPLITS[1:]]
        shares += [_share(empty.get(split), counts[split]) for split in SPLITS] if missing else []
        rows.append([field["name"], field.get("features"), *shares])
    note = "share of a split's rows whose value no training row has"
    note += "; missing: rows without a value" if missing else ""
    return Block("Values never seen in training", Table(columns, rows), note=note, half=not missing)


def _share(rows: int | None, of: int) -> float | None:
    return None if rows is None else rows / of

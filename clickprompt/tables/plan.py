"""Read the plan of one of the paper's tables, and make the configuration of each of its runs.

A plan (table-N.yaml) lists rows; a row names the parts (parts.yaml) that its configuration is put together
from. A budget (budgets.yaml) says how much is spent, the same on every row: tries, seeds, steps, and which
PLM stands for each of the paper's.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
import yaml

import clickprompt
from clickprompt.config import Config, load_config, replaced, value_of
from clickprompt.errors import InputError

__all__ = ["BUDGETS", "DATASETS", "TABLES", "Budget", "PaperTable", "Row", "Try", "run_name", "tries_of"]

TABLES = tuple(f"table-{number}" for number in range(2, 10))
Kind = Literal["accuracy", "long-tail", "attention", "latency"]
Names = tuple[str, ...]


@cache
def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load((resources.files("clickprompt.tables") / f"{name}.yaml").read_text())


BUDGETS = tuple(_read("budgets"))
DATASETS = tuple(_read("parts")["datasets"])


@dataclass(frozen=True)
class Row:
    """A row of a table: one model, trained in one way."""

    names: Names
    """its cells in the columns that aren't figures"""
    parts: tuple[str, ...]
    pretrain: bool = False
    over: Names | None = None
    """the row that its improvement is relative to"""
    paper: dict[str, list[float]] = field(default_factory=dict)
    """dataset → the paper's figures"""

    @property
    def plm(self) -> str | None:
        """Which of the paper's PLMs it reads texts with, in any stage."""
        return next((part for part in self.parts if part in _read("budgets")["paper"]["plms"]), None)


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables."""

    name: str
    title: str
    kind: Kind
    datasets: list[str]
    columns: list[str]
    rows: list[Row]
    improvement: str | None = None
    """the row whose improvement over each other is shown"""
    tested: list[str] = field(default_factory=list)
    """the rows that are tested against the best of the others"""
    paper: dict[str, Any] = field(default_factory=dict)
    """figures of the paper that aren't a row's"""

    @classmethod
    def read(cls, name: str) -> "PaperTable":
        """Raises InputError for an unknown name."""
        if name not in TABLES:
            raise InputError(f"table {name!r} is unknown; known tables: {', '.join(TABLES)}, all")
        found = _read(name)
        rows = [
            Row(
                tuple(row["names"]),
                tuple(row["parts"]),
                row.get("pretrain", False),
                tuple(row["over"]) if "over" in row else None,
                row.get("paper", {}),
            )
            for row in found["rows"]
        ]
        return cls(name, **{**found, "rows": rows})


@dataclass(frozen=True)
class Budget:
    """How much is spent on a table."""

    name: str
    seeds: int
    tries: int
    plms: dict[str, dict[str, Any]]
    changes: dict[str, Any]
    with_text: dict[str, Any]
    without_text: dict[str, Any]
    sample: float | None = None
    """share of the users whose rows are used"""

    @classmethod
    def read(cls, name: str, seeds: int | None = None, tries: int | None = None) -> "Budget":
        """seeds, tries: in place of the budget's own. Raises InputError for an unknown name, or 0."""
        if name not in BUDGETS:
            raise InputError(f"--budget {name}: unknown; known budgets: {', '.join(BUDGETS)}")
        found = _read("budgets")[name]
        for option, value in (("--seeds", seeds), ("--tries", tries)):
            if value is not None and value < 1:
                raise InputError(f"{option} {value}: give a number from 1 up")
        return cls(
            name,
            seeds or found["seeds"],
            tries or found["tries"],
            found["plms"],
            found.get("set", {}),
            found.get("with-text", {}),
            found.get("without-text", {}),
            found.get("sample"),
        )


@dataclass(frozen=True)
class Try:
    """One of the settings among which validation chooses."""

    number: int
    changes: dict[str, Any]

    def config(
        self, row: Row, budget: Budget, dataset: str, seed: int, plm: Mapping[str, Any], given: Config
    ) -> Config:
        """Return the configuration of the row's runs with this try's changes.

        plm: changes that name the PLM; given: what the user has set goes before all else.
        """
        parts = _read("parts")
        changes: dict[str, Any] = dict(parts["datasets"][dataset])
        for name in row.parts:
            part = parts["parts"].get(name, {})
            changes |= {**part.get("set", {}), **part.get("for", {}).get(dataset, {})}
        finetunes_text = row.plm is not None and changes.get("finetune.with_plm", True)
        changes |= budget.changes
        if row.plm is not None:
            changes |= {**_without(budget.with_text, "finetune."), **plm}
        changes |= _only(budget.with_text if finetunes_text else budget.without_text, "finetune.")
        return replaced(load_config(), changes | self.changes | {"seed": seed} | _given(given))


def _only(changes: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if key.startswith(section)}


def _without(changes: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if not key.startswith(section)}


def tries_of(row: Row, budget: Budget, dataset: str) -> list[Try]:
    """Return the row's tries: the parts as they stand, then draws from their grids, without repetition. Every
    row has as many, unless its grid is smaller.
    """
    first = Try(0, {})
    own = first.config(row, budget, dataset, 0, {}, Config())
    grid = _grid(row)
    size = math.prod(map(len, grid.values())) if grid else 0
    found = [first]
    for number in np.random.default_rng(0).permutation(size).tolist():
        if len(found) == budget.tries:
            break
        point = {}
        for key, values in grid.items():
            number, place = divmod(number, len(values))
            point[key] = values[place]
        if any(value_of(own, key) != value for key, value in point.items()):
            found.append(Try(len(found), point))
    return found


def _grid(row: Row) -> dict[str, list[Any]]:
    """Return the keys that the row's tries vary, and their values: of those that the row reads."""
    parts = _read("parts")
    grids = [parts["grids"][grid] for name in row.parts if (grid := parts["parts"].get(name, {}).get("grid"))]
    grid: dict[str, list[Any]] = {key: values for each in grids for key, values in each.items()}
    if not row.pretrain:
        grid = {key: values for key, values in grid.items() if not key.startswith("pretrain.")}
    if "without-plm" in row.parts:
        grid.pop("finetune.lr.plm", None)
    return grid


def run_name(config: Config, stage: str, fingerprint: str, start: str | None = None) -> str:
    """Name a run by what decides its weights: the settings that the stage reads and that aren't the defaults
    (so a setting that is new to this package changes no names), the data, the run that it starts from and the
    version of this package.
    """
    reads_text = config.pretrain.with_plm if stage == "pretrain" else config.finetune.with_plm
    sections = {"ctr", "data", stage, "baseline", config.baseline}
    sections |= {"plm", "prompt", "masking"} if reads_text else set()
    sections |= {"plm"} if config.ctr.text_embeddings != "none" else set()
    sections |= {"evaluate"} if config.finetune.loss != "bce" else set()  # it says whose rows are ordered
    elsewhere = {"data.path", "data.version", "finetune.init", "pretrain.init"}
    content = {
        "version": clickprompt.__version__,
        "dataset": fingerprint,
        "start": start,
        "seed": config.seed,
        "precision": config.runtime.precision,
        # With the click in the text, pretraining reads labels, too
        **({"labels": config.finetune.label_share} if config.plm.click_text else {}),
        **{
            key: value
            for key, value in _given(config).items()
            if key.partition(".")[0] in sections and key not in elsewhere
        },
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{stage}-{digest[:12]}"


def _given(config: Config) -> dict[str, Any]:
    """Return what differs from the defaults, by dotted keys."""

    def differing(values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(defaults.get(key), dict):
                found |= differing(value, defaults[key], f"{prefix}{key}.")
            elif value != defaults.get(key):
                found[f"{prefix}{key}"] = value
        return found

    return differing(config.model_dump(), Config().model_dump(), "")

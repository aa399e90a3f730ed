"""Read what a report needs from a run's folder. Whatever isn't there is None or empty."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq
import yaml

from clickprompt.errors import DataError, InputError
from clickprompt.io import storage
from clickprompt.io.bounded_yaml import BoundedYaml
from clickprompt.io.parquet import UNREADABLE
from clickprompt.training.metrics_log import metrics_files

__all__ = ["Run", "dotted", "finite", "read_runs", "same_but_for_the_seed"]

# Sections of a configuration that say where and how a run executes, not what it computes
_NOT_OF_THE_MODEL = ("seed", "runtime.", "tune.", "pipeline.", "faults.", "evaluate.", "tracking.")


@dataclass(frozen=True)
class Run:
    uri: str
    name: str
    """short name, unique in the report"""
    number: int
    """place in the report, which decides its colour"""
    config: dict[str, Any]
    """dotted key → value"""
    config_text: str
    result: dict[str, Any]
    steps: list[dict[str, Any]]
    """lines of the metrics"""
    evaluation: dict[str, Any] | None
    attention: dict[str, Any] | None
    recovery: dict[str, Any] | None
    explained: dict[str, Any] | None
    best_text: str
    """best.yaml of a sweep"""
    trials: list[dict[str, Any]] | None
    """rows of a sweep's trials.parquet"""
    validations: list[tuple[int, float]] = field(init=False)
    """(step, AUC)"""

    def __post_init__(self) -> None:
        found = [scores for step in self.steps for scores in step.get("validations", ())]
        pairs = [
            (int(scores["valid_step"]), scores["valid_auc"]) for scores in found if "valid_auc" in scores
        ]
        object.__setattr__(self, "validations", sorted(dict(pairs).items()))

    @property
    def stage(self) -> str:
        return "sweep" if self.trials is not None else self.result.get("stage") or ""

    @property
    def objective(self) -> str:
        return self.result.get("objective") or (self.evaluation or self.recovery or {}).get("objective") or ""

    @property
    def fingerprint(self) -> str | None:
        """Return the fingerprint of the dataset that it was trained and scored on."""
        return (self.result.get("dataset") or {}).get("fingerprint")


def read_runs(uris: Sequence[str], split: str) -> list[Run]:
    """Read the runs, with their figures of one split. Raises InputError for a folder that holds no run, a
    damaged file, a run given twice.
    """
    places = [storage.native(uri.rstrip("/") or uri) for uri in uris]
    for place in places:
        if places.count(place) > 1:
            raise InputError(f"{place}: given twice; give each run once")
    return [
        _read(place, name, number, split)
        for number, (place, name) in enumerate(zip(places, _names(places), strict=True))
    ]


def _names(uris: Sequence[str]) -> list[str]:
    """Return the last parts of the addresses, as many as tell them apart."""
    parts = [uri.split("/") for uri in uris]
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(uris)


def _read(uri: str, name: str, number: int, split: str) -> Run:
    names = storage.list_names(uri)
    if not {"config.yaml", "result.json", "metrics.jsonl", "metrics", "trials.parquet"} & set(names):
        what = "no run (no config.yaml, no trials.parquet)" if names else "nothing"
        raise InputError(f"{uri}: there is {what} here; give the --run folders of pretrain, finetune or tune")

    def optional(name: str) -> Any:
        if name not in names:
            return None
        value = storage.read_json(storage.join(uri, name))
        if not isinstance(value, dict):
            raise DataError(f"{storage.join(uri, name)}: not what clickprompt writes there; make it again")
        return value

    text, best = (
        storage.read_bytes(storage.join(uri, file)).decode(errors="replace") if file in names else ""
        for file in ("config.yaml", "best.yaml")
    )
    _yaml(storage.join(uri, "best.yaml"), best)
    return Run(
        uri=uri,
        name=name,
        number=number,
        config=dotted(_yaml(storage.join(uri, "config.yaml"), text)),
        config_text=text,
        result=optional("result.json") or {},
        steps=[step for file in metrics_files(uri) for step in _lines(file)],
        evaluation=optional(f"evaluation-{split}.json"),
        attention=optional(f"attention-{split}.json"),
        recovery=optional(f"recovery-{split}.json"),
        explained=optional("explain.json"),
        best_text=best,
        trials=_trials(storage.join(uri, "trials.parquet")) if "trials.parquet" in names else None,
    )


def _yaml(uri: str, text: str) -> dict[str, Any]:
    """Read a configuration without load_config, so that an older run's is shown even if today's rules would
    refuse it.
    """
    try:
        values = yaml.load(text, Loader=BoundedYaml) or {}  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(
            f"{uri}: not valid YAML ({' '.join(str(error).split())}); the file is damaged"
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"{uri}: not a run's configuration")
    return values


def _lines(uri: str) -> list[dict[str, Any]]:
    lines = storage.read_bytes(uri).decode(errors="replace").splitlines()
    steps = []
    for number, line in enumerate(lines, 1):
        try:
            step = json.loads(line)
        except ValueError:
            step = None
        if not isinstance(step, dict) or finite(step.get("step")) is None:
            raise DataError(f"{uri}, line {number}: not a step's figures; the file is damaged")
        steps.append(step)
    return steps


def _trials(uri: str) -> list[dict[str, Any]]:
    try:
        with storage.open_input(uri) as stream:
            rows = pq.read_table(stream).to_pylist()
            # lists become text, because trials are grouped by a key's values
            return [
                {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()}
                for row in rows
            ]
    except UNREADABLE as error:
        raise DataError(f"{uri}: not a readable Parquet file; run clickprompt tune again") from error


def dotted(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten {"a": {"b": 1}} to {"a.b": 1}; lists and None are values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            dotted(value, f"{prefix}{key}.")
            if isinstance(value, dict) and value
            else {f"{prefix}{key}": value}
        )
    return found


def same_but_for_the_seed(run: Run) -> str:
    """Return a text that is equal for runs of one configuration with different seeds, even if each starts
    from a pretraining of its own seed.
    """
    return json.dumps(_of_the_model(run.config), sort_keys=True, default=str)


def _of_the_model(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if not key.startswith(_NOT_OF_THE_MODEL)}
    init = kept.get("finetune.init")
    path = storage.join(str(init), "config.yaml") if init else None
    if path and storage.exists(path):
        kept["finetune.init"] = _of_the_model(
            dotted(_yaml(path, storage.read_bytes(path).decode(errors="replace")))
        )
    return kept


def finite(value: Any) -> float | None:
    """Return a number that can be drawn, or else None."""
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )

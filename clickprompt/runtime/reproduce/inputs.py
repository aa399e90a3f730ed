"""What a table is made on: the dataset, prepared once, and a PLM for each of the paper's."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clickprompt.config import Config
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.sources.fetch import DOWNLOADS, fetch
from clickprompt.data.text.template import load_tokenizer
from clickprompt.errors import ConfigError, InputError
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.prepare.tokenize import tokenize
from clickprompt.tables.plan import DATASETS, Budget

__all__ = ["StandIn", "check_dataset_name", "open_dataset", "stand_ins"]


@dataclass(frozen=True)
class StandIn:
    """The PLM that stands for one of the paper's."""

    name: str
    changes: dict[str, Any]
    """of the configuration"""
    missing: str | None = None
    """why there is none"""


def check_dataset_name(name: str) -> str:
    """Return the name. Raises InputError for one that isn't the paper's."""
    if name not in DATASETS:
        raise InputError(f"--dataset {name}: unknown; known datasets: {', '.join(DATASETS)}")
    return name


def open_dataset(name: str, budget: Budget, run: str, raw: str | None, config: Config) -> Dataset:
    """Return data.path, or else the dataset below the run, prepared if it isn't there yet.

    Raises ConfigError if its raw files can't be fetched and `raw` is None.
    """
    if config.data.path:
        return Dataset.open(config.data.path, config.data.version)
    if raw is None and name not in DOWNLOADS:
        raise ConfigError(
            f"--raw is not set, and {name} can't be fetched; give the folder with its raw files"
        )
    folder = name if budget.sample is None else f"{name}-{budget.sample:g}"
    return prepare(
        name,
        raw or _fetch(name, config),
        storage.join(run, "data", folder),
        sample_users=budget.sample,
        runtime=config.runtime,
    )


def stand_ins(names: Iterable[str], budget: Budget, dataset: Dataset, config: Config) -> dict[str, StandIn]:
    """Return what stands for each of the paper's PLMs, its token table built: plm.path where that is set,
    otherwise the budget's.
    """
    found = {}
    for name in sorted(set(names)):
        given = budget.plms.get(name)
        if given is None:
            found[name] = StandIn(name, {}, f"the budget {budget.name} has no PLM for {name}")
            continue
        path = config.plm.path or given.get("path") or _fetch(given["fetch"], config)
        shown = given["name"] if not config.plm.path else storage.native(path).rstrip("/").rpartition("/")[2]
        layers = {"plm.num_layers": given["layers"]} if "layers" in given else {}
        try:
            tokenize(dataset, load_tokenizer(path), config.runtime)
        except InputError as error:
            found[name] = StandIn(shown, {}, str(error))
            continue
        found[name] = StandIn(shown, {"plm.path": path, **layers})
    return found


def _fetch(name: str, config: Config) -> str:
    found = fetch(name, storage.join(config.pipeline.downloads, name))
    say(f"{name}: {found.path} ({found.origin})")
    return found.path

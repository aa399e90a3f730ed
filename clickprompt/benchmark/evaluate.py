"""`clickprompt benchmark evaluate`: score all rows of a dataset as one split (runtime/score/evaluate.py), in
two parts.

1. The pool takes turns with a loop in one process of one thread, which reads the same row groups, scores them
   with the same model and writes the same files: how much of the loop's rate does every actor keep? It also
   takes turns with as many such loops at once, which share the machine as the actors do: what does the pool
   itself cost?
2. `evaluate` itself runs over all rows: how fast is it, and does memory grow on the way?

The model is a CTR model after a few steps of finetuning; with many rows its figures are those of
evaluation/streamed.py.
"""

import contextlib
import os
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from clickprompt.benchmark.measure import Arm, Figures, arm, figure
from clickprompt.config import Config, ScoringPrecision, replaced
from clickprompt.data.prepared.dataset import MANIFEST, SPLITS, Dataset
from clickprompt.errors import ConfigError, RunError
from clickprompt.evaluation.predictions import part_uri, write_predictions
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.runtime.cluster.connect import connect
from clickprompt.runtime.observe.memory import Usage, usage_below
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.score.pool import ActorScorers
from clickprompt.runtime.score.scorer import Scorer
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.rows import RowScorer

__all__ = ["measure_evaluate"]

_SAMPLE_EVERY = 0.5  # seconds
_STEPS = 20  # steps of finetuning
_BATCH_SIZE = 4096
_EMBEDDING_DIM = 16
_GIB = 2**30


@dataclass(frozen=True)
class Length:
    turns: int
    groups: int
    """row groups that an actor, or the loop, scores in a turn"""


@dataclass(frozen=True)
class _Rate:
    """Rows per second, and per second of a core, of all processes that take part."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class _Sample:
    """Memory and CPU time of all processes of this command."""

    at: float
    files: int
    """files of predictions so far"""
    usage: Usage


def measure_evaluate(
    config: Config, length: Length = Length(turns=10, groups=48)
) -> tuple[Figures, list[str]]:
    """Return figures and remarks. Raises ConfigError without a local `data.path`, RunError if it has too few
    rows.
    """
    if config.data.path is None or "://" in config.data.path:
        raise ConfigError(
            f"data.path={config.data.path}: give a local prepared dataset, such as one of clickprompt "
            "synth goodreads"
        )
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        dataset = _all_as_test(
            Dataset.open(config.data.path, config.data.version), storage.join(folder, "data")
        )
        config = _settings(config, dataset)
        actors = config.runtime.evaluation_actors
        run = storage.join(folder, "run")
        with connect(config.runtime):
            export = run_training(config, "finetune", run)["export"]
            say(f"{length.turns} turns of {length.groups} row groups an actor")
            with contextlib.ExitStack() as stack:
                parts = [storage.join(folder, f"loop-{number}") for number in range(actors)]
                precision = config.runtime.scoring_precision
                loops = [
                    stack.enter_context(arm("a loop", 1, _Loop, dataset, export, part, precision))
                    for part in parts
                ]
                rates = _turns(config, dataset, export, storage.join(folder, "pool"), loops, length)
        # Uses a new Ray, so that what the turns left behind isn't in its memory
        result, samples = _watched(run, config)
    turns = list(zip(*(rates[whose][1:] for whose in ("pool", "loop", "loops")), strict=True))
    figures = {
        "rows_per_second_kept": figure(
            [pool.wall / actors / loop.wall for pool, loop, _ in turns], "of a loop's rate alone, per actor"
        ),
        "rows_per_second_kept_of_loops": figure(
            [pool.wall / loops.wall for pool, _, loops in turns], "of as many loops' rate at once"
        ),
        "rows_per_core_kept": figure(
            [pool.cpu / loop.cpu for pool, loop, _ in turns],
            "of a loop's rows a core-second, Ray's own included",
        ),
        "rows_per_core_kept_of_loops": figure(
            [pool.cpu / loops.cpu for pool, _, loops in turns], "of the loops' at once, Ray's own included"
        ),
        "rows_per_second_actor": figure([pool.wall / actors for pool, _, _ in turns], "rows/s"),
        "rows_per_second_loop": figure([loop.wall for _, loop, _ in turns], "rows/s"),
        "rows": figure([result["rows"]], "rows"),
        "rows_per_second": figure([result["rows_per_second"]], "rows/s, all of them"),
        **_memory(samples, len(dataset.row_group_counts("test"))),
        "auc_bound": figure([result["auc_bound"]], "of AUC"),
    }
    exact = "exact" if result["left_out"] is None else "from histograms"
    return figures, [
        f"{config.ctr.backbone}, {config.ctr.num_layers} layers of {config.ctr.hidden_dim}, "
        f"{sum(dataset.field_sizes):,} values × "
        f"{config.ctr.embedding_dim}; {actors} actors; AUC {result['auc']:.6f}, {exact}; memory: all "
        "processes of this command and its "
        "embedded Ray with the object store, shared pages once",
        f"rates by turns, the first left out; one loop has a core to itself, {actors} loops and "
        f"{actors} actors run at once, so other work on the machine takes cores from them first; "
        "rows_per_core counts only time in which a core was available",
    ]


def _settings(config: Config, dataset: Dataset) -> Config:
    changes: dict[str, Any] = {
        "data.path": dataset.uri,
        "data.version": None,
        "finetune.with_plm": False,
        "finetune.max_steps": _STEPS,
        "finetune.embedding_optimizer": "lazy",
        "runtime.num_workers": 1,
    }
    defaults = {
        ("finetune", "global_batch_size"): _BATCH_SIZE,
        ("finetune", "micro_batch_size"): _BATCH_SIZE,
        ("ctr", "embedding_dim"): _EMBEDDING_DIM,
    }
    for (section, key), value in defaults.items():
        if key not in getattr(config, section).model_fields_set:
            changes[f"{section}.{key}"] = value
    return replaced(config, changes)


def _all_as_test(dataset: Dataset, folder: str) -> Dataset:
    """Build the dataset in a folder of its own, from links, with all its rows in the test split, those of the
    other splits included.
    """
    shards = {split: dataset.manifest["shards"][split] for split in SPLITS}
    shards["test"] = [shard for split in SPLITS for shard in shards[split]]
    shards["valid"] = shards["valid"][:1]  # finetuning validates at its end
    counts = {split: sum(shard["rows"] for shard in shards[split]) for split in SPLITS}
    os.makedirs(folder)
    for name in os.listdir(storage.native(dataset.uri)):
        if name != MANIFEST:
            os.symlink(os.path.join(storage.native(dataset.uri), name), os.path.join(folder, name))
    storage.write_json(
        storage.join(folder, MANIFEST), {**dataset.manifest, "shards": shards, "counts": counts}
    )
    return Dataset.open(folder)


class _Loop:
    """The loop, in a process of its own."""

    def __init__(self, dataset: Dataset, export: str, folder: str, precision: ScoringPrecision) -> None:
        self._dataset, self._folder = dataset, folder
        self._scorer = RowScorer(export, dataset, precision=precision)

    def score(self, groups: range) -> "_Rate":
        started, cpu, rows = time.perf_counter(), time.process_time(), 0
        for group in groups:
            table = self._dataset.read_row_groups("test", [group])
            write_predictions(part_uri(self._folder, group), self._scorer.score(table))
            rows += len(table)
        return _Rate(rows / (time.perf_counter() - started), rows / (time.process_time() - cpu))


def _turns(
    config: Config, dataset: Dataset, export: str, folder: str, loops: list[Arm], length: Length
) -> dict[str, list[_Rate]]:
    """Measure the pool, one loop and all loops at once, turn by turn."""
    pool, number = ActorScorers(config.runtime, Scorer, (dataset,)), config.runtime.evaluation_actors
    total = len(dataset.row_group_counts("test"))
    rates: dict[str, list[_Rate]] = {"pool": [], "loop": [], "loops": []}
    names = list(rates)
    for turn in range(length.turns + 1):
        first = turn * length.groups * number % total
        groups = range(first, min(total, first + length.groups * number))
        # the order changes because whoever comes later finds the files in memory
        for whose in names[turn % 3 :] + names[: turn % 3]:
            if whose == "loop":
                rates[whose].append(loops[0].call("score", groups[: length.groups]))
            elif whose == "loops":
                with ThreadPoolExecutor(len(loops)) as threads:
                    parts = [part for number in range(len(loops)) if (part := groups[number :: len(loops)])]
                    found = list(threads.map(lambda loop, part: loop.call("score", part), loops, parts))
                rates[whose].append(
                    _Rate(
                        sum(rate.wall for rate in found), statistics.harmonic_mean(rate.cpu for rate in found)
                    )
                )
            else:
                cpu, started = usage_below(os.getpid()).cpu_seconds, time.perf_counter()
                calls = ((export, "test", group, folder) for group in groups)
                rows = sum(pool.each("score", calls, in_order=False))
                seconds = time.perf_counter() - started
                rates[whose].append(
                    _Rate(rows / seconds, rows / (usage_below(os.getpid()).cpu_seconds - cpu))
                )
    return rates


def _watched(run: str, config: Config) -> tuple[dict[str, Any], list[_Sample]]:
    """Return the result of `evaluate`, and the memory that it took on the way."""
    samples: list[_Sample] = []
    over = threading.Event()
    predictions = storage.join(run, "predictions", "test")

    def watch() -> None:
        while not over.wait(_SAMPLE_EVERY):
            files = len(os.listdir(predictions)) if os.path.isdir(predictions) else 0
            samples.append(_Sample(time.monotonic(), files, usage_below(os.getpid())))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        [result] = evaluate([run], "test", config=config)
    finally:
        over.set()
        watcher.join()
    return result, samples


def _memory(samples: list[_Sample], files: int) -> Figures:
    """Return the peaks of the first and the last half of scoring, once it has begun, and of what comes after
    it.
    """
    halves: dict[str, list[_Sample]] = {"first_half": [], "last_half": [], "figures": []}
    for sample in samples:
        if sample.files:
            halves[
                "figures"
                if sample.files >= files
                else "first_half"
                if sample.files <= files / 2
                else "last_half"
            ].append(sample)
    if not all(halves.values()):
        raise RunError(
            f"{files} row groups were scored too fast to see what memory they take; give a dataset "
            "with more rows"
        )
    peaks = {name: max(sample.usage.memory for sample in part) / _GIB for name, part in halves.items()}
    scoring = [*halves["first_half"], *halves["last_half"]]
    cpu = scoring[-1].usage.cpu_seconds - scoring[0].usage.cpu_seconds
    return {
        **{f"peak_memory_{name}": figure([peak], "GiB") for name, peak in peaks.items()},
        "memory_growth": figure(
            [peaks["last_half"] / peaks["first_half"]], "last half's peak / first half's"
        ),
        "cores_busy": figure([cpu / (scoring[-1].at - scoring[0].at)], "cores, while scoring"),
        "seconds_figures": figure(
            [halves["figures"][-1].at - halves["figures"][0].at], "s, after the last row was scored"
        ),
    }

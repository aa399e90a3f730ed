"""`clickprompt benchmark step-options`: what the options that make a step with the PLM cheaper give, each
alone and all together, on MovieLens-100K with the first layers of MiniLM.

- compact: `prepare --template compact`
- dataset-vocabulary: `masking.vocabulary: dataset` (pretraining)
- last-layer: `plm.last_layer: targets`

A step is what a worker does with the columns of its share of a global batch: collate, forward, backward,
clip, AdamW. All arms run on the same rows, in fp32, on one thread, in processes of their own, and take turns
after every micro-batch. Seconds are those of their processors, so that waiting for other work on the machine
doesn't count.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from clickprompt.benchmark.measure import Figures, arm, figure
from clickprompt.benchmark.pamlm_step import Steps, endless_batches, interleaved_steps, require_same
from clickprompt.config import Config, ObjectiveName, replaced
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.sources.fetch import fetch
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import TEMPLATES, load_tokenizer
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.models.build import build_model
from clickprompt.objectives import build_objective
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.prepare.tokenize import tokenize
from clickprompt.training.engine import TorchEngine

__all__ = ["OptionSteps", "measure_options", "measure_step_options"]

_SOURCE, _PLM = "movielens-100k", "minilm-l6"
_LAYERS = (2, 3)
_ROWS, _MICRO_BATCH = 64, 32
_REPEATS = 7
_THREADS = 1

_OPTIONS: dict[str, dict[str, Any]] = {
    "compact": {"template": "compact"},
    "dataset-vocabulary": {"masking.vocabulary": "dataset"},
    "last-layer": {"plm.last_layer": "targets"},
}
_ARMS: dict[ObjectiveName, dict[str, tuple[str, ...]]] = {
    "pretrain": {
        "paper": (),
        **{name: (name,) for name in _OPTIONS},
        "all": tuple(_OPTIONS),
    },
    "with_plm": {
        "paper": (),
        "compact": ("compact",),
        "last-layer": ("last-layer",),
        "all": ("compact", "last-layer"),
    },
}
"""objective → arm → its options; the first arm is what the others are compared with"""


def measure_step_options(config: Config) -> tuple[Figures, list[str]]:
    """Return figures and remarks. The log, and `plm.path` if it isn't set, are fetched into
    `pipeline.downloads`; ctr, prompt, masking and optimizer settings of `config` apply.

    Raises RunError if the last layer at targets gives another loss.
    """
    downloads = config.pipeline.downloads
    plm = config.plm.path or fetch(_PLM, storage.join(downloads, _PLM), say).path
    raw = fetch(_SOURCE, storage.join(downloads, _SOURCE), say).path
    datasets = {}
    for template in TEMPLATES:
        out = storage.join(downloads, f"{_SOURCE}-prepared-{template}")
        datasets[template] = prepare(_SOURCE, raw, out, template=template, runtime=config.runtime)
        tokenize(datasets[template], load_tokenizer(plm), config.runtime)
    sizes = {"global_batch_size": _ROWS, "micro_batch_size": _MICRO_BATCH}
    changes = {f"{stage}.{key}": value for stage in ("pretrain", "finetune") for key, value in sizes.items()}
    return measure_options(replaced(config, {**changes, "plm.path": plm}), datasets, _LAYERS, _REPEATS)


def measure_options(
    config: Config, datasets: Mapping[str, Dataset], layers: Sequence[int], repeats: int
) -> tuple[Figures, list[str]]:
    """datasets: template → the same rows prepared with it, tokenized; layers: numbers of the PLM's layers."""
    figures: Figures = {}
    notes = []
    for template, dataset in datasets.items():
        table = open_model_table(dataset, load_tokenizer(config.plm.path), config.plm)
        rows = dataset.read_row_groups("train", [0])
        lengths = table.lengths(
            np.stack([rows[column].to_numpy() for column in table.columns_of(dataset)], axis=1)
        )
        figures[f"tokens_a_row_{template}"] = figure([float(lengths.mean())], "tokens")
        notes.append(f"{template}: {len(table.vocabulary):,} of {table.vocab_size:,} tokens occur")
    for objective in _ARMS:
        for number in layers:
            figures |= _measure(replaced(config, {"plm.num_layers": number}), datasets, objective, repeats)
    return figures, notes


def _measure(
    config: Config, datasets: Mapping[str, Dataset], objective: ObjectiveName, repeats: int
) -> Figures:
    label = f"{objective}_{config.plm.num_layers}_layers"
    rows = config.stage(objective).global_batch_size
    with contextlib.ExitStack() as stack:
        arms = {
            name: stack.enter_context(
                arm(f"{label}, {name}", _THREADS, OptionSteps, *_chosen(config, datasets, options), objective)
            )
            for name, options in _ARMS[objective].items()
        }
        losses = {name: one.call("loss") for name, one in arms.items()}
        require_same(label, {"ours": losses["last-layer"], "obvious": losses["paper"]})
        for one in arms.values():
            one.call("step")  # the first one is slower
        say(f"{label}: timing {repeats} steps of each of {len(arms)} arms")
        seconds = interleaved_steps(arms, repeats)
    base, *others = seconds
    return {
        f"rows_a_second_{label}_{name}": figure([rows / taken for taken in values], "rows/s")
        for name, values in seconds.items()
    } | {
        f"speedup_{label}_{name}": figure(
            [slow / fast for slow, fast in zip(seconds[base], seconds[name], strict=True)], "x"
        )
        for name in others
    }


def _chosen(
    config: Config, datasets: Mapping[str, Dataset], options: Sequence[str]
) -> tuple[Config, Dataset]:
    changes = {key: value for name in options for key, value in _OPTIONS[name].items()}
    dataset = datasets[changes.pop("template", "sentence")]
    return replaced(config, changes), dataset


class OptionSteps(Steps):
    """One arm, in its process."""

    def __init__(self, config: Config, dataset: Dataset, objective: ObjectiveName) -> None:
        table = open_model_table(dataset, load_tokenizer(config.plm.path), config.plm)
        self._stage = config.stage(objective)
        self._collator = Collator(
            layout_of(dataset),
            table,
            config.masking if objective == "pretrain" else None,
            seed=config.seed,
            max_length=config.plm.max_length,
        )
        self._micro_batches = Collator.micro_batches
        model = build_model(config, layout_of(dataset), objective=objective)
        self._objective = build_objective(model, self._stage).train()
        self._engine = TorchEngine(self._objective, self._stage, device=torch.device("cpu"))
        self._running = None
        self._batches = endless_batches(config, dataset, self._stage)

    def trained(self) -> int:
        """Return the number of parameters that are trained."""
        return sum(parameter.numel() for parameter in self._objective.parameters() if parameter.requires_grad)

    def advance(self) -> tuple[float, bool]:
        """Return the processor's seconds of the next part of a step, and whether that was the step's last."""
        started = time.process_time()
        _, ended = super().advance()
        return time.process_time() - started, ended

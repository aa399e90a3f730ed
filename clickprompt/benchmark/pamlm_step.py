"""`clickprompt benchmark pamlm-step`: a PA-MLM training step against the obvious one (obvious.py), on
MovieLens text.

A step is what a worker does with the columns of its share of a global batch: collate, forward, backward,
clip, AdamW. Both arms run on the same rows, masks, weights, optimizer, micro-batch and threads, in fp32, in
processes of their own.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clickprompt.benchmark.inputs import benchmark_inputs
from clickprompt.benchmark.measure import Arm, Figures, arm, best_gemm_rate, figure, matmul_flops, self_times
from clickprompt.benchmark.obvious import ObviousPAMLM, row_order_micro_batches
from clickprompt.config import Config, Precision, StageConfig, replaced
from clickprompt.data.batch import Batch
from clickprompt.data.collate import Collator
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import ConfigError, RunError
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.models.build import build_model
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.objectives import PretrainLoss
from clickprompt.runtime.observe.memory import peak_memory
from clickprompt.training.engine import TorchEngine

__all__ = [
    "SHAPES",
    "Setting",
    "Shape",
    "Steps",
    "build_objective",
    "check_vocabulary",
    "endless_batches",
    "interleaved_steps",
    "measure_pamlm_step",
    "require_same",
    "shaped",
]

THREADS = 2
_MOST_STEPS = 1000  # more than any benchmark takes; lazy tables know the learning rate of each
_SAME_LOSS = 1e-4  # relative; fp32 sums in another order
_ENOUGH = 0.7  # share of the matmul rate
_SHOWN = 8  # operators that a remark names


@dataclass(frozen=True)
class Shape:
    """A PLM's architecture (RoBERTa's, with its vocabulary and dropout), and the number of rows of a step."""

    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    global_batch_size: int
    micro_batch_size: int
    repeats: int
    vocab_size: int = 50_265
    dropout: float = 0.1

    def plm_config(self, pad_id: int) -> dict[str, Any]:
        return {
            "model_type": "roberta",
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_heads,
            "intermediate_size": self.intermediate_size,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": pad_id,
            "tie_word_embeddings": True,
            "initializer_range": 0.02,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
        }


SHAPES: dict[str, Shape] = {
    "roberta_base": Shape(12, 768, 12, 3072, global_batch_size=256, micro_batch_size=64, repeats=3),
    "tinybert": Shape(4, 312, 12, 1200, global_batch_size=512, micro_batch_size=128, repeats=5),
}


@dataclass(frozen=True)
class Setting:
    """The common starting point of both arms."""

    config: Config
    dataset: Dataset
    shape: Shape


ARMS: dict[str, tuple[Callable[[ClickPrompt], Any], Callable[..., list[Batch]]]] = {
    "ours": (PretrainLoss, Collator.micro_batches),
    "obvious": (ObviousPAMLM, row_order_micro_batches),
}
"""arm → (model → objective, (collator, columns, micro_batch_size) → micro-batches)"""


def measure_pamlm_step(config: Config, shapes: Mapping[str, Shape] = SHAPES) -> tuple[Figures, list[str]]:
    """Return figures and remarks. Uses `data.path` and `plm.path` (its tokenizer) if set; otherwise they are
    fetched into `pipeline.downloads`.

    From the rest of `config`, ctr, prompt, masking and pretrain's optimizer settings apply; the shape defines
    the PLM and the number of rows. Raises ConfigError for prompts that the obvious step doesn't support,
    RunError if the two arms' losses differ.
    """
    prompt = config.prompt
    if not prompt.num_prompts or prompt.prompt_depth != "layerwise" or prompt.prompt_injection != "hidden":
        raise ConfigError(
            f"prompt.num_prompts={prompt.num_prompts}, prompt_depth={prompt.prompt_depth}, "
            f"prompt_injection={prompt.prompt_injection}: pamlm-step measures Eq. 7; use at least 1 "
            "prompt, layerwise, hidden"
        )
    if config.masking.vocabulary != "model":
        raise ConfigError(
            "masking.vocabulary=dataset: pamlm-step compares with a step whose softmax runs over all tokens; "
            "leave it out"
        )
    config, dataset = benchmark_inputs(config)
    figures: Figures = {}
    notes = []
    for name, shape in shapes.items():
        measured, note = _measure(name, Setting(_sized(config, shape), dataset, shape))
        figures |= measured
        notes.append(note)
    return figures, notes


def shaped(config: Config, shape: Shape, folder: str) -> Config:
    """Return the configuration on the benchmark's inputs, with a PLM of `shape` from random weights, which is
    put into `folder`, and its number of rows.
    """
    config, dataset = benchmark_inputs(config)
    tokenizer: Any = load_tokenizer(config.plm.path)
    plm = storage.join(folder, "plm")
    tokenizer.save_pretrained(plm)
    storage.write_json(
        storage.join(plm, "config.json"), shape.plm_config(TokenTable.open(dataset, tokenizer).pad_id)
    )
    rows = {f"pretrain.{key}": getattr(shape, key) for key in ("global_batch_size", "micro_batch_size")}
    return replaced(config, {"data.path": dataset.uri, "plm.path": plm, "plm.random_init": True, **rows})


def build_objective(setting: Setting, arm_name: str, pad_id: int) -> PretrainLoss | ObviousPAMLM:
    """Build the arm's objective; its weights depend only on the setting."""
    plm_config = setting.shape.plm_config(pad_id)
    model = build_model(
        setting.config, layout_of(setting.dataset), objective="pretrain", plm_config=plm_config
    )
    return ARMS[arm_name][0](model).train()


def endless_batches(config: Config, dataset: Dataset, stage: StageConfig) -> Iterator[dict[str, np.ndarray]]:
    """Yield the columns of global batches, in a run's order, for longer than any benchmark takes."""
    order = Order.of(
        dataset,
        global_batch_size=stage.global_batch_size,
        chunk_batches=config.data.chunk_batches,
        seed=config.seed,
        epochs=1000,
        max_steps=None,
    )
    return (columns for _, columns in read_local_batches(dataset, order))


class Steps:
    """One arm, in its process."""

    _number = 0  # steps done

    def __init__(
        self,
        setting: Setting,
        arm_name: str,
        device: str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        config, dataset = setting.config, setting.dataset
        table = open_model_table(dataset, load_tokenizer(config.plm.path), config.plm)
        self._stage = config.pretrain
        self._collator = Collator(
            layout_of(dataset), table, config.masking, seed=config.seed, max_length=config.plm.max_length
        )
        self._micro_batches = ARMS[arm_name][1]
        self._objective = build_objective(setting, arm_name, table.pad_id)
        self._engine = TorchEngine(
            self._objective,
            self._stage,
            device=torch.device(device),
            precision=precision,
            total_steps=_MOST_STEPS,
        )
        self._running: Iterator[int] | None = None
        self._batches = endless_batches(config, dataset, self._stage)

    @torch.no_grad()
    def loss(self) -> float:
        """Return the sum of the next global batch's losses, each per target, without dropout."""
        micro_batches = self._collate()
        self._objective.eval()
        sums = torch.stack([self._objective(batch) for batch in micro_batches]).sum(0).tolist()
        self._objective.train()
        return sum(one / targets for one, targets in zip(sums, self._targets(micro_batches), strict=True))

    def step(self) -> None:
        """Run one step on the next global batch."""
        for _ in self._parts():
            pass

    def advance(self) -> tuple[float, bool]:
        """Return the seconds of the next part of a step, and whether that was the step's last."""
        self._running = self._running or self._parts()
        started = time.perf_counter()
        ended = next(self._running, None) is None
        if ended:
            self._running = None
        return time.perf_counter() - started, ended

    def _parts(self) -> Iterator[int]:
        """Run a step, interrupted after each micro-batch."""
        return self._parts_of(self._collate())

    def _parts_of(self, micro_batches: list[Batch]) -> Iterator[int]:
        targets = self._targets(micro_batches)
        micro_batches = [batch.to(self._engine.device) for batch in micro_batches]
        self._engine.begin(micro_batches, self._number)
        for index, batch in enumerate(micro_batches):
            self._engine.accumulate(batch, targets, last=index == len(micro_batches) - 1)
            yield index
        self._engine.step()
        self._number += 1

    def flops(self) -> int:
        return matmul_flops(self.step)

    def profile(self) -> tuple[float, float, dict[str, float]]:
        return self_times(self.step)

    def gemm_rate(self) -> float:
        """Return the FLOP/s at the shapes of this step's matmuls: the layers' linear maps, and the LM head on
        the targets.
        """
        batch, plm = self._collate()[0], self._engine.model.plm
        assert plm is not None
        assert batch.input_ids is not None
        positions, targets = batch.input_ids.numel(), int(self._targets([batch])[0])
        hidden, inner = plm.hidden_size, plm.config.intermediate_size
        return best_gemm_rate(
            [
                (positions, hidden, hidden),
                (positions, hidden, inner),
                (positions, inner, hidden),
                (targets, hidden, plm.vocab_size),
            ]
        )

    def peak_memory(self) -> int:
        return peak_memory()

    def _collate(self) -> list[Batch]:
        return self._micro_batches(self._collator, next(self._batches), self._stage.micro_batch_size)

    def _targets(self, micro_batches: list[Batch]) -> list[float]:
        counts = [self._objective.count_targets(batch).double() for batch in micro_batches]
        return torch.stack(counts).sum(0).tolist()


def _sized(config: Config, shape: Shape) -> Config:
    sizes = {
        "pretrain.global_batch_size": shape.global_batch_size,
        "pretrain.micro_batch_size": shape.micro_batch_size,
    }
    # As in the obvious step
    return replaced(config, {**sizes, "plm.random_init": True, "pretrain.embedding_optimizer": "dense"})


def _measure(name: str, setting: Setting) -> tuple[Figures, str]:
    check_vocabulary(name, setting)
    with contextlib.ExitStack() as stack:
        arms = {
            which: stack.enter_context(arm(f"{name}, {which}", THREADS, Steps, setting, which))
            for which in ARMS
        }
        losses = {which: one.call("loss") for which, one in arms.items()}
        require_same(name, losses)
        say(f"{name}: loss {losses['ours']:.4f} in both arms; timing {setting.shape.repeats} pairs of steps")
        flops = arms["ours"].call("flops")  # also the first step, which is slower
        arms["obvious"].call("step")
        seconds = interleaved_steps(arms, setting.shape.repeats)
        memory = {which: one.call("peak_memory") / 2**30 for which, one in arms.items()}
        rate = arms["ours"].call("gemm_rate")
        profile = arms["ours"].call("profile")
    figures = {
        f"speedup_{name}": figure(
            [slow / fast for slow, fast in zip(seconds["obvious"], seconds["ours"], strict=True)], "x"
        ),
        **{f"step_{which}_{name}": figure(values, "s") for which, values in seconds.items()},
        **{f"peak_memory_{which}_{name}": figure([value], "GiB") for which, value in memory.items()},
        f"memory_ratio_{name}": figure([memory["obvious"] / memory["ours"]], "x"),
        f"gemm_share_{name}": figure([profile[1] / profile[0]], "of a profiled step's time"),
        f"gemm_fraction_{name}": figure([flops / time / rate for time in seconds["ours"]], "of gemm_rate"),
        f"gemm_rate_{name}": figure([rate / 1e9], "GFLOP/s"),
    }
    return figures, _note(name, figures[f"gemm_fraction_{name}"]["median"], flops / rate, profile)


def interleaved_steps(arms: Mapping[str, Arm], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each arm's steps. The arms take turns after every micro-batch: a step takes so
    long that other work on the machine could hit only one arm's.
    """
    seconds: dict[str, list[float]] = {name: [0.0] * repeats for name in arms}
    for repeat in range(repeats):
        running = list(arms)
        while running:
            for name in tuple(running):
                taken, ended = arms[name].call("advance")
                seconds[name][repeat] += taken
                if ended:
                    running.remove(name)
    return seconds


def check_vocabulary(name: str, setting: Setting) -> None:
    """Raises ConfigError if the tokenizer has more tokens than the shape `name`."""
    table = TokenTable.open(setting.dataset, load_tokenizer(setting.config.plm.path))
    if table.vocab_size > setting.shape.vocab_size:
        raise ConfigError(
            f"plm.path={setting.config.plm.path}: a tokenizer of {table.vocab_size:,} tokens; the "
            f"shape {name} has {setting.shape.vocab_size:,}; leave plm.path out for one that fits"
        )


def require_same(name: str, losses: Mapping[str, float]) -> None:
    """Raises RunError if the arms' losses differ."""
    if not np.isclose(losses["ours"], losses["obvious"], rtol=_SAME_LOSS, atol=0):
        raise RunError(
            f"benchmark: {name}: the arms' losses differ ({losses}): they don't compute the same, so "
            "nothing was timed"
        )


def _note(
    name: str, fraction: float, ideal_seconds: float, profile: tuple[float, float, dict[str, float]]
) -> str:
    """Describe what keeps the step below the matmul rate: the share of matmuls in it, their speed, and what
    else there is.
    """
    total, gemms, others = profile
    top = ", ".join(
        f"{operator.removeprefix('aten::')} {seconds / total:.1%}"
        for operator, seconds in list(others.items())[:_SHOWN]
    )
    limit = "at least" if fraction >= _ENOUGH else "below"
    return (
        f"{name}: {fraction:.2f} of the matmul rate, {limit} {_ENOUGH}: {gemms / total:.0%} of a "
        f"profiled step are matmuls, which run at {ideal_seconds / gemms:.0%} of that rate; the most "
        f"of the rest: {top}"
    )

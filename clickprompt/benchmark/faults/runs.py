"""The runs of a campaign: small training and evaluation commands, undisturbed or to be struck."""

import contextlib
import os
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from clickprompt.benchmark.faults.audit import read_attempts
from clickprompt.benchmark.faults.commands import LONGEST, Command, losses
from clickprompt.benchmark.faults.nodes import Nodes, loopback_nodes
from clickprompt.benchmark.faults.plan import EVERY
from clickprompt.benchmark.faults.settings import Engine, FaultsConfig
from clickprompt.config import Config, dump_config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.order import Order
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import ConfigError, InputError
from clickprompt.io import storage
from clickprompt.io.progress import say

__all__ = ["Runs"]

_NODES = 3  # besides the head, with one CPU each: room for two workers, data and an evaluation actor
_STEPS = 50  # at least, in whole epochs
_ALL = {
    "data.chunk_batches": 4,
    "ctr.embedding_dim": 8,
    "ctr.hidden_dim": 16,
    "ctr.num_layers": 2,
    "prompt.num_prompts": 2,
    "plm.random_init": True,
    "plm.max_length": 48,
    "runtime.address": "local",
    "runtime.use_ray": "always",  # what is struck are its processes, also where an attempt has one worker
    "runtime.num_workers": 2,
    "runtime.logical_cpus": 4,
    "runtime.evaluation_actors": 1,
    "runtime.max_failures": 3,
}
_STAGE = {"global_batch_size": 48, "micro_batch_size": 4, "checkpoint_every": EVERY, "lr.ctr": 1e-2}


class Runs:
    """The campaign's inputs, the runs of each arm, and the nodes that some of them are on.

    It is a context manager: the nodes end with it.
    """

    def __init__(
        self, faults: FaultsConfig, arms: Mapping[str, tuple[str, dict[str, Any]]], other_seed: bool
    ):
        if "://" in faults.run:
            raise ConfigError(
                f"run={faults.run}: what is killed tells its state by local files; give a local folder"
            )
        self.arms = arms
        self.other_seed = other_seed
        self.folder = storage.native(faults.run)
        self._begin(faults.training)
        config = self._with_inputs(faults.training)
        self.seed = config.seed
        self.dataset = Dataset.open(str(config.data.path))
        self._configs = {name: self._config(config, *arm) for name, arm in arms.items()}
        self._nodes: Nodes | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Runs":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def interval(self, arm: str) -> float:
        """Return the median seconds between two checkpoints of the undisturbed run."""
        [attempt] = read_attempts(os.path.join(self.folder, f"undisturbed-{arm}", "consumed"))
        marks = [attempt.times[step][0] for step in range(0, self.order(arm).total_steps, EVERY)]
        return statistics.median(np.diff(marks).tolist())

    def seed_spread(self, arm: str) -> float:
        """Return the relative difference that another seed makes to the mean loss of the last epoch."""
        last = slice(-self.order(arm).steps_per_epoch, None)
        means = [statistics.fmean(losses(run)[last]) for run in (self.run_of(arm), self.run_of(arm, "-seed"))]
        return abs(means[0] - means[1]) / means[0]

    def _begin(self, config: Config) -> None:
        path = os.path.join(self.folder, "campaign.yaml")
        if storage.exists(path) and storage.read_bytes(path).decode() != dump_config(config):
            raise InputError(
                f"{self.folder}: holds a campaign of another configuration; give another folder: --set run=…"
            )
        storage.write_bytes(path, dump_config(config).encode())

    def _with_inputs(self, config: Config) -> Config:
        folder = os.path.join(self.folder, "inputs")
        data, plm = (
            config.data.path or os.path.join(folder, "data"),
            config.plm.path or os.path.join(folder, "plm"),
        )
        if config.data.path is None and not os.path.isdir(data):
            with Command(folder, do="inputs") as command:
                command.ended()
        if config.plm.path is None and not os.path.isdir(plm):
            _write_plm(plm)
        if any(stage == "pretrain" for stage, _ in self.arms.values()):
            build_token_table(Dataset.open(data), load_tokenizer(plm))
        return replaced(config, {"data.path": data, "plm.path": plm})

    def _config(self, config: Config, stage: str, changes: dict[str, Any]) -> Config:
        batch = int(_STAGE["global_batch_size"])
        per_epoch = -(-Dataset.open(str(config.data.path)).counts["train"] // batch)
        settings = {**_STAGE, "epochs": -(-_STEPS // per_epoch), "max_steps": None}
        return replaced(
            config, {**_ALL, **{f"{stage}.{key}": value for key, value in settings.items()}, **changes}
        )

    def order(self, arm: str, changes: dict[str, Any] | None = None) -> Order:
        """Return the plan of the arm's runs, or of one with these settings."""
        config = replaced(self._configs[arm], changes or {})
        stage = config.stage(self.arms[arm][0])
        sizes: Any = {
            "global_batch_size": stage.global_batch_size,
            "chunk_batches": config.data.chunk_batches,
        }
        return Order.of(
            self.dataset, **sizes, seed=config.seed, epochs=stage.epochs, max_steps=stage.max_steps
        )

    def run_of(self, arm: str, what: str = "") -> str:
        return os.path.join(self.folder, f"undisturbed-{arm}{what}", "run")

    def undisturbed(self, arm: str, evaluated: bool) -> None:
        """Make the arm's undisturbed runs with two seeds, and evaluate the first, unless already done."""
        for what, changes in (("", {}), ("-seed", {"seed": self._configs[arm].seed + 1}))[
            : 1 + self.other_seed
        ]:
            folder = os.path.dirname(self.run_of(arm, what))
            if not os.path.exists(os.path.join(folder, "run", "result.json")):
                say(f"faults: the undisturbed run of {arm}{what}")
                storage.delete_tree(folder)
                with self.train(folder, arm, 2, address=self.on_nodes().address, changes=changes) as command:
                    command.ended()
        if evaluated:
            run = self.run_of(arm)
            if not os.path.exists(os.path.join(run, "evaluation-test.json")):
                with self.evaluate(os.path.dirname(run), arm) as command:
                    command.ended()

    def train(
        self,
        folder: str,
        arm: str,
        workers: Any,
        strikes: Any = (),
        address: str = "local",
        changes: dict[str, Any] | None = None,
        engine: Engine = "ray",
        longest: float = LONGEST,
    ) -> Command:
        where = {
            "runtime.num_workers": workers,
            "runtime.address": address,
            "runtime.use_ray": "never" if engine == "local" else "always",
        }
        config = self._stored(folder, replaced(self._configs[arm], {**where, **(changes or {})}))
        return Command(
            folder,
            do="train",
            config=config,
            stage=self.arms[arm][0],
            run=os.path.join(folder, "run"),
            strikes=strikes,
            longest=longest,
        )

    def evaluate(self, folder: str, arm: str) -> Command:
        config = self._stored(folder, replaced(self._configs[arm], {"runtime.evaluation_actors": 2}))
        return Command(folder, do="evaluate", config=config, run=os.path.join(folder, "run"))

    def serve(self, folder: str, arm: str, replicas: int) -> Command:
        """Serve the arm's undisturbed run (benchmark/faults/victim.py)."""
        config = self._stored(folder, self._configs[arm])
        data = str(self.dataset.uri)
        return Command(folder, do="serve", config=config, run=self.run_of(arm), data=data, replicas=replicas)

    def _stored(self, folder: str, config: Config) -> str:
        path = os.path.join(folder, "config.yaml")
        storage.write_bytes(path, dump_config(config).encode())
        return path

    def on_nodes(self) -> Nodes:
        if self._nodes is None:
            self._nodes = self._stack.enter_context(loopback_nodes(_NODES))
        self._nodes.mend()
        return self._nodes


def _write_plm(folder: str) -> None:
    """Write a BERT of two small layers with a character tokenizer, without weights (`plm.random_init`)."""
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *(f"##{character}" for character in characters),
    ]
    storage.write_bytes(storage.join(folder, "vocab.txt"), "\n".join(words).encode())
    storage.write_json(
        storage.join(folder, "tokenizer_config.json"),
        {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
    )
    plm = {
        "model_type": "bert",
        "vocab_size": len(words),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    storage.write_json(storage.join(folder, "config.json"), plm)

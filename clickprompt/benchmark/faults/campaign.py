"""`clickprompt benchmark faults`: runs that are struck in every way that a cluster knows, after steps drawn
by the seed.

A fault is a training (or evaluation) by the ordinary command, on several raylets of this machine or on its
own embedded Ray, with a witness in its workers (benchmark/faults/strikes.py), which says when the drawn step
is reached and waits until the fault has been carried out. Afterwards every row must have made up the model
exactly once an epoch (audit.py), and every step's loss be that of the undisturbed run.

What a finished fault gave is `<run>/<number>-<kind>/outcome.json`; running the command again goes on
with those that are missing.
"""

import contextlib
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clickprompt.benchmark.faults.audit import Attempt, Audit, audit, read_attempts
from clickprompt.benchmark.faults.commands import Command, losses, make_writable, refusing
from clickprompt.benchmark.faults.nodes import Nodes, loopback_nodes
from clickprompt.benchmark.faults.settings import FAULT_KINDS, FaultKind, FaultsConfig
from clickprompt.benchmark.measure import Figures, figure
from clickprompt.benchmark.processes import end, gone_within, title
from clickprompt.config import Config, dump_config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.order import Order
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import ClickPromptError, ConfigError, InputError, RunError
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.io import storage
from clickprompt.io.progress import say

__all__ = ["ARMS", "measure_faults"]

_NODES = 3  # besides the head, of one CPU each: room for two workers, data, an evaluation actor
_STEPS = 50  # at least, in whole epochs
_EVERY = 6  # steps between checkpoints
_SAME_LOSS = 1e-5  # relative
_ORPHANS_S = 30.0  # seconds until they must be gone
_AGENTS = {
    "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
}  # Ray's own: they ask a GCS that is gone for another minute (ray 2.60)
_SCORERS = ("ray::_Scorer.", "ray::Scorer.")  # what an evaluation actor's process calls itself at work

_ALL = {
    "data.chunk_batches": 4,
    "ctr.embedding_dim": 8,
    "ctr.hidden_dim": 16,
    "ctr.num_layers": 2,
    "prompt.num_prompts": 2,
    "plm.random_init": True,
    "plm.max_length": 48,
    "runtime.address": "local",
    "runtime.num_workers": 2,
    "runtime.logical_cpus": 4,
    "runtime.evaluation_actors": 1,
    "runtime.max_failures": 3,
}
_STAGE = {"global_batch_size": 48, "micro_batch_size": 4, "checkpoint_every": _EVERY, "lr.ctr": 1e-2}

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "finetune": (
        "finetune",
        {"finetune.with_plm": False, "finetune.validate_every": 2 * _EVERY, "finetune.patience": 1000},
    ),
    "pretrain": ("pretrain", {"runtime.engine": "deepspeed", "runtime.zero_stage": 2}),
}
"""name → stage, what is set; the first one's runs are evaluated"""


@dataclass(frozen=True)
class Fault:
    number: int
    kind: FaultKind
    arm: str
    strikes: tuple[dict[str, Any], ...]
    """of each command that is struck, as benchmark/faults/strikes.py has them"""
    workers: tuple[Any, ...]
    """of each command"""

    @property
    def name(self) -> str:
        return f"{self.number:03d}-{self.kind}"


def measure_faults(
    faults: FaultsConfig, arms: Mapping[str, tuple[str, dict[str, Any]]] = ARMS, *, other_seed: bool = True
) -> tuple[Figures, list[str]]:
    """Figures and remarks; on `training.data.path` and `training.plm.path` where set, else on a synthetic log
    and a PLM of two small layers.

    Without `other_seed` there is no undisturbed run by another seed, nor what it differs by.

    Raises RunError where a fault wasn't survived, with the folder of the first; its outcome stays, so that
    the rest can still be run.
    """
    campaign = _Campaign(faults, arms, other_seed)
    outcomes = campaign.run()
    figures, notes = _summary(outcomes, campaign)
    if failed := [outcome for outcome in outcomes if not outcome["survived"]]:
        for line in [
            *(f"{key}: {value['median']:g} {value['unit']}" for key, value in figures.items()),
            *notes,
        ]:
            say(line)
        first = failed[0]
        raise RunError(
            f"benchmark: {len(failed)} of {len(outcomes)} faults were not survived, first "
            f"{campaign.folder}/{first['name']}: "
            f"{first['error']}; delete a fault's folder to have it run again"
        )
    return figures, notes


def plan(faults: FaultsConfig, seed: int, arms: Mapping[str, Any], total_steps: int) -> list[Fault]:
    """The kinds by turns; what is drawn for a fault depends on the seed and its number only."""
    return [
        _drawn(number, faults.kinds[number % len(faults.kinds)], seed, list(arms), total_steps)
        for number in range(faults.number)
    ]


def _drawn(number: int, kind: FaultKind, seed: int, arms: list[str], total_steps: int) -> Fault:
    rng = np.random.default_rng([seed, number])
    arm = arms[0] if kind == "evaluation" else arms[int(rng.integers(len(arms)))]
    step = int(rng.integers(2, total_steps - 8))
    rank = int(rng.integers(6))
    checkpoint = int(rng.integers(1, total_steps // _EVERY))
    if kind == "checkpoint" or kind == "upload":
        moment = "upload" if kind == "upload" else ("save", "seal")[int(rng.integers(2))]
        # Without ZeRO only rank 0 writes
        strike = {
            "moment": moment,
            "after": checkpoint,
            "rank": rank if moment == "seal" or arm == "pretrain" else 0,
        }
        return Fault(number, kind, arm, (strike,), (2,))
    if kind == "resize":
        third = total_steps // 4
        strikes = tuple({"moment": "step", "after": int(rng.integers(2, third)), "rank": 0} for _ in range(2))
        return Fault(number, kind, arm, strikes, (2, 1, 3))
    elastic = kind == "node" and bool(rng.integers(2))
    return Fault(
        number, kind, arm, ({"moment": "step", "after": step, "rank": rank},), ([1, 3],) if elastic else (2,)
    )


class _Campaign:
    """A folder of faults and of the undisturbed runs they are compared with."""

    def __init__(
        self, faults: FaultsConfig, arms: Mapping[str, tuple[str, dict[str, Any]]], other_seed: bool
    ):
        if "://" in faults.run:
            raise ConfigError(
                f"run={faults.run}: what is killed tells its state by local files; give a local folder"
            )
        self._faults = faults
        self._arms = arms
        self.other_seed = other_seed
        self.folder = storage.native(faults.run)
        self._begin(faults.training)
        config = self._with_inputs(faults.training)
        self.dataset = Dataset.open(str(config.data.path))
        self._configs = {name: self._config(config, *arm) for name, arm in arms.items()}
        self._nodes: Nodes | None = None
        self._stack = contextlib.ExitStack()
        order = next(iter(self.orders.values()))
        self._plan = plan(self._faults, config.seed, arms, order.total_steps)

    @property
    def orders(self) -> dict[str, Order]:
        return {name: self._order(name) for name in self._arms}

    def run(self) -> list[dict[str, Any]]:
        """The outcomes of all faults, those of earlier parts of the campaign included."""
        outcomes = []
        with self._stack:
            for arm in {fault.arm: None for fault in self._plan}:
                self._undisturbed(arm)
            for fault in self._plan:
                outcomes.append(self._outcome(fault))
        return outcomes

    def interval(self, arm: str) -> float:
        """Seconds between two checkpoints of the undisturbed run, the median."""
        [attempt] = read_attempts(os.path.join(self.folder, f"undisturbed-{arm}", "consumed"))
        marks = [attempt.times[step][0] for step in range(0, self._order(arm).total_steps, _EVERY)]
        return statistics.median(np.diff(marks).tolist())

    def seed_spread(self, arm: str) -> float:
        """Relative difference that another seed makes to the mean loss of the last epoch."""
        last = slice(-self._order(arm).steps_per_epoch, None)
        means = [
            statistics.fmean(losses(run)[last]) for run in (self._run_of(arm), self._run_of(arm, "-seed"))
        ]
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
        if any(stage == "pretrain" for stage, _ in self._arms.values()):
            build_token_table(Dataset.open(data), load_tokenizer(plm))
        return replaced(config, {"data.path": data, "plm.path": plm})

    def _config(self, config: Config, stage: str, changes: dict[str, Any]) -> Config:
        batch = int(_STAGE["global_batch_size"])
        per_epoch = -(-Dataset.open(str(config.data.path)).counts["train"] // batch)
        settings = {**_STAGE, "epochs": -(-_STEPS // per_epoch), "max_steps": None}
        return replaced(
            config, {**_ALL, **{f"{stage}.{key}": value for key, value in settings.items()}, **changes}
        )

    def _order(self, arm: str) -> Order:
        config = self._configs[arm]
        stage = config.pretrain if self._arms[arm][0] == "pretrain" else config.finetune
        sizes = {"global_batch_size": stage.global_batch_size, "chunk_batches": config.data.chunk_batches}
        return Order.of(
            self.dataset, **sizes, seed=config.seed, epochs=stage.epochs, max_steps=stage.max_steps
        )

    def _run_of(self, arm: str, what: str = "") -> str:
        return os.path.join(self.folder, f"undisturbed-{arm}{what}", "run")

    def _undisturbed(self, arm: str) -> None:
        for what, changes in (("", {}), ("-seed", {"seed": self._configs[arm].seed + 1}))[
            : 1 + self.other_seed
        ]:
            folder = os.path.dirname(self._run_of(arm, what))
            if not os.path.exists(os.path.join(folder, "run", "result.json")):
                say(f"faults: the undisturbed run of {arm}{what}")
                storage.delete_tree(folder)
                with self._train(
                    folder, arm, 2, address=self._on_nodes().address, changes=changes
                ) as command:
                    command.ended()
        if arm == next(iter(self._arms)) and any(fault.kind == "evaluation" for fault in self._plan):
            run = self._run_of(arm)
            if not os.path.exists(os.path.join(run, "evaluation-test.json")):
                with self._evaluate(os.path.dirname(run), arm) as command:
                    command.ended()

    def _train(
        self,
        folder: str,
        arm: str,
        workers: Any,
        strikes: Any = (),
        address: str = "local",
        changes: dict[str, Any] | None = None,
    ) -> Command:
        where = {"runtime.num_workers": workers, "runtime.address": address}
        config = self._stored(folder, replaced(self._configs[arm], {**where, **(changes or {})}))
        return Command(
            folder,
            do="train",
            config=config,
            stage=self._arms[arm][0],
            run=os.path.join(folder, "run"),
            strikes=strikes,
        )

    def _evaluate(self, folder: str, arm: str) -> Command:
        config = self._stored(folder, replaced(self._configs[arm], {"runtime.evaluation_actors": 2}))
        return Command(folder, do="evaluate", config=config, run=os.path.join(folder, "run"))

    def _stored(self, folder: str, config: Config) -> str:
        path = os.path.join(folder, "config.yaml")
        storage.write_bytes(path, dump_config(config).encode())
        return path

    def _on_nodes(self) -> Nodes:
        if self._nodes is None:
            self._nodes = self._stack.enter_context(loopback_nodes(_NODES))
        self._nodes.mend()
        return self._nodes

    def _outcome(self, fault: Fault) -> dict[str, Any]:
        folder = os.path.join(self.folder, fault.name)
        path = os.path.join(folder, "outcome.json")
        if storage.exists(path):
            return storage.read_json(path)
        _delete(folder)
        os.makedirs(folder)
        started = time.monotonic()
        outcome: dict[str, Any] = {"name": fault.name, **asdict(fault), "survived": False, "error": None}
        try:
            outcome |= (
                self._evaluation(fault, folder)
                if fault.kind == "evaluation"
                else self._training(fault, folder)
            )
            wrong = [key for key in ("lost", "repeated", "displaced") if outcome[key]]
            if wrong:
                outcome["error"] = ", ".join(f"{outcome[key]} {key}" for key in wrong)
            elif not outcome["loss_difference"] <= _SAME_LOSS:
                outcome["error"] = f"losses differ by {outcome['loss_difference']:.1e}, relative"
            elif outcome.get("orphans"):
                outcome["error"] = (
                    f"{len(outcome['orphans'])} orphans were still there after {_ORPHANS_S:.0f} s"
                )
            outcome["survived"] = outcome["error"] is None
        except ClickPromptError as error:
            outcome["error"] = str(error)
        outcome["seconds"] = round(time.monotonic() - started, 1)
        storage.write_json(path, outcome)
        recovery = (
            f", recovered in {outcome['recovery_seconds']:.1f} s"
            if outcome.get("recovery_seconds") is not None
            else ""
        )
        verdict = f"survived{recovery}" if outcome["survived"] else f"NOT survived: {outcome['error']}"
        say(f"faults: {fault.name} ({fault.arm}): {verdict}; {outcome['seconds']:.0f} s")
        return outcome

    def _training(self, fault: Fault, folder: str) -> dict[str, Any]:
        strike = {
            "worker": self._strike_worker,
            "checkpoint": self._strike_worker,
            "upload": self._strike_worker,
            "node": self._strike_node,
            "driver": self._strike_driver,
            "storage": self._strike_storage,
            "resize": self._resize,
        }[fault.kind]
        found = strike(fault, folder)
        attempts = read_attempts(os.path.join(folder, "consumed"))
        audited: Audit = audit(attempts, self.dataset, self._order(fault.arm))
        ours, undisturbed = losses(os.path.join(folder, "run")), losses(self._run_of(fault.arm))
        if len(ours) != len(undisturbed):
            raise RunError(f"the run has {len(ours)} steps, the undisturbed one {len(undisturbed)}")
        mark = storage.read_json(os.path.join(folder, "strikes", "0.json"))
        return {
            **asdict(audited),
            "loss_difference": max(
                abs(mine - theirs) / abs(theirs) for mine, theirs in zip(ours, undisturbed, strict=True)
            ),
            "num_workers": [attempt.num_workers for attempt in attempts],
            "starts": [attempt.start for attempt in attempts],
            "reached": mark["reached"],
            "recovery_seconds": None if fault.kind == "storage" else _recovery(attempts, mark),
            **found,
        }

    def _strike_worker(self, fault: Fault, folder: str) -> dict[str, Any]:
        with self._train(
            folder, fault.arm, fault.workers[0], fault.strikes, self._on_nodes().address
        ) as command:
            mark = command.strike_due(0)
            os.kill(mark["pid"], signal.SIGKILL)
            command.go_on(0)
            command.ended()
        return {}

    def _strike_node(self, fault: Fault, folder: str) -> dict[str, Any]:
        nodes = self._on_nodes()
        with self._train(folder, fault.arm, fault.workers[0], fault.strikes, nodes.address) as command:
            mark = command.strike_due(0)
            # At most one of the workers is on the head, which has one CPU
            nodes.kill([mark["node"], *read_attempts(os.path.join(folder, "consumed"))[-1].nodes])
            command.go_on(0)
            if isinstance(fault.workers[0], int):  # else it goes on with one worker less
                nodes.mend()
            command.ended()
        return {}

    def _strike_driver(self, fault: Fault, folder: str) -> dict[str, Any]:
        with self._train(folder, fault.arm, fault.workers[0], fault.strikes) as command:
            command.strike_due(0)
            orphans = _killed(command)
        with self._train(folder, fault.arm, fault.workers[0], fault.strikes) as command:
            command.ended()
        return {"orphans": orphans}

    def _strike_storage(self, fault: Fault, folder: str) -> dict[str, Any]:
        with self._train(
            folder, fault.arm, fault.workers[0], fault.strikes, self._on_nodes().address
        ) as command:
            mark = command.strike_due(0)
            with refusing(os.path.join(folder, "run")):
                command.go_on(0)
                time.sleep(self._faults.refuse_seconds)
                meanwhile = max(
                    (
                        step
                        for attempt in read_attempts(os.path.join(folder, "consumed"))
                        for step in attempt.times
                    ),
                    default=0,
                )
                if command.over:
                    raise RunError("the command ended while storage refused")
            if (
                meanwhile < mark["reached"] // _EVERY * _EVERY + _EVERY - 1
            ):  # of the step after which something is to be written
                raise RunError("no checkpoint was due while storage refused; set refuse_seconds higher")
            command.ended()
        return {"steps_meanwhile": meanwhile - mark["reached"]}

    def _resize(self, fault: Fault, folder: str) -> dict[str, Any]:
        """The first command is asked to stop, the second one is killed, the third one comes to the end."""
        first, second, third = fault.workers
        with self._train(folder, fault.arm, first, fault.strikes) as command:
            command.strike_due(0)
            command.signal(signal.SIGTERM)
            command.go_on(0)
            command.ended([128 + signal.SIGTERM])
        with self._train(folder, fault.arm, second, fault.strikes) as command:
            command.strike_due(1)
            orphans = _killed(command)
        with self._train(folder, fault.arm, third, fault.strikes) as command:
            command.ended()
        return {"orphans": orphans}

    def _evaluation(self, fault: Fault, folder: str) -> dict[str, Any]:
        """One of the actors is stopped in the middle of a row group, and killed when it is sure that groups
        are left.
        """
        undisturbed = self._run_of(fault.arm)
        storage.copy_tree(undisturbed, os.path.join(folder, "run"))
        parts = os.path.join(folder, "run", "predictions", "test")
        storage.delete_tree(parts)
        groups = len(self.dataset.row_group_counts("test"))
        wanted = int(fault.strikes[0]["after"]) % max(groups // 2, 1) + 1
        with self._evaluate(folder, fault.arm) as command:
            command.wait_for(lambda: True if len(_parts(parts)) >= wanted else None)
            actor = command.wait_for(
                lambda: next(
                    (process for process in command.below() if title(process).startswith(_SCORERS)), None
                )
            )
            os.kill(actor[0], signal.SIGSTOP)
            before = len(_parts(parts))
            end([actor])
            if before >= groups:
                raise RunError("the evaluation was over before its actor was killed; use more rows")
            command.ended()
        rows = Counter(read_predictions(parts)["row_id"].to_pylist())
        expected = self.dataset.read_split("test")["row_id"].to_pylist()
        ours, theirs = (
            storage.read_json(os.path.join(run, "evaluation-test.json"))
            for run in (os.path.join(folder, "run"), undisturbed)
        )
        return {
            "lost": sum(not rows[row] for row in expected),
            "repeated": rows.total() - sum(bool(rows[row]) for row in expected),
            "displaced": 0,
            "loss_difference": max(
                abs(ours[key] - theirs[key]) / abs(theirs[key]) for key in ("auc", "log_loss")
            ),
            "reached": before,
            "recovery_seconds": None,
        }


def _killed(command: Command) -> list[str]:
    """SIGKILL the command; which of its Ray's workers, raylet and GCS were still there after a while. All are
    gone afterwards.
    """
    started = command.below()
    agents = [process for process in started if title(process) in _AGENTS]
    command.signal(signal.SIGKILL)
    left = gone_within([process for process in started if process not in agents], _ORPHANS_S)
    titles = [title(process) for process in left]
    end([*left, *agents])
    if still := gone_within([*left, *agents], _ORPHANS_S):
        raise RunError(f"{', '.join(map(title, still))}: can't be killed")
    return titles


def _recovery(attempts: list[Attempt], mark: dict[str, Any]) -> float:
    """Seconds from the strike until the run had the steps that it had reached before."""
    # A strike that cost no worker, as of a node where only data was read, leaves the attempt as it is
    later = [attempt for attempt in attempts if attempt.began > mark["time"]] or attempts[-1:]
    passed = [
        at
        for attempt in later
        for step in attempt.times
        if step >= mark["reached"] and (at := attempt.passed(step)) is not None
    ]
    after = [at for at in passed if at > mark["time"]]
    if not after:
        raise RunError("the run never passed the step at which it was struck")
    return min(after) - mark["time"]


def _parts(folder: str) -> list[str]:
    return [
        name for name in (os.listdir(folder) if os.path.isdir(folder) else []) if name.endswith(".parquet")
    ]


def _delete(folder: str) -> None:
    """What a killed campaign left of a fault, be it with its storage still refusing."""
    if os.path.isdir(folder):
        make_writable(folder)
        storage.delete_tree(folder)


def _summary(outcomes: list[dict[str, Any]], campaign: _Campaign) -> tuple[Figures, list[str]]:
    compared = [outcome for outcome in outcomes if "loss_difference" in outcome]
    recovered = [outcome for outcome in compared if outcome["recovery_seconds"] is not None]
    used = sorted({outcome["arm"] for outcome in outcomes})
    intervals = {arm: campaign.interval(arm) for arm in used}
    figures = {
        "faults": figure([len(outcomes)], "faults"),
        "survived": figure([sum(outcome["survived"] for outcome in outcomes)], "faults"),
        "lost_rows": figure(
            [sum(outcome["lost"] for outcome in compared)], "rows, of all epochs of all runs"
        ),
        "repeated_rows": figure(
            [sum(outcome["repeated"] for outcome in compared)], "rows, of all epochs of all runs"
        ),
        "checkpoint_interval": figure(list(intervals.values()), f"s, of {_EVERY} steps"),
    }
    if campaign.other_seed:
        figures["seed_spread"] = figure(
            [campaign.seed_spread(arm) for arm in used], "of the last epoch's mean loss, relative"
        )
    if compared:
        figures["loss_difference"] = figure(
            [outcome["loss_difference"] for outcome in compared], "of any step's loss, relative"
        )
    if recovered:
        seconds = [outcome["recovery_seconds"] for outcome in recovered]
        in_intervals = [outcome["recovery_seconds"] / intervals[outcome["arm"]] for outcome in recovered]
        figures["recovery"] = figure(seconds, "s from the strike to the step that had been reached")
        figures["recovery_intervals"] = figure(in_intervals, "checkpoint intervals")
    notes = []
    for kind in FAULT_KINDS:
        own = [outcome for outcome in outcomes if outcome["kind"] == kind]
        if own:
            times = [
                outcome["recovery_seconds"] for outcome in own if outcome.get("recovery_seconds") is not None
            ]
            median = f", recovered in {statistics.median(times):.1f} s" if times else ""
            notes.append(
                f"{kind}: {sum(outcome['survived'] for outcome in own)} of {len(own)} survived{median}"
            )
    notes.append(f"every fault's outcome: {campaign.folder}/*/outcome.json")
    return figures, notes


def _write_plm(folder: str) -> None:
    """A BERT of two small layers whose tokenizer knows characters only; no weights: `plm.random_init`."""
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

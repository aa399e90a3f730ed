"""The runs of a table: which there are, which are missing, and making them one after another."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from clickprompt.config import Config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import ClickPromptError, StoppedError
from clickprompt.io import storage
from clickprompt.io.progress import say
from clickprompt.runtime.reproduce.inputs import StandIn
from clickprompt.runtime.reproduce.piece import Piece
from clickprompt.runtime.train.train import run_training
from clickprompt.tables.plan import Budget, Row, Try, run_name, tries_of

__all__ = ["Chosen", "Runs"]


@dataclass(frozen=True)
class Chosen:
    """What validation has chosen for a row, and its runs over the seeds."""

    best: Try
    tried: list[dict[str, object]]
    """each try's changes, and its validation AUC on the first seed, or why it has none"""
    finetunings: dict[int, str]
    """seed → folder of its run"""


@dataclass
class Runs:
    """All runs below a folder. A run that is there isn't made again."""

    folder: str
    dataset: Dataset
    dataset_name: str
    budget: Budget
    plms: dict[str, StandIn]
    given: Config
    at_once: int = 1
    failed: dict[str, str] = field(default_factory=dict)
    """run → why it failed, in one line"""

    def missing(self, row: Row) -> str | None:
        """Why the row can't be made at all."""
        if row.plm is None:
            return None
        return self.plms[row.plm].missing if row.plm in self.plms else "it wasn't asked for"

    def pieces(self, row: Row, chosen: Try, seed: int) -> list[Piece]:
        """Return the runs of a row with a try's settings: its pretraining, if it has one, and finetuning."""
        plm = self.plms[row.plm].changes if row.plm is not None else {}
        config = chosen.config(row, self.budget, self.dataset_name, seed, plm, self.given)
        config = replaced(config, {"data.path": self.dataset.uri, "data.version": self.dataset.version})
        what = f"{', '.join(row.names)}, try {chosen.number + 1}, seed {seed}"
        found, start = [], None
        if row.pretrain:
            start = run_name(config, "pretrain", self.dataset.fingerprint)
            found.append(Piece(start, "pretrain", config, f"{what}: pretraining"))
            config = replaced(config, {"finetune.init": self.uri(start)})
        name = run_name(config, "finetune", self.dataset.fingerprint, start)
        return [*found, Piece(name, "finetune", config, f"{what}: finetuning", start)]

    def first_pieces(self, rows: Iterable[Row]) -> Iterator[Piece]:
        """Yield the runs among which validation chooses: every try, on the first seed."""
        for row in rows:
            if self.missing(row) is None:
                for one in tries_of(row, self.budget, self.dataset_name):
                    yield from self.pieces(row, one, 0)

    def further_pieces(self, rows: Iterable[Row]) -> Iterator[Piece]:
        """Yield the other seeds' runs, of what validation has chosen."""
        for row in rows:
            chosen = self.chosen(row)
            if chosen is not None:
                for seed in range(1, self.budget.seeds):
                    yield from self.pieces(row, chosen.best, seed)

    def chosen(self, row: Row) -> Chosen | None:
        """Return what validation prefers among the tries that are there; None if there is none."""
        if self.missing(row) is not None:
            return None
        best: tuple[float, Try] | None = None
        tried: list[dict[str, object]] = []
        for one in tries_of(row, self.budget, self.dataset_name):
            name = self.pieces(row, one, 0)[-1].name
            auc = self.valid_auc(name)
            tried.append({"changes": one.changes, "valid_auc": auc, "failed": self.failed.get(name)})
            if auc is not None and (best is None or auc > best[0]):
                best = auc, one
        if best is None:
            return None
        seeds = {seed: self.pieces(row, best[1], seed)[-1].name for seed in range(self.budget.seeds)}
        return Chosen(
            best[1],
            tried,
            {seed: self.uri(name) for seed, name in seeds.items() if self.is_there(name)},
        )

    def make(self, pieces: Iterable[Piece]) -> None:
        """Train those that aren't there. One that can't is noted, and the others go on.

        Raises StoppedError if a signal asked to stop.
        """
        left = [piece for piece in _once(pieces) if not self.is_there(piece.name)]
        if self.at_once > 1 and len(left) > 1:
            from clickprompt.runtime.reproduce.at_once import make_at_once  # imports ray, which takes seconds

            self.failed |= make_at_once(left, self.at_once, self.given.runtime, self.uri)
            return
        for number, piece in enumerate(left, 1):
            if piece.start in self.failed:
                self.failed[piece.name] = self.failed[piece.start]
                continue
            say(f"run {number} of {len(left)}: {piece.what} ({self.uri(piece.name)})")
            try:
                run_training(piece.config, piece.stage, self.uri(piece.name))
            except StoppedError:
                raise
            except ClickPromptError as error:
                self.failed[piece.name] = " ".join(str(error).split())
                say(f"failed, and its cells stay empty: {self.failed[piece.name]}")

    def uri(self, name: str) -> str:
        return storage.join(self.folder, "runs", name)

    def is_there(self, name: str) -> bool:
        return storage.exists(storage.join(self.uri(name), "result.json"))

    def valid_auc(self, name: str) -> float | None:
        if not self.is_there(name):
            return None
        return storage.read_json(storage.join(self.uri(name), "result.json"))["best_auc"]


def _once(pieces: Iterable[Piece]) -> list[Piece]:
    return list({piece.name: piece for piece in pieces}.values())

"""What a table will cost, before it is made: steps, memory, and hours by the time that a step takes."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clickprompt.config import replaced
from clickprompt.errors import ClickPromptError
from clickprompt.io import storage
from clickprompt.io.progress import duration, say
from clickprompt.runtime.cluster.sizing import size_training
from clickprompt.runtime.pipeline.budget import step_time
from clickprompt.runtime.reproduce.piece import Piece
from clickprompt.runtime.reproduce.runs import Runs
from clickprompt.runtime.train.tokens import check_with_tokens
from clickprompt.tables.plan import Row, tries_of

__all__ = ["costs", "costs_table"]

_FEW = 20  # steps that end sooner than they are timed


@dataclass(frozen=True)
class Cost:
    """What runs of one kind cost that aren't there yet."""

    what: str
    runs: int
    steps: int
    """of each, at most; validation may stop one earlier"""
    step_seconds: float | None
    memory_gib: float
    failed: str | None = None

    @property
    def seconds(self) -> float:
        return self.runs * self.steps * (self.step_seconds or 0.0)


def costs(runs: Runs, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the cost of each kind of run. Its step is timed here once, and kept in `<run>/step-times.json`.

    A kind that can't run at all is noted as failed, so that its row is marked and the others are made.
    """
    place = storage.join(runs.folder, "step-times.json")
    times: dict[str, float] = storage.read_json(place) if storage.exists(place) else {}
    found, seen = [], set()
    for row in rows:
        if runs.missing(row) is not None:
            continue
        for first in runs.pieces(row, tries_of(row, runs.budget, runs.dataset_name)[0], 0):
            names = {piece.name for piece in _all_seeds(runs, row, first.stage)}
            left = {name for name in names - seen if not runs.is_there(name)}
            seen |= names
            if left:
                found.append(_cost(runs, first, ", ".join(row.names), len(left), times))
                storage.write_json(place, times)
    return [{**asdict(cost), "seconds": cost.seconds} for cost in found]


def costs_table(plan: Sequence[dict[str, Any]]) -> list[str]:
    """Format a plan for people."""
    lines = [f"{'runs':>5} {'steps each':>11} {'a step':>9} {'in all':>10} {'memory':>9}  what"]
    for cost in plan:
        known = cost["step_seconds"]
        step, whole = (f"{known * 1000:.0f} ms", duration(cost["seconds"])) if known else ("–", "–")
        lines.append(
            f"{cost['runs']:>5} {cost['steps']:>11,} {step:>9} {whole:>10} {cost['memory_gib']:>5.1f} GiB  "
            f"{cost['what']}" + (f": can't run: {cost['failed']}" if cost["failed"] else "")
        )
    total = sum(cost["seconds"] for cost in plan)
    if plan:
        lines.append(f"about {duration(total)} of steps in all, one run at a time; validations come on top")
    return lines


def _all_seeds(runs: Runs, row: Row, stage: str) -> Iterable[Piece]:
    """Yield the runs of a row's stage: all tries on the first seed, and the first try on the others, which
    stands for whichever validation will prefer.
    """
    tries = tries_of(row, runs.budget, runs.dataset_name)
    wanted = [(one, 0) for one in tries] + [(tries[0], seed) for seed in range(1, runs.budget.seeds)]
    for one, seed in wanted:
        yield from (piece for piece in runs.pieces(row, one, seed) if piece.stage == stage)


def _cost(runs: Runs, piece: Piece, what: str, number: int, times: dict[str, float]) -> Cost:
    # Without `init`, because the pretrained weights aren't there yet
    config = replaced(piece.config, {"finetune.init": None})
    what = f"{what}: {'pretraining' if piece.stage == 'pretrain' else 'finetuning'}"
    try:
        training = check_with_tokens(config, piece.stage, again=True)
        steps = training.order.total_steps
        memory = size_training(config, piece.stage)["worker_bytes"]["total"] / 2**30
        if piece.name not in times and steps > _FEW:
            say(f"timing a step of {what}")
            times[piece.name] = step_time(training)["step"]
    except ClickPromptError as error:
        runs.failed[piece.name] = " ".join(str(error).split())
        return Cost(what, number, 0, None, 0.0, runs.failed[piece.name])
    return Cost(what, number, steps, times.get(piece.name), memory)

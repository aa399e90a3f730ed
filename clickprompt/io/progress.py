"""Report progress on stderr: a rich bar in a terminal, plain lines with an estimate elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Task", "say"]

_LINE_EVERY = 10.0  # seconds between plain lines


def say(message: str) -> None:
    """Print one line to the person at the terminal, on stderr because stdout belongs to results."""
    print(message, file=sys.stderr, flush=True)


class Task:
    """A long piece of work of `total` units. `update` may be called as often as one likes."""

    def __init__(self, description: str, total: int):
        self._description = description
        self._total = total
        self._started = time.monotonic()
        self._first: int | None = None
        self._first_at = 0.0
        self._said = 0.0
        self._bar: Progress | None = None

    def __enter__(self) -> "Task":
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        if console.is_terminal:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            ]
            self._bar = Progress(*columns, TextColumn("{task.fields[info]}"), console=console)
            self._bar.start()
            self._bar.add_task(self._description, total=self._total, info="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if kind is None:
            say(f"{self._description}: done in {time.monotonic() - self._started:.0f} s")

    def update(self, done: int, info: str = "") -> None:
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, info=info)
            return
        now = time.monotonic()
        if self._first is None:  # a resumed run doesn't start at 0, and its estimate shouldn't either
            self._first, self._first_at = done, now
        if now - self._said < _LINE_EVERY and self._said:
            return
        self._said = now
        rate = (done - self._first) / max(now - self._first_at, 1e-9)
        left = f", about {(self._total - done) / rate:.0f} s left" if rate > 0 else ""
        say(f"{self._description}: {done}/{self._total}{left}{' · ' if info else ''}{info}")

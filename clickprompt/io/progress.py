"""Report progress on stderr: a rich bar in a terminal, plain lines with an estimate elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from clickprompt.errors import without_secrets

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Task", "duration", "say"]

_LINE_EVERY = 10.0  # seconds between plain lines


def say(message: str) -> None:
    """Print one line to the person at the terminal, on stderr because stdout belongs to results."""
    message = without_secrets(message)
    print(message, file=sys.stderr, flush=True)


class Task:
    """A long piece of work of `total` units. `update` and `phase` may be called as often as one likes.

    rows: of one unit; then the rate is shown, too. 1 if the units are rows.
    """

    def __init__(self, description: str, total: int, rows: int | None = None):
        self._description = description
        self._total = total
        self._rows = rows
        self._started = time.monotonic()
        self._first: int | None = None
        self._first_at = 0.0
        self._done = 0
        self._done_at = 0.0  # when `done` last moved
        self._said = 0.0
        self._phase = ""
        self._bar: Progress | None = None

    def __enter__(self) -> "Task":
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        console = Console(stderr=True)
        if console.is_terminal:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(bar_width=10),
                TextColumn("{task.fields[count]}"),
                TimeElapsedColumn(Column(no_wrap=True)),
                TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
                # Where the terminal is narrow, the note is what goes on in a second line
                TextColumn("{task.fields[info]}", table_column=Column()),
            ]
            self._bar = Progress(*columns, console=console)
            self._bar.start()
            self._bar.add_task(self._description, total=self._total, count=self._count(0), info="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if kind is None:
            say(f"{self._description}: done in {time.monotonic() - self._started:.0f} s")

    def phase(self, what: str, count: str = "") -> None:
        """Say what is done before the first unit, and how much of it.

        Another phase is a line of its own, another count isn't.
        """
        now = time.monotonic()
        shown = f"{what} {count}".rstrip()
        if self._bar:
            self._bar.update(self._bar.task_ids[0], info=f"{shown} …")
        elif what != self._phase:
            say(f"{self._description}: {shown} …")
            self._said = now
        elif now - self._said >= _LINE_EVERY:
            say(f"{self._description}: {shown} … ({now - self._started:.0f} s)")
            self._said = now
        self._phase = what

    def update(self, done: int, info: str = "") -> None:
        """Say how many units are done, with a note."""
        now = time.monotonic()
        if self._first is None or done < self._done:
            # A resumed run doesn't start at 0, and its estimate shouldn't either; nor if it is set back
            self._first, self._first_at, self._done, self._done_at = done, now, done, now
            self._said = 0.0
        if done != self._done:
            self._done, self._done_at = done, now
        # By the last unit that was done, so that an estimate doesn't grow while nothing moves
        rate = (done - self._first) / max(self._done_at - self._first_at, 1e-9)
        if self._rows and rate:
            info = f"{rate * self._rows:,.0f} rows/s{' · ' if info else ''}{info}"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, count=self._count(done), info=info)
            return
        if now - self._said < _LINE_EVERY and self._said:
            return
        self._said = now
        seconds = (self._total - done) / rate - (now - self._done_at) if rate else 0
        left = f", {duration(seconds)} left" if seconds > 0 else ""
        say(f"{self._description}: {self._count(done)}{left}{' · ' if info else ''}{info}")

    def _count(self, done: int) -> str:
        return f"{done:,} / {self._total:,}" if self._rows == 1 else f"{done}/{self._total}"


def duration(seconds: float) -> str:
    """Return seconds in words, in the unit that suits them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""Progress lines where there is no terminal."""

import re

import pytest

from clickprompt.io import progress
from clickprompt.io.progress import Task


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_now_and_then_and_what_is_left_by_the_rate_since_the_first(clock, capsys):
    with Task("reading", 100) as task:
        task.update(40)  # a resumed run doesn't begin at 0
        clock[0] += 1
        task.update(45)  # too soon for a line
        clock[0] += progress._LINE_EVERY
        task.update(60, "two files")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading: 40/100"
    seconds = 1 + progress._LINE_EVERY
    assert lines[1] == f"reading: 60/100, about {40 * seconds / 20:.0f} s left · two files"
    assert re.fullmatch(r"reading: done in \d+ s", lines[2])
    assert len(lines) == 3


def test_an_error_says_nothing_of_being_done(clock, capsys):
    with pytest.raises(ValueError, match="no"), Task("reading", 100):
        raise ValueError("no")
    assert capsys.readouterr().err == ""

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
    assert lines[1] == f"reading: 60/100, {40 * seconds / 20:.0f} s left · two files"
    assert re.fullmatch(r"reading: done in \d+ s", lines[2])
    assert len(lines) == 3


def test_work_that_is_set_back_is_estimated_anew(clock, capsys):
    with Task("run", 100, rows=10) as task:
        task.update(50)
        clock[0] += 20
        task.update(90)
        clock[0] += 5
        task.update(40)
        clock[0] += 20
        task.update(60)
    assert capsys.readouterr().err.splitlines()[1:4] == [
        "run: 90/100, 5 s left · 20 rows/s",
        "run: 40/100",
        "run: 60/100, 40 s left · 10 rows/s",
    ]


def test_an_error_says_nothing_of_being_done(clock, capsys):
    with pytest.raises(ValueError, match="no"), Task("reading", 100):
        raise ValueError("no")
    assert capsys.readouterr().err == ""


def test_what_is_left_does_not_grow_while_nothing_moves(clock, capsys):
    with Task("reading", 100) as task:
        task.update(0)
        clock[0] += 20
        task.update(10)
        for _ in range(20):
            clock[0] += 15
            task.update(10)
    said = re.findall(r"(\d+) (s|min) left", capsys.readouterr().err)
    left = [int(number) * (60 if unit == "min" else 1) for number, unit in said]
    assert left[0] == 180
    assert left == sorted(left, reverse=True)
    assert min(left) > 0
    assert len(left) < 20  # later it is not known


def test_phases_each_once_then_with_their_time_and_the_rate_of_rows(clock, capsys):
    with Task("run", 10, rows=64) as task:
        task.phase("starting Ray")
        task.phase("starting Ray")
        clock[0] += 11
        task.phase("starting Ray")
        task.phase("first batch")
        clock[0] += 1
        task.update(1, "loss 0.7")
        clock[0] += 16
        task.update(5, "loss 0.6")
    assert capsys.readouterr().err.splitlines() == [
        "run: starting Ray …",
        "run: starting Ray … (11 s)",
        "run: first batch …",
        "run: 1/10 · loss 0.7",
        "run: 5/10, 20 s left · 16 rows/s · loss 0.6",
        "run: done in 28 s",
    ]


def test_a_phase_that_is_counted_is_no_line_for_each_count(clock, capsys):
    with Task("run", 10, rows=64) as task:
        for rows in range(0, 7995, 100):
            task.phase("validating", f"{rows:,} / 7,994")
            clock[0] += 0.5
    assert capsys.readouterr().err.splitlines() == [
        "run: validating 0 / 7,994 …",
        "run: validating 2,000 / 7,994 … (10 s)",
        "run: validating 4,000 / 7,994 … (20 s)",
        "run: validating 6,000 / 7,994 … (30 s)",
        "run: done in 40 s",
    ]


def test_rows_are_counted_with_separators_and_a_rate(clock, capsys):
    with Task("scoring test of first", 7994, rows=1) as task:
        task.update(0)
        clock[0] += 20
        task.update(4096)
    assert capsys.readouterr().err.splitlines()[:2] == [
        "scoring test of first: 0 / 7,994",
        "scoring test of first: 4,096 / 7,994, 19 s left · 205 rows/s",
    ]


@pytest.mark.parametrize("width", [80, 60])
def test_a_narrow_terminal_shows_everything(clock, monkeypatch, capsys, width):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    with Task("with-plm", 12_500, rows=1024) as task:
        task.update(1000)
        clock[0] += 1000
        task.update(9_999, "loss 0.6189 · valid AUC 0.6667")
        task._bar.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    lines = [line for line in re.split("[\r\n]+", shown) if line]
    assert max(map(len, lines)) <= width
    assert "…" not in shown
    words = " ".join(lines).split()
    assert {"9999/12500", "9,215", "0.6189", "0.6667"} <= set(words)


def test_lines_of_a_long_training_are_short(clock, capsys):
    with Task("with-plm", 12_500, rows=1024) as task:
        task.update(1000)
        clock[0] += 1000
        task.update(9_999, "loss 0.6189 · valid AUC 0.6667")
    assert max(map(len, capsys.readouterr().err.splitlines())) <= 80

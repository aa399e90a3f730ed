"""A report on runs of which one file isn't as the commands wrote it: it is made, or refused in one line and
nothing written.
"""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickprompt.report.make import make_report
from tests.support import report_runs as made
from tests.support.damaged import changed, damaged, fuzz, refused


@pytest.fixture(scope="module")
def runs(tmp_path_factory, dataset):
    """A pretraining with its prompts, a run with everything that evaluates it, a sweep."""
    top = tmp_path_factory.mktemp("runs")
    pretrain, finetune, sweep = (str(top / name) for name in ("pretrain", "finetune", "sweep"))
    made.write_training(pretrain, dataset, "pretrain", steps=20, plm__path="minilm-l6")
    made.write_prompts(pretrain)
    made.write_training(
        finetune, dataset, "finetune", steps=20, finetune__with_plm=False, finetune__init=pretrain
    )
    made.write_evaluation(finetune, dataset, skill=0.5, seed=0)
    made.write_explained(finetune)
    made.write_sweep(sweep)
    return [pretrain, finetune, sweep]


def spoil(content: bytes, is_lines: bool, draw) -> bytes:
    if not draw(st.booleans()):
        return damaged(content, draw)
    lines = content.decode().splitlines() if is_lines else [content.decode()]
    place = draw(st.integers(0, len(lines) - 1))
    value = json.loads(lines[place])
    changed(value, draw)
    lines[place] = json.dumps(value)
    return "\n".join(lines).encode()


@fuzz(one_in=5)
@given(st.data())
def test_a_report_is_made_or_refused(runs, data):
    files = sorted(str(file) for run in runs for file in Path(run).glob("*.json*"))
    file = Path(data.draw(st.sampled_from(files)))
    good, out = file.read_bytes(), os.path.join(os.path.dirname(runs[0]), "report.html")
    try:
        file.write_bytes(spoil(good, file.suffix == ".jsonl", data.draw))
        assert (refused(make_report, runs, out) is None) == os.path.exists(out)
    finally:
        file.write_bytes(good)
        Path(out).unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["config.yaml", "best.yaml"])
def test_yaml_that_stands_for_more(runs, name):
    [place] = [Path(run, name) for run in runs if Path(run, name).exists()][-1:]
    good = place.read_text()
    bomb = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    try:
        place.write_text(f"a0: &a0 [x]\n{bomb}")
        assert "stand for more than" in (refused(make_report, runs) or "")
    finally:
        place.write_text(good)

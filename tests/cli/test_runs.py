"""Old spellings of commands, and the settings of a command on a finished run."""

import re

import pytest
import typer

from clickprompt.cli.main import app, main
from clickprompt.cli.options import load_run_config
from clickprompt.config import dump_config, load_config
from clickprompt.io import storage
from tests.support.documented import PAGES, ROOT

WHOLE = typer.main.get_command(app)


@pytest.mark.parametrize(
    ("words", "now"),
    [
        (["fetch", "minilm-l6", "--to", "x"], "--out"),
        (["predict", "--run", "r", "--rows", "f", "--to=x"], "--out"),
        (["export", "--run", "r", "--to", "onnx"], "--format"),
        (["evaluate", "--run", "r", "--attention", "3"], "clickprompt attention --run RUN --rows N"),
        (["doctor", "--plan", "demo"], "clickprompt plan CONFIG"),
    ],
)
def test_an_old_spelling_is_refused_with_the_new_one(capsys, words, now):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    [line] = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert now in line
    name, *options = now.removeprefix("clickprompt ").split() if " " in now else [words[0], now]
    taken = {each for parameter in WHOLE.commands[name].params for each in parameter.opts}  # pyright: ignore
    assert {each for each in options if each.startswith("--")} <= taken


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "jobs").glob("*.py"))], ids=lambda page: page.name)
def test_no_page_and_no_job_has_an_old_spelling(page):
    assert re.findall(r"(?<![\w-])(?:--to|--attention|doctor --plan)\b", page.read_text()) == []


def test_a_command_on_a_finished_run_has_the_run_s_settings_but_its_own_place(tmp_path):
    run = str(tmp_path / "run")
    settings = ["runtime.evaluation_actors=3", "runtime.address=auto", "evaluate.tail_share=0.2"]
    storage.write_bytes(f"{run}/config.yaml", dump_config(load_config(None, settings)).encode())
    found = load_run_config(run, None, None)
    assert (found.runtime.evaluation_actors, found.evaluate.tail_share) == (3, 0.2)
    assert found.runtime.address == "local"
    changed = load_run_config(run, None, ["runtime.evaluation_actors=1", "runtime.address=1.2.3.4:5"])
    assert (changed.runtime.evaluation_actors, changed.runtime.address) == (1, "1.2.3.4:5")
    assert load_run_config(run, "demo", None) == load_config("demo")
    assert load_run_config(str(tmp_path / "export"), None, ["seed=3"]) == load_config(None, ["seed=3"])

"""docs/: commands that the command line takes, plans that are made, files and links that exist. What is
marked *cloud* isn't run.
"""

import re
import shlex
from pathlib import Path

import pytest
import typer

from clickprompt.benchmark.pamlm_step import SHAPES
from clickprompt.cli.main import app, main
from clickprompt.config import load_config
from clickprompt.io import storage
from tests.support import documented

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "docs" / name
    for name in ("architecture.md", "cluster.md", "daily.md", "sizing.md", "troubleshooting.md", "beyond.md")
]
TEXT = sorted({command for page in documented.PAGES for command in documented.commands_in_text(page)})


def commands(page: Path) -> list[tuple[str, bool]]:
    """(command line, whether it needs a cloud): the indented lines under a heading, up to the next."""
    found, cloud = [], False
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("#"):
            cloud = False
        cloud = cloud or "*cloud" in line
        if line.startswith("    ") and re.match(
            r"(\w+=\S+ )*(clickprompt|cluster/|docker|ray|kubectl|export)\b", line.strip()
        ):
            found.append((line.strip(), cloud))
    return found


def clickprompt_commands() -> list[list[str]]:
    lines = [line for page in PAGES for line, _ in commands(page)]
    parts = [shlex.split(line, comments=True) for line in lines]
    return [words[words.index("clickprompt") + 1 :] for words in parts if "clickprompt" in words]


@pytest.mark.parametrize("words", clickprompt_commands(), ids=" ".join)
def test_the_command_line_takes_it(words):
    name, *arguments = [word for word in words if word != "&"]
    command = typer.main.get_command(app).commands[name]
    context = command.make_context(name, arguments)
    if name == "submit":  # the rest is the job's
        job = typer.main.get_command(app).commands[context.params["job"]]
        context = job.make_context(context.params["job"], list(context.args))
    overrides = [
        setting
        for setting in context.params.get("overrides") or []
        if "BUCKET" not in setting and "FOLDER" not in setting
    ]
    given = context.params.get("plan") or context.params.get("config")
    load_config(None if given in (None, "run.yaml") else given, overrides)


def test_only_a_cloud_takes_other_tools():
    tools = {shlex.split(line)[0] for page in PAGES for line, cloud in commands(page) if not cloud}
    assert tools == {"clickprompt", "cluster/local-nodes.sh", "export"}


def test_plans_are_made(tmp_path, capsys):
    """Where the hub may be out of reach and the reader's run.yaml isn't there."""
    storage.write_json(str(tmp_path / "config.json"), SHAPES["roberta_base"].plm_config(1))
    run = tmp_path / "run.yaml"
    run.write_text(f"plm: {{path: {tmp_path}}}\n")
    plans = [words for words in clickprompt_commands() if "--plan" in words]
    assert len(plans) >= 3
    for words in plans:
        with pytest.raises(SystemExit) as ended:
            main(
                [str(run) if word == "run.yaml" else word for word in words]
                + ["--set", f"plm.path={tmp_path}"]
            )
        assert ended.value.code == 0, capsys.readouterr().err
    assert (
        "50,000,000 training rows, 20 fields, 8,000,000 feature values (as given)" in capsys.readouterr().out
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_it_names_is_there(page):
    text = page.read_text()
    for path in re.findall(r"\b((?:cluster|clickprompt|docs)/[\w./-]+\.\w+)", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (page.parent / link).exists(), link


def test_every_command_in_a_sentence_is_run_by_something():
    assert set(TEXT) == documented.RUN_BY.keys()


@pytest.mark.parametrize("command", TEXT)
def test_what_runs_it_is_there(command):
    runs = documented.RUN_BY[command]
    if runs in documented.scripts():
        return  # tests/integration/test_readme.py does
    if runs in ("cloud", "gpu"):
        assert command.split()[0] in ("ray", "kubectl", "pytest")
    elif runs.startswith("README.md: "):
        assert any(
            runs.removeprefix("README.md: ") in block for block in documented.blocks(documented.README)
        )
    else:
        text = (ROOT / runs).read_text()
        name = command.split()[2] if "benchmark" in command else ""
        assert not name or f'"benchmark", "{name}"' in text or f"measure_{name.replace('-', '_')}" in text

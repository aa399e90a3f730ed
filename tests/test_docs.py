"""README.md, CONTRIBUTING.md and docs/: commands that the command line takes, plans that are made, links,
anchors and files that exist, the README's size and its map of the tree. What is marked *cloud* isn't run.
"""

import ast
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import typer
import yaml

from clickprompt.benchmark.faults.settings import FaultsConfig
from clickprompt.benchmark.pamlm_step import SHAPES
from clickprompt.cli.main import app, main
from clickprompt.config import Config, load_settings
from clickprompt.data.sources.schema import load_schema
from clickprompt.io import storage
from tests.support import documented
from tests.support.documented import DOCS, GUIDE, PAGES, README, ROOT

TEXT = sorted({command for page in PAGES for command in documented.commands_in_text(page)})
LINES = [
    (line, block.cloud)
    for page in PAGES
    for block in documented.blocks(page)
    if block.is_shell
    for line in block.lines
]
PLACEHOLDER = re.compile(r"BUCKET|FOLDER|\$|s3://bucket")


def clickprompt_commands() -> list[list[str]]:
    """The words behind `clickprompt` in every line of every block."""
    parts = [shlex.split(line) for line, _ in LINES]
    words = [words[words.index("clickprompt") + 1 :] for words in parts if "clickprompt" in words]
    return [list(line) for line in dict.fromkeys(tuple(line) for line in words)]


@pytest.mark.parametrize("words", clickprompt_commands(), ids=" ".join)
def test_the_command_line_takes_it(words):
    name, *arguments = words[: words.index(">")] if ">" in words else words
    if name == "job":
        assert arguments[0] in typer.main.get_command(app).commands["job"].commands
        return
    command = typer.main.get_command(app).commands[name]
    context = command.make_context(name, arguments)
    if name == "submit":  # the rest is the job's
        job = typer.main.get_command(app).commands[context.params["command"]]
        context = job.make_context(context.params["command"], list(context.args))
    overrides = [
        setting for setting in context.params.get("overrides") or [] if not PLACEHOLDER.search(setting)
    ]
    given = context.params.get("config")
    schema = FaultsConfig if words[:2] == ["benchmark", "faults"] else Config
    load_settings(schema, None if given and given.endswith(".yaml") else given, overrides)


def test_only_a_cloud_takes_other_tools():
    tools = {shlex.split(re.sub(r"^(\w+=\S+ )+", "", line))[0] for line, cloud in LINES if not cloud}
    assert not tools & {"docker", "kubectl", "ray"}


def test_plans_are_made(tmp_path, capsys):
    """Where the hub may be out of reach and the reader's run.yaml isn't there."""
    storage.write_json(str(tmp_path / "config.json"), SHAPES["roberta_base"].plm_config(1))
    run = tmp_path / "run.yaml"
    run.write_text(f"plm: {{path: {tmp_path}}}\n")
    plans = [words for words in clickprompt_commands() if words[0] == "plan"]
    assert len(plans) >= 3
    printed = ""
    for words in plans:
        with pytest.raises(SystemExit) as ended:
            main(
                [str(run) if word == "run.yaml" else word for word in words]
                + ["--set", f"plm.path={tmp_path}"]
            )
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        printed += out
    assert "50,000,000 training rows, 20 fields, 8,000,000 feature values (as given)" in printed


def test_settings_are_settings():
    """The README's run.yaml, and the guide's parts of one."""
    found = []
    for page in [README, *GUIDE]:
        for block in documented.blocks(page):
            if re.match(r"(data: \{|runtime:|tune:)", block.text):
                Config.model_validate(yaml.safe_load(block.text))
                found.append(page.name)
    assert found == ["README.md", "training.md", "sweeps.md"]


def test_schemas_are_schemas(tmp_path):
    texts = [b.text for b in documented.blocks(GUIDE[0]) if b.text.startswith("data: [")]
    assert len(texts) == 2
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        assert len(load_schema(str(path)).fields) == 4


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    found: list[str] = []
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return set(found)


def links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src(?:set)?="([^"]+)"', text)
    return [target for target in targets if not re.match(r"https?://|mailto:", target)]


def broken(page: Path, link: str) -> str | None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return f"{page.name}: {link}: there is no such file"
    if DOCS in page.parents and DOCS not in target.parents:
        return f"{page.name}: {link}: it is outside of docs/, where the site can't follow"
    if anchor and anchor not in slugs(target):
        return f"{page.name}: {link}: there is no such heading"
    return None


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_and_anchors(page):
    assert [found for link in links(page) if (found := broken(page, link))] == []


def test_a_broken_link_is_found():
    page = DOCS / "guide" / "data.md"
    assert broken(page, "training.md#day-after-day") is None
    assert "no such file" in (broken(page, "nowhere.md") or "")
    assert "no such heading" in (broken(page, "training.md#nowhere") or "")
    assert "outside" in (broken(page, "../../README.md") or "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_it_names_are_there(page):
    named = re.findall(
        r"(?<![\w/])((?:cluster|clickprompt|docs|scripts|tests|jobs)/[a-z0-9_./-]+\.(?:py|sh|md|yaml|yml|json))\b",
        page.read_text(),
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_readme_is_short():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 9 * 1024
    assert [line for line in text.splitlines() if len(line) > 110] == []


def test_the_readme_s_map_is_the_tree():
    [block] = [block for block in documented.blocks(README) if block.text.startswith("clickprompt/")]
    lines = block.text.splitlines()
    assert len(lines) <= 25
    names = [line.split()[0] for line in lines]
    own = {name for name, line in zip(names, lines, strict=True) if line.startswith(" ")}
    folders = {f"{path.parent.name}/" for path in (ROOT / "clickprompt").glob("*/__init__.py")}
    assert {name for name in own if name.endswith("/")} == folders
    for name in names:
        assert (ROOT / ("clickprompt" if name in own else "") / name).exists(), name


def test_every_command_in_a_sentence_is_run_by_something():
    assert set(TEXT) == documented.RUN_BY.keys()


@pytest.mark.parametrize("command", TEXT)
def test_what_runs_it_is_there(command):
    runs = documented.RUN_BY[command]
    if runs in documented.scripts():
        return  # tests/integration/test_documentation.py does
    if runs in ("cloud", "gpu"):
        assert command.split()[0] in ("ray", "kubectl", "pytest")
    elif runs.startswith("block: "):
        words = runs.removeprefix("block: ")
        assert any(
            words in block.text
            for page in documented.IN_ORDER
            for block in documented.blocks(page)
            if block.runs_here
        )
    elif command.startswith("make ") and runs == ".ci/run":
        steps = re.findall(r"^step .*\bmake (.*)$", (ROOT / runs).read_text(), re.MULTILINE)
        assert any(command.split()[1] in step.split() for step in steps)
    else:
        text = (ROOT / runs).read_text()
        benchmark = re.match(r"clickprompt benchmark ([\w-]+)", command)
        name = benchmark[1] if benchmark else ""
        assert not name or f'"benchmark", "{name}"' in text or f"measure_{name.replace('-', '_')}" in text


WAYS = re.findall(r"`(clickprompt/[\w/]+\.py)`:\s+`(\w+)`", (ROOT / "docs" / "architecture.md").read_text())


def test_the_ways_through_the_code_are_there():
    """Each file of docs/architecture.md's "Four ways through the code" defines what it is named for."""
    assert len(WAYS) >= 18
    for path, name in WAYS:
        names = {getattr(node, "name", None) for node in ast.walk(ast.parse((ROOT / path).read_text()))}
        assigned = {
            target.id
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        assert name in names | assigned, f"{path} has no {name}"

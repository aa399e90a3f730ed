"""--help: every command is in a group and has examples that it takes; and it imports nothing heavy."""

import re
import shlex
import subprocess
import sys

import pytest
import typer

import clickprompt
from clickprompt.cli.examples import EXAMPLES, GROUPS
from clickprompt.cli.main import app, main
from clickprompt.config import load_config, preset_names

WHOLE = typer.main.get_command(app)
JOBS = [f"job {name}" for name in WHOLE.commands["job"].commands]  # pyright: ignore[reportAttributeAccessIssue]
COMMANDS = [*WHOLE.commands, *JOBS]  # pyright: ignore[reportAttributeAccessIssue]
HEAVY = (
    "torch",
    "ray",
    "transformers",
    "deepspeed",
    "numpy",
    "pyarrow",
    "yaml",
    "rich",
    "clickprompt.config",
)


def printed(capsys, *arguments: str, status: int = 0) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    output = capsys.readouterr()
    assert (stopped.value.code, output.err) == (status, "")
    return output.out


def test_every_command_is_in_a_group_and_has_an_example():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(WHOLE.commands)  # pyright: ignore[reportAttributeAccessIssue]
    assert sorted(EXAMPLES) == sorted(COMMANDS)


@pytest.mark.parametrize("example", [each for examples in EXAMPLES.values() for each in examples])
def test_an_example_is_taken(example):
    program, name, *arguments = shlex.split(example)
    assert program == "clickprompt"
    command = WHOLE.commands[name]  # pyright: ignore[reportAttributeAccessIssue]
    if name == "job":
        name, *arguments = arguments
        command = command.commands[name]
    context = command.make_context(name, arguments)
    if name == "submit":
        job = context.params["command"]
        context = WHOLE.commands[job].make_context(job, list(context.args))  # pyright: ignore[reportAttributeAccessIssue]
    given = context.params.get("config")
    load_config(None if given and given.endswith(".yaml") else given, context.params.get("overrides") or [])


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_s_help_ends_with_its_examples_and_fits_80_columns(capsys, command, option):
    text = printed(capsys, *command.split(), option)
    tail = text[text.index("\nExample") :]
    said = re.sub(r" \\\n +", " ", tail)
    for example in EXAMPLES[command]:
        assert f"  $ {example}\n" in f"{said}\n"
    named = {name for name in preset_names() if name in text and name not in " ".join(EXAMPLES[command])}
    assert named <= {"movielens-1m", "bookcrossing", "own-log"}  # two are sources, too; one is a default
    assert max(map(len, text.splitlines())) <= 80


def test_the_whole_has_groups_with_a_sentence_and_an_example_each(capsys):
    text = printed(capsys, "--help")
    assert text == printed(capsys, "-h") == printed(capsys, status=2)
    assert [line.removesuffix(":") for line in text.splitlines() if re.match(r"\w.*:$", line)] == [
        "Options",
        *GROUPS,
    ]
    for name, (first, *_) in EXAMPLES.items():
        if " " not in name:
            shown = rf"^  {name} +[A-Z].*(\n {{13}}\S.*)*\.\n {{13}}\$ {re.escape(first)}$"
            assert re.search(shown, text, re.MULTILINE), name
    assert max(map(len, text.splitlines())) <= 80


def test_version(capsys):
    assert printed(capsys, "--version") == f"clickprompt {clickprompt.__version__}\n"


@pytest.mark.parametrize("arguments", ["--help", *(f"{name} -h" for name in COMMANDS), "--version"])
@pytest.mark.sampled(6)
def test_help_imports_nothing_heavy(arguments):
    program = (
        "import sys\nfrom clickprompt.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: print('imported:', *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "imported:"


def test_a_missing_option_names_the_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["job", "stop", "a"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: Missing option '--address'; see clickprompt job stop -h\n"

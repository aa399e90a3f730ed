"""What every command prints: with --json one object, an error too; for a person, the command that is next."""

import json
import shlex

import pytest
import typer

from clickprompt.cli import following, results
from clickprompt.cli.main import app, main
from clickprompt.cli.options import finish
from clickprompt.errors import RunError


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["pretrain", "--run", "{tmp}/run", "--set", "promt.x=1"], 2, "unknown config key promt"),
        (["pretrain"], 2, "Missing option '--run'"),
        (["compare", "a", "--against", "b", "--split", "typo"], 2, "split 'typo' is unknown"),
        (["prepare", "{tmp}/none.yaml", "--out", "{tmp}/out"], 2, "none.yaml"),
        (["config", "nosuch"], 2, "unknown config key nosuch"),
        (["nosuch"], 2, "No such command"),
    ],
)
def test_an_error_is_an_object_too(capsys, tmp_path, arguments, status, said):
    given = [part.format(tmp=tmp_path) for part in arguments]
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit) as stopped:
            main([*given, *options])
        output = capsys.readouterr()
        assert stopped.value.code == status
        [line] = output.err.splitlines()
        assert line.startswith("error: ")
        assert said in line
        expected = json.dumps({"error": line.removeprefix("error: ")}) + "\n" if options else ""
        assert output.out == expected


@pytest.mark.parametrize(("error", "status"), [(RunError("it failed"), 1), (KeyError("a bug"), None)])
def test_so_is_a_failed_run_and_a_bug(capsys, monkeypatch, error, status):
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(results, "load_run_config", failing)
    with pytest.raises(SystemExit if status else KeyError) as stopped:
        main(["evaluate", "--run", "r", "--json"])
    assert getattr(stopped.value, "code", None) == status
    assert json.loads(capsys.readouterr().out) == {
        "error": "it failed" if status else "KeyError: 'a bug'",
    }


def test_the_next_command_is_for_a_person_only(capsys):
    finish(False, {"a": 1}, "done", then="clickprompt report r")
    output = capsys.readouterr()
    assert (output.out, output.err) == ("done\n", "next: clickprompt report r\n")
    finish(True, {"a": 1}, "done", then="clickprompt report r")
    output = capsys.readouterr()
    assert (json.loads(output.out), output.err) == ({"a": 1}, "")


def test_every_next_command_is_one():
    settings = ["pretrain.epochs=1", "plm.path=a b", "finetune.init=x", "finetune.epochs=2"]
    pretrained = following.after_pretraining("runs/a/", "demo", settings)
    assert pretrained == (
        "clickprompt finetune --config demo --set 'plm.path=a b' --set finetune.epochs=2 "
        "--set finetune.init=runs/a/ --run runs/a-finetuned"
    )
    alone = following.after_pretraining("runs/a", None, ["finetune.with_plm=true"], with_plm=False)
    assert alone == (
        "clickprompt finetune --set finetune.with_plm=false --set finetune.init=runs/a --run runs/a-finetuned"
    )
    lines = [
        pretrained,
        alone,
        following.after_preparing("s3://b/data"),
        following.after_tokenizing("runs/data", "a b"),
        following.after_finetuning("runs/it's"),
        following.after_evaluating("runs/a", predicts=True),
        following.after_evaluating("runs/a", predicts=False),
    ]
    whole = typer.main.get_command(app)
    taken = 0
    for line in lines:
        for part in line.split(", or "):
            name, *arguments = shlex.split(part[part.index("clickprompt ") :])[1:]
            whole.commands[name].make_context(name, arguments)  # pyright: ignore[reportAttributeAccessIssue]
            taken += 1
    assert taken == 9

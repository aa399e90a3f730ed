"""Completion, asked for as the shells do: commands, options, presets, keys, and words that a key takes."""

import os
import subprocess
import sys

import pytest

PROGRAM = "import sys; sys.argv[0] = 'clickprompt'; from clickprompt.cli.main import main; main()"


def asked(shell: str, line: str, **variables: str) -> list[str]:
    """The lines that `shell` gets when the cursor is behind `line`."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "_CLICKPROMPT_COMPLETE": f"complete_{shell}", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def bash(line: str) -> list[str]:
    return asked("bash", line, COMP_WORDS=line, COMP_CWORD=str(len(line.split(" ")) - 1))


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("clickprompt pr", ["prepare", "pretrain", "predict", "presets"]),
        ("clickprompt job st", ["status", "stop"]),
        ("clickprompt pretrain --c", ["--config"]),
        ("clickprompt pretrain --config dem", ["demo", "demo-full"]),
        ("clickprompt plan paper", ["paper-grid", "paper-grid-small"]),
        ("clickprompt pretrain --set masking.mask_", ["masking.mask_rate=", "masking.mask_scope="]),
        ("clickprompt pretrain --set runtime.eng", ["runtime.engine=torch", "runtime.engine=deepspeed"]),
        ("clickprompt pretrain --set prompt.num_pr", ["prompt.num_prompts=", "prompt.num_prompts=5"]),
        ("clickprompt pretrain --set pretrain.with_", ["pretrain.with_plm=true", "pretrain.with_plm=false"]),
        ("clickprompt evaluate --split t", ["train", "test"]),
        ("clickprompt config pretrain.lr.p", ["pretrain.lr.projector", "pretrain.lr.plm"]),
    ],
)
@pytest.mark.sampled(4)
def test_bash(line, offered):
    assert bash(line) == offered


def test_a_yaml_file_is_a_configuration(tmp_path, monkeypatch):
    (tmp_path / "demon.yaml").write_text("")
    (tmp_path / "demo.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    assert bash("clickprompt pretrain --config dem") == ["demo", "demo-full", "demon.yaml"]


def test_it_installs_itself(tmp_path):
    """Into the home folder, for the shell that the command was typed in."""
    program = f'{sys.executable} -c "{PROGRAM}" --install-completion'
    subprocess.run(
        ["bash", "-c", f"{program}; true"], env={**os.environ, "HOME": str(tmp_path)}, check=True, text=True
    )
    assert ".bash_completions/clickprompt.sh" in (tmp_path / ".bashrc").read_text()
    assert "_CLICKPROMPT_COMPLETE" in (tmp_path / ".bash_completions" / "clickprompt.sh").read_text()


def test_zsh_and_fish():
    line = "clickprompt pretrain --config paper"
    zsh = asked("zsh", line, _TYPER_COMPLETE_ARGS=line)
    assert '"paper-grid"' in zsh[0]
    assert '"paper-grid-small"' in zsh[1]
    fish = asked("fish", line, _TYPER_COMPLETE_ARGS=line, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert fish == ["paper-grid", "paper-grid-small"]

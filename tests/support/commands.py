"""Commands run in this process."""

import json

import pytest
import ray

from clickprompt.cli.main import main


def printed(capsys, *arguments: str) -> str:
    """What a command that succeeds prints on stdout."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    output = capsys.readouterr()
    assert stopped.value.code == 0, output.err
    return output.out


def fails(capsys, *arguments: str) -> str:
    """The one line that a command with bad input prints."""
    capsys.readouterr()
    started = ray.is_initialized()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    output = capsys.readouterr()
    assert stopped.value.code == 2, output
    lines = output.err.strip().splitlines()
    assert len(lines) == 1, output.err
    assert lines[0].startswith("error: ")
    if "--json" in arguments:  # a program that reads stdout sees it too
        assert json.loads(output.out) == {"error": lines[0].removeprefix("error: ")}
    else:
        assert output.out == ""
    assert ray.is_initialized() == started
    return lines[0]

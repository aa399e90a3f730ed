"""The command; nothing is asserted of the times themselves."""

import json

import pytest

from clickprompt.benchmark import auc
from clickprompt.cli.main import main


@pytest.mark.slow
def test_command_prints_one_object_with_its_figures(monkeypatch, capfd):
    monkeypatch.setattr(auc, "_ROWS", 80_000)
    monkeypatch.setattr(auc, "_REPEATS", 2)
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "auc", "--json"])
    output = capfd.readouterr()
    assert stopped.value.code == 0, output.err
    figures = json.loads(output.out)["figures"]
    assert figures.keys() == {"speedup", "cpu_seconds_histogram", "cpu_seconds_sklearn", "error", "bound"}
    assert (
        figures["error"]["median"] <= figures["bound"]["median"] < 1e-4
    )  # few rows, few of them in the sample


def test_without_scikit_learn_the_command_says_how_to_get_it(monkeypatch, capfd):
    monkeypatch.setattr(auc.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "auc"])
    assert stopped.value.code == 2
    assert "needs scikit-learn; pip install" in capfd.readouterr().err

"""scripts/compare_losses.py: a curve that differs in the last bit is told from one that doesn't."""

import importlib.util
import math
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "scripts" / "compare_losses.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_losses", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def curve(script):
    return [
        {**dict.fromkeys(script.COMPARED, 0.5), "step": step, "seconds": float(step)} for step in range(1, 4)
    ]


def test_equal_curves(script):
    other = curve(script)
    other[1]["seconds"] = 7.0
    assert script.differences(curve(script), other) == ""


@pytest.mark.parametrize("key", ["loss", "gradient_norm", "targets"])
def test_the_last_bit(script, key):
    other = curve(script)
    other[1][key] = math.nextafter(0.5, 1)
    assert script.differences(curve(script), other).startswith(f"step 2: {key} 0.5, 0.5000000000000001")


def test_a_step_less(script):
    assert script.differences(curve(script), curve(script)[:2]) == "3 and 2 steps"


@pytest.mark.ray
@pytest.mark.slow
def test_a_tree_beside_itself(script, tmp_path, monkeypatch, capsys):
    """One of the six pairs: both curves and the continued run are the same."""
    monkeypatch.setattr(script, "OBJECTIVES", {"without_plm": script.OBJECTIVES["without_plm"]})
    monkeypatch.setattr(script, "ENGINES", {"torch": script.ENGINES["torch"]})
    assert script.compare(script.ROOT, script.ROOT, str(tmp_path)) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["identical", "identical"]

"""docs/notebooks/quickstart.ipynb: its cells run in their order, in an empty folder and without network."""

import json
import math
from pathlib import Path

import pytest

from tests.support.notebook import run_cells

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "quickstart.ipynb"


@pytest.mark.ray
@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    figures = run_cells(NOTEBOOK)["figures"]
    for name in ("without-plm", "with-plm"):
        assert 0 < figures[name]["auc"] < 1
        assert math.isfinite(figures[name]["log_loss"])
        assert (tmp_path / "quickstart" / name / "export" / "export.json").exists()
    result = json.loads((tmp_path / "quickstart" / "pretrain" / "result.json").read_text())
    assert result["step"] == result["planned_steps"] == 64
    report = (tmp_path / "quickstart" / "report.html").read_text()
    assert all(f"{figures[name]['auc']:.4f}" in report for name in figures)


def test_it_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")]

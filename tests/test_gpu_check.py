"""scripts/gpu_check on a CPU: every part to its end, and its outcome in the file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clickprompt.benchmark.gpu_step import VARIANTS
from tests.support.tiny import write_both

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check"


@pytest.mark.ray
@pytest.mark.slow
def test_every_part_is_in_the_file(tmp_path):
    _, tokenizer = write_both(str(tmp_path))
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--tokenizer", tokenizer, "--out", str(out), "--seconds", "3600"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert " skipped" in found["tests"] or " passed" in found["tests"]
    assert found["training"]["pretrain"]["step"] == 40
    assert 0 < found["training"]["finetune"]["best_auc"] <= 1
    assert len(found["steps"]["notes"]) == 1 + 2 * len(VARIANTS)
    assert str(out) in done.stderr

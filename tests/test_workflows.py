""".github/workflows: YAML with steps that run targets of the Makefile, and actions pinned by major
version.
"""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps(workflow: Path) -> list[dict]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def test_there_are_three():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "docs.yml", "nightly.yml"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow(workflow):
    content = yaml.safe_load(workflow.read_text())
    assert content["permissions"] == {"contents": "read"}
    assert content[True]  # `on`, which YAML 1.1 reads as a truth value
    for job in content["jobs"].values():
        assert job["timeout-minutes"] <= 360  # the hosting site's limit
    for step in steps(workflow):
        assert len({"uses", "run"} & step.keys()) == 1
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
        else:
            assert step["run"].removeprefix("make ") in TARGETS


def test_they_run_every_check():
    run = {step["run"] for workflow in WORKFLOWS for step in steps(workflow) if "run" in step}
    targets = ("env", "check", "test", "test-slow", "fuzz", "coverage", "demo", "site", "audit")
    assert run == {f"make {target}" for target in targets}

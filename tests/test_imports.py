"""The import rules of CONTRIBUTING.md, checked on the source text of every file."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A part may import parts further up, and itself; never its neighbours in a row or what comes after.
ORDER = [
    {"errors"},
    {"io"},
    {"config"},
    {"data", "models", "tuning"},
    {"evaluation", "objectives"},
    {"export", "tables"},
    {"scoring"},
    {"training"},
    {"report"},
    {"runtime"},
    {"benchmark"},
    {"cli"},
    {"jobs", "__main__"},
]
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}

# Third-party module → the only files that may import it.
HOMES = {
    "ray": ["clickprompt/runtime/*.py", "clickprompt/benchmark/*.py"],
    "deepspeed": ["clickprompt/training/deepspeed_engine.py"],
    "transformers": ["clickprompt/models/plm*.py"],
    "peft": ["clickprompt/models/plm_lora.py"],
    "bitsandbytes": ["clickprompt/training/eight_bit.py"],
}
COMPAT = "clickprompt/runtime/compat.py"
TOKENIZERS = {
    "AutoTokenizer": "clickprompt/data/text/template.py",
    "PreTrainedTokenizerBase": "*",
}  # not models; the latter is but a type
LIGHT = ["clickprompt/config/*.py", "clickprompt/errors.py", "clickprompt/io/*.py", "clickprompt/cli/*.py"]
HEAVY = {"numpy", "torch", "transformers"}


def imports_of(source: str) -> Iterator[tuple[str, str | None]]:
    """(module, imported name or None), wherever in the file they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


def part_of(path: str) -> str:
    first, *rest = path.removesuffix(".py").split("/")
    return rest[0] if first == "clickprompt" else first


def violations(path: str, source: str) -> list[str]:
    return [
        f"{path} imports {module}{f'.{name}' if name else ''}: {rule}"
        for module, name in imports_of(source)
        if (rule := broken(path, module, name))
    ]


def broken(path: str, module: str, name: str | None) -> str | None:
    """The rule that the import breaks, if any."""
    if module.startswith("."):
        return "imports are absolute"
    package, *below = module.split(".")
    if package in HEAVY and any(fnmatch(path, light) for light in LIGHT):
        return f"{package} is too heavy for {path}"
    if package in HOMES and not any(fnmatch(path, home) for home in HOMES[package]):
        if package == "transformers" and fnmatch(path, TOKENIZERS.get(name or "", "")):
            return None
        return f"only {' and '.join(HOMES[package])} may import {package}"
    private = any(part.startswith("_") for part in [*below, name or ""])
    if package == "ray" and private and path != COMPAT:
        return f"private names of Ray stand in {COMPAT} only"
    if package == "jobs":
        return "jobs are entry points"
    if package == "clickprompt":
        target = [*below, name] if name else below
        if target and target[0] in RANK:
            return broken_order(part_of(path), target)
    return None


def broken_order(part: str, target: list[str]) -> str | None:
    if part == "evaluation" and target[0] == "models":
        return "evaluation reads files of figures, and no model"
    if part == target[0] or RANK[target[0]] < RANK[part]:
        return None
    if part == "models" and target[:2] in (["data", "batch"], ["data", "places"]):
        return None
    return f"imports point one way, and {part} does not come after {target[0]}"


def python_files() -> list[str]:
    return sorted(
        str(file.relative_to(ROOT))
        for folder in ("clickprompt", "jobs")
        for file in (ROOT / folder).rglob("*.py")
    )


@pytest.mark.parametrize("path", python_files())
def test_file_keeps_the_rules(path):
    if path != "clickprompt/__init__.py":
        assert part_of(path) in RANK, (
            f"{part_of(path)} is new: give it its place in ORDER, and in CONTRIBUTING.md"
        )
    assert violations(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.name)
def test_no_job_takes_the_place_of_a_module(path):
    """A job's folder comes first on the import path of its processes and of Ray's workers."""
    assert importlib.util.find_spec(path.stem) is None


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("clickprompt/io/storage.py", "from clickprompt.config import Config"),
        ("clickprompt/io/storage.py", "import clickprompt.config"),
        ("clickprompt/errors.py", "from clickprompt.io import storage"),
        ("clickprompt/data/text/template.py", "from clickprompt.models.plm import load_plm"),
        ("clickprompt/models/ctr.py", "from clickprompt.data.prepared.dataset import Dataset"),
        ("clickprompt/models/ctr.py", "from clickprompt.data.prepared import dataset"),
        ("clickprompt/models/ctr.py", "from .layers import MLP"),
        ("clickprompt/tuning/points.py", "from clickprompt.data.batch import Batch"),
        ("clickprompt/evaluation/metrics.py", "from clickprompt.models.ctr import CTRModel"),
        ("clickprompt/objectives.py", "from clickprompt.training.loop import run"),
        ("clickprompt/training/loop.py", "def f():\n    from clickprompt.runtime.train import train"),
        ("clickprompt/training/loop.py", "import ray"),
        ("clickprompt/training/loop.py", "from ray.train import report"),
        ("clickprompt/cli/main.py", "import ray.data as rd"),
        ("jobs/pretrain.py", "import ray"),
        ("clickprompt/runtime/train/train.py", "from clickprompt.cli.main import main"),
        ("clickprompt/runtime/train/worker.py", "from clickprompt.benchmark.faults import strikes"),
        ("clickprompt/runtime/train/train.py", "import jobs.pretrain"),
        ("clickprompt/runtime/train/train.py", "from ray._private import ray_constants"),
        ("clickprompt/benchmark/turns.py", "from ray.data._internal.plan import ExecutionPlan"),
        ("clickprompt/runtime/train/train.py", "try:\n    import deepspeed\nexcept ImportError: pass"),
        ("clickprompt/training/engine.py", "from deepspeed.ops import adam"),
        ("clickprompt/models/projector.py", "from transformers import AutoModel"),
        ("clickprompt/data/text/template.py", "from transformers import AutoTokenizer, AutoModel"),
        ("clickprompt/data/text/template.py", "import transformers"),
        ("clickprompt/data/collate.py", "from transformers import AutoTokenizer"),
        ("clickprompt/io/storage.py", "from transformers import PreTrainedTokenizerBase"),
        ("clickprompt/evaluation/metrics.py", "import clickprompt.training.loop"),
        ("clickprompt/config/schema.py", "import torch.nn as nn"),
        ("clickprompt/config/schema.py", "from numpy import ndarray"),
        ("clickprompt/cli/format.py", "import numpy"),
        ("clickprompt/io/storage.py", "import ray"),
    ],
)
def test_a_broken_rule_is_found(path, source):
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("clickprompt/models/ctr.py", "from clickprompt.data.batch import Batch"),
        ("clickprompt/models/ctr.py", "from clickprompt.models.layers import MLP"),
        ("clickprompt/models/plm_families.py", "from transformers import AutoModel"),
        ("clickprompt/data/text/template.py", "from transformers import AutoTokenizer\nimport tokenizers"),
        ("clickprompt/runtime/train/preflight.py", "from transformers import PreTrainedTokenizerBase"),
        ("clickprompt/training/deepspeed_engine.py", "import deepspeed"),
        ("clickprompt/runtime/train/train.py", "import ray\nfrom clickprompt.training import loop"),
        ("clickprompt/runtime/train/train.py", "from clickprompt.evaluation.metrics import auc"),
        ("clickprompt/benchmark/turns.py", "import ray"),
        ("jobs/pretrain.py", "from clickprompt.runtime.train.train import train"),
        (
            "clickprompt/cli/main.py",
            "from clickprompt import __version__\nfrom clickprompt.io import storage",
        ),
        ("clickprompt/config/schema.py", "import yaml, raylib"),
    ],
)
def test_an_allowed_import_is_left_alone(path, source):
    assert violations(path, source) == []


def test_the_configuration_loads_neither_torch_nor_ray():
    program = (
        "import sys, clickprompt.config; print([m for m in ('torch', 'ray', 'deepspeed', "
        "'transformers') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert output.strip() == "[]"


def imported_modules(path: str, source: str, modules: set[str]) -> set[str]:
    """The package's own modules that a file imports anywhere in it."""
    found = set()
    for module, name in imports_of(source):
        candidates = [f"{module}.{name}", module] if name else [module]
        found |= set(next(([each] for each in candidates if each in modules), []))
    return found - {module_of(path)}


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, found by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(imports.get(module, ())):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(imports):
        if module not in index:
            visit(module)
    return found


def test_no_files_import_each_other_in_a_circle():
    modules = {module_of(path) for path in python_files()}
    imports = {
        module_of(path): imported_modules(path, (ROOT / path).read_text(), modules) for path in python_files()
    }
    assert circles(imports) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def imported_tests(source: str) -> list[str]:
    """Imports of the tests' own modules but tests.support, where a helper goes that two files share."""
    return [
        f"{module}.{name}" if name else module
        for module, name in imports_of(source)
        if module.startswith(".")
        or (module.split(".")[0] == "tests" and [*module.split("."), name or ""][1] != "support")
    ]


@pytest.mark.parametrize(
    "path", [str(file.relative_to(ROOT)) for file in sorted((ROOT / "tests").rglob("*.py"))]
)
def test_no_test_imports_another_test_or_a_conftest(path):
    assert imported_tests((ROOT / path).read_text()) == []


def test_an_import_of_another_test_is_found():
    for source in (
        "from tests.data.test_collate import rows",
        "from tests.models.conftest import PAD",
        "from tests import conftest",
        "import tests.data.test_collate",
        "def test():\n    from .test_other import helper",
    ):
        assert len(imported_tests(source)) == 1, source
    assert imported_tests("from tests.support import tiny\nfrom tests.support.tiny import write_both") == []

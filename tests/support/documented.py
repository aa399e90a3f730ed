"""The commands in README.md, CONTRIBUTING.md and docs/, in blocks and within sentences and tables, and what
runs them.

The README's blocks are run by tests/integration/test_readme.py; those of docs/ are in tests/test_docs.py;
RUN_BY has all others.
"""

import re
from pathlib import Path

import typer

from clickprompt.cli.main import app

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TOOLS = {"clickprompt", "make", "pytest", "ray", "kubectl", "docker", "pip", "bash", "apt-get"}

_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_BENCHMARK_TESTS = {
    "evaluate --set data.path=runs/goodreads --set runtime.evaluation_actors=2": "test_evaluate.py",
    "pamlm-step": "test_pamlm_step.py",
    "tokens": "test_tokens.py",
    "ctr-step": "test_ctr_step.py",
    "ctr-stream --set data.path=runs/goodreads": "test_ctr_stream.py",
    "overhead": "test_overhead.py",
    "scaling": "test_overhead.py",
    "memory": "test_memory.py",
    "faults": "test_faults.py",
    "shuffle": "test_shuffle.py",
    "auc": "test_auc.py",
    "ingest": "test_ingest.py",
}
_SUBMIT = "tests/integration/test_submit.py"
_CLI = ".venv/bin/clickprompt"
_EXTRAS = "cd {} && python -m pip install --dry-run -c constraints.txt -e '.[{}]'"

# Command → what runs it:
#   .ci/run or a test            that file
# README.md: WORDS             the README's block that has these words, run by
# tests/integration/test_readme.py cloud, gpu                   nothing here can anything else
# itself, after the blocks and in their folder: a shell script, by tests/integration/test_readme.py
RUN_BY = {
    **{f"clickprompt benchmark {name}": f"tests/benchmark/{test}" for name, test in _BENCHMARK_TESTS.items()},
    "clickprompt benchmark ingest --set data.path=runs/goodreads --set plm.path=data/gpt2-bpe --set "
    "pretrain.global_batch_size=256 "
    "--set ctr.embedding_dim=4": "tests/benchmark/test_ingest.py",
    "clickprompt compare RUN… --against RUN…": "for seed in 0 1; do "
    f"{_CLI} finetune --config movielens-1m-dnn --set finetune.with_plm=false --set data.path=runs/ml-1m "
    "--set seed=$seed "
    "--run runs/dnn-$seed; "
    f"{_CLI} evaluate --run runs/dnn-$seed; done; "
    f"{_CLI} compare runs/dnn-0 runs/dnn-1 --against runs/dcnv2-0 --against runs/dcnv2-1",
    "clickprompt doctor": f"{_CLI} doctor",
    "clickprompt doctor --plan": "tests/test_docs.py",
    "clickprompt doctor --plan CONFIG": "tests/test_docs.py",
    "clickprompt doctor --plan goodreads-roberta-large": "tests/test_docs.py",
    "clickprompt evaluate --against": "README.md: --against runs/recovery-none",
    "clickprompt evaluate --attention": f"{_CLI} evaluate --run runs/best --attention 8",
    "clickprompt evaluate --run PRETRAIN [--against RUN]": "README.md: --against runs/recovery-none",
    "clickprompt evaluate --run URI --against RUN": f"{_CLI} evaluate --run runs/dcnv2-0 --against "
    "runs/dcnv2-1",
    "clickprompt evaluate --run URI --attention ROWS": f"{_CLI} evaluate --run runs/best --attention 8",
    "clickprompt evaluate --run URI --split test": f"{_CLI} evaluate --run runs/finetune --split test",
    "clickprompt export --run RUN --to onnx --out FOLDER": "README.md: --to onnx --out",
    "clickprompt export --run URI --out URI": f"{_CLI} export --run runs/finetune --out runs/weights; "
    f"{_CLI} export --run runs/finetune --to torch-export --out runs/graph",
    "clickprompt fetch movielens-100k --to DIR": "README.md: fetch movielens-100k --to",
    "clickprompt finetune --config movielens-1m-dcnv2 --set finetune.epochs=1": f"{_CLI} finetune --config movielens-1m-dcnv2 "
    "--set finetune.epochs=1 --set data.path=runs/ml-1m --run runs/one-epoch",
    "clickprompt finetune --config movielens-1m-dcnv2 --set finetune.epochs=3": f"{_CLI} finetune --config movielens-1m-dcnv2 "
    "--set finetune.epochs=3 --set data.path=runs/ml-1m --run runs/three-epochs",
    "clickprompt finetune --run URI": "README.md: finetune --config",
    r"clickprompt job list\|status\|logs\|stop": _SUBMIT,
    "clickprompt pipeline --run URI": ".ci/run",  # make demo is this
    "clickprompt predict --run RUN --rows 's3://bucket/new/*.parquet' --to FOLDER": "tests/integration/test_predict.py",
    "clickprompt predict --run URI --rows FILES --to URI": f"{_CLI} predict --run runs/finetune --rows "
    "'new/*.parquet' --to runs/scores",
    "clickprompt prepare SOURCE --raw DIR --out URI": "README.md: prepare movielens-1m",
    "clickprompt prepare … --check": "README.md: --check",
    "clickprompt init FILES > log.yaml": "tests/data/sources/test_draft.py",
    "clickprompt pretrain --run URI": "README.md: pretrain --config",
    "clickprompt pretrain …": "README.md: pretrain --config",
    "clickprompt report RUN… [--out FILE.html]": "README.md: report runs/pretrain",
    "clickprompt serve --run URI": "tests/integration/test_serve.py",
    "clickprompt submit JOB --address http://HEAD:8265 …": _SUBMIT,
    "clickprompt submit …": _SUBMIT,
    "clickprompt synth goodreads --rows 1000000 --out runs/synthetic": f"{_CLI} synth goodreads --rows 1000000 --out runs/synthetic",
    "clickprompt synth goodreads --rows N --out URI": "README.md: synth goodreads",
    "clickprompt tokenize DATASET --plm PATH": "README.md: tokenize runs",
    "clickprompt tune --run URI": "README.md: tune --config",
    # by make test
    **{f"clickprompt fetch {name}": "Makefile" for name in ("movielens-100k", "bookcrossing", "minilm-l6", "gpt2-bpe")},
    ".venv/bin/pre-commit install": f"git init -q hooks; cd hooks; cp {ROOT}/.pre-commit-config.yaml .; python -m pre_commit install",
    "bash .ci/run": ".ci/run",
    "make check": ".ci/run",
    "make demo": ".ci/run",
    "make demo-full": f"{_CLI} pipeline --config demo-full --run runs/demo-full",
    "make docs": "tests/config/test_reference.py",
    "make env": ".ci/run",
    "make test": ".ci/run",
    "make test-slow": "Makefile",  # what runs test_readme.py
    "CLICKPROMPT_SCREENSHOTS=FOLDER pytest tests/report/test_browser.py": "tests/report/test_browser.py",
    "apt-get install chromium": ".ci/run",
    "pip freeze": "python -m pip freeze",
    "pip install -c constraints.txt .": "cluster/install.sh",  # run by tests/test_cluster_files.py
    "pip install -c constraints.txt …": "cluster/install.sh",
    **{f"pip install -c constraints.txt -e '.[{extra}]'": _EXTRAS.format(ROOT, extra) for extra in ("bench", "lake", "mlflow", "onnx")},
    "cluster/install.sh TARGET cpu|cuda": "tests/test_cluster_files.py",
    "pytest -m gpu": "gpu",
    "kubectl apply -f cluster/kuberay/podmonitor.yaml": "cloud",
    "ray up": "cloud",
    "ray get-auth-token --generate": "HOME=$PWD ray get-auth-token --generate",
    "ray job stop": "tests/integration/test_pipeline_job.py",
    "ray job submit": "tests/integration/test_pipeline_job.py",
    "ray status": _SUBMIT,
}  # fmt: skip


def blocks(page: Path) -> list[str]:
    """The indented blocks, without their indentation."""
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in _INDENTED.findall(page.read_text())]


def commands_in_text(page: Path) -> list[str]:
    """What is set as code, outside of blocks, and begins with a tool or a command of clickprompt, and has
    more words; of CONTRIBUTING.md the lines of blocks, too.

    A command by its bare name ("`clickprompt tune` says …") is not one: there is nothing in it to go wrong.
    """
    own = set(typer.main.get_command(app).commands)
    found = []
    if page.name == "CONTRIBUTING.md":
        lines = [line.partition("#")[0].strip() for block in blocks(page) for line in block.splitlines()]
        found = [line for line in lines if re.match(r"(make|bash|\.venv/bin/)", line)]
    for span in re.findall(r"`([^`]+)`", _INDENTED.sub("", page.read_text())):
        words = span.removeprefix(".venv/bin/").split()
        if words[0] in own and len(words) > 1:
            words.insert(0, "clickprompt")
        first = next((word for word in words if not re.match(r"[A-Z_]+=", word)), "")
        bare = len(words) == 1 or (len(words) == 2 and words[0] == "clickprompt" and words[1] != "doctor")
        if (first in TOOLS or first.startswith("cluster/")) and not bare:
            found.append(" ".join(words))
    return found


def scripts() -> list[str]:
    """Of RUN_BY, what is to be run as it stands."""
    by_others = r"(\.ci/run|tests/[\w/]+\.py|cluster/install\.sh|Makefile|README\.md: .+|cloud|gpu)"
    return list(dict.fromkeys(script for script in RUN_BY.values() if not re.fullmatch(by_others, script)))

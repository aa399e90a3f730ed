"""The commands in README.md, CONTRIBUTING.md and docs/, in blocks and within sentences and tables, and what
runs them.

tests/integration/test_documentation.py runs the blocks of README.md and docs/ in the order of IN_ORDER.
RUN_BY has all other commands: those in sentences and tables, and blocks that nothing here can run as they
stand. Blocks under a heading with *cloud* are only parsed (tests/test_docs.py).
"""

import re
from dataclasses import dataclass
from pathlib import Path

import typer

from clickprompt.cli.main import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
GUIDE = [
    DOCS / "guide" / f"{name}.md"
    for name in (
        "data",
        "models",
        "training",
        "evaluating",
        "sweeps",
        "reproducing",
        "serving",
        "cluster",
        "sizing",
        "security",
        "troubleshooting",
    )
]
IN_ORDER = [README, *GUIDE, *sorted(DOCS.glob("*.md")), *sorted((DOCS / "results").glob("*.md"))]
"""Pages with blocks that run, in this order: later ones use what earlier ones leave."""
PAGES = [*IN_ORDER, CONTRIBUTING]
TOOLS = {"clickprompt", "make", "pytest", "python", "ray", "kubectl", "docker", "pip", "bash", "apt-get"}

_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_SHELL = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:make|clickprompt|\.venv/bin/[\w-]+|\.|bash|cluster/\S+|curl|docker|export|for|kubectl|"
    r"pytest|python|ray) "
)
_BENCHMARK_TESTS = {
    "serve --set finetune.init=runs/demo/scratch --json": "test_serve.py",
    "evaluate --set data.path=runs/goodreads --set runtime.evaluation_actors=2": "test_evaluate.py",
    "pamlm-step": "test_pamlm_step.py",
    "pamlm-step --set plm.last_layer=targets": "test_pamlm_step.py",
    "gpu-step": "test_gpu_step.py",
    "tokens": "test_tokens.py",
    "tokens --set data.path=runs/titles --set plm.path=MINILM --set plm.history_items=5 --set "
    "plm.history_field=Title": "test_tokens.py",
    "lora-step": "test_lora_step.py",
    "ctr-step": "test_ctr_step.py",
    "ctr-stream --set data.path=runs/goodreads": "test_ctr_stream.py",
    "overhead": "test_overhead.py",
    "scaling": "test_overhead.py",
    "memory": "test_memory.py",
    "faults": "faults/test_campaign.py",
    "faults --set run=runs/faults-11 --set number=40 --set training.seed=11": "faults/test_campaign.py",
    "faults --set run=runs/soak --set soak_minutes=120": "faults/test_campaign.py",
    "shuffle": "test_shuffle.py",
    "auc": "test_auc.py",
    "ingest": "test_ingest.py",
}
_ENVIRONMENTS = (
    "DEVICE=cpu",
    "PYTHON=python3.12",
    "TORCH_INDEX=",
    "TORCH_INDEX=https://mirror.example/whl/cpu",
)
_DAILY = "python scripts/daily_effect.py --movielens DIR --out OUT"
_SUBMIT = "tests/integration/test_submit.py"
_CLI = ".venv/bin/clickprompt"
_EXTRAS = "cd {} && python -m pip install --dry-run -c constraints.txt -e '.[{}]'"

# Command → what runs it:
#   .ci/run, Makefile or a test  that file
#   block: WORDS                 the block that has these words, run by tests/integration/test_documentation.py
#   cloud, gpu                   nothing here can
#   anything else                itself, after the blocks and in their folder: a shell script, by
#                                tests/integration/test_documentation.py
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
    "clickprompt reproduce table-2 --run runs/tables": "tests/integration/test_reproduce.py",
    "clickprompt reproduce table-2 --dataset bookcrossing --budget cpu --plan --run runs/tables": "tests/integration/test_reproduce.py",
    "clickprompt reproduce all --dataset movielens-1m --raw ml-1m --budget gpu --run runs/tables": "tests/integration/test_reproduce.py",
    "clickprompt reproduce table-2 --dataset movielens-1m --raw ml-1m --budget cpu --tries 1 --run runs/tables --row FM --row DNN --row DeepFM --row xDeepFM --row IPNN --row DCN --row AutoInt --row FiGNN --row FGCNN --row DCNv2": "tests/integration/test_reproduce.py",
    "clickprompt config KEY": f"{_CLI} config pretrain.lr",
    "clickprompt doctor": f"{_CLI} doctor",
    "clickprompt plan CONFIG": "tests/test_docs.py",
    "clickprompt plan goodreads-roberta-large": "tests/test_docs.py",
    "clickprompt plan run.yaml --rows 50000000 --fields 20 --features 8000000 --tokens 180": "tests/test_docs.py",
    "clickprompt plan goodreads-roberta-large --rows 2000000000 --fields 40 --features 1000000000 --tokens 250 "
    "--set pretrain.epochs=1 --set pretrain.embedding_optimizer=sharded": "tests/test_docs.py",
    "clickprompt evaluate --against": f"{_CLI} evaluate --run runs/dcnv2-0 --against runs/dcnv2-1",
    "clickprompt recovery --run PRETRAIN [--against RUN]": "block: --against runs/recovery-none",
    "clickprompt evaluate --run URI --against RUN": f"{_CLI} evaluate --run runs/dcnv2-0 --against "
    "runs/dcnv2-1",
    "clickprompt attention --run URI --rows ROWS": f"{_CLI} attention --run runs/best --rows 8",
    "clickprompt evaluate --run runs/demo/with-plm --set runtime.scoring_precision=bf16": f"{_CLI} evaluate --run runs/minilm "
    "--set runtime.scoring_precision=bf16",
    "clickprompt evaluate --run URI --split test": f"{_CLI} evaluate --run runs/finetune --split test",
    "clickprompt explain --run RUN": f"{_CLI} explain --run runs/dcnv2-0 --repeats 2",
    "clickprompt export --run RUN --format onnx --out FOLDER": "block: --format onnx --out",
    "clickprompt export --run RUN --out FOLDER --push OWNER/NAME": "tests/export/test_hub.py",
    "clickprompt export --run RUN --format adapter --out FOLDER": "tests/runtime/train/test_lora.py",
    "clickprompt export --run URI --out URI": f"{_CLI} export --run runs/finetune --out runs/weights; "
    f"{_CLI} export --run runs/finetune --format torch-export --out runs/graph",
    "clickprompt fetch movielens-100k --out DIR": "block: fetch movielens-100k --out",
    "clickprompt finetune --config movielens-1m-dcnv2 --set finetune.epochs=1": f"{_CLI} finetune --config movielens-1m-dcnv2 "
    "--set finetune.epochs=1 --set data.path=runs/ml-1m --run runs/one-epoch",
    "clickprompt finetune --config movielens-1m-dcnv2 --set finetune.epochs=3": f"{_CLI} finetune --config movielens-1m-dcnv2 "
    "--set finetune.epochs=3 --set data.path=runs/ml-1m --run runs/three-epochs",
    "clickprompt job list|status|logs|stop": _SUBMIT,
    "clickprompt pipeline --run URI": ".ci/run",  # make demo is this
    "clickprompt pipeline log.yaml": "block: pipeline log.yaml",
    "clickprompt pipeline log.yaml --run URI": "block: pipeline log.yaml",
    "clickprompt predict --run RUN --rows 's3://bucket/new/*.parquet' --out FOLDER": "tests/integration/test_predict.py",
    "clickprompt predict --run URI --rows FILES --out URI": f"{_CLI} predict --run runs/finetune --rows "
    "'new/*.parquet' --out runs/scores",
    "clickprompt prepare SOURCE --raw DIR --out URI": "block: prepare movielens-1m",
    "clickprompt prepare … --check": "block: --check",
    'clickprompt prepare --multi "Film genre"': "tests/runtime/prepare/test_multi.py",
    "clickprompt prepare mind --raw MIND --out runs/mind --history 20": "tests/runtime/train/test_mind.py",
    "clickprompt prepare --history": "tests/runtime/prepare/test_histories.py",
    "clickprompt prepare --history 20": "tests/runtime/prepare/test_histories.py",
    "clickprompt prepare --history-with": "tests/runtime/prepare/test_histories.py",
    "clickprompt prepare runs/goodreads-log/schema.yaml --out runs/goodreads": "block: prepare runs/goodreads-log/schema.yaml",
    "clickprompt prepare ids/schema.yaml --out runs/ids": "tests/integration/test_prepare.py",
    "clickprompt prepare titles.yaml --out runs/titles": "tests/data/text/test_history_text.py",
    "clickprompt prepare --keep-negatives 0.1": "tests/runtime/prepare/test_negatives.py",
    "clickprompt export --raw": "tests/runtime/train/test_history.py",
    "clickprompt benchmark …": "tests/benchmark/test_measure.py",
    "clickprompt submit COMMAND --address http://HEAD:8265 …": _SUBMIT,
    "python -m clickprompt": _SUBMIT,
    "python -m tests.support.kept_version": "tests/integration/test_upgrade.py",  # reads what it writes
    "clickprompt pretrain …": "block: pretrain --config",
    "clickprompt report RUN… [--out FILE.html]": "block: report runs/pretrain",
    **{f"clickprompt serve --run {run}": "tests/integration/test_serve.py" for run in ("served", "now")},
    """curl -d '{"rows": [{"user": 7, "price": 2.5, "tags": ["new", "red"]}, {"user": 8}]}' """
    "http://127.0.0.1:8000/predict": "tests/integration/test_serve.py",
    "cluster/local-nodes.sh training:2 data:2": "tests/integration/test_local_nodes.py",
    "export RAY_AUTH_MODE=token": "tests/integration/test_local_nodes.py",
    "clickprompt submit pretrain --address http://127.0.0.1:8265 --config run.yaml --run /tmp/runs/pretrain": "tests/integration/test_local_nodes.py",
    "cluster/namespaces.sh training:1 training:1 data:3": "tests/integration/test_namespaces.py",
    "ip link set clickprompt-1 down": "tests/integration/test_namespaces.py",
    "clickprompt submit …": _SUBMIT,
    "clickprompt submit --env": _SUBMIT,
    "clickprompt synth goodreads --rows 1000000 --out runs/synthetic": f"{_CLI} synth goodreads --rows 1000000 --out runs/synthetic",
    "clickprompt tokenize DATASET --plm PATH": "block: tokenize runs",
    "clickprompt tune --run URI": "block: tune --config",
    # by make test
    **{f"clickprompt fetch {name}": "Makefile" for name in ("movielens-100k", "bookcrossing", "minilm-l6", "gpt2-bpe")},
    ".venv/bin/pre-commit install": f"git init -q hooks; cd hooks; cp {ROOT}/.pre-commit-config.yaml .; python -m pre_commit install",
    "bash .ci/run": ".ci/run",
    "make check": ".ci/run",
    "make audit": ".github/workflows/nightly.yml",
    "make coverage": ".github/workflows/nightly.yml",
    "make fuzz": ".github/workflows/nightly.yml",
    "make test-unit": "Makefile",  # a part of make test
    "make test-ray": "Makefile",  # likewise
    "make demo": ".ci/run",
    "make demo-full": f"{_CLI} pipeline --config demo-full --run runs/demo-full",
    "make docs": "tests/config/test_reference.py",
    "make env": ".ci/run",
    "make env-gpu": "tests/test_makefile.py",
    **{f"make env {setting}": "tests/test_makefile.py" for setting in _ENVIRONMENTS},
    "make nox": "noxfile.py",
    "make site": ".ci/run",
    "make test": ".ci/run",
    "make test-slow": "Makefile",  # what runs test_documentation.py
    "CLICKPROMPT_SCREENSHOTS=FOLDER pytest tests/report/test_browser.py": "tests/report/test_browser.py",
    "apt-get install chromium": ".ci/run",
    "pip freeze": "python -m pip freeze",
    "pip install -c constraints.txt .": "cluster/install.sh",  # run by tests/test_cluster_files.py
    "pip install -c constraints.txt …": "cluster/install.sh",
    **{f"pip install -c constraints.txt -e '.[{extra}]'": _EXTRAS.format(ROOT, extra) for extra in ("bench", "eightbit", "lake", "lora", "mlflow", "onnx", "tune")},
    "cluster/install.sh TARGET cpu|cuda": "tests/test_cluster_files.py",
    "pytest -m gpu": "gpu",
    "python scripts/compare_losses.py main": "tests/test_compare_losses.py",
    "python scripts/effect.py scripts/effect/STUDY.yaml --data DATASET --plm MINILM --out RUNS.jsonl --work WORK": "tests/test_effect.py",
    "python scripts/effect_table.py RUNS.jsonl --data DATASET --work WORK --page": "tests/test_effect.py",
    "python scripts/figures.py": "tests/test_figures.py",
    "python scripts/like_rate.py runs/ml-1m-liked": "tests/test_like_rate.py",
    "python scripts/padding.py runs/bookcrossing data/gpt2-bpe --rows 1024 --micro-batch 64": f"python {ROOT}/scripts/padding.py "
    "runs/ml-100k data/minilm-l6 --rows 64 --micro-batch 16",
    **{f"{_DAILY} --users 2 --epochs 4 --seeds 2{dropout}": f"python {ROOT}/scripts/daily_effect.py "
    f"--movielens ML-1M-FOLDER --out runs/daily{dropout.replace(' ', '')} --epochs 1{dropout}" for dropout in ("", " --id-dropout 0.05")},
    "kubectl apply -f cluster/kuberay/podmonitor.yaml": "cloud",
    "kubectl apply -k cluster/kuberay": "cloud",
    "ray up": "cloud",
    "ray get-auth-token --generate": "HOME=$PWD ray get-auth-token --generate",
    "ray job stop": "tests/integration/test_pipeline_job.py",
    "ray job submit": "tests/integration/test_pipeline_job.py",
    "ray status": _SUBMIT,
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """An indented block of a page, without its indentation."""

    page: Path
    text: str
    cloud: bool

    @property
    def is_shell(self) -> bool:
        """Whether it is commands, and not their output, a file or Python."""
        return bool(_SHELL.match(self.text))

    @property
    def lines(self) -> list[str]:
        """Its commands, one a line, without comments."""
        whole = self.text.replace("\\\n", " ")
        lines = [re.sub(r"\s+#.*| &$", "", line) for line in whole.splitlines()]
        return [" ".join(line.split()) for line in lines if line.strip()]

    @property
    def runs_here(self) -> bool:
        """Whether tests/integration/test_documentation.py runs it as it stands."""
        return self.is_shell and not self.cloud and not set(self.lines) <= RUN_BY.keys()


def blocks(page: Path) -> list[Block]:
    """A page's blocks; a cloud is needed from a word *cloud* to the next heading."""
    text, found = page.read_text(), []
    for match in _INDENTED.finditer(text):
        section = text[: match.start()]
        section = section[max(section.rfind("\n#"), 0) :]
        body = re.sub(r"^    ", "", match.group(), flags=re.MULTILINE)
        found.append(Block(page, body, "*cloud" in section))
    return found


def commands_in_text(page: Path) -> list[str]:
    """Commands outside of blocks, set as code, that have more words than a tool's or a command's name; and
    the lines of blocks that something else than tests/integration/test_documentation.py runs.

    A command by its bare name ("`clickprompt tune` says …") is not one: there is nothing in it to go wrong.
    """
    own = set(typer.main.get_command(app).commands)
    found = []
    for block in blocks(page):
        if block.is_shell and not block.cloud and (page == CONTRIBUTING or not block.runs_here):
            found += block.lines
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
    """What RUN_BY has as shell scripts."""
    by_others = (
        r"(\.ci/run|\.github/workflows/\w+\.yml|noxfile\.py|(tests|scripts)/[\w/]+\.py|cluster/install\.sh|Makefile|"
        r"block: .+|cloud|gpu)"
    )
    return list(dict.fromkeys(script for script in RUN_BY.values() if not re.fullmatch(by_others, script)))

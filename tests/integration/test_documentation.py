"""The blocks of commands in README.md and docs/ run, in their order and in one folder, then other documented
commands. Only sizes differ, as SHORTER says.
"""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import RobertaConfig

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.transform.row_transform import RowTransform
from tests.support.documented import GUIDE, IN_ORDER, README, ROOT, Block, blocks, scripts
from tests.support.raw_movielens import ratings, write_1m
from tests.support.tiny import write_plm

FETCHED = {
    "CLICKPROMPT_ML100K": "movielens-100k",
    "CLICKPROMPT_MINILM": "minilm-l6",
    "CLICKPROMPT_GPT2_BPE": "gpt2-bpe",
}
BLOCKS = [block for page in IN_ORDER for block in blocks(page) if block.runs_here]
_SMALL_PLM = ["--set", "plm.path=data/minilm-l6", "--set", "plm.num_layers=1"]
_STEPS = {
    "pretrain": ["--set", "pretrain.max_steps=2", "--set", "pretrain.global_batch_size=64"],
    "finetune": ["--set", "finetune.max_steps=3"],
}
# (words that an argument list begins with or has, what is added to it); the first that fits. Settings that
# come last count.
SHORTER = [
    (("synth",), ["--rows", "3000"]),
    (("tokenize", "FacebookAI/roberta-base"), ["--plm", "data/minilm-l6"]),  # the hub may be out of reach
    (("prepare", "movielens-100k"), ["--sample-users", "0.03"]),
    (
        ("pretrain", "goodreads-roberta-large"),
        ["--set", "prompt.num_prompts=1", "--set", "ctr.hidden_dim=16"],
    ),
    *(
        ((stage, f"movielens-1m-{name}"), [*_SMALL_PLM, *_STEPS[stage]])
        for stage in _STEPS
        for name in ("ptab", "ctr-bert", "ctrl", "frozen-text")
    ),
    (
        ("finetune", "movielens-1m-p5"),
        ["--set", "plm.path=data/t5", "--set", "plm.random_init=true", *_STEPS["finetune"]],
    ),
    (("pretrain",), ["--set", "pretrain.max_steps=2"]),
    (
        ("pipeline", "log.yaml"),
        [
            *("--set", "pipeline.minutes=null", "--set", "pretrain.max_steps=1"),
            *("--set", "finetune.max_steps=2"),
        ],
    ),
    (
        ("pipeline",),
        [
            *("--set", "plm.num_layers=1", "--set", "pretrain.max_steps=1", "--set", "finetune.max_steps=2"),
            *("--set", "pipeline.raw=data/movielens-100k"),
        ],
    ),
    (("submit",), ["--set", "pretrain.max_steps=2"]),
    (("finetune",), ["--set", "finetune.max_steps=3"]),
    (
        ("tune",),
        [
            *("--set", "plm.path=data/minilm-l6", "--set", "plm.num_layers=1", "--set", "ctr.num_layers=1"),
            *(
                "--set",
                "tune.space={prompt.num_prompts: [1, 2], finetune.lr.plm: [0, 3.0e-5]}",
                "--set",
                "tune.max_concurrent_trials=2",
            ),
            *(
                "--set",
                "pretrain.max_steps=1",
                "--set",
                "finetune.max_steps=2",
                "--set",
                "pretrain.global_batch_size=64",
            ),
        ],
    ),
]
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        not FETCHED.keys() <= os.environ.keys(), reason=f"one of {', '.join(FETCHED)} is not set"
    ),
]


def shorter(arguments: list[str]) -> list[str]:
    return [
        *arguments,
        *next(
            (extra for words, extra in SHORTER if arguments[0] == words[0] and set(words) <= set(arguments)),
            [],
        ),
    ]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A folder as a reader has after `make demo` with a log of their own; its clickprompt does less."""
    folder = tmp_path_factory.mktemp("documentation")
    (folder / "data").mkdir()
    for variable, name in FETCHED.items():
        shutil.copytree(os.environ[variable], folder / "data" / name)
    write_1m(str(folder / "ML-1M-FOLDER"), ratings(600))
    write_plm(str(folder / "data" / "t5"), "t5")
    shutil.copytree(folder / "data" / "gpt2-bpe", folder / "FOLDER")
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 514,
    }
    RobertaConfig(**sizes).save_pretrained(folder / "FOLDER")
    new_files(folder)
    [settings] = [block for block in blocks(README) if block.text.startswith("data: {path")]
    (folder / "run.yaml").write_text(settings.text)
    (folder / "scripts").symlink_to(ROOT / "scripts")
    program = folder / ".venv" / "bin" / "clickprompt"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.integration.test_documentation import shorter\nfrom clickprompt.cli.main import main\n"
        "if __name__ == '__main__':\n    main(shorter(sys.argv[1:]))\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    program.with_name("activate").write_text(f"PATH={program.parent}:$PATH\n")
    ready = f"{program} prepare movielens-1m --raw ML-1M-FOLDER --out DATA"
    bash(ready, folder, dict(os.environ))  # what the presets of the baselines are for
    return folder


def new_files(folder: Path) -> None:
    """Put one more file of 540 rows into the reader's log, later than those that are there."""
    log = folder / "log"
    log.mkdir(exist_ok=True)
    day = len(list(log.iterdir()))
    rows = range(540)
    table = {
        "user_id": [f"u{(row + day) % 9}" for row in rows],
        "item_id": [f"i{row % 11}" for row in rows],
        "rating": [(row * 7) % 6 for row in rows],
        "time": [1_700_000_000 + 86_400 * day + 60 * row for row in rows],
        "price": [float((row * 37) % 300) for row in rows],
        "genres": [["Drama", "Comedy"][: 1 + row % 2] for row in rows],
    }
    pq.write_table(pa.table(table), log / f"day-{day}.parquet")


def bash(script: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def name_of(block: Block) -> str:
    return f"{block.page.stem}: {block.lines[0][:60]}"


@pytest.mark.parametrize("block", BLOCKS, ids=name_of)
def test_a_block_of_commands(block, checkout, request):
    environment, script = dict(os.environ), block.text
    environment["PATH"] = f"{os.path.dirname(sys.executable)}:{environment['PATH']}"
    if "--append" in script:
        new_files(checkout)
    if script.startswith("export RAY_AUTH_MODE"):
        head = request.getfixturevalue("head")
        environment = {**head.environment, "PATH": environment["PATH"]}
        script = (
            script.replace("http://HEAD:8265", head.jobs)
            .replace("s3://bucket", str(checkout / "bucket"))
            .replace("=…", f"={environment['RAY_AUTH_TOKEN_PATH']}")
        )
        script = script.replace(
            "--config run.yaml",
            f"--config run.yaml --set data.path={checkout}/runs/ml-100k --set "
            f"plm.path={checkout}/data/minilm-l6 --set plm.num_layers=1 --set pretrain.global_batch_size=64",
        )
    bash(f". .venv/bin/activate\n{script}", checkout, environment)


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.removeprefix(".venv/bin/")[:70])
def test_a_command_within_a_sentence(script, checkout):
    (checkout / "new").mkdir(exist_ok=True)
    names = RowTransform.of_dataset(Dataset.open(str(checkout / "runs" / "ml-100k"))).columns
    pq.write_table(pa.table({name: ["1", "no such value"] for name in names}), checkout / "new" / "a.parquet")
    bash(script, checkout, {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"})


def test_what_the_commands_have_left(checkout):
    """After all blocks, in the same folder; and the serving program on what was exported."""
    runs = checkout / "runs"
    assert [Dataset.open(str(runs / name)).version for name in ("log", "days")] == [2, 2]
    assert pq.read_table(runs / "scores").num_rows == 2
    assert pq.read_table(runs / "first-scores").num_rows == 540
    assert (checkout / "now" / "export.json").samefile(checkout / "served-2" / "export.json")
    assert (runs / "graph" / "model.pt2").exists()
    for name in ("recovery-dnn", "dcnv2-2", "pretrain", "finetune", "sweep", "best", "large", "demo-full"):
        assert (runs / name / "result.json").exists(), name
    assert (runs / "dcnv2-2" / "evaluation-test.json").exists()
    assert (runs / "report.html").exists()
    [serving] = [block.text for page in GUIDE for block in blocks(page) if "field_ids" in block.text]
    dataset = Dataset.open(str(runs / "ml-100k"))
    rows = f"rows = [dict.fromkeys({dataset.field_names!r}, '1')] * 3\n"
    program = "import json\nimport numpy as np\nimport onnxruntime\nimport pyarrow.parquet as pq\n" + rows
    check = (
        "assert click_probability.shape == (3,) and ((0 < click_probability) & (click_probability < "
        "1)).all()\n"
    )
    subprocess.run(
        [sys.executable, "-c", program + serving + check], cwd=runs / "serving", check=True, timeout=120
    )

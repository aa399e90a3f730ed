"""A dataset, a pretraining, a finetuning stopped on its way, and what they come to, as this version has them.

Once for each release, `python -m tests.support.kept_version` writes tests/golden/versions/<version>.tar.xz.
"""

import contextlib
import os
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq

import clickprompt
from clickprompt.config import Config, load_config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.errors import RunError
from clickprompt.evaluation.predictions import read_predictions
from clickprompt.io import storage
from clickprompt.runtime.score.evaluate import evaluate
from clickprompt.runtime.score.predict import predict
from clickprompt.runtime.train.train import run_training
from clickprompt.training.metrics_log import read_metrics
from tests.support.ending import EndsBefore
from tests.support.small_logs import prepare_with_tokens, write_csv_log
from tests.support.synthetic import WORDS
from tests.support.tiny import tiny_config

KEPT = Path(__file__).parents[1] / "golden" / "versions"
STEPS, STOPPED = 10, 6
MADE_IN = "/tmp/clickprompt-kept"
_LEFT_OUT = ("tensorboard", "pretrain/checkpoints", "new.csv", "scores")


def line(row: int) -> str:
    """user, item, word, price, time, click"""
    word = WORDS[row * 3 % len(WORDS)]
    return f"u{row * 7 % 11},i{row * 5 % 13},{word},{row % 17}.5,{row},{row * row % 3 % 2}"


def make(folder: str) -> None:
    """Write all of it."""
    header = "user,item,word,price,time,click"
    fields = {
        "Gender": "user",
        "Movie ID": "item",
        "Film genre": "word",
        "User ID": "price, kind: numeric, quantiles: 5",
    }
    log = write_csv_log(f"{folder}/log", header, [line(row) for row in range(240)], fields)
    dataset, plm = prepare_with_tokens(folder, log)
    small = {"ctr__embedding_dim": 4, "ctr__hidden_dim": 4, "plm__num_layers": 1}
    config = tiny_config(
        dataset.uri,
        plm,
        runtime__use_ray="never",
        pretrain__max_steps=STEPS,
        finetune__max_steps=STEPS,
        finetune__init=f"{folder}/pretrain",
        finetune__lr__ctr=0.03,
        **small,
    )
    run_training(replaced(config, {"finetune.init": None}), "pretrain", f"{folder}/pretrain")
    with contextlib.suppress(RunError):  # "ended by the test"
        run_training(config, "finetune", f"{folder}/finetune", around=EndsBefore(STOPPED))
    storage.copy_tree(f"{folder}/finetune", f"{folder}/whole")
    run_training(config, "finetune", f"{folder}/whole")
    storage.write_json(f"{folder}/expected.json", figures(folder, f"{folder}/whole"))
    storage.delete_tree(f"{folder}/whole")


def figures(folder: str, run: str) -> dict:
    """What is compared: of the dataset, of the finished run, and of rows scored by it."""
    evaluate([run], "test", config=config_of(run))
    new = f"{folder}/new.csv"
    with open(new, "w") as stream:
        stream.write("\n".join(["user,item,word,price", *(line(row).rsplit(",", 2)[0] for row in range(9))]))
    predict(run, [new], f"{folder}/scores", runtime=config_of(run).runtime)
    [scores] = storage.list_names(f"{folder}/scores")
    return {
        "counts": Dataset.open(f"{folder}/data").counts,
        "losses": [row["loss"] for row in read_metrics(run)],
        "logits": read_predictions(f"{run}/predictions/test")["logit"].to_pylist(),
        "scores": pq.read_table(f"{folder}/scores/{scores}")["logit"].to_pylist(),
    }


def config_of(run: str) -> Config:
    """The configuration that a run was begun with."""
    return load_config(f"{run}/config.yaml")


def pack(folder: str, archive: Path) -> None:
    """Put the folder into an archive."""
    with tarfile.open(archive, "w:xz") as packed:
        for path in sorted(Path(folder).rglob("*")):
            name = str(path.relative_to(folder))
            if path.is_file() and not any(part in name for part in _LEFT_OUT):
                packed.add(path, name, filter=_anonymous)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def unpack(archive: Path, folder: str) -> None:
    """Lay out what `pack` has put away, with runs that know it is in `folder`. The dataset doesn't: it has
    moved.
    """
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    for path in Path(folder).rglob("*"):
        if path.suffix in (".json", ".yaml") and not path.is_relative_to(f"{folder}/data"):
            path.write_text(path.read_text().replace(MADE_IN, folder))


def main() -> None:
    """Keep this version."""
    os.makedirs(KEPT, exist_ok=True)
    archive = KEPT / f"{clickprompt.__version__}.tar.xz"
    os.makedirs(MADE_IN)
    try:
        make(MADE_IN)
        pack(MADE_IN, archive)
    finally:
        shutil.rmtree(MADE_IN)
    print(f"{archive}: {archive.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

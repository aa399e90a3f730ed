"""What a second day's training from the first day's run is worth: test AUC on a third day, and seconds,
beside training anew on both days.

    python scripts/daily_effect.py --movielens $CLICKPROMPT_ML1M --out runs/daily --users 4 --epochs 2

MovieLens-1M's ratings, of every N-th user, cut by time into three "days"; DCNv2 without a PLM. Day 3 is
scored by `predict` on its raw
rows: it is in no dataset. One line of JSON.
"""

import argparse
import json
import os
from itertools import pairwise
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from clickprompt.config import Config, load_config, replaced
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.runtime.cluster.connect import connect
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.score.predict import predict
from clickprompt.runtime.train.train import run_training

CUTS = (0.6, 0.8)  # shares of the ratings that are over by the end of days 1 and 2
FIELDS = ("User ID", "Gender", "Age", "Occupation", "Movie ID", "Genre")
SCHEMA = """\
data: [log-*.parquet]
label: {column: rating, positive_from: 4, drop: [3]}
timestamp: time
fields:
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--movielens", required=True, help="folder of MovieLens-1M's .dat files")
    parser.add_argument("--out", required=True, help="a new folder")
    parser.add_argument("--users", type=int, default=1, help="keep every N-th user")
    parser.add_argument("--epochs", type=int, default=2, help="of every training")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--id-dropout", type=float, default=0.0)
    given = parser.parse_args()
    config = load_config(
        None,
        [
            "ctr.embedding_dim=16",
            "ctr.hidden_dim=64",
            "ctr.num_layers=2",
            "finetune.with_plm=false",
            f"finetune.epochs={given.epochs}",
            "finetune.global_batch_size=1024",
            "finetune.micro_batch_size=1024",
            "finetune.schedule=constant",
            "finetune.warmup_ratio=0",
            "finetune.validate_every=50",
            "finetune.patience=100",
            "finetune.eval_batch_size=8192",
            f"data.id_dropout={given.id_dropout}",
            f"data.path={os.path.abspath(given.out)}/data",
        ],
    )
    with connect(config.runtime):
        result = measure(given.movielens, os.path.abspath(given.out), config, given.users, given.seeds)
    print(json.dumps(result))  # within, it would go where Ray's own lines go


def measure(movielens: str, out: str, config: Config, users: int, seeds: int) -> dict[str, Any]:
    days = read_days(movielens, users)
    raw = os.path.join(out, "raw")
    os.makedirs(raw)
    schema = os.path.join(raw, "schema.yaml")
    with open(schema, "w") as stream:
        stream.write(SCHEMA + "".join(f"  - {{name: {name}, column: {name}}}\n" for name in FIELDS))
    uri = str(config.data.path)
    days[0].to_parquet(os.path.join(raw, "log-1.parquet"), index=False)
    counts = [prepare(schema, None, uri, row_group_rows=2048).counts]
    settings = {seed: replaced(config, {"seed": seed}) for seed in range(seeds)}
    names = {
        seed: {
            name: os.path.join(out, f"{name}-{seed}")
            for name in ("day-1", "day-2 from day 1", "both days anew")
        }
        for seed in settings
    }
    results = {
        seed: {"day-1": run_training(settings[seed], "finetune", names[seed]["day-1"])} for seed in settings
    }
    days[1].to_parquet(os.path.join(raw, "log-2.parquet"), index=False)
    counts.append(append(schema, None, uri).counts)
    third = os.path.join(out, "day-3.parquet")
    scored = days[2][days[2]["rating"] != 3]
    scored.to_parquet(third, index=False)
    rows = []
    for seed, of_seed in settings.items():
        changes = {"data.rows": "new", "finetune.init": names[seed]["day-1"]}
        results[seed]["day-2 from day 1"] = run_training(
            replaced(of_seed, changes), "finetune", names[seed]["day-2 from day 1"]
        )
        results[seed]["both days anew"] = run_training(of_seed, "finetune", names[seed]["both days anew"])
        for name, result in results[seed].items():
            predict(names[seed][name], [third], f"{names[seed][name]}-scores", keep=["rating"])
            table = pq.read_table(f"{names[seed][name]}-scores")
            labels, logits = (
                (table["rating"].to_numpy().astype(float) >= 4).astype(int),
                table["logit"].to_numpy(),
            )
            rows.append(
                {
                    "seed": seed,
                    "model": name,
                    "auc": round(auc(labels, logits), 4),
                    "log_loss": round(log_loss(labels, logits), 4),
                    "training_rows": result["rows"],
                    "steps": result["step"],
                    "seconds": result["seconds"],
                    "seconds_per_step": result["seconds_per_step"],
                    "carried_over": result["carried_over"],
                }
            )
    return {
        "counts": counts,
        "day_3_rows": len(scored),
        "id_dropout": config.data.id_dropout,
        "epochs": config.finetune.epochs,
        "rows": rows,
    }


def read_days(folder: str, users: int) -> list[pd.DataFrame]:
    """One frame a day, in the order of time; each rating with its user's and its movie's columns."""
    ratings = _read(folder, "ratings.dat", ["User ID", "Movie ID", "rating", "time"])
    people = _read(folder, "users.dat", ["User ID", "Gender", "Age", "Occupation", "Zip"])
    movies = _read(folder, "movies.dat", ["Movie ID", "Title", "Genre"])
    ratings = ratings[ratings["User ID"] % users == 0]
    log = ratings.merge(people, on="User ID").merge(movies, on="Movie ID").sort_values("time", kind="stable")
    log = log[[*FIELDS, "rating", "time"]]
    cuts = [0, *(int(share * len(log)) for share in CUTS), len(log)]
    return [log.iloc[start:stop] for start, stop in pairwise(cuts)]


def _read(folder: str, name: str, columns: list[str]) -> pd.DataFrame:
    return pd.read_csv(
        os.path.join(folder, name), sep="::", names=columns, engine="python", encoding="latin-1"
    )


if __name__ == "__main__":
    main()

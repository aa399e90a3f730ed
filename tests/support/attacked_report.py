"""A report on runs whose names and values are HTML and scripts."""

import os

import pyarrow.parquet as pq

from clickprompt.io import storage
from clickprompt.report.make import make_report
from tests.support import report_runs as made

ATTACK = '</script><img src=x onerror="window.hurt=1"><script>window.hurt=1</script>'


def attacked(tmp_path, dataset) -> list[str]:
    run, sweep = (str(tmp_path / name) for name in ('"><img src=x onerror=hurt=1>', "sweep"))
    os.makedirs(run)
    made.write_training(run, dataset, "pretrain", steps=5, plm__path='"<img src=x onerror=hurt=1>"')
    made.write_prompts(run, fields=(ATTACK, "a | b](javascript:hurt=1)"))
    made.write_evaluation(run, dataset, skill=0.5)
    evaluation = storage.read_json(f"{run}/evaluation-test.json")
    evaluation["long_tail"]["user"] = ATTACK
    evaluation["cold_start"] = {ATTACK: evaluation["cold_start"]["none"]}
    evaluation["by_value"] = {ATTACK: [{"value": ATTACK, "rows": 3, "clicks": 1, "auc": 0.5}]}
    storage.write_json(f"{run}/evaluation-test.json", evaluation)
    trained = storage.read_json(f"{run}/result.json")
    trained["norms"]["tables"][ATTACK] = {ATTACK: {"fresh": 0.02, "start": ATTACK, "end": 0.5}}
    storage.write_json(f"{run}/result.json", trained)
    made.write_sweep(sweep)
    table = pq.read_table(f"{sweep}/trials.parquet")
    names = [ATTACK if name == "finetune.lr.plm" else name for name in table.column_names]
    pq.write_table(
        table.rename_columns(names).set_column(10, "error", [[ATTACK] * len(table)]),
        f"{sweep}/trials.parquet",
    )
    result = make_report([run, sweep], str(tmp_path / "attacked.html"))
    return [storage.read_bytes(result["report"]).decode(), result["markdown"]]

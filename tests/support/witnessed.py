"""Train with a witness in the workers (clickprompt/benchmark/faults/strikes.py), as a job of a cluster:
`python -m tests.support.witnessed CONFIG STAGE FOLDER STEP`.

FOLDER gets the run, and what each worker notes. After STEP steps, rank 1 waits for FOLDER/strikes/0.done.
"""

import sys

from clickprompt.benchmark.faults.strikes import Strike, Witness
from clickprompt.config import load_config
from clickprompt.runtime.train.train import run_training

if __name__ == "__main__":
    config, stage, folder, step = sys.argv[1:]
    witness = Witness(folder, f"{folder}/run/checkpoints", (Strike("step", int(step), rank=1),))
    run_training(load_config(config), stage, f"{folder}/run", around=witness)

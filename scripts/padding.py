"""Count the padding that a tokenized dataset's steps have, and the tokens of their largest micro-batch.

    python scripts/padding.py DATASET PLM --rows 1024 --micro-batch 64 --steps 60

Prints JSON: the share of tokens that are no padding, with the rows of a step unsorted in one batch and sorted
in micro-batches of equal rows, and, padding included, the tokens of the largest micro-batch of all steps with
equal rows and with equal tokens. Nothing is trained.
"""

import argparse
import json

import numpy as np

from clickprompt.data.micro_batches import equal_in_rows, equal_in_tokens
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable


def main() -> None:
    parser = argparse.ArgumentParser(description="padding, and the largest micro-batch")
    parser.add_argument("dataset", help="prepared and tokenized dataset")
    parser.add_argument("plm", help="folder with the tokenizer")
    parser.add_argument("--rows", type=int, default=1024, help="rows a step")
    parser.add_argument("--micro-batch", type=int, default=64, help="rows a micro-batch")
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    dataset = Dataset.open(given.dataset)
    table = TokenTable.open(dataset, load_tokenizer(given.plm))
    order = Order.of(
        dataset, global_batch_size=given.rows, chunk_batches=8, seed=0, epochs=1, max_steps=given.steps
    )
    lengths = [
        table.lengths(np.stack([columns[name] for name in dataset.columns], axis=1))
        for _, columns in read_local_batches(dataset, order)
    ]
    by_rows = [_padded(step, equal_in_rows(step, given.micro_batch)) for step in lengths]
    by_tokens = [_padded(step, equal_in_tokens(step, given.micro_batch)) for step in lengths]
    shown = {
        "steps": len(lengths),
        "mean_tokens": float(np.concatenate(lengths).mean()),
        "real_unsorted": float(np.mean([step.mean() / step.max() for step in lengths])),
        "real_sorted": float(
            np.mean([step.sum() / sum(parts) for step, parts in zip(lengths, by_rows, strict=True)])
        ),
        "largest_equal_rows": max(map(max, by_rows)),
        "largest_equal_tokens": max(map(max, by_tokens)),
    }
    print(json.dumps(shown, indent=2))


def _padded(lengths: np.ndarray, parts: list[np.ndarray]) -> list[int]:
    return [len(part) * int(lengths[part].max()) for part in parts]


if __name__ == "__main__":
    main()

"""`clickprompt benchmark tokens`: rows' tokens from the token table (DESIGN §3.2) against the fast tokenizer
on their sentences.

Every arm turns the same batches into the same padded int64 arrays, `input_ids` and `attention_mask` [B, Z],
on one thread of one core:

- ours: TokenTable.assemble on ids; no sentence is made.
- tokenizer: the tokenizer's Rust core on ready-made sentences, padded by numpy: the fastest way that we know.
- call: `tokenizer(sentences, padding=True, return_tensors="np")` on them, the call that one would write
  first.

Passes over the same rows are repeated, which favours the tokenizer: its cache then knows the words and, for a
SentencePiece model that doesn't cut at spaces, whole sentences.

With `plm.history_items` the sentences end with the row's history.
"""

import contextlib
import copy
import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.benchmark.inputs import benchmark_inputs
from clickprompt.benchmark.measure import Figures, arm, figure, interleaved
from clickprompt.config import Config, PLMConfig
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.order import Order, read_local_batches
from clickprompt.data.text.history_text import ItemTexts, history_part
from clickprompt.data.text.model_table import open_with_history
from clickprompt.data.text.template import UNKNOWN, load_tokenizer, sentence
from clickprompt.data.text.token_table import TokenTable
from clickprompt.data.text.value_texts import ValueTexts
from clickprompt.errors import RunError
from clickprompt.io.progress import say

__all__ = ["Tokens", "measure_tokens", "require_same_tokens"]

Tokens = tuple[np.ndarray, np.ndarray]
"""input_ids and attention_mask, each [B, Z] int64"""

Batches = Sequence[np.ndarray] | Sequence[list[str]]
"""field_ids [B, F], or sentences"""

_BATCH, _BATCHES = 1024, 8  # rows of a batch, and number of batches; PA-MLM's batch (§4.1.4)
_REPEATS = 7
_SECONDS = 0.5  # shortest duration of one reading
_SHOWN = 200  # characters


def measure_tokens(config: Config) -> tuple[Figures, list[str]]:
    """Return figures and remarks. Uses `data.path` and `plm.path` (its tokenizer) if set; otherwise they are
    fetched into `pipeline.downloads`.

    Raises RunError if the arms' tokens differ.
    """
    config, dataset = benchmark_inputs(config)
    table = open_with_history(dataset, load_tokenizer(config.plm.path), config.plm)
    field_ids = _field_ids(dataset, table, config.seed)
    sentences = _sentences(dataset, table, field_ids)
    core = min(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        arms = {
            name: stack.enter_context(
                arm(
                    name,
                    1,
                    _Work,
                    name,
                    core,
                    dataset,
                    config.plm,
                    field_ids if name == "ours" else sentences,
                )
            )
            for name in ARMS
        }
        outputs = {name: one.call("outputs") for name, one in arms.items()}
        require_same_tokens(outputs, sentences)
        rows, tokens = sum(map(len, sentences)), int(sum(mask.sum() for _, mask in outputs["ours"]))
        say(f"tokens: the same {tokens:,} tokens in all arms; timing {_REPEATS} readings of each")
        rates = interleaved(arms, "rows_per_second", _REPEATS)
    ratios = {
        name: [fast / slow for fast, slow in zip(rates["ours"], rates[name], strict=True)]
        for name in ("tokenizer", "call")
    }
    figures = {
        "speedup": figure(ratios["tokenizer"], "x"),
        "speedup_over_call": figure(ratios["call"], "x"),
        **{f"rows_per_second_{name}": figure(values, "rows/s") for name, values in rates.items()},
        "tokens_per_row": figure([tokens / rows], "tokens"),
        "table_bytes": figure(
            [table.tokens.nbytes + table.offsets.nbytes + table.value_spans.nbytes], "bytes"
        ),
    }
    note = (
        f"{table.meta['tokenizer']} {table.meta['fingerprint']}, {rows:,} training rows in batches of "
        f"{_BATCH:,}, identical output in all arms, one thread each on core {core}; making the "
        "sentences isn't counted"
    )
    return figures, [note]


def require_same_tokens(outputs: Mapping[str, Sequence[Tokens]], sentences: Sequence[Sequence[str]]) -> None:
    """Raises RunError naming the first sentence whose tokens or mask differ between `ours` and
    another arm.
    """
    for name, theirs in outputs.items():
        for batch, our_arrays, their_arrays in zip(sentences, outputs["ours"], theirs, strict=True):
            if all(map(np.array_equal, our_arrays, their_arrays)):
                continue
            pairs = zip(batch, _rows(our_arrays), _rows(their_arrays), strict=True)
            different = next((text for text, ours, other in pairs if ours != other), None)
            where = f"the tokens of {different[:_SHOWN]!r}" if different is not None else "the padding"
            raise RunError(f"benchmark: tokens: {where} differ between ours and {name}, so nothing was timed")


def _rows(arrays: Tokens) -> list[list[int]]:
    input_ids, attention_mask = arrays
    return [ids[mask == 1].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]


class _Work:
    """One arm, in its process."""

    def __init__(self, name: str, core: int, dataset: Dataset, plm: PLMConfig, batches: Batches) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        os.sched_setaffinity(0, {core})
        tokenizer = load_tokenizer(plm.path)
        self._assemble = ARMS[name](open_with_history(dataset, tokenizer, plm), tokenizer)
        self._batches = batches

    def outputs(self) -> list[Tokens]:
        return [self._assemble(batch) for batch in self._batches]

    def rows_per_second(self) -> float:
        """Measure over whole passes through the batches."""
        rows, started = 0, time.perf_counter()
        while (seconds := time.perf_counter() - started) < _SECONDS:
            for batch in self._batches:
                self._assemble(batch)
                rows += len(batch)
        return rows / seconds


def _ours(table: TokenTable, tokenizer: Any) -> Callable[[np.ndarray], Tokens]:
    return table.assemble


def _tokenizer(table: TokenTable, tokenizer: Any) -> Callable[[list[str]], Tokens]:
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # special tokens spelled in a value are text

    def assemble(sentences: list[str]) -> Tokens:
        rows = [encoding.ids for encoding in backend.encode_batch_fast(sentences)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        mask = np.arange(lengths.max()) < lengths[:, None]
        input_ids = np.full(mask.shape, table.pad_id, dtype=np.int64)
        input_ids[mask] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
        return input_ids, mask.astype(np.int64)

    return assemble


def _call(table: TokenTable, tokenizer: Any) -> Callable[[list[str]], Tokens]:
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(table.pad_id)
    options = {
        "padding": True,
        "return_tensors": "np",
        "return_token_type_ids": False,
        "split_special_tokens": True,
        "verbose": False,
    }

    def assemble(sentences: list[str]) -> Tokens:
        encoded = tokenizer(sentences, **options)
        return encoded["input_ids"], encoded["attention_mask"]

    return assemble


ARMS: dict[str, Callable[[TokenTable, Any], Callable[[Any], Tokens]]] = {
    "ours": _ours,
    "tokenizer": _tokenizer,
    "call": _call,
}
"""arm → (token table, tokenizer) → (batch → tokens)"""


def _field_ids(dataset: Dataset, table: TokenTable, seed: int) -> list[np.ndarray]:
    """Return batches [B, F + N] of training rows, mixed as in training."""
    order = Order.of(
        dataset,
        global_batch_size=_BATCH,
        chunk_batches=_BATCHES,
        seed=seed,
        epochs=_BATCHES,
        max_steps=_BATCHES,
    )
    return [
        np.stack([columns[column] for column in table.columns_of(dataset)], axis=1)[columns["weight"] > 0]
        for _, columns in read_local_batches(dataset, order)
    ]


def _sentences(dataset: Dataset, table: TokenTable, field_ids: Sequence[np.ndarray]) -> list[list[str]]:
    """Return the sentences of each batch; the vocabularies are read once."""
    columns, texts_of = [], ValueTexts(dataset)
    of_fields, items = np.split(np.concatenate(field_ids), [len(dataset.columns)], axis=1)
    for field, numbers in enumerate(of_fields.T):
        values = texts_of.of(field, dataset.vocabulary(field).column("value").take(numbers))
        columns.append([value if number else UNKNOWN for value, number in zip(values, numbers, strict=True)])
    texts = (sentence(dataset.field_names, values, dataset.template) for values in zip(*columns, strict=True))
    if table.history is not None:
        found, places = ItemTexts(dataset, table.history).beside(pa.array([UNKNOWN]), items)
        words, name = found.to_pylist(), dataset.field_names[table.history.field]
        parts = (
            history_part(name, [words[place] for place in row if place], dataset.template) for row in places
        )
        texts = map("".join, zip(texts, parts, strict=True))
    return [list(islice(texts, len(batch))) for batch in field_ids]

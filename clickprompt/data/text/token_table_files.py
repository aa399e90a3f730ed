"""The files of a token table (token_table.py)."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.mapped import mapped_folder
from clickprompt.data.text.template import special_ids, surrounding, tokenizer_fingerprint
from clickprompt.errors import DataError, InputError, MissingTokensError
from clickprompt.io import storage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "ARRAYS",
    "META",
    "array_file",
    "check_arrays",
    "check_meta",
    "map_arrays",
    "table_facts",
    "table_uri",
]

META = "meta.json"
ARRAYS = {"tokens": np.dtype("<i4"), "offsets": np.dtype("<i8"), "value_spans": np.dtype("<i4")}
"""the table's files, each the plain numbers of one array"""

_AT_ONCE = 1 << 22  # numbers that are looked at


def table_uri(dataset: Dataset, tokenizer: "PreTrainedTokenizerBase") -> str:
    version = f"-v{dataset.version}" if dataset.version > 1 else ""
    fingerprint = tokenizer_fingerprint(tokenizer, dataset.template)
    return storage.join(dataset.uri, "tokens", f"{fingerprint}{version}")


def table_facts(dataset: Dataset, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Return what a table's META says besides "max_length", the tokens of its longest row."""
    prefix, suffix = surrounding(tokenizer)
    return {
        "fingerprint": tokenizer_fingerprint(tokenizer, dataset.template),
        "dataset": dataset.fingerprint,
        "tokenizer": type(tokenizer).__name__,
        "template": dataset.template,
        "field_sizes": dataset.field_sizes,
        "prefix": prefix,
        "suffix": suffix,
        "special_ids": special_ids(tokenizer),
        "all_special_ids": sorted(tokenizer.all_special_ids),
        "vocab_size": 1 + max(tokenizer.get_vocab().values()),  # the tokenizer's length, but for unused ids
        **({"multi": [asdict(one) for one in dataset.multi]} if dataset.multi else {}),
    }


def check_meta(uri: str, meta: Any, facts: dict[str, Any], remedy: str) -> None:
    """Raise DataError if `meta` isn't what a table with these facts says."""
    if isinstance(meta, dict) and type(meta.get("max_length")) is int:
        # The first tables had Eq. 4's template and didn't name it; a tokenizer's class is for people to read
        said = {"template": facts["template"], **meta, "tokenizer": facts["tokenizer"]}
        if all(said.get(key) == facts.get(key) for key in {*facts, "multi"}):
            return
    raise DataError(
        f"{uri}: delete this folder and {remedy}; its token table is damaged, or of another tokenizer or "
        "dataset"
    )


def missing_table(dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", remedy: str) -> MissingTokensError:
    """Return the error that names the tables that `dataset` has instead."""
    wanted, tables = tokenizer_fingerprint(tokenizer, dataset.template), storage.join(dataset.uri, "tokens")
    present = [
        name for name in storage.list_names(tables) if storage.exists(storage.join(tables, name, META))
    ]
    if any(name.split("-v")[0] == wanted for name in present):
        return MissingTokensError(
            f"{dataset.uri}: {remedy}; version {dataset.version} has no token table yet, an earlier one has"
        )
    described = ", ".join(f"{_tokenizer_of(storage.join(tables, name, META))} {name}" for name in present)
    has = (
        f"has only token tables of other tokenizers or an older clickprompt: {described}"
        if present
        else "has no token table yet"
    )
    return MissingTokensError(
        f"{dataset.uri}: {remedy}; the dataset {has} (wanted: {type(tokenizer).__name__} {wanted})"
    )


def _tokenizer_of(path: str) -> str:
    try:
        return str(storage.read_json(path)["tokenizer"])
    except (InputError, LookupError, TypeError):
        return "(damaged)"


def array_file(uri: str, name: str) -> str:
    return storage.join(uri, f"{name}.bin")


def map_arrays(uri: str, meta: dict[str, Any]) -> dict[str, np.ndarray]:
    """Map the arrays instead of reading them, so that all processes of a machine share the pages that they
    use.
    """
    cells = sum(meta["field_sizes"])
    folder = mapped_folder(uri, meta, "tokens")
    shapes = {"tokens": (-1,), "offsets": (cells + 1,), "value_spans": (cells, 2)}
    arrays = {}
    for name, dtype in ARRAYS.items():
        try:
            arrays[name] = np.memmap(array_file(folder, name), dtype=dtype, mode="r").reshape(shapes[name])
        except (OSError, ValueError) as error:
            raise DataError(
                f"{array_file(uri, name)}: missing or damaged; delete {uri} and run clickprompt "
                "tokenize again"
            ) from error
    if arrays["offsets"][-1] != len(arrays["tokens"]):
        raise DataError(
            f"{uri}: delete this folder and run clickprompt tokenize again; the token table's files don't "
            "belong together"
        )
    return arrays


def check_arrays(uri: str, meta: dict[str, Any], arrays: dict[str, np.ndarray], remedy: str) -> None:
    """Raise DataError if the arrays name tokens that there are not. Numbers from files are places to read
    from and sizes to make room for.
    """
    offsets, spans = arrays["offsets"], arrays["value_spans"]
    sound = offsets[0] == 0 and all(
        (tokens.min() >= 0 and tokens.max() < meta["vocab_size"]) for tokens in _pieces(arrays["tokens"])
    )
    longest = 0
    for start in range(0, len(spans), _AT_ONCE):
        lengths = np.diff(offsets[start : start + _AT_ONCE + 1])
        longest = max(longest, int(lengths.max()))
        begin, end = spans[start : start + _AT_ONCE].T
        # Then no length is below 0
        sound &= bool(((begin >= 0) & (begin <= end) & (end <= lengths)).all())
    if not sound or longest > meta["max_length"]:
        raise DataError(f"{uri}: delete this folder and {remedy}; the token table is damaged")


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    return (array[start : start + _AT_ONCE] for start in range(0, len(array), _AT_ONCE))

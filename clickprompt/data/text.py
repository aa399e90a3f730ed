"""The text of a row (Eq. 4) and the token table that makes tokenizing it a look-up (DESIGN §3.2).

A sentence is a join of "field is value." segments. Where tokenizing the segments, each with its leading separator, and joining
equals tokenizing the sentence (byte-level BPE, WordPiece), each distinct value needs tokenizing once instead of once a row.

Shape legend: B rows, F fields, Z tokens of the longest row, T tokens of all rows.
"""

import io
import json
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clickprompt import storage
from clickprompt.data.dataset import Dataset
from clickprompt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TEMPLATE", "TokenTable", "build_token_table", "load_tokenizer", "segment", "sentence", "tokenizer_fingerprint"]

TEMPLATE = "{name} is {value}."
SEPARATOR = " "
UNKNOWN = "unknown"  # the text of id 0
_VALUES_PER_CALL = 8192
_SAMPLED_ROWS = 256


def segment(name: str, value: str, first: bool) -> str:
    """One field's part of Eq. 4, with the separator that joins it to the part before."""
    return ("" if first else SEPARATOR) + TEMPLATE.format(name=name, value=value)


def sentence(names: Sequence[str], values: Sequence[str]) -> str:
    """Eq. 4: the text of one row."""
    return "".join(segment(name, value, index == 0) for index, (name, value) in enumerate(zip(names, values, strict=True)))


def load_tokenizer(path: str | None) -> "PreTrainedTokenizerBase":
    """The tokenizer of a local folder or hub name. Raises ConfigError when there is none, or no fast one."""
    if not path:
        raise ConfigError("plm.path is not set; give a hub name or a local folder with a tokenizer, such as --set plm.path=DIR")
    from transformers import AutoTokenizer  # takes seconds to import; who reads no text shouldn't wait for it

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # transformers raises OSError, ValueError, ImportError, KeyError and more here
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"plm.path={path}: no tokenizer can be loaded from there; a folder needs its tokenizer.json ({reason})"
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(f"plm.path={path}: {type(tokenizer).__name__} is not a fast tokenizer; give one with a tokenizer.json")
    return tokenizer


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase", template: str = TEMPLATE) -> str:
    """16 hex digits over everything that decides which ids a text gets: two equal ones make equal token tables."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    backend.pop("truncation")  # both change with every call of the tokenizer, and neither is used here
    backend.pop("padding")
    described = json.dumps([backend, _special_ids(tokenizer), template, SEPARATOR, UNKNOWN], sort_keys=True)
    return storage.sha256_bytes(described.encode())[:16]


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], special_tokens: bool) -> list[list[int]]:
    """Token ids of each text; special tokens spelled in a text (`<mask>`, `[SEP]`) stay plain text."""
    return tokenizer(
        list(texts),
        add_special_tokens=special_tokens,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


def build_token_table(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", progress: Callable[[str], None] = lambda line: None
) -> "TokenTable":
    """Tokenize every distinct value of `dataset` once and store the result beside it; a table that exists already is returned.

    Raises DataError when joining the segments' tokens does not give the sentence's tokens for this tokenizer.
    """
    uri = _table_uri(dataset, tokenizer)
    if storage.exists(storage.join(uri, "meta.json")):
        return TokenTable.open(dataset, tokenizer)
    prefix, suffix = _surrounding(tokenizer)
    tokens: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    longest = len(prefix) + len(suffix)
    for field, name in enumerate(dataset.field_names):
        values = [UNKNOWN, *dataset.vocabulary(field).column("value").to_pylist()[1:]]
        progress(f"tokenizing {len(values):,} values of {name}")
        first = len(lengths)
        for start in range(0, len(values), _VALUES_PER_CALL):
            texts = [segment(name, value, field == 0) for value in values[start : start + _VALUES_PER_CALL]]
            rows = encode(tokenizer, texts, special_tokens=False)
            lengths.append(np.array([len(row) for row in rows], dtype=np.int64))
            tokens.append(np.array([token for row in rows for token in row], dtype=np.int32))
        longest += max(int(part.max()) for part in lengths[first:])
    meta = {
        "fingerprint": tokenizer_fingerprint(tokenizer),
        "dataset": dataset.fingerprint,
        "tokenizer": type(tokenizer).__name__,
        "template": TEMPLATE,
        "field_sizes": dataset.field_sizes,
        "prefix": prefix,
        "suffix": suffix,
        "special_ids": _special_ids(tokenizer),
        "all_special_ids": sorted(tokenizer.all_special_ids),
        "vocab_size": len(tokenizer),
        "max_length": longest,
    }
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate(lengths))])
    table = TokenTable(uri, meta, np.concatenate(tokens), offsets)
    _check_joining(table, dataset, tokenizer)
    _store(table)
    return TokenTable.open(dataset, tokenizer)


class TokenTable:
    """Tokens of every (field, id) of a dataset, and the assembly of rows from them. Sent to another process, it is opened anew there.

    `tokens` [T] int32; `offsets` [sum of field sizes + 1] int64, fields one after the other, ids counting from 0 (unknown).
    """

    def __init__(self, uri: str, meta: dict[str, Any], tokens: np.ndarray, offsets: np.ndarray) -> None:
        self.uri = uri
        self.meta = meta
        self.tokens = tokens
        self.offsets = offsets
        self._sizes = np.array(meta["field_sizes"], dtype=np.int64)
        self._bases = np.cumsum(self._sizes) - self._sizes
        self._prefix = np.array(meta["prefix"], dtype=np.int64)
        self._suffix = np.array(meta["suffix"], dtype=np.int64)

    @classmethod
    def open(cls, dataset: Dataset, tokenizer: "PreTrainedTokenizerBase") -> "TokenTable":
        """Raises DataError when `dataset` has no table of this tokenizer, naming those that it has."""
        uri = _table_uri(dataset, tokenizer)
        wanted = tokenizer_fingerprint(tokenizer)
        remedy = f"run clickprompt tokenize {dataset.uri} --plm {tokenizer.name_or_path or 'PATH'}"
        if not storage.exists(storage.join(uri, "meta.json")):
            tables = storage.join(dataset.uri, "tokens")
            present = [name for name in storage.list_names(tables) if storage.exists(storage.join(tables, name, "meta.json"))]
            described = ", ".join(f"{storage.read_json(storage.join(tables, n, 'meta.json'))['tokenizer']} {n}" for n in present)
            has = f"has only token tables of other tokenizers ({described})" if present else "has no token table"
            raise DataError(f"{dataset.uri}: {has}, not of {type(tokenizer).__name__} {wanted}; {remedy}")
        table = _load(uri)
        if table.meta["fingerprint"] != wanted or table.meta["dataset"] != dataset.fingerprint:
            raise DataError(f"{uri}: the token table is of another tokenizer or dataset; delete this folder and {remedy}")
        return table

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self.uri,)

    @property
    def mask_id(self) -> int | None:
        return self.meta["special_ids"]["mask"]

    @property
    def pad_id(self) -> int:
        """Falls back to 0 where the family has no padding token: padded positions are masked out anyway."""
        return self.meta["special_ids"]["pad"] or 0

    @property
    def special_ids(self) -> list[int]:
        """Ids that are never masked and never drawn as a random token."""
        return self.meta["all_special_ids"]

    @property
    def vocab_size(self) -> int:
        return self.meta["vocab_size"]

    @property
    def max_length(self) -> int:
        """Tokens of the longest row that the vocabularies allow, special tokens included."""
        return self.meta["max_length"]

    def lengths(self, field_ids: np.ndarray) -> np.ndarray:
        """[B] int64: tokens of each row, the family's special tokens included."""
        starts, stops = self._spans(field_ids)
        return (stops - starts).sum(axis=1) + len(self._prefix) + len(self._suffix)

    def assemble(self, field_ids: np.ndarray, text: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the rows' sentences (Eq. 4), padded on the right to the longest of them.

        field_ids [B, F] integers, each field counting from 0; text [B] bool: rows that are False get the special tokens only.
        Returns input_ids [B, Z] int64 and attention_mask [B, Z] int64 (1 = token).
        """
        starts, stops = self._spans(field_ids)
        counts = stops - starts  # [B, F]
        if text is not None:
            counts *= np.asarray(text, dtype=np.int64)[:, None]
        before, after = len(self._prefix), len(self._suffix)
        body = counts.sum(axis=1)  # [B]
        lengths = body + before + after
        positions = np.arange(int(lengths.max(initial=0)))
        attention_mask = positions < lengths[:, None]  # [B, Z]
        input_ids = np.full(attention_mask.shape, self.pad_id, dtype=np.int64)
        input_ids[:, :before] = self._prefix
        flat = counts.ravel()
        # the k-th token of the whole batch sits k - (tokens of the segments before its own) behind its segment's start
        source = np.repeat(starts.ravel() - (np.cumsum(flat) - flat), flat) + np.arange(int(flat.sum()))
        in_body = (positions >= before) & (positions < (before + body)[:, None])
        input_ids[in_body] = self.tokens[source]  # both run row by row, left to right
        ends = before + body
        for index in range(after):
            input_ids[np.arange(len(ends)), ends + index] = self._suffix[index]
        return input_ids, attention_mask.astype(np.int64)

    def _spans(self, field_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each cell's tokens start and stop: two [B, F]."""
        ids = np.asarray(field_ids, dtype=np.int64)
        if ids.ndim != 2 or ids.shape[1] != len(self._sizes):
            raise ValueError(f"field_ids of shape {ids.shape}, expected [B, {len(self._sizes)}]")
        if ids.size and ((ids < 0) | (ids >= self._sizes)).any():
            raise ValueError("field_ids hold an id outside its field's vocabulary; they belong to another dataset than the token table")
        cells = ids + self._bases
        return self.offsets[cells], self.offsets[cells + 1]


def _table_uri(dataset: Dataset, tokenizer: "PreTrainedTokenizerBase") -> str:
    return storage.join(dataset.uri, "tokens", tokenizer_fingerprint(tokenizer))


def _load(uri: str) -> TokenTable:
    meta = storage.read_json(storage.join(uri, "meta.json"))
    arrays = {}
    for name in ("tokens", "offsets"):
        where = storage.join(uri, f"{name}.npy")
        try:
            if storage.is_local(uri):
                arrays[name] = np.load(storage.resolve(where)[1], mmap_mode="r", allow_pickle=False)
            else:
                arrays[name] = np.load(io.BytesIO(storage.read_bytes(where)), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{where}: missing or damaged; delete {uri} and run clickprompt tokenize again") from error
    if len(arrays["offsets"]) != sum(meta["field_sizes"]) + 1 or arrays["offsets"][-1] != len(arrays["tokens"]):
        raise DataError(f"{uri}: the token table's files don't belong together; delete this folder and run clickprompt tokenize again")
    return TokenTable(uri, meta, arrays["tokens"], arrays["offsets"])


def _store(table: TokenTable) -> None:
    """Locally under a temporary name, then renamed; elsewhere meta.json, which `open` looks for, is written last."""
    target = f"{table.uri}.tmp-{uuid.uuid4().hex[:8]}" if storage.is_local(table.uri) else table.uri
    try:
        for name, array in (("tokens", table.tokens), ("offsets", table.offsets)):
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            storage.write_bytes(storage.join(target, f"{name}.npy"), buffer.getvalue())
        storage.write_json(storage.join(target, "meta.json"), table.meta)
        if target != table.uri:
            storage.move(target, table.uri)
    except BaseException:
        storage.delete_tree(target)
        raise


def _special_ids(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int | None]:
    names = ("cls", "sep", "bos", "eos", "pad", "mask", "unk")
    return {name: getattr(tokenizer, f"{name}_token_id") for name in names}


def _surrounding(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """The special tokens that the family puts before and after one sentence."""
    bare, whole = (encode(tokenizer, ["a"], special_tokens=special)[0] for special in (False, True))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise DataError(f"{type(tokenizer).__name__} changes a text's tokens when it adds special tokens; such a tokenizer is not supported")


def _check_joining(table: TokenTable, dataset: Dataset, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Whole sentences must give the same tokens: of real rows, and of random values, which meet rare ones more often."""
    generator = np.random.default_rng(0)
    drawn = np.stack([generator.integers(0, size, _SAMPLED_ROWS) for size in dataset.field_sizes], axis=1)
    rows = dataset.read_row_groups("train", [0]).slice(0, _SAMPLED_ROWS)
    real = np.stack([rows.column(column).to_numpy() for column in dataset.columns], axis=1)
    field_ids = np.concatenate([np.zeros_like(drawn[:1]), drawn, real])
    values = [dataset.vocabulary(field).column("value") for field in range(len(dataset.columns))]
    texts = [
        sentence(dataset.field_names, [values[field][int(i)].as_py() if i else UNKNOWN for field, i in enumerate(row)]) for row in field_ids
    ]
    input_ids, attention_mask = table.assemble(field_ids)
    for text, ids, mask, expected in zip(texts, input_ids, attention_mask, encode(tokenizer, texts, special_tokens=True), strict=True):
        if ids[mask == 1].tolist() != expected:
            shown = text if len(text) <= 120 else text[:120] + "…"
            raise DataError(
                f"{type(tokenizer).__name__}: tokens of the parts of {shown!r} don't join to the tokens of the whole; "
                "use a PLM with a WordPiece or byte-level BPE tokenizer"
            )

"""The text of a row (Eq. 4) and the token table that makes tokenizing it a look-up (DESIGN §3.2).

A sentence is a join of "field is value." segments. Where tokenizing the segments, each with its leading separator, and joining
equals tokenizing the sentence (byte-level BPE, WordPiece), each distinct value needs tokenizing once instead of once a row.
SentencePiece puts a dummy separator before every text, so its segments after the first are tokenized without their own.

Shape legend: B rows, F fields, Z tokens of the longest row, T tokens of all rows.
"""

import copy
import io
import json
import uuid
from collections.abc import Callable, Sequence
from itertools import chain
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
_TABLE_FORMAT = 3  # part of the fingerprint, so that tables of another format are not found
_ARRAYS = ("tokens", "offsets", "value_spans")


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
    described = json.dumps([backend, _special_ids(tokenizer), template, SEPARATOR, UNKNOWN, _TABLE_FORMAT], sort_keys=True)
    return storage.sha256_bytes(described.encode())[:16]


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], special_tokens: bool) -> list[list[int]]:
    """Token ids of each text by the tokenizer's own call; special tokens spelled in a text (`<mask>`, `[SEP]`) stay plain text.

    Save for a Unigram model (XLM-R, T5), which has them among its pieces and reads them so: see `_without_special_pieces`.
    """
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
    backend = _plain_backend(tokenizer)
    separated = _keeps_separator(dataset, tokenizer, backend)
    tokens: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    spans: list[np.ndarray] = []
    longest = len(prefix) + len(suffix)
    for field, name in enumerate(dataset.field_names):
        values = [UNKNOWN, *dataset.vocabulary(field).column("value").to_pylist()[1:]]
        progress(f"tokenizing {len(values):,} values of {name}")
        first = len(lengths)
        for start in range(0, len(values), _VALUES_PER_CALL):
            rows, value_spans = _encode_segments(backend, name, values[start : start + _VALUES_PER_CALL], field == 0 or not separated)
            lengths.append(np.array([len(row) for row in rows], dtype=np.int64))
            tokens.append(np.array([token for row in rows for token in row], dtype=np.int32))
            spans.append(value_spans)
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
    _store(TokenTable(uri, meta, np.concatenate(tokens), offsets, np.concatenate(spans)))
    return TokenTable.open(dataset, tokenizer)


class TokenTable:
    """Tokens of every (field, id) of a dataset, and the assembly of rows from them. Sent to another process, it is opened anew there.

    `tokens` [T] int32; `offsets` [sum of field sizes + 1] int64, fields one after the other, ids counting from 0 (unknown);
    `value_spans` [sum of field sizes, 2] int32: where the value's tokens start and stop, counted from the segment's first token.
    With a `max_length`, rows that are longer lose whole segments (`kept_segments`); a segment that so becomes the first one keeps its
    leading separator.
    """

    def __init__(self, uri: str, meta: dict[str, Any], tokens: np.ndarray, offsets: np.ndarray, value_spans: np.ndarray) -> None:
        self.uri = uri
        self.meta = meta
        self.tokens = tokens
        self.offsets = offsets
        self.value_spans = value_spans
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
            has = f"has only token tables of other tokenizers or an older clickprompt ({described})" if present else "has no token table"
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
        """Falls back to another special token where the family has no padding token: padded positions are masked out anyway."""
        pad = self.meta["special_ids"]["pad"]
        return next(iter(self.special_ids), 0) if pad is None else pad

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

    def segment_lengths(self, field_ids: np.ndarray) -> np.ndarray:
        """[B, F] int64: tokens of each cell's segment."""
        cells = self._cells(field_ids)
        return self.offsets[cells + 1] - self.offsets[cells]

    def kept(self, field_ids: np.ndarray, max_length: int) -> np.ndarray:
        """[B, F] bool: the segments that are left of each row under `max_length`."""
        return kept_segments(self.segment_lengths(field_ids), max_length - len(self._prefix) - len(self._suffix))

    def lengths(self, field_ids: np.ndarray, max_length: int | None = None) -> np.ndarray:
        """[B] int64: tokens of each row, the family's special tokens included."""
        return self._row_lengths(self._counts(self._cells(field_ids), None, max_length))

    def assemble(
        self, field_ids: np.ndarray, text: np.ndarray | None = None, max_length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the rows' sentences (Eq. 4), padded on the right to the longest of them.

        field_ids [B, F] integers, each field counting from 0; text [B] bool: rows that are False get the special tokens only, or where
        the family has none around a text, one padding token that is not masked out: attention over nothing is not defined.
        Returns input_ids [B, Z] int64 and attention_mask [B, Z] int64 (1 = token).
        """
        cells = self._cells(field_ids)
        counts = self._counts(cells, text, max_length)
        lengths = self._row_lengths(counts)
        attention_mask = np.arange(int(lengths.max(initial=0))) < lengths[:, None]  # [B, Z]
        input_ids = np.full(attention_mask.shape, self.pad_id, dtype=np.int64)
        input_ids[:, : len(self._prefix)] = self._prefix
        flat = counts.ravel()
        # the k-th token of the whole batch sits k - (tokens of the segments before its own) behind its segment's start
        source = np.repeat(self.offsets[cells].ravel() - (np.cumsum(flat) - flat), flat) + np.arange(int(flat.sum()))
        input_ids[self._text_positions(counts, attention_mask.shape[1])] = self.tokens[source]
        ends = lengths - len(self._suffix)
        for index, token in enumerate(self._suffix):
            input_ids[np.arange(len(ends)), ends + index] = token
        return input_ids, attention_mask.astype(np.int64)

    def value_fields(self, field_ids: np.ndarray, text: np.ndarray | None = None, max_length: int | None = None) -> np.ndarray:
        """[B, Z] int16, aligned with `assemble` of the same arguments: the field whose value a token belongs to.

        −1 for the template's tokens, special tokens around the text, and padding.
        """
        cells = self._cells(field_ids)
        counts = self._counts(cells, text, max_length)
        result = np.full((len(cells), int(self._row_lengths(counts).max(initial=0))), -1, dtype=np.int16)
        flat = counts.ravel()
        inside = np.arange(int(flat.sum())) - np.repeat(np.cumsum(flat) - flat, flat)  # a token's place in its segment
        start, stop = (np.repeat(self.value_spans[cells, side].ravel(), flat) for side in (0, 1))
        field = np.repeat(np.tile(np.arange(cells.shape[1], dtype=np.int16), len(cells)), flat)
        result[self._text_positions(counts, result.shape[1])] = np.where((inside >= start) & (inside < stop), field, -1)
        return result

    def _row_lengths(self, counts: np.ndarray) -> np.ndarray:
        """[B] int64: tokens of rows with `counts` [B, F] tokens a segment; at least the one of `assemble`."""
        return np.maximum(counts.sum(axis=1) + len(self._prefix) + len(self._suffix), 1)

    def _text_positions(self, counts: np.ndarray, width: int) -> np.ndarray:
        """[B, Z] bool: where the segments' tokens lie, which read row by row, left to right are the batch's segments one after another."""
        before, positions = len(self._prefix), np.arange(width)
        return (positions >= before) & (positions < (before + counts.sum(axis=1))[:, None])

    def _counts(self, cells: np.ndarray, text: np.ndarray | None, max_length: int | None) -> np.ndarray:
        """[B, F] int64: tokens that each segment puts into its row."""
        counts = self.offsets[cells + 1] - self.offsets[cells]
        if max_length is not None and max_length < self.max_length:
            counts *= kept_segments(counts, max_length - len(self._prefix) - len(self._suffix))
        if text is not None:
            counts *= np.asarray(text, dtype=np.int64)[:, None]
        return counts

    def _cells(self, field_ids: np.ndarray) -> np.ndarray:
        """[B, F] int64: each cell's number in `offsets` and `value_spans`."""
        ids = np.asarray(field_ids, dtype=np.int64)
        if ids.ndim != 2 or ids.shape[1] != len(self._sizes):
            raise ValueError(f"field_ids of shape {ids.shape}, expected [B, {len(self._sizes)}]")
        if ids.size and ((ids < 0) | (ids >= self._sizes)).any():
            raise ValueError("field_ids hold an id outside its field's vocabulary; they belong to another dataset than the token table")
        return ids + self._bases


def kept_segments(lengths: np.ndarray, limit: int) -> np.ndarray:
    """[B, F] bool: which segments of `lengths` [B, F] tokens stay so that each row has at most `limit` tokens.

    A row that is too long loses its longest segment, the earlier of two equal ones, until it fits; the last field goes last.
    """
    kept = np.ones(lengths.shape, dtype=bool)
    over = np.flatnonzero(lengths.sum(axis=1) > limit)
    if len(over):
        rows = lengths[over]
        order = np.argsort(-rows[:, :-1], axis=1, kind="stable")  # the fields in the order in which they go
        order = np.concatenate([order, np.full((len(over), 1), rows.shape[1] - 1)], axis=1)
        ordered = np.take_along_axis(rows, order, axis=1)
        before = np.cumsum(ordered, axis=1) - ordered  # tokens gone before a field's turn comes
        goes = rows.sum(axis=1, keepdims=True) - before > limit
        lost = np.zeros_like(goes)
        np.put_along_axis(lost, order, goes, axis=1)
        kept[over] = ~lost
    return kept


def _table_uri(dataset: Dataset, tokenizer: "PreTrainedTokenizerBase") -> str:
    return storage.join(dataset.uri, "tokens", tokenizer_fingerprint(tokenizer))


def _load(uri: str) -> TokenTable:
    meta = storage.read_json(storage.join(uri, "meta.json"))
    arrays = {}
    for name in _ARRAYS:
        where = storage.join(uri, f"{name}.npy")
        try:
            if storage.is_local(uri):
                arrays[name] = np.load(storage.resolve(where)[1], mmap_mode="r", allow_pickle=False)
            else:
                arrays[name] = np.load(io.BytesIO(storage.read_bytes(where)), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{where}: missing or damaged; delete {uri} and run clickprompt tokenize again") from error
    cells = sum(meta["field_sizes"])
    sizes = (len(arrays["offsets"]), arrays["offsets"][-1], arrays["value_spans"].shape)
    if sizes != (cells + 1, len(arrays["tokens"]), (cells, 2)):
        raise DataError(f"{uri}: the token table's files don't belong together; delete this folder and run clickprompt tokenize again")
    return TokenTable(uri, meta, **arrays)


def _store(table: TokenTable) -> None:
    """Locally under a temporary name, then renamed; elsewhere meta.json, which `open` looks for, is written last."""
    target = f"{table.uri}.tmp-{uuid.uuid4().hex[:8]}" if storage.is_local(table.uri) else table.uri
    try:
        for name in _ARRAYS:
            buffer = io.BytesIO()
            np.save(buffer, getattr(table, name), allow_pickle=False)
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


def _plain_backend(tokenizer: "PreTrainedTokenizerBase") -> Any:
    """The tokenizer's own pipeline for text only, with the offsets of whole tokens: some post-processors cut spaces off those."""
    backend: Any = copy.deepcopy(tokenizer.backend_tokenizer)  # pyright: ignore[reportAttributeAccessIssue]
    backend.no_truncation()
    backend.no_padding()
    backend.post_processor = None
    backend.encode_special_tokens = True  # as `encode`: special tokens spelled in a text stay plain text
    description = json.loads(backend.to_str())
    if description["model"]["type"] == "Unigram":
        special = {token["content"] for token in description["added_tokens"] if token["special"]}
        backend.model = _without_special_pieces(description["model"], special)
    return backend


def _without_special_pieces(model: dict[str, Any], special: set[str]) -> Any:
    """The Unigram model with the same ids, but special tokens cannot be pieces of a text; their score is the best, so they always would be.

    SentencePiece itself leaves them out too. They get a name with a space, which no text has that comes to the model: it has "▁" instead.
    """
    from tokenizers.models import Unigram  # comes with transformers; see load_tokenizer

    vocabulary = [(SEPARATOR + piece if piece in special else piece, score) for piece, score in model["vocab"]]
    return Unigram(vocabulary, model["unk_id"], model["byte_fallback"])


def _encode_segments(backend: Any, name: str, values: Sequence[str], first: bool) -> tuple[list[list[int]], np.ndarray]:
    """Token ids of each value's segment, and [values, 2] int32: the tokens whose characters overlap the value's, as start and stop."""
    encodings = backend.encode_batch([segment(name, value, first) for value in values], add_special_tokens=False)
    begin = len(segment(name, "", first).removesuffix(TEMPLATE.partition("{value}")[2]))
    characters = np.array([offsets for encoding in encodings for offsets in encoding.offsets], dtype=np.int64).reshape(-1, 2)
    rows = [encoding.ids for encoding in encodings]
    counts = np.array([len(row) for row in rows])
    end = begin + np.repeat([len(value) for value in values], counts)
    hits = np.flatnonzero((characters[:, 0] < end) & (characters[:, 1] > begin) & (characters[:, 0] < characters[:, 1]))
    spans = np.zeros((len(rows), 2), dtype=np.int32)
    segments, first_hits = np.unique(np.repeat(np.arange(len(rows)), counts)[hits], return_index=True)
    bases = (np.cumsum(counts) - counts)[segments]
    spans[segments, 0] = hits[first_hits] - bases
    spans[segments, 1] = hits[np.append(first_hits[1:], len(hits)) - 1] + 1 - bases if len(hits) else 0
    return rows, spans


def _keeps_separator(dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", backend: Any) -> bool:
    """Whether a segment is tokenized with its leading separator, or without: SentencePiece adds a dummy one to every text it gets.

    Whole sentences decide: of real rows, and of random values, which meet rare ones more often. Raises DataError when neither way joins.
    """
    generator = np.random.default_rng(0)
    drawn = np.stack([generator.integers(0, size, _SAMPLED_ROWS) for size in dataset.field_sizes], axis=1)
    rows = dataset.read_row_groups("train", [0]).slice(0, _SAMPLED_ROWS)
    real = np.stack([rows.column(column).to_numpy() for column in dataset.columns], axis=1)
    field_ids = np.concatenate([np.zeros_like(drawn[:1]), drawn, real])
    columns = []
    for field in range(len(dataset.columns)):
        vocabulary = dataset.vocabulary(field).column("value")
        columns.append([vocabulary[int(i)].as_py() if i else UNKNOWN for i in field_ids[:, field]])
    texts = [sentence(dataset.field_names, values) for values in zip(*columns, strict=True)]
    wholes = [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]
    failed = None
    for separated in (True, False):
        parts = [
            _encode_segments(backend, name, values, field == 0 or not separated)[0]
            for field, (name, values) in enumerate(zip(dataset.field_names, columns, strict=True))
        ]
        joined = [list(chain.from_iterable(row)) for row in zip(*parts, strict=True)]
        different = [text for text, ids, whole in zip(texts, joined, wholes, strict=True) if ids != whole]
        if not different:
            return separated
        failed = failed or different[0]
    assert failed is not None
    shown = failed if len(failed) <= 120 else failed[:120] + "…"
    raise DataError(
        f"{type(tokenizer).__name__}: tokens of the parts of {shown!r} don't join to the tokens of the whole; "
        "use a PLM with a WordPiece or byte-level BPE tokenizer"
    )

"""The token table, which makes tokenizing a row a look-up (DESIGN §3.2). token_table_build.py builds it.

Shape legend: B rows, F fields, V further values of fields, P = F + V segments of a row, Z tokens of the
longest row, T tokens of all segments.
"""

import functools
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np

from clickprompt.config import Multi, multi_columns
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.click_text import ClickText
from clickprompt.data.text.mapped import mapped_folder
from clickprompt.data.text.template import tokenizer_fingerprint
from clickprompt.errors import DataError, MissingTokensError
from clickprompt.io import storage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ARRAYS", "META", "TokenTable", "array_file", "kept_segments", "table_uri"]

META = "meta.json"
_TOKENS_AT_ONCE = 1 << 22
ARRAYS = {"tokens": np.dtype("<i4"), "offsets": np.dtype("<i8"), "value_spans": np.dtype("<i4")}
"""the table's files, each the plain numbers of one array"""


class TokenTable:
    """Tokens of every (field, id) of a dataset, and the assembly of rows from them. A process that receives
    it opens it anew.

    `tokens` [T] int32; `offsets` [sum of field sizes + 1] int64, fields one after the other, ids counted from
    0 (unknown); `value_spans` [sum of field sizes, 2] int32: where the value's tokens start and stop, counted
    from the segment's first token. With a `max_length`, rows that are longer lose whole segments
    (`kept_segments`); a segment that becomes the first one this way keeps its leading separator.

    A further value of a field (config/multi.py) has a segment of its own, behind the field's first: "Film
    genre is Drama. Film genre is War."

    `click`: the texts end with the click (`with_click`). Its segment stands before the family's closing
    tokens and is treated as they are: it is never lost, and belongs to no field.

    `width_multiple`: batches are padded to multiples of so many tokens, as far as the longest row allows
    (`with_widths`).
    """

    def __init__(
        self,
        uri: str,
        meta: dict[str, Any],
        tokens: np.ndarray,
        offsets: np.ndarray,
        value_spans: np.ndarray,
        click: ClickText | None = None,
        width_multiple: int = 1,
    ) -> None:
        self.uri = uri
        self.meta = meta
        self.tokens = tokens
        self.offsets = offsets
        self.value_spans = value_spans
        self.click = click
        self.width_multiple = width_multiple
        self._sizes = np.array(meta["field_sizes"], dtype=np.int64)
        self._bases = np.cumsum(self._sizes) - self._sizes
        of_columns = [*range(len(self._sizes)), *multi_columns(Multi.all_of(meta.get("multi"))).values()]
        self._order = np.argsort(of_columns, kind="stable")  # the columns in the order of the text
        self.segment_fields = np.array(of_columns)[self._order]
        """[P]: the field of each segment"""
        self._further = self._order >= len(self._sizes)
        self._prefix = np.array(meta["prefix"], dtype=np.int64)
        segment = click.tokens if click is not None else ()
        self._suffix = np.array([*segment, *meta["suffix"]], dtype=np.int64)

    @classmethod
    def open(cls, dataset: Dataset, tokenizer: "PreTrainedTokenizerBase") -> "TokenTable":
        """Open the table.

        Raises MissingTokensError if `dataset` has none for this tokenizer, naming those that it has, and
        DataError for one that isn't the dataset's.
        """
        uri = table_uri(dataset, tokenizer)
        wanted = tokenizer_fingerprint(tokenizer, dataset.template)
        words = ["clickprompt", "tokenize", dataset.uri, "--plm", tokenizer.name_or_path or "PLM"]
        remedy = f"run {shlex.join(words)} first"
        if not storage.exists(storage.join(uri, META)):
            tables = storage.join(dataset.uri, "tokens")
            present = [
                name
                for name in storage.list_names(tables)
                if storage.exists(storage.join(tables, name, META))
            ]
            if any(name.split("-v")[0] == wanted for name in present):
                raise MissingTokensError(
                    f"{dataset.uri}: {remedy}; version {dataset.version} has no token table yet, an earlier "
                    "one has"
                )
            described = ", ".join(
                f"{storage.read_json(storage.join(tables, n, META))['tokenizer']} {n}" for n in present
            )
            has = (
                f"has only token tables of other tokenizers or an older clickprompt: {described}"
                if present
                else "has no token table yet"
            )
            raise MissingTokensError(
                f"{dataset.uri}: {remedy}; the dataset {has} (wanted: {type(tokenizer).__name__} {wanted})"
            )
        table = _load(uri)
        if table.meta["fingerprint"] != wanted or table.meta["dataset"] != dataset.fingerprint:
            raise DataError(
                f"{uri}: delete this folder and {remedy}; its token table is of another tokenizer or dataset"
            )
        return table

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self.uri, self.click, self.width_multiple)

    def with_click(self, click: ClickText) -> "TokenTable":
        """Return the same table for texts that end with the click."""
        arrays = (self.tokens, self.offsets, self.value_spans)
        return TokenTable(self.uri, self.meta, *arrays, click, self.width_multiple)

    def with_widths(self, multiple: int) -> "TokenTable":
        """Return the same table for batches whose widths are multiples of `multiple`."""
        arrays = (self.tokens, self.offsets, self.value_spans)
        return TokenTable(self.uri, self.meta, *arrays, self.click, multiple)

    @property
    def mask_id(self) -> int | None:
        return self.meta["special_ids"]["mask"]

    @property
    def pad_id(self) -> int:
        """Return the padding id. A family without a padding token uses another special token: padded
        positions are masked out anyway.
        """
        pad = self.meta["special_ids"]["pad"]
        return next(iter(self.special_ids), 0) if pad is None else pad

    @property
    def special_ids(self) -> list[int]:
        """Return the ids that are never masked and never drawn as a random token."""
        return self.meta["all_special_ids"]

    @property
    def vocab_size(self) -> int:
        return self.meta["vocab_size"]

    @functools.cached_property
    def vocabulary(self) -> np.ndarray:
        """Return [V] int64, ascending: the tokens of the dataset's texts, special ones left out, which are
        never a target.
        """
        seen = np.zeros(self.vocab_size, dtype=bool)
        for start in range(0, len(self.tokens), _TOKENS_AT_ONCE):
            seen[self.tokens[start : start + _TOKENS_AT_ONCE]] = True
        if self.click is not None:
            seen[[*self.click.tokens, *self.click.answers]] = True
        seen[[token for token in self.special_ids if token < len(seen)]] = False
        return np.flatnonzero(seen)

    @property
    def max_length(self) -> int:
        """Return the tokens of the longest row that the vocabularies allow, special tokens included."""
        return self.meta["max_length"] + (len(self.click.tokens) if self.click is not None else 0)

    @property
    def fixed_length(self) -> int:
        """Return the tokens of a row without any field."""
        return len(self._prefix) + len(self._suffix)

    def click_positions(self, attention_mask: np.ndarray) -> np.ndarray:
        """Return [B] int64: where the rows of `assemble` have [MASK] for the click."""
        assert self.click is not None
        return attention_mask.sum(axis=1) - len(self._suffix) + self.click.place

    def segment_lengths(self, field_ids: np.ndarray) -> np.ndarray:
        """Return [B, P] int64: tokens of each segment; 0 where a field has no further value."""
        return self._counts(self._cells(field_ids), None, None)

    def kept(self, field_ids: np.ndarray, max_length: int) -> np.ndarray:
        """Return [B, P] bool: the segments of each row that stay under `max_length`."""
        return kept_segments(self.segment_lengths(field_ids), max_length - self.fixed_length)

    def lengths(self, field_ids: np.ndarray, max_length: int | None = None) -> np.ndarray:
        """Return [B] int64: tokens of each row, the family's special tokens included."""
        return self._row_lengths(self._counts(self._cells(field_ids), None, max_length))

    def assemble(
        self, field_ids: np.ndarray, text: np.ndarray | None = None, max_length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of the rows' sentences, padded on the right to the longest of them, or to the
        multiple above.

        field_ids [B, F + V] integers, each field counted from 0; text [B] bool, or [B, F] for each field:
        rows with False get only the special tokens (and the click's), or, if the family puts none around a
        text, one padding token that is not masked out, because attention over nothing is undefined.

        Returns input_ids [B, Z] int64 and attention_mask [B, Z] int64 (1 = token).
        """
        cells = self._cells(field_ids)
        counts = self._counts(cells, text, max_length)
        lengths = self._row_lengths(counts)
        attention_mask = np.arange(self._width(lengths, max_length)) < lengths[:, None]  # [B, Z]
        input_ids = np.full(attention_mask.shape, self.pad_id, dtype=np.int64)
        input_ids[:, : len(self._prefix)] = self._prefix
        flat = counts.ravel()
        # the k-th token of the whole batch is k − (tokens of the segments before its own) places after its
        # segment's start
        source = np.repeat(self.offsets[cells].ravel() - (np.cumsum(flat) - flat), flat) + np.arange(
            int(flat.sum())
        )
        input_ids[self._text_positions(counts, attention_mask.shape[1])] = self.tokens[source]
        ends = lengths - len(self._suffix)
        for index, token in enumerate(self._suffix):
            input_ids[np.arange(len(ends)), ends + index] = token
        return input_ids, attention_mask.astype(np.int64)

    def value_fields(
        self, field_ids: np.ndarray, text: np.ndarray | None = None, max_length: int | None = None
    ) -> np.ndarray:
        """Return [B, Z] int16, aligned with `assemble` of the same arguments: the field whose value a token
        belongs to.

        −1 for the template's tokens, special tokens around the text, and padding.
        """
        cells = self._cells(field_ids)
        counts = self._counts(cells, text, max_length)
        result = np.full((len(cells), self._width(self._row_lengths(counts), max_length)), -1, dtype=np.int16)
        flat = counts.ravel()
        # A token's place in its segment
        inside = np.arange(int(flat.sum())) - np.repeat(np.cumsum(flat) - flat, flat)
        start, stop = (np.repeat(self.value_spans[cells, side].ravel(), flat) for side in (0, 1))
        field = np.repeat(np.tile(self.segment_fields.astype(np.int16), len(cells)), flat)
        result[self._text_positions(counts, result.shape[1])] = np.where(
            (inside >= start) & (inside < stop), field, -1
        )
        return result

    def _row_lengths(self, counts: np.ndarray) -> np.ndarray:
        """Return [B] int64: tokens of rows with `counts` [B, P] tokens per segment; at least the one token of
        `assemble`.
        """
        return np.maximum(counts.sum(axis=1) + self.fixed_length, 1)

    def _width(self, lengths: np.ndarray, max_length: int | None) -> int:
        longest = int(lengths.max(initial=0))
        multiple = -(-longest // self.width_multiple) * self.width_multiple
        # A position past the longest row's may be one that the model doesn't have
        limit = self.max_length if max_length is None else min(self.max_length, max_length)
        return max(longest, min(multiple, limit))

    def _text_positions(self, counts: np.ndarray, width: int) -> np.ndarray:
        """Return [B, Z] bool: the places of the segments' tokens. Read row by row, left to right, they are
        the batch's segments one after another.
        """
        before, positions = len(self._prefix), np.arange(width)
        return (positions >= before) & (positions < (before + counts.sum(axis=1))[:, None])

    def _counts(self, cells: np.ndarray, text: np.ndarray | None, max_length: int | None) -> np.ndarray:
        """Return [B, P] int64: tokens that each segment puts into its row."""
        counts = self.offsets[cells + 1] - self.offsets[cells]
        if self._further.any():
            counts[self._further & (cells == self._bases[self.segment_fields])] = 0
        if text is not None:
            counts *= text[:, self.segment_fields] if text.ndim == 2 else text[:, None]
        if max_length is not None and max_length < self.max_length:
            counts *= kept_segments(counts, max_length - self.fixed_length)
        return counts

    def _cells(self, field_ids: np.ndarray) -> np.ndarray:
        """Return [B, P] int64: each segment's number in `offsets` and `value_spans`."""
        ids = np.asarray(field_ids, dtype=np.int64)
        if ids.ndim != 2 or ids.shape[1] != len(self._order):
            raise ValueError(f"field_ids of shape {ids.shape}, expected [B, {len(self._order)}]")
        if self._further.any():
            ids = ids[:, self._order]
        if ids.size and ((ids < 0) | (ids >= self._sizes[self.segment_fields])).any():
            raise ValueError(
                "field_ids hold an id outside its field's vocabulary; they belong to another dataset "
                "than the token table"
            )
        return ids + self._bases[self.segment_fields]


def kept_segments(lengths: np.ndarray, limit: int) -> np.ndarray:
    """Return [B, F] bool: which segments of `lengths` [B, F] tokens stay so that each row has at most `limit`
    tokens.

    A row that is too long loses its longest segment, the earlier of two equal ones, until it fits; the last
    field goes last.
    """
    kept = np.ones(lengths.shape, dtype=bool)
    over = np.flatnonzero(lengths.sum(axis=1) > limit)
    if len(over):
        rows = lengths[over]
        order = np.argsort(-rows[:, :-1], axis=1, kind="stable")  # the fields in the order in which they go
        order = np.concatenate([order, np.full((len(over), 1), rows.shape[1] - 1)], axis=1)
        ordered = np.take_along_axis(rows, order, axis=1)
        before = np.cumsum(ordered, axis=1) - ordered  # tokens already gone when a field's turn comes
        goes = rows.sum(axis=1, keepdims=True) - before > limit
        lost = np.zeros_like(goes)
        np.put_along_axis(lost, order, goes, axis=1)
        kept[over] = ~lost
    return kept


def table_uri(dataset: Dataset, tokenizer: "PreTrainedTokenizerBase") -> str:
    version = f"-v{dataset.version}" if dataset.version > 1 else ""
    fingerprint = tokenizer_fingerprint(tokenizer, dataset.template)
    return storage.join(dataset.uri, "tokens", f"{fingerprint}{version}")


def array_file(uri: str, name: str) -> str:
    return storage.join(uri, f"{name}.bin")


def _load(uri: str, click: ClickText | None = None, width_multiple: int = 1) -> TokenTable:
    """Map the arrays instead of reading them, so that all processes of a machine share the pages that they
    use.
    """
    meta = storage.read_json(storage.join(uri, META))
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
    return TokenTable(uri, meta, **arrays, click=click, width_multiple=width_multiple)

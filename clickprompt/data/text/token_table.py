"""The token table, which makes tokenizing a row a look-up (DESIGN §3.2). token_table_build.py builds it.

Shape legend: B rows, F fields, V further values of fields, P = F + V segments of a row, Z tokens of the
longest row, T tokens of all segments, N items of a history.
"""

import functools
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clickprompt.config import Multi, history_columns, multi_columns
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.click_text import ClickText
from clickprompt.data.text.history_text import HistoryText, ItemTokens
from clickprompt.data.text.segment_places import between, kept_segments, places
from clickprompt.data.text.segments import Encoded
from clickprompt.data.text.token_table_files import (
    META,
    check_arrays,
    check_meta,
    map_arrays,
    missing_table,
    table_facts,
    table_uri,
)
from clickprompt.io import storage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenTable", "kept_segments", "table_uri"]

_TOKENS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class _Rows:
    """Where rows' tokens are: `cells`, `counts` [B, P] of segments, `lengths` [B] of rows."""

    cells: np.ndarray
    counts: np.ndarray
    items: ItemTokens | None
    lengths: np.ndarray


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

    `history`: the texts end with the row's history (history_text.py), before the click. Ids of rows then have
    N columns more, those of the newest items. `kept_segments` is about fields alone: items go before them.

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
        history: HistoryText | None = None,
    ) -> None:
        self.uri = uri
        self.meta = meta
        self.tokens = tokens
        self.offsets = offsets
        self.value_spans = value_spans
        self.click = click
        self.width_multiple = width_multiple
        self.history = history
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
        words = ["clickprompt", "tokenize", dataset.uri, "--plm", tokenizer.name_or_path or "PLM"]
        remedy = f"run {shlex.join(words)} first"
        if not storage.exists(storage.join(uri, META)):
            raise missing_table(dataset, tokenizer, remedy)
        meta = storage.read_json(storage.join(uri, META))
        check_meta(uri, meta, table_facts(dataset, tokenizer), remedy)
        arrays = map_arrays(uri, meta)
        check_arrays(uri, meta, arrays, remedy)
        return cls(uri, meta, arrays["tokens"], arrays["offsets"], arrays["value_spans"])

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self.uri, self.click, self.width_multiple, self.history)

    def with_click(self, click: ClickText) -> "TokenTable":
        """Return the same table for texts that end with the click."""
        arrays = (self.tokens, self.offsets, self.value_spans)
        return TokenTable(self.uri, self.meta, *arrays, click, self.width_multiple, self.history)

    def with_history(self, history: HistoryText) -> "TokenTable":
        """Return the same table for texts that end with the row's history, before the click if they have
        that."""
        arrays = (self.tokens, self.offsets, self.value_spans)
        return TokenTable(self.uri, self.meta, *arrays, self.click, self.width_multiple, history)

    def with_widths(self, multiple: int) -> "TokenTable":
        """Return the same table for batches whose widths are multiples of `multiple`."""
        arrays = (self.tokens, self.offsets, self.value_spans)
        return TokenTable(self.uri, self.meta, *arrays, self.click, multiple, self.history)

    @property
    def num_items(self) -> int:
        """Return N."""
        return self.history.items if self.history is not None else 0

    @property
    def num_columns(self) -> int:
        """Return F + V + N, the columns of ids that make a row's text."""
        return len(self._order) + self.num_items

    def columns_of(self, dataset: Dataset) -> list[str]:
        """Return the names of those columns, which are the first of `Dataset.id_columns`."""
        return [*dataset.value_columns, *history_columns(self.num_items)]

    def encoded(self, field: int, ids: np.ndarray) -> Encoded:
        """Return the segments of some values of a field."""
        cells = self._bases[field] + ids
        lengths = self.offsets[cells + 1] - self.offsets[cells]
        return Encoded(self.tokens[places(self.offsets[cells], lengths)], lengths, self.value_spans[cells])

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
        click = len(self.click.tokens) if self.click is not None else 0
        return self.meta["max_length"] + click + self._longest_history

    @functools.cached_property
    def _longest_history(self) -> int:
        if self.history is None:
            return 0
        base, size = (int(of[self.history.field]) for of in (self._bases, self._sizes))
        longest = int(np.diff(self.offsets[base : base + size + 1]).max()) - self.history.skip
        return len(self.history.head) + self.history.items * longest

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
        return self._rows(field_ids, None, None).counts

    def kept(self, field_ids: np.ndarray, max_length: int) -> np.ndarray:
        """Return [B, P] bool: the segments of each row that stay under `max_length`."""
        return kept_segments(self.segment_lengths(field_ids), max_length - self.fixed_length)

    def lengths(self, field_ids: np.ndarray, max_length: int | None = None) -> np.ndarray:
        """Return [B] int64: tokens of each row, the family's special tokens included."""
        return self._rows(field_ids, None, max_length).lengths

    def named_items(self, field_ids: np.ndarray, max_length: int | None = None) -> np.ndarray:
        """Return [B] int64: items of its history that each row's text names."""
        items = self._rows(field_ids, None, max_length).items
        return np.zeros(len(field_ids), dtype=np.int64) if items is None else (items.counts > 0).sum(axis=1)

    def assemble(
        self, field_ids: np.ndarray, text: np.ndarray | None = None, max_length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of the rows' sentences, padded on the right to the longest of them, or to the
        multiple above.

        field_ids [B, F + V + N] integers, each field counted from 0; text [B] bool, or [B, F] for each field:
        rows with False get only the special tokens (and the click's), or, if the family puts none around a
        text, one padding token that is not masked out, because attention over nothing is undefined.

        Returns input_ids [B, Z] int64 and attention_mask [B, Z] int64 (1 = token).
        """
        rows = self._rows(field_ids, text, max_length)
        counts, lengths = rows.counts, rows.lengths
        attention_mask = np.arange(self._width(lengths, max_length)) < lengths[:, None]  # [B, Z]
        input_ids = np.full(attention_mask.shape, self.pad_id, dtype=np.int64)
        input_ids[:, : len(self._prefix)] = self._prefix
        source = places(self.offsets[rows.cells], counts)
        input_ids[self._text_positions(counts, attention_mask.shape[1])] = self.tokens[source]
        if rows.items is not None:
            assert self.history is not None
            starts = len(self._prefix) + counts.sum(axis=1)
            named = np.flatnonzero(rows.items.heads)
            for index, token in enumerate(self.history.head):
                input_ids[named, starts[named] + index] = token
            of_items = between(
                starts + rows.items.heads, starts + rows.items.lengths, attention_mask.shape[1]
            )
            input_ids[of_items] = self.tokens[places(rows.items.starts, rows.items.counts)]
        ends = lengths - len(self._suffix)
        for index, token in enumerate(self._suffix):
            input_ids[np.arange(len(ends)), ends + index] = token
        return input_ids, attention_mask.astype(np.int64)

    def value_fields(
        self, field_ids: np.ndarray, text: np.ndarray | None = None, max_length: int | None = None
    ) -> np.ndarray:
        """Return [B, Z] int16, aligned with `assemble` of the same arguments: the field whose value a token
        belongs to.

        −1 for the template's tokens, histories, special tokens around the text, and padding.
        """
        rows = self._rows(field_ids, text, max_length)
        cells, counts = rows.cells, rows.counts
        result = np.full((len(cells), self._width(rows.lengths, max_length)), -1, dtype=np.int16)
        flat = counts.ravel()
        # A token's place in its segment
        inside = np.arange(int(flat.sum())) - np.repeat(np.cumsum(flat) - flat, flat)
        start, stop = (np.repeat(self.value_spans[cells, side].ravel(), flat) for side in (0, 1))
        field = np.repeat(np.tile(self.segment_fields.astype(np.int16), len(cells)), flat)
        result[self._text_positions(counts, result.shape[1])] = np.where(
            (inside >= start) & (inside < stop), field, -1
        )
        return result

    def history_tokens(
        self, field_ids: np.ndarray, text: np.ndarray | None = None, max_length: int | None = None
    ) -> np.ndarray:
        """Return [B, Z] bool, aligned with `assemble` of the same arguments: the tokens of the histories."""
        rows = self._rows(field_ids, text, max_length)
        width = self._width(rows.lengths, max_length)
        starts = len(self._prefix) + rows.counts.sum(axis=1)
        return between(starts, starts if rows.items is None else starts + rows.items.lengths, width)

    def _rows(self, field_ids: np.ndarray, text: np.ndarray | None, max_length: int | None) -> _Rows:
        ids = np.asarray(field_ids, dtype=np.int64)
        if ids.ndim != 2 or ids.shape[1] != self.num_columns:
            raise ValueError(f"field_ids of shape {ids.shape}, expected [B, {self.num_columns}]")
        cells = self._cells(ids[:, : len(self._order)])
        counts = self._counts(cells, text, max_length)
        lengths, items = counts.sum(axis=1) + self.fixed_length, None
        if self.history is not None:
            uncut = self._counts(cells, text, None).sum(axis=1) + self.fixed_length
            items = self._items(self.history, ids[:, len(self._order) :], text, max_length, uncut)
            lengths = lengths + items.lengths
        # At least the one token of `assemble`
        return _Rows(cells, counts, items, np.maximum(lengths, 1))

    def _items(
        self,
        history: HistoryText,
        ids: np.ndarray,
        text: np.ndarray | None,
        max_length: int | None,
        uncut: np.ndarray,
    ) -> ItemTokens:
        """ids [B, N] of items; uncut [B]: tokens of the rows with all fields and no histories."""
        shown = history.shown(ids)
        cells = self._bases[history.field] + shown
        starts = self.offsets[cells] + history.skip
        named = (shown > 0) & (self.value_spans[cells, 1] > 0)
        if text is not None:
            assert text.ndim == 1, "a row of two texts has no history"
            named &= text[:, None]
        counts = np.where(named, self.offsets[cells + 1] - starts, 0)
        if max_length is not None:
            whole = uncut[:, None] + len(history.head) + np.cumsum(counts, axis=1)
            counts *= whole <= max_length  # of items, the oldest go first
        return ItemTokens(starts, counts, np.where(counts.any(axis=1), len(history.head), 0))

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
        before = np.full(len(counts), len(self._prefix))
        return between(before, before + counts.sum(axis=1), width)

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

    def _cells(self, ids: np.ndarray) -> np.ndarray:
        """Return [B, P] int64: each segment's number in `offsets` and `value_spans`."""
        if self._further.any():
            ids = ids[:, self._order]
        if ids.size and ((ids < 0) | (ids >= self._sizes[self.segment_fields])).any():
            raise ValueError(
                "field_ids hold an id outside its field's vocabulary; they belong to another dataset "
                "than the token table"
            )
        return ids + self._bases[self.segment_fields]


def _load(
    uri: str,
    click: ClickText | None = None,
    width_multiple: int = 1,
    history: HistoryText | None = None,
) -> TokenTable:
    meta = storage.read_json(storage.join(uri, META))
    return TokenTable(
        uri, meta, **map_arrays(uri, meta), click=click, width_multiple=width_multiple, history=history
    )

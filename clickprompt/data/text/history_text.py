"""The history as the text's last part: the newest items of what the row's user did before
(`plm.history_items`).

    … Title is Alien. Film genre is Horror. Title history is Heat. Up.

Newest first, without items that have no id; a row without any has no such part. An item is written as at the
end of its field's own part, so its tokens are in the token table already: a segment's (segments.py) without
those before the value. A text that is too long loses its oldest items before any field, so histories never
change the fields' tokens.

Shape legend: B rows, N items of a history, V values of the item's field.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.config import PLMConfig
from clickprompt.data.prepared.dataset import Dataset, read_table
from clickprompt.data.text.segments import Encoded, SegmentEncoder
from clickprompt.data.text.template import SEPARATOR, TEMPLATES, UNKNOWN, field_template, sentence
from clickprompt.data.text.value_texts import ValueTexts
from clickprompt.data.transform.row_transform import KEY, FieldRule, key_texts
from clickprompt.errors import ConfigError
from clickprompt.io import storage

__all__ = [
    "HistoryText",
    "ItemTexts",
    "ItemTokens",
    "history_of",
    "history_part",
    "sampled_ids",
    "sampled_texts",
    "with_tokens",
]

_SAMPLED = 64
# Values of the other fields, on which the part's tokens must not depend
_BEFORE = (UNKNOWN, "7", "a")


@dataclass(frozen=True)
class HistoryText:
    """Which items the text names, and how they are found in a token table."""

    field: int
    """whose values name the items"""
    items: int
    """at most so many, the newest"""
    of_item: np.ndarray | None = None
    """[V] int64: the field's id of each item; None if it is the item's own field"""
    head: tuple[int, ...] = ()
    """tokens before the first item"""
    skip: int = 0
    """tokens of a segment before its value"""

    def shown(self, items: np.ndarray) -> np.ndarray:
        """Return ids of `field` by ids of items, 0 for none; any shape."""
        return items if self.of_item is None else self.of_item[items]


@dataclass(frozen=True)
class ItemTokens:
    """Where the tokens of rows' items are in a token table: `starts`, `counts` [B, N]; `heads` [B]: tokens of
    the part's head, 0 where a row names nothing.
    """

    starts: np.ndarray
    counts: np.ndarray
    heads: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Return [B]: tokens of the whole part."""
        return self.heads + self.counts.sum(axis=1)


def history_part(name: str, values: Sequence[str], template: str) -> str:
    """Return the part of the text for items named by a field's `values`, newest first, with its leading
    separator; empty if there are none.
    """
    if not values:
        return ""
    end = _behind_value(name, template)
    return "".join([_head(name, template), *(f"{SEPARATOR}{value}{end}" for value in values)])


def _head(name: str, template: str) -> str:
    # The compact template has no names
    return "" if template == TEMPLATES["compact"] else f"{SEPARATOR}{name} history is"


def _behind_value(name: str, template: str) -> str:
    return field_template(name, template).partition("{value}")[2]


def history_of(dataset: Dataset, config: PLMConfig) -> HistoryText | None:
    """Return what the texts of a dataset's rows say of histories, not yet `with_tokens`; None if the settings
    leave them out.

    Raises ConfigError if the dataset has none or shorter ones, or `plm.history_field` says nothing of items.
    """
    if not config.history_items:
        return None
    what, history = f"plm.history_items={config.history_items}", dataset.history
    if history is None or history.length < config.history_items:
        has = "no histories" if history is None else f"histories of {history.length}"
        raise ConfigError(
            f"{what}: {dataset.uri} has {has}; prepare it with --history {config.history_items} or more, or "
            f"set {history.length if history else 0}"
        )
    field, of_item = history.field, None
    if config.history_field not in (None, dataset.field_names[field]):
        field, of_item = _joined(dataset, history.field, config.history_field)
    name = dataset.field_names[field]
    if not re.fullmatch(r"[.,;:!?]", _behind_value(name, dataset.template)):
        raise ConfigError(
            f"{what}: in the template {dataset.template!r} no single punctuation mark follows {name}, which "
            f"would divide the items; prepare it with {{{name}}} followed by one and a space, or set 0"
        )
    return HistoryText(field, config.history_items, of_item)


def _joined(dataset: Dataset, item: int, name: str) -> tuple[int, np.ndarray]:
    """Return the number of the field `name`, and its ids of all items [V]: what the table that is joined by
    the item says.
    """
    transform = dataset.manifest["transform"]
    rules = [FieldRule.from_json(rule) for rule in transform["fields"]]
    known = [
        field
        for field, rule in enumerate(rules)
        if rule.table and rule.column == rules[item].column and not rule.schema.most_values
    ]
    names = dataset.field_names
    field = names.index(name) if name in names else -1
    if field not in known:
        raise ConfigError(
            f"plm.history_field={name}: not a field with one value of each item; set one of "
            f"{', '.join(names[one] for one in [item, *known])}"
        )
    table = rules[field].table
    assert table is not None
    joined = read_table(storage.inside(dataset.uri, transform["tables"][table]["file"]))
    items, values = (dataset.vocabulary(one).column("value").combine_chunks() for one in (item, field))
    places = pc.index_in(key_texts(items, ()), value_set=joined.column(KEY).combine_chunks())  # pyright: ignore[reportAttributeAccessIssue]
    found = joined.column(name).combine_chunks().cast(pa.string()).take(places)
    ids = pc.index_in(found, value_set=values.cast(pa.string())).fill_null(0).to_numpy(zero_copy_only=False)  # pyright: ignore[reportAttributeAccessIssue]
    ids = ids.astype(np.int64)
    ids[0] = 0
    return field, ids


class ItemTexts:
    """What stands in the text for the items of histories; it holds the field's vocabulary."""

    def __init__(self, dataset: Dataset, history: HistoryText) -> None:
        self._history, self._texts = history, ValueTexts(dataset)
        self._values = dataset.vocabulary(history.field).column("value")

    def beside(self, texts: pa.Array, items: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        """Return `texts` with those of the rows' newest `items` [B, N or more] behind, and the places of
        these, [B, N]: 0 for none.
        """
        shown = self._history.shown(items[:, : self._history.items])
        ids = np.setdiff1d(shown, [0])
        more = self._texts.of(self._history.field, self._values.take(pa.array(ids)))
        places = np.where(shown > 0, len(texts) + np.searchsorted(ids, shown), 0)
        return pa.concat_arrays([texts.cast(pa.string()), pa.array(more, pa.string())]), places


def sampled_ids(dataset: Dataset, field: int) -> np.ndarray:
    """Return some ids of the first piece of a field's vocabulary, always the same."""
    size = len(dataset.vocabulary_piece(field, 0))
    return np.sort(np.random.default_rng(0).choice(size, min(size, _SAMPLED), replace=False))


def sampled_texts(dataset: Dataset, field: int) -> list[str]:
    """Return what stands in the text for the values of `sampled_ids`."""
    ids = sampled_ids(dataset, field)
    values = dataset.vocabulary_piece(field, 0).column("value").take(pa.array(ids))
    texts = ValueTexts(dataset).of(field, values)
    return [text if number else UNKNOWN for number, text in zip(ids, texts, strict=True)]


def with_tokens(
    history: HistoryText, dataset: Dataset, encoder: SegmentEncoder, encoded: Encoded
) -> HistoryText:
    """Find the tokens by writing texts with some items. encoded: the segments of the `sampled_ids` of the
    history's field.

    Raises ConfigError if the items' tokens don't join to those of the whole text.
    """
    names, template = dataset.field_names, dataset.template
    name, texts = names[history.field], sampled_texts(dataset, history.field)
    before = [sentence(names, [value] * len(names), template) for value in _BEFORE]
    segments = np.split(encoded.tokens, np.cumsum(encoded.lengths)[:-1])
    have_tokens = np.flatnonzero(encoded.value_spans[:, 1] > 0)
    least = int(encoded.value_spans[have_tokens, 0].min())
    several = [have_tokens[first : first + 5] for first in range(0, len(have_tokens), 5)]
    parts = [history_part(name, [texts[number] for number in some], template) for some in several]
    starts, wholes = (
        encoder.whole(before),
        [encoder.whole([text + part for part in parts]) for text in before],
    )
    # A separator may be a token of its own, which is none of the value's
    for skip in range(least, max(least - 2, -1), -1):
        ends = [np.concatenate([segments[number][skip:] for number in some]).tolist() for some in several]
        heads = {
            _between(whole, start, end)
            for start, row in zip(starts, wholes, strict=True)
            for whole, end in zip(row, ends, strict=True)
        }
        if len(heads) == 1 and None not in heads:
            return replace(history, head=heads.pop() or (), skip=skip)
    raise ConfigError(
        f"plm.history_items={history.items}: this PLM's tokens of {name} in its own place and in a history "
        f"such as {parts[0].strip()[:80]!r} differ; use another PLM, or set plm.history_items=0"
    )


def _between(whole: list[int], start: list[int], end: list[int]) -> tuple[int, ...] | None:
    """Return what is between, or None if the whole doesn't start and end so."""
    head = whole[len(start) : len(whole) - len(end)]
    return tuple(head) if [*start, *head, *end] == whole else None

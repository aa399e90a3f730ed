"""Measure how long the rows' texts are, against what a PLM reads at most, before the training starts.

Shape legend: B rows, F fields, V further values of fields.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clickprompt.data.prepared.dataset import SPLITS, Dataset
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import ConfigError, DataError

__all__ = ["TextLengths", "check_lengths", "text_lengths"]


@dataclass(frozen=True)
class TextLengths:
    """The lengths of all rows' texts, special tokens included, against a limit. Its `str` is one line for
    people.
    """

    limit: int
    rows: int
    over: int  # rows of more than `limit` tokens
    lost: dict[
        str, int
        # field → rows that lose it if texts are cut to `limit` tokens; fields that no row loses are left out
    ]
    longest: int  # tokens of the longest text
    row_id: int  # the first row of that length
    split: str
    histories: int = 0
    """rows that lose items of their history"""

    def to_json(self) -> dict[str, Any]:
        """Return what `result.json` holds: without what only texts with histories have."""
        return {name: value for name, value in asdict(self).items() if name != "histories" or value}

    def __str__(self) -> str:
        fields = ", ".join(f"{name} {rows:,}" for name, rows in self.lost.items())
        lost = [f"the oldest items of their histories ({self.histories:,})"] * bool(self.histories)
        lost += [f"fields ({fields})"] * bool(fields)
        longest = f"the longest text has {self.longest} (row {self.row_id} of {self.split})"
        over = f"{self.over:,} of {self.rows:,} rows have more than {self.limit} tokens"
        return f"{over} and lose {' and '.join(lost)}; {longest}"


def text_lengths(
    dataset: Dataset, table: TokenTable, limit: int, splits: Sequence[str] = SPLITS
) -> TextLengths:
    """Measure every row of `splits`, one row group in memory at a time."""
    rows, over, histories = 0, 0, 0
    longest, row_id, where = 0, -1, ""
    lost = np.zeros(len(dataset.columns), dtype=np.int64)
    for split in splits:
        for group in range(len(dataset.row_group_counts(split))):
            part = dataset.read_row_groups(split, [group])
            # [B, F + V + N]
            field_ids = np.stack(
                [part.column(column).to_numpy() for column in table.columns_of(dataset)], axis=1
            )
            lengths = table.lengths(field_ids)
            rows += len(lengths)
            long = field_ids[lengths > limit]
            over += len(long)
            histories += int((table.named_items(long, limit) < table.named_items(long)).sum())
            of_segments = ~table.kept(long, limit)
            lost += [
                of_segments[:, table.segment_fields == field].any(axis=1).sum() for field in range(len(lost))
            ]
            if lengths.max(initial=0) > longest:
                longest, where = int(lengths.max()), split
                row_id = part.column("row_id")[int(lengths.argmax())].as_py()
    by_field = {name: int(count) for name, count in zip(dataset.field_names, lost, strict=True) if count}
    return TextLengths(limit, rows, over, by_field, longest, row_id, where, histories)


def check_lengths(
    dataset: Dataset,
    table: TokenTable,
    max_tokens: int,
    max_length: int | None,
    splits: Sequence[str] = SPLITS,
) -> TextLengths | None:
    """Return what `plm.max_length` cuts from the dataset's texts, or None if it cuts nothing. The rows are
    read only if a text can be too long.

    `max_tokens` is what the PLM reads at most. Raises ConfigError if `max_length` is more than that,
    DataError if it isn't set and a text is longer.
    """
    if max_length is not None and max_length > max_tokens:
        raise ConfigError(
            f"plm.max_length={max_length}: this PLM reads at most {max_tokens} tokens; set "
            f"{max_tokens} or less"
        )
    limit = max_length or max_tokens
    if table.max_length <= limit:
        return None
    found = text_lengths(dataset, table, limit, splits)
    if not found.over:
        return None
    if max_length is None:
        cut = "the oldest items of histories, then " if found.histories else ""
        raise DataError(
            f"{dataset.uri}: its longest text (row {found.row_id} of {found.split}) has "
            f"{found.longest} tokens, this PLM reads at most {max_tokens} ({found.over:,} of "
            f"{found.rows:,} rows are longer); set plm.max_length={max_tokens} to leave out {cut}whole "
            "fields of such texts, the longest first"
        )
    return found

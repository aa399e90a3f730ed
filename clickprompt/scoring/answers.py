"""Answer a server's requests, several of which are scored at a time. Of HTTP it knows only the status.

- 200 {"predictions": [{"logit", "probability"}], "export": the first digits of export.json's SHA-256}; of
  further labels a prediction has "logit_<name>" and "probability_<name>", too
- 422 {"errors": [{"row", "column", "error"}]}: the first _MOST_ERRORS unreadable rows; nothing is scored
- 400 {"error"}: the body is not a request
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clickprompt.data.transform.json_rows import RowError, parse_rows, tables_of
from clickprompt.data.transform.values import BadValue
from clickprompt.scoring.raw_rows import RawRowScorer, score_columns, score_names

__all__ = ["MOST_ROWS", "Answer", "answers"]

MOST_ROWS = 1024
"""most rows of a request"""
_MOST_ERRORS = 100
# null means missing, as in JSON files (data/sources/table.py)
_NULLS = ("",)

Answer = tuple[int, dict[str, Any]]


def answers(scorer: RawRowScorer, bodies: Sequence[bytes]) -> list[Answer]:
    """Return (status, JSON) of each request. A row's logit doesn't depend on the rows that come with it, up
    to rounding.
    """
    made: dict[int, Answer] = {}
    rows: list[Any] = []
    owners: list[int] = []  # the request of each row
    starts: dict[int, int] = {}
    lenient: list[int] = []
    for number, body in enumerate(bodies):
        try:
            own, ignore_unknown = parse_rows(body, MOST_ROWS)
        except ValueError as error:
            made[number] = 400, {"error": " ".join(str(error).split())}
            continue
        starts[number] = len(rows)
        if ignore_unknown:
            lenient += range(len(rows), len(rows) + len(own))
        rows += own
        owners += [number] * len(own)
    tables, errors = tables_of(rows, scorer.transform.columns, lenient)
    logits = np.zeros((len(rows), *scorer.shape), np.float32)
    for places, table in tables:
        logits[places] = _scored(scorer, places, table, owners, errors)
    names, columns = score_names(scorer.tasks), score_columns(logits)
    for number, start in starts.items():
        listed = sorted(
            (error for error in errors if owners[error.row] == number), key=lambda error: error.row
        )
        if listed:
            shown = [
                {"row": error.row - start, "column": error.column, "error": error.why}
                for error in listed[:_MOST_ERRORS]
            ]
            made[number] = 422, {"errors": shown}
            continue
        own = slice(start, start + owners.count(number))
        scores = zip(*(column[own].tolist() for column in columns), strict=True)
        made[number] = 200, {"predictions": [dict(zip(names, of_row, strict=True)) for of_row in scores]}
    return [made[number] for number in range(len(bodies))]


def _scored(
    scorer: RawRowScorer,
    places: np.ndarray,
    table: pa.Table,
    owners: Sequence[int],
    errors: list[RowError],
) -> np.ndarray:
    """Return logits, [B] or [B, 1 + T]. Rows that the transform refuses are added to `errors`, and have
    none.
    """
    left = np.arange(len(places))
    logits = np.zeros((len(places), *scorer.shape), np.float32)
    refused: dict[int, int] = {}
    while len(left):
        try:
            logits[left], _ = scorer.score(
                table.take(pa.array(left)) if len(left) < len(places) else table, _NULLS
            )
            break
        except BadValue as error:
            bad = int(left[error.index])
            request = owners[int(places[bad])]
            refused[request] = refused.get(request, 0) + 1
            errors.append(RowError(int(places[bad]), error.column, str(error)))
            left = left[left != bad]
            if refused[request] >= _MOST_ERRORS:  # each error costs another reading of the remaining rows
                left = np.array([place for place in left if owners[int(places[place])] != request], np.int64)
    return logits

"""How a schema says that the log itself has what a row's user did before."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from clickprompt.config.history import MOST_HISTORY

__all__ = ["HistoryColumn", "HistoryRule"]


class HistoryColumn(BaseModel):
    """The log's own column of what a row's user did before: values of the item's field."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    column: Annotated[str, Field(min_length=1, description="column of lists, or of texts with a separator")]
    length: int = Field(ge=1, le=MOST_HISTORY, description="items that a row knows, the newest ones")
    separator: str | None = Field(
        default=None, min_length=1, description="separator of the items, if they are one text"
    )
    newest: Literal["first", "last"] = Field(default="last", description="where the newest item is")


def _one_of_two(history: Any) -> Any:
    """Raise ValueError, in words for both, for what is neither."""
    numbers = map(str, range(1, MOST_HISTORY + 1))
    if not isinstance(history, dict | HistoryColumn) and str(history) not in numbers:
        raise ValueError(
            f"{json.dumps(history, default=str)} is neither; give a number of rows from 1 to {MOST_HISTORY}, "
            "or a column as {column, length, separator, newest}"
        )
    return history


HistoryRule = Annotated[int | HistoryColumn, BeforeValidator(_one_of_two)]
"""a number of the user's earlier rows, or the log's own column"""

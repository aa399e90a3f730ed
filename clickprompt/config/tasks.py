"""Further labels of a log (`labels:` in its schema), and which of them a finetuning learns as tasks beside
the click.

Models know of them without knowing a dataset, so this is here, below both.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clickprompt.config.schema import Config

__all__ = ["CLICK", "LABEL_NAME", "TASK_KEYS", "label_columns", "tasks_of"]

CLICK = "click"
"""the task of the log's own label, the first one"""

LABEL_NAME = r"^[a-z][a-z0-9_]*$"
"""what a further label may be called: its name is a part of columns' names"""

TASK_KEYS = frozenset({"tasks", "experts", "expert_dim"})
"""keys of `ctr` that say how tasks are learned; a pretraining learns none"""


def label_columns(names: Sequence[str]) -> list[str]:
    """Return the columns of further labels: 0, 1, or −1 where a row's isn't known."""
    return [f"label_{name}" for name in names]


def tasks_of(config: "Config", labels: Sequence[str]) -> tuple[str, ...]:
    """Return those of a dataset's further `labels` that a finetuning learns: all of them, or none if
    ctr.tasks says so. Baselines learn none.
    """
    return () if config.baseline != "none" or config.ctr.tasks == "none" else tuple(labels)

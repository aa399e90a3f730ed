"""Layouts of made-up rows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clickprompt.config import Layout

__all__ = ["made_up"]


def made_up(field_sizes: Sequence[int], columns: Sequence[str] = (), **kinds: Any) -> Layout:
    """Return the layout of fields of these sizes, by default named f_0, f_1, …; kinds: what else there is."""
    return replace(Layout.plain(field_sizes, columns), **kinds)

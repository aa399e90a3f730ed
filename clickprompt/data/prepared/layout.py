"""The layout of a prepared dataset: the kinds of columns that its manifest lists."""

from functools import partial

from clickprompt.config import Layout
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.given_vectors import open_vectors

__all__ = ["layout_of"]


def layout_of(dataset: Dataset) -> Layout:
    """Return what collators and models must know of the dataset's rows."""
    return Layout(
        columns=tuple(dataset.columns),
        field_sizes=tuple(dataset.field_sizes),
        multi=dataset.multi,
        history=dataset.history,
        numbers=dataset.numbers,
        labels=dataset.labels,
        vectors=partial(open_vectors, dataset),
        keep_negatives=dataset.keep_negatives,
    )

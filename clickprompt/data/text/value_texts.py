"""What stands in the text of a row (Eq. 4) for a dataset's values: themselves, or descriptions of them."""

import pyarrow as pa

from clickprompt.data.prepared.dataset import Dataset, read_table
from clickprompt.data.transform.descriptions import described
from clickprompt.data.transform.row_transform import FieldRule
from clickprompt.io import storage

__all__ = ["ValueTexts"]


class ValueTexts:
    """Tables with descriptions are read when they are first asked for, and kept."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._transform = dataset.manifest.get("transform", {"fields": [], "tables": {}})
        self._tables: dict[str, pa.Table] = {}

    def of(self, field: int, values: pa.ChunkedArray) -> list[str]:
        """Return what stands in the text for values of a field's vocabulary."""
        rules = self._transform["fields"]
        table = FieldRule.from_json(rules[field]).text_table if field < len(rules) else None
        if table is None:
            return values.to_pylist()
        if table not in self._tables:
            file = self._transform["tables"][table]["file"]
            self._tables[table] = read_table(storage.inside(self._dataset.uri, file))
        name = self._dataset.field_names[field]
        return described(values.combine_chunks(), self._tables[table], name).to_pylist()

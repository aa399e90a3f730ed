"""A dataset's layout has each kind of column that its manifest lists."""

import dataclasses

from clickprompt.config import Layout, multi_columns, number_columns
from clickprompt.data.prepared.layout import layout_of
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.every_kind import write_log


def test_it_has_every_kind(tmp_path):
    schema = write_log(str(tmp_path / "log"))
    dataset = prepare(schema, None, str(tmp_path / "data"))
    layout = layout_of(dataset)
    of_fields = Layout.plain(dataset.field_sizes, dataset.columns)
    alike = {
        field.name
        for field in dataclasses.fields(Layout)
        if getattr(layout, field.name) == getattr(of_fields, field.name)
    }
    assert alike == {"columns", "field_sizes", "keep_negatives"}
    columns = [*layout.columns, *multi_columns(layout.multi), *layout.history_columns]
    assert [*columns, *number_columns(layout.numbers)] == dataset.id_columns
    assert layout.vectors().keys() == {1}
    assert len(layout.vectors()[1]) == layout.field_sizes[1]

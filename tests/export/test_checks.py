"""What is said of a dataset that an export wasn't trained on."""

import os

import pytest

from clickprompt.errors import DataError
from clickprompt.export.checks import check_clicks
from clickprompt.export.format import INFO, export_of
from clickprompt.io import storage
from tests.support.finetuned import write_run
from tests.support.tiny import write_both


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("prepared")))


def test_other_fields_and_other_values_are_named_in_words(prepared, tmp_path):
    dataset, _ = prepared
    write_run(str(tmp_path), prepared, objective="without_plm")
    export = export_of(str(tmp_path))
    assert check_clicks(export, dataset).field_names == dataset.field_names
    facts = storage.read_json(os.path.join(export, INFO))
    names, sizes = facts["field_names"], facts["field_sizes"]

    def refused(**changes):
        storage.write_json(os.path.join(export, INFO), facts | changes)
        with pytest.raises(DataError) as found:
            check_clicks(export, dataset)
        return str(found.value)

    rule = "give the dataset it was trained on"
    assert refused(field_names=["X", *names[1:]]) == (
        f"{export}: trained on the fields {', '.join(['X', *names[1:]])}, and {dataset.uri} has "
        f"{', '.join(names)}; {rule}"
    )
    assert refused(field_sizes=[sizes[0] + 1000, *sizes[1:]]) == (
        f"{export}: trained on {sizes[0] + 1000:,} values of {names[0]}, and {dataset.uri} has {sizes[0]:,} "
        f"values of {names[0]}; {rule}"
    )

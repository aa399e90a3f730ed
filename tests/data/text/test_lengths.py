"""Text lengths against a PLM's limit: what is refused up front, and what is counted where texts are cut."""

import numpy as np
import pytest

from clickprompt.data.prepared.dataset import SPLITS
from clickprompt.data.text.lengths import check_lengths, text_lengths
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import ConfigError, DataError
from tests.support.synthetic import write_dataset
from tests.support.tokenizers_made_up import wordpiece


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(str(tmp_path_factory.mktemp("lengths") / "d"))


@pytest.fixture(scope="module")
def table(dataset):
    return build_token_table(dataset, wordpiece())


def rows_by_hand(dataset, table, splits=SPLITS):
    """(tokens, row_id, split, field_ids) of every row."""
    rows = []
    for split in splits:
        part = dataset.read_split(split)
        field_ids = np.stack([part[column].to_numpy() for column in dataset.columns], axis=1)
        for row_id, ids in zip(part["row_id"].to_pylist(), field_ids, strict=True):
            rows.append((int(table.assemble(ids[None])[1].sum()), row_id, split, ids))
    return rows


@pytest.mark.parametrize("limit", [8, 25, 30, 1000])
@pytest.mark.parametrize("splits", [SPLITS, ("valid",)])
def test_lengths_equal_a_loop_over_rows(dataset, table, limit, splits):
    rows = rows_by_hand(dataset, table, splits)
    found = text_lengths(dataset, table, limit, splits)
    longest = max(rows, key=lambda row: row[0])  # the first of several
    assert (found.longest, found.row_id, found.split) == longest[:3]
    assert (found.rows, found.limit) == (len(rows), limit)
    assert found.over == sum(row[0] > limit for row in rows)
    lost = dict.fromkeys(dataset.field_names, 0)
    for _, _, _, ids in rows:
        for name, kept in zip(dataset.field_names, table.kept(ids[None], limit)[0], strict=True):
            lost[name] += not kept
    assert found.lost == {name: count for name, count in lost.items() if count}
    assert (sum(found.lost.values()) > 0) == (found.over > 0)


def test_too_long_texts_are_refused_with_the_longest_row_and_the_remedy(dataset, table):
    longest, row_id, split, _ = max(rows_by_hand(dataset, table), key=lambda row: row[0])
    message = (
        rf"longest text \(row {row_id} of {split}\) has {longest} tokens, this PLM reads at "
        rf"most 30 \(.* of 640 rows .*plm.max_length=30"
    )
    with pytest.raises(DataError, match=message) as caught:
        check_lengths(dataset, table, 30, None)
    assert "\n" not in str(caught.value)


def test_what_max_length_cuts_is_reported(dataset, table):
    found = check_lengths(dataset, table, 512, 30)
    assert found == text_lengths(dataset, table, 30)
    assert found is not None
    assert found.over > 0
    lost = ", ".join(f"{name} {count}" for name, count in found.lost.items())
    assert str(found).startswith(
        f"{found.over} of 640 rows have more than 30 tokens and lose fields ({lost}); the longest text has "
    )


def test_nothing_cut_is_no_report(dataset, table):
    longest = max(rows_by_hand(dataset, table), key=lambda row: row[0])[0]
    for max_tokens, max_length in ((longest, None), (512, longest), (512, None)):
        assert check_lengths(dataset, table, max_tokens, max_length) is None


def test_rows_are_not_read_where_no_value_can_make_a_text_too_long(dataset, table, monkeypatch):
    monkeypatch.setattr(dataset, "read_row_groups", lambda *args: pytest.fail("read"))
    assert check_lengths(dataset, table, table.max_length, None) is None
    assert check_lengths(dataset, table, 512, table.max_length) is None


def test_max_length_above_the_plms_limit_is_refused(dataset, table):
    with pytest.raises(
        ConfigError, match=r"plm\.max_length=600: this PLM reads at most 512 tokens; set 512 or less"
    ):
        check_lengths(dataset, table, 512, 600)

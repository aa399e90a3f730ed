"""Two runs' predictions side by side, and what is refused."""

import numpy as np
import pyarrow as pa
import pytest

from clickprompt.cli.format import comparison
from clickprompt.errors import DataError
from clickprompt.evaluation.comparison import compare, paired_logits
from clickprompt.evaluation.metrics import auc


def table(row_ids, labels, logits) -> pa.Table:
    return pa.table(
        {"row_id": row_ids, "label": pa.array(labels, pa.int8()), "logit": pa.array(logits, pa.float32())}
    )


def test_a_better_model_is_told_from_an_equal_one():
    rng = np.random.default_rng(0)
    users, labels = rng.integers(0, 200, 4000), rng.integers(0, 2, 4000)
    base, noise = rng.normal(labels, 2), rng.normal(size=4000)
    better = compare(users, labels, base + 0.5 * labels, base)
    assert better["auc"] == auc(labels, base)
    assert better["relative_improvement"] == pytest.approx(
        auc(labels, base + 0.5 * labels) / auc(labels, base) - 1
    )
    assert better["delong"]["p_value"] < 1e-6
    assert better["user_bootstrap"]["p_value"] < 0.01
    assert better["user_bootstrap"]["difference"] == pytest.approx(better["delong"]["difference"])
    assert compare(users, labels, base + 0.01 * noise, base)["delong"]["p_value"] > 0.01
    assert compare(np.zeros(4000), labels, base + noise, base)["user_bootstrap"] is None


def test_where_all_rows_are_of_one_class_only_log_loss_is_compared():
    found = compare(np.arange(4), np.ones(4), np.arange(4.0), np.zeros(4))
    assert found.pop("log_loss") == pytest.approx(np.log(2))
    assert set(found.values()) == {None}
    assert "AUC and Rel.Impr undefined" in comparison({"base": "b", "against": {**found, "log_loss": 0.7}})


def test_too_few_clicks_are_compared_but_not_tested():
    users, labels = np.arange(40) // 4, np.zeros(40)
    labels[7] = 1
    base = np.linspace(-1, 1, 40)
    found = compare(users, labels, base + labels, base)
    assert found["auc"] == auc(labels, base)
    assert found["relative_improvement"] > 0
    assert found["delong"] is None
    assert found["user_bootstrap"]["difference"] > 0  # most draws have the one click's user
    alone = compare(np.zeros(40), labels, base + labels, base)
    assert (alone["delong"], alone["user_bootstrap"]) == (None, None)
    assert len(comparison({"base": "b", "against": alone}).splitlines()) == 1


def test_other_rows_or_labels_are_refused():
    ours = table([1, 2, 3], [0, 1, 0], [0.1, 0.2, 0.3])
    assert paired_logits(ours, table([1, 2, 3], [0, 1, 0], [1, 2, 3])).tolist() == [1, 2, 3]
    with pytest.raises(DataError, match=r"different rows \(3 and 3, 2 in both\)"):
        paired_logits(ours, table([1, 2, 4], [0, 1, 0], [1, 2, 3]))
    with pytest.raises(DataError, match=r"labels differ in 1 rows \(row_id 2 is the first\)"):
        paired_logits(ours, table([1, 2, 3], [0, 0, 0], [1, 2, 3]))

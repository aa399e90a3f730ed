"""Means, improvements, paired tests and Holm's correction of a table."""

import statistics

import numpy as np
import pytest
from scipy import stats

from clickprompt.tables.figures import RowFigures, accuracy, holm, marks
from clickprompt.tables.plan import PaperTable

TABLE_2 = PaperTable.read("table-2")


def row(name, auc, log_loss=None, seeds=None):
    auc = list(auc)
    names = (name,) if isinstance(name, str) else name
    return RowFigures(names, seeds or list(range(len(auc))), auc, log_loss or [0.5] * len(auc))


def test_table_2_tests_ours_against_the_best_baseline():
    draws = np.random.default_rng(0)
    others = [row(name, 0.8 + 0.001 * draws.standard_normal(5)) for name in ("FM", "DNN", "DCNv2")]
    best = row("AutoInt", 0.81 + 0.001 * draws.standard_normal(5))
    ours = [row(name, 0.82 + 0.001 * draws.standard_normal(5)) for name in TABLE_2.tested]
    accuracy(TABLE_2, [*others, best, *ours])
    for found in ours:
        assert found.against == ("AutoInt",)
        assert found.improvement is None
        assert found.p == pytest.approx(stats.ttest_rel(found.auc, best.auc).pvalue)
    for found in (*others, best):
        assert found.p is None
        assert found.improvement == pytest.approx(
            statistics.mean(ours[1].auc) / statistics.mean(found.auc) - 1
        )


def test_other_tables_compare_with_the_row_that_they_name():
    table = PaperTable.read("table-5")
    draws = np.random.default_rng(1)
    rows = [row(line.names, 0.8 + 0.01 * draws.random(3)) for line in table.rows]
    accuracy(table, rows)
    by_names = {found.names: found for found in rows}
    for line in table.rows:
        found, over = by_names[line.names], by_names.get(line.over)
        if over is None:
            assert found.improvement is found.p is None
            continue
        assert found.improvement == pytest.approx(found.mean_auc / over.mean_auc - 1)
        assert found.p == pytest.approx(stats.ttest_rel(found.auc, over.auc).pvalue)
    tested = [found for found in rows if found.p is not None]
    assert [found.p_holm for found in tested] == holm([found.p for found in tested])


def test_only_seeds_that_both_have_are_paired():
    best, ours = row("FM", [0.7, 0.71, 0.72]), row("ClickPrompt with PLM", [0.75, 0.78], seeds=[0, 2])
    accuracy(TABLE_2, [best, ours])
    assert ours.p == pytest.approx(stats.ttest_rel([0.75, 0.78], [0.7, 0.72]).pvalue)


def test_one_seed_or_no_runs_have_no_test():
    best, ours, none = row("FM", [0.7]), row("ClickPrompt with PLM", [0.75]), row("DNN", [])
    accuracy(TABLE_2, [best, none, ours])
    assert ours.p is ours.p_holm is None
    assert none.improvement is none.mean_auc is None
    assert best.improvement == pytest.approx(0.75 / 0.7 - 1)


def test_holm_against_its_definition():
    draws = np.random.default_rng(2)
    for _ in range(200):
        p = draws.random(int(draws.integers(1, 9))) ** 2
        ordered = np.sort(p)
        steps = {
            value: max(min(1.0, (len(p) - rank) * ordered[rank]) for rank in range(place + 1))
            for place, value in enumerate(ordered)
        }
        assert holm(p.tolist()) == pytest.approx([steps[value] for value in p])
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_best_and_second_are_those_that_are_shown_so():
    rows = [
        row("a", [0.80001], [0.4]),
        row("b", [0.80002], [0.3]),
        row("c", [0.79]),
        row("d", [0.7], [0.6]),
        row("e", []),
    ]
    found = marks(rows)
    assert {cell: mark for cell, mark in found.items() if cell[1] == "auc"} == {
        (("a",), "auc"): "best",
        (("b",), "auc"): "best",
        (("c",), "auc"): "second",
    }
    assert found[("b",), "log_loss"] == "best"
    assert found[("a",), "log_loss"] == "second"

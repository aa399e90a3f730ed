"""docs/results/: its pictures are what scripts/figures.py draws, and the numbers in its tables are those of
its JSON.
"""

import json
import re
import runpy
from pathlib import Path

import pytest

from tests.support.page_numbers import numbers, numbers_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGES = sorted(page.stem for page in RESULTS.glob("*.md") if page.stem != "index")


def table_rows(page: str) -> list[str]:
    """The rows of a page's tables, without their heads."""
    tables = re.findall(r"(?:^\|.*\n)+", (RESULTS / f"{page}.md").read_text(), re.MULTILINE)
    return [row for table in tables for row in table.splitlines()[2:]]


def results(page: str) -> list[dict]:
    return json.loads((RESULTS / "data" / f"{page}.json").read_text())["results"]


def test_the_script_draws_the_committed_figures(tmp_path):
    runpy.run_path(str(ROOT / "scripts" / "figures.py"))["main"](tmp_path)
    drawn = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    committed = {file.name: file.read_bytes() for file in (RESULTS / "figures").iterdir()}
    assert drawn.keys() == committed.keys()
    for name, figure in drawn.items():
        assert figure == committed[name], f"{name} is older than its numbers: run scripts/figures.py"


def test_every_page_has_its_numbers_and_every_figure_a_page():
    assert [file.stem for file in sorted((RESULTS / "data").glob("*.json"))] == PAGES
    shown = {
        name
        for page in PAGES
        for name in re.findall(r"figures/(\S+\.svg)", (RESULTS / f"{page}.md").read_text())
    }
    assert shown == {file.name for file in (RESULTS / "figures").iterdir()}
    index = (RESULTS / "index.md").read_text()
    assert all(f"({page}.md)" in index for page in PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_tables_numbers_are_those_of_one_row_in_the_json(page):
    known = [numbers_of(row) for result in results(page) for row in result["rows"]]
    rows = table_rows(page)
    assert len(rows) == len(known)
    for row, expected in zip(rows, known, strict=True):
        assert numbers(row) == expected, row


@pytest.mark.parametrize("page", PAGES)
def test_a_result_says_where_it_comes_from(page):
    for result in results(page):
        for key in ("command", "machine", "versions", "commit"):
            assert result[key], f"{result['id']}: {key}"
        assert all(len(row) == len(result["columns"]) for row in result["rows"]), result["id"]


def test_the_index_has_numbers_of_the_pages_only():
    for row in table_rows("index"):
        page = re.findall(r"\((\S+)\.md\)", row)[0]
        known = set().union(*(numbers_of(each) for result in results(page) for each in result["rows"]))
        assert numbers(row.split("|")[3]) <= known, row

"""The report in a real Chromium: it runs without an error or a request, fits its window, and can be used by
keyboard.
"""

import csv
import io
import os
import shutil
from pathlib import Path

import pytest

from clickprompt.report.make import make_report
from tests.support.attacked_report import attacked

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CLICKPROMPT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM, reason="no Chromium: install one, or set CLICKPROMPT_CHROMIUM (CONTRIBUTING.md)"
    ),
]

UNFOLD = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"
OUTSIDE = """[...document.querySelectorAll('body *')]
    .filter((each) => !each.closest('.scroll, pre, #tip') && each.getBoundingClientRect().right > innerWidth + 1)
    .map((each) => each.outerHTML.slice(0, 100))"""
SIZES = """[...document.querySelectorAll('svg text')]
    .filter((each) => each.getBoundingClientRect().height > 0)
    .map((each) => each.getCTM().a * 11)"""
BEYOND = """[...document.querySelectorAll('main *, header *, footer *')].flatMap((each) => {
    const inside = each.parentElement.closest('figure, section, header, footer');
    if (!inside || each.closest('.scroll *, pre, svg *, [hidden]')) return [];
    const [own, box] = [each.getBoundingClientRect(), inside.getBoundingClientRect()];
    const beyond = own.width && (own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1);
    return beyond ? [inside.id + inside.textContent.slice(0, 40) + ': ' + each.outerHTML.slice(0, 100)] : [];
})"""
CUT_OFF = """[...document.querySelectorAll('svg[aria-label]')].flatMap((svg) => {
    const box = svg.getBoundingClientRect();
    const outside = (own) => own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 2;
    return [...svg.querySelectorAll('text')]
        .map((text) => [text.textContent, text.getBoundingClientRect()])
        .filter(([, own]) => own.width && outside(own))
        .map(([text]) => svg.getAttribute('aria-label') + ': ' + text);
})"""
OVERLAPPING = """[...document.querySelectorAll('svg[aria-label]')].flatMap((svg) => {
    const apart = ([, a], [, b]) => a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 4 || b.bottom <= a.top + 4;
    const texts = [...svg.querySelectorAll('text')]
        .map((text) => [text.textContent, text.getBoundingClientRect()])
        .filter(([, box]) => box.width);
    return texts.flatMap((one, place) => texts.slice(place + 1)
        .filter((other) => !apart(one, other))
        .map((other) => svg.getAttribute('aria-label') + ': ' + one[0] + ' / ' + other[0]));
})"""
BESIDE = """() => {  // the tip is in view, just below or above the focused mark, once that has scrolled there
    const [tip, mark] = [document.getElementById('tip'), document.activeElement].map((each) => each.getBoundingClientRect());
    const apart = Math.max(tip.top - mark.bottom, mark.top - tip.bottom);
    return tip.top >= 0 && tip.bottom <= innerHeight && apart >= 0 && apart < 20;
}"""
LOWEST_CONTRAST = """() => {  // of the texts' colours against the page's, by WCAG's formula
    const part = (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((c) => part(c / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const back = light(getComputedStyle(document.body).backgroundColor);
    const ratio = (one) => (Math.max(one, back) + 0.05) / (Math.min(one, back) + 0.05);
    const texts = [...document.querySelectorAll('h1, h2, p, a, td, th, summary, .soft, button, svg text')];
    const colour = (each) => getComputedStyle(each)[each instanceof SVGElement ? 'fill' : 'color'];
    return Math.min(...[...new Set(texts.map(colour))].map(light).map(ratio));
}"""


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(folders, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("browser") / "report.html")
    make_report(list(folders.values()), out)
    return Path(out).as_uri()


@pytest.fixture
def opened(chromium):
    """Opens an address at a width in a colour scheme: (page, what it complained of, what it asked for)."""
    contexts = []

    def open_page(address, width=1280, scheme="light", **options):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page, complaints, requests = context.new_page(), [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        return page, complaints, requests

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (800, "dark"),
        (400, "light"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((1280, "dark"), (800, "light"), (400, "dark"))
        ),
    ],
)
def test_no_error_no_request_no_overflow(opened, report, tmp_path, width, scheme):
    page, complaints, requests = opened(report, width, scheme)
    page.evaluate(UNFOLD)
    page.screenshot(
        path=os.environ.get("CLICKPROMPT_SCREENSHOTS", str(tmp_path)) + f"/{width}-{scheme}.png",
        full_page=True,
    )
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [report]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(BEYOND) == []
    assert min(page.evaluate(SIZES)) > (6.5 if width == 800 else 9.5), "text of charts is too small to read"


@pytest.mark.parametrize("width", [1280, 400])
def test_the_answer_comes_first_and_scores_stand_beside_the_runs(opened, report, width):
    page, _, _ = opened(report, width)
    lead = page.locator("main p").first
    assert "is better than" in lead.inner_text()
    assert lead.bounding_box()["y"] < 250
    scores = page.locator("#runs + .grid2 table").first
    assert scores.locator("thead th").all_inner_texts()[:3] == ["run", "AUC", "log loss"]
    for row in scores.locator("tr").all():
        cell = row.locator("th, td").nth(2).bounding_box()
        assert cell["x"] + cell["width"] <= width
    for name in scores.locator(".name").all():
        assert name.bounding_box()["height"] < 90


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_in_a_chart_is_cut_off_or_lies_on_other_text(opened, report, width):
    page, _, _ = opened(report, width)
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(OVERLAPPING) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_until_the_button_is_pressed(opened, report, scheme):
    page, complaints, _ = opened(report, scheme=scheme)
    back = "getComputedStyle(document.body).backgroundColor"
    first = page.evaluate(back)
    assert (first == "rgb(255, 255, 255)") == (scheme == "light")
    assert page.evaluate(LOWEST_CONTRAST) >= 4.5
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "theme"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", (
        "focus can be seen"
    )
    page.keyboard.press("Enter")
    assert page.evaluate(back) != first
    assert page.evaluate(LOWEST_CONTRAST) >= 4.5
    page.reload()
    assert page.evaluate(back) != first, "it is remembered"
    assert complaints == []


def test_every_table_and_csv_is_reached_by_keyboard(opened, report):
    page, _, _ = opened(report)
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "document.activeElement.getAttribute('download') ?? document.activeElement.tagName"
        )
        if found == "BODY":
            break
        reached.add(found)
    assert {found for found in reached if found.endswith(".csv")} == set(
        page.evaluate("[...document.querySelectorAll('a.csv')].map((each) => each.download)")
    )
    assert "SUMMARY" in reached
    page.locator("summary", has_text="Table").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open] table").first.is_visible()


def test_a_csv_downloads_from_the_file_with_the_tables_figures(opened, report):
    page, _, _ = opened(report, accept_downloads=True)
    link = page.locator("a.csv[download='validation-auc.csv']")
    with page.expect_download() as downloading:
        link.press("Enter")
    with open(downloading.value.path(), newline="") as stream:
        header, *rows = list(csv.reader(io.StringIO(stream.read())))
    assert downloading.value.suggested_filename == "validation-auc.csv"
    cells = (
        "(link) => [...link.closest('figure').querySelectorAll('tr')].map((row) => "
        "[...row.cells].map((cell) => cell.textContent))"
    )
    shown = link.evaluate(cells)
    assert shown[0] == header
    assert [[row[0], row[1], f"{float(row[2]):.4f}"] for row in rows] == shown[1:]


def test_what_a_mark_stands_for(opened, report):
    page, _, _ = opened(report)
    mark = page.locator(".wide svg [data-tip]").last
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    assert page.locator("#tip").is_visible()
    assert page.locator("#tip").inner_text() == mark.get_attribute("data-tip")


@pytest.mark.parametrize("width", [1280, 400])
def test_long_names_of_runs_fit(opened, folders, tmp_path, width):
    names = [f"{name}-with-all-layers_and_a_very_long_name_of_its_own" for name in ("dcnv2-0", "prompted-0")]
    for name in names:
        shutil.copytree(folders[name.split("-with")[0]], tmp_path / name)
    make_report([str(tmp_path / name) for name in names], str(tmp_path / "report.html"))
    page, complaints, _ = opened((tmp_path / "report.html").as_uri(), width)
    for row in page.locator("#runs + .grid2 table").first.locator("tr").all():
        cell = row.locator("th, td").nth(2).bounding_box()
        assert cell["x"] + cell["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate(UNFOLD)
    assert [page.evaluate(script) for script in (OUTSIDE, BEYOND, CUT_OFF, OVERLAPPING)] == [[]] * 4
    assert complaints == []


@pytest.mark.parametrize("width", [1280, pytest.param(400, marks=pytest.mark.slow)])
def test_marks_are_reached_by_keyboard(opened, report, width):
    page, complaints, _ = opened(report, width)
    charts = page.evaluate(
        "[...document.querySelectorAll('svg[aria-label]')].filter((each) => each.querySelector('[data-tip]') && "
        "each.getBoundingClientRect().width).map((each) => each.getAttribute('aria-label'))"
    )
    reached = []
    for _ in range(400):
        page.keyboard.press("Tab")
        at = page.evaluate(
            "[document.activeElement.tagName, document.activeElement.closest('svg')?.getAttribute('aria-label')]"
        )
        if at[0] == "BODY":
            break
        reached += at[1:] if at[1] else []
    assert reached == charts, "each chart is one stop"
    assert len(charts) > 15

    marks = page.locator("#auc-by-value ~ .grid2 svg[aria-label]:visible").first.locator("[data-tip]")
    marks.first.focus()
    seen = []
    for _ in range(marks.count() + 1):
        focused = page.evaluate("document.activeElement.getAttribute('data-tip')")
        assert page.locator("#tip").inner_text() == focused
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.wait_for_function(BESIDE)
        tip = page.locator("#tip").bounding_box()
        assert tip["x"] >= 0
        assert tip["x"] + tip["width"] <= width
        seen.append(focused)
        page.keyboard.press("ArrowRight")
    assert seen[:-1] == [mark.get_attribute("data-tip") for mark in marks.all()]
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.getAttribute('data-tip')") == seen[0]
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    assert not page.locator("#tip").is_visible()
    assert complaints == []


def test_a_script_in_a_runs_names_is_inert(opened, dataset, tmp_path):
    attacked(tmp_path, dataset)
    page, complaints, requests = opened((tmp_path / "attacked.html").as_uri())
    assert page.evaluate("window.hurt") is None
    assert page.locator("img").count() == 0
    assert page.get_by_text("onerror").count() > 0
    assert complaints == []
    assert len(requests) == 1


def test_even_without_scripts_the_report_is_whole(opened, report):
    page, _, _ = opened(report, java_script_enabled=False)
    assert page.locator(".wide svg[role=img]").first.is_visible()
    assert not page.locator("#theme").is_visible()
    assert page.locator("#tip").count() == 1

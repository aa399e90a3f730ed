"""What the charts draw: smoothed curves, names at their ends, axes; and figures with real minus signs."""

import html
import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from clickprompt.io import storage
from clickprompt.report.charts import Bar, Value
from clickprompt.report.dots import dots, ladder
from clickprompt.report.ends import ends
from clickprompt.report.evaluated import by_value, latency
from clickprompt.report.make import make_report
from clickprompt.report.run import read_runs
from clickprompt.report.table import p_value, share
from clickprompt.report.training import smoothed


def test_a_smoothed_curve_is_a_centred_mean():
    values = np.random.default_rng(0).normal(size=163).tolist()
    found = smoothed(values)
    half = 163 // 40
    for place in range(163):
        reach = min(half, place)
        window = values[place - reach : min(163, place + reach + 1)]
        assert found[place] == pytest.approx(sum(window) / len(window))
    assert found[0] == values[0]
    assert np.std(np.diff(found)) < 0.4 * np.std(np.diff(values))
    assert smoothed([float(place) for place in range(100)])[:98] == pytest.approx(list(range(98)))
    assert smoothed(values[:39]) == values[:39]
    assert smoothed([]) == []


def boxes(parts):
    """(name, x, y) of every text."""
    return [
        (text, float(x), float(y))
        for part in parts
        for x, y, text in re.findall(r'<text x="([-\d.]+)" y="([-\d.]+)"[^>]*>([^<]+)<', part)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_names_of_curves_do_not_collide_and_stand_where_they_end(seed):
    rng = np.random.default_rng(seed)
    curves = []
    for number in range(int(rng.integers(2, 9))):
        last = 380.0 if number == 0 else float(rng.choice([380.0, 370.0, *rng.uniform(60, 330, 4)]))
        xs = np.linspace(48, last, 60)
        ys = 40 + rng.uniform(0, 120) + 10 * np.sin(xs / rng.uniform(5, 40))
        curves.append((f"curve-{number}", number, list(zip(xs.tolist(), ys.tolist(), strict=True))))
    found = boxes(ends(curves, 380, 24, 202))
    assert sorted(name for name, *_ in found) == sorted(name for name, *_ in curves)
    for (name, x, y), (other, other_x, other_y) in itertools.combinations(found, 2):
        apart = abs(y - other_y) >= 12.9 or abs(x - other_x) >= 6.8 * len("curve-0")
        assert apart, (name, other)
    last_of = {name: points[-1] for name, _, points in curves}
    for name, x, y in found:
        end_x, end_y = last_of[name]
        assert 10 <= y <= 210
        if end_x < 48 + 0.88 * (380 - 48):
            assert min(abs(x - end_x), abs(x + 6.8 * len(name) - end_x)) <= 8
        else:
            assert x > 380
        assert abs(y - end_y) < 13 * len(curves)


def test_names_that_would_collide_are_moved_apart_evenly():
    def heights(*ends_at):
        curves = [(f"c{number}", number, [(48.0, 30.0), (380.0, at)]) for number, at in enumerate(ends_at)]
        return [y - 3.5 for _, _, y in sorted(boxes(ends(curves, 380, 24, 202)))]

    assert heights(100.0, 100.0, 100.0) == [87, 100, 113]
    assert heights(60.0, 100.0, 140.0) == [60, 100, 140]
    assert heights(90.0, 100.0) == pytest.approx([88.5, 101.5])
    assert heights(202.0, 201.0) == pytest.approx([202, 189])
    assert heights(24.0, 25.0) == pytest.approx([24, 37])


def test_latency_has_a_logarithmic_axis(folders):
    [run] = read_runs([folders["dcnv2-0"]], "test")
    runs = [replace(run, evaluation={"ms_per_batch": ms, "batch": 128}) for ms in (1.0, 10.0, 1e4)]
    drawn = latency(runs).blocks[0].chart(536)
    a, b, c = (float(place) for place in re.findall(r'<circle cx="([\d.]+)"', drawn))
    assert (b - a) * 3 == pytest.approx(c - b, abs=0.3)
    for text in ("1.00 ms", "10.0 ms", "10,000 ms", "1,000"):
        assert f">{text}<" in drawn
    close = ladder("Latency", [Bar("a", "", [Value(0, 4.1, "", (4.1, 4.6))])], 536, axis="ms", log=True)
    texts = [float(text) for text in re.findall(r">([\d.]+)</text>", close)]
    assert len(texts) >= 3
    assert all(4 < text < 4.7 for text in texts)


@pytest.mark.parametrize("draw", [dots, ladder])
def test_a_dot_has_its_interval_and_chance_is_on_the_axis(draw):
    groups = [
        Bar("some", "9 rows", [Value(0, 0.7, "0.7000", (0.6, 0.9), tip="t"), Value(1, None, "undefined")])
    ]
    drawn = draw("AUC", groups, 536, axis="AUC", base=0.5)
    [(at, height)] = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)
    [whisker] = re.findall(r'<line[^>]*class="s0 whisker"[^>]*>', drawn)
    low, high, *heights = (re.search(rf'{end}="([\d.]+)"', whisker)[1] for end in ("x1", "x2", "y1", "y2"))
    assert heights == [height, height]
    assert (float(at) - float(low)) * 2 == pytest.approx(float(high) - float(at), abs=0.3)
    assert ">0.5<" in drawn or ">0.50<" in drawn


def test_reliability_is_one_square_of_dots_without_bins_of_few_rows(folders, tmp_path):
    names = ("dcnv2-0", "prompted-0")
    out = str(tmp_path / "report.html")
    make_report([folders[name] for name in names], out)
    page = storage.read_bytes(out).decode()
    section = page[page.index('id="calibration"') : page.index('id="long-tail"')]
    assert section.count('role="img" aria-label="Reliability"') == 2, "wide and narrow"
    drawn = section[section.index('role="img" aria-label="Reliability"') :].split("</svg>")[0]
    tips = re.findall(r'<circle[^>]*data-tip="([^"]+)"', drawn)
    for name in names:
        curve = storage.read_json(f"{folders[name]}/evaluation-test.json")["calibration"]["equal_mass"][
            "curve"
        ]
        assert min(bin_["rows"] for bin_ in curve) < 50
        rows = [int(re.search(r"of ([\d,]+) rows", tip)[1]) for tip in tips if tip.startswith(f"{name}:")]
        assert sum(rows) == sum(bin_["rows"] for bin_ in curve)
        assert min(rows) >= 50
    assert drawn.count("whisker") == len(tips)
    assert 'class="s0 line"' not in drawn
    [line] = re.findall(r'<line[^>]*class="diagonal"[^>]*>', drawn)
    diagonal = [re.search(rf'{end}="([\d.]+)"', line)[1] for end in ("x1", "x2", "y1", "y2")]
    left, right, bottom, top = map(float, diagonal)
    assert right - left == pytest.approx(bottom - top)


def test_auc_by_value_that_was_left_out_is_said_to_be(folders):
    [run] = read_runs([folders["dcnv2-0"]], "test")
    values = run.evaluation["by_value"]["Gender"]

    def note(**changes):
        found = [{**of_value, "auc": None, "auc_interval": None, **changes} for of_value in values]
        [block] = by_value([replace(run, evaluation={"by_value": {"Gender": found}})]).blocks
        assert block.chart is None
        return block.note

    assert note() == "left out for so many rows"
    assert note(clicks=9) == "no value has ten clicks and ten other rows"


def test_delong_is_folded_away_and_tables_of_the_paper_are_called_so(folders, tmp_path):
    out = str(tmp_path / "report.html")
    make_report([folders[name] for name in ("dcnv2-0", "prompted-0", "pretrain")], out)
    page = html.unescape(storage.read_bytes(out).decode())
    unfolded = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    assert "p by DeLong" in page
    assert "p by DeLong" not in unfolded
    assert "p by user" in unfolded
    tables = re.findall(r".{12}Table \d", page, flags=re.DOTALL)
    assert len(tables) >= 4
    assert [text for text in tables if not text.startswith("the paper's ")] == []


def test_every_figure_has_a_real_minus_sign(folders, tmp_path):
    """In tables, charts, tips and sentences; configurations and commands are to be copied."""
    out = str(tmp_path / "report.html")
    result = make_report(
        [folders["prompted-0"], *(run for run in folders.values() if run != folders["prompted-0"])], out
    )
    page = html.unescape(storage.read_bytes(out).decode())
    body = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    shown = [*re.findall(r">([^<>]+)<", body), *re.findall(r'data-tip="([^"]*)"', body), result["markdown"]]
    wrong = [text for text in shown if re.search(r"(?:^|[\s(\[|,])-\d|\de-\d", text)]
    assert wrong == []
    assert sum("−" in text for text in shown) > 10


def test_p_and_shares_in_words():
    assert [p_value(value) for value in (0.88912, 0.002, 0.001, 0.00099, 1e-30, 1)] == [
        "0.889",
        "0.002",
        "0.001",
        "< 0.001",
        "< 0.001",
        "1.000",
    ]
    assert [share(value) for value in (0, 0.0004, 0.0006, 0.5, 1)] == [
        "0",
        "< 0.1%",
        "0.1%",
        "50.0%",
        "100.0%",
    ]
    assert math.isclose(float(p_value(0.5)), 0.5)

"""What the charts draw: smoothed curves, names at their ends, axes; and figures with real minus signs."""

import html
import itertools
import math
import re

import numpy as np
import pytest

from clickprompt.io import storage
from clickprompt.report.charts import Bar, Value
from clickprompt.report.dots import dots, ladder
from clickprompt.report.ends import ends
from clickprompt.report.make import make_report
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


def test_latency_has_a_logarithmic_axis():
    groups = [Bar(name, "", [Value(0, value, "")]) for name, value in (("a", 1.0), ("b", 10.0), ("c", 1e4))]
    drawn = ladder("Latency", groups, 536, axis="ms", log=True)
    a, b, c = (float(place) for place in re.findall(r'<circle cx="([\d.]+)"', drawn))
    assert (b - a) * 3 == pytest.approx(c - b, abs=0.3)
    assert ">1,000<" in drawn
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
    [(low, high)] = re.findall(
        rf'<line y1="{height}" y2="{height}" class="s0 whisker" x1="([\d.]+)" x2="([\d.]+)"', drawn
    ) or re.findall(
        rf'<line x1="([\d.]+)" x2="([\d.]+)" y1="{height}" y2="{height}" class="s0 whisker"', drawn
    )
    assert (float(at) - float(low)) * 2 == pytest.approx(float(high) - float(at), abs=0.3)
    assert ">0.5<" in drawn or ">0.50<" in drawn


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

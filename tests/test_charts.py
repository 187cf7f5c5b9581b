"""Charts to look closer at: the same points as the figure's, and nothing that somebody else wrote."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import vl_convert
from helpers import ROOT
from matplotlib.figure import Figure

from lepton_kit import plots
from lepton_kit.notebook import CHART
from lepton_kit.reports.charts import VEGA_LITE_VERSION, add_scripts, chart_html
from lepton_kit.runs.charts import MOST_MARKS, Chart, chart_of
from lepton_kit.runs.notebooks import find_notebooks, read_notebook

TIMES = pd.date_range("2026-11-25T09:00Z", periods=6, freq="10s")
SHARES = [0.99, 0.98, np.nan, 0.97, 1.0, 0.5]


def of_time(**settings):
    """A line over time with its band, a level and an event."""
    axes = Figure().add_subplot()
    axes.plot(TIMES, SHARES, color="#0072B2", label="good <b>events</b>")
    axes.fill_between(TIMES[:2], [0.9, 0.8], [1.0, 0.9], color="#56B4E9", label="95 % interval")
    axes.axhline(0.95, color="#7b8794", label="objective 95 %")
    plots.time_axis(axes, (TIMES[0], TIMES[-1]))
    plots.mark_events({"onset": TIMES[2]}, axes)
    axes.set(ylabel="good events (%)", **settings)
    return axes.figure


def marks(chart, kind):
    return [one for one in chart.marks if one.kind == kind]


def milliseconds(times):
    return [int(time.timestamp() * 1000) for time in times]


def test_a_chart_has_the_points_of_its_figure():
    chart = chart_of(of_time())
    line = marks(chart, "line")
    assert [one.x for one in line] == milliseconds(TIMES)
    assert [one.y for one in line] == [0.99, 0.98, None, 0.97, 1.0, 0.5]
    assert {(one.name, one.colour) for one in line} == {("good <b>events</b>", "#0072b2")}
    band = [(one.x, one.y, one.y2) for one in marks(chart, "band")]
    assert band == [(milliseconds(TIMES)[0], 0.9, 1.0), (milliseconds(TIMES)[1], 0.8, 0.9)]
    assert [(one.name, one.y) for one in marks(chart, "level")] == [("objective 95 %", 0.95)]
    assert [(one.name, one.x) for one in marks(chart, "event")] == [("onset", milliseconds(TIMES)[2])]
    assert (chart.x, chart.y, chart.is_time, chart.is_log) == ("time (UTC)", "good events (%)", True, False)
    assert chart_of(of_time(yscale="log")).is_log


def test_a_histogram_has_its_bars_and_single_points_are_not_joined():
    axes = Figure().add_subplot()
    axes.stairs([1, 2], [0, 0.5, 1], label="now", color="#D55E00")
    bars = marks(chart_of(axes.figure), "bar")
    assert [(one.x, one.x2, one.y, one.colour) for one in bars] == [(0, 0.5, 1, "#d55e00"), (0.5, 1, 2, "#d55e00")]
    axes = Figure().add_subplot()
    axes.plot(TIMES, SHARES, ".")
    assert len(marks(chart_of(axes.figure), "point")) == len(TIMES)


def test_what_is_read_off_the_picture_has_no_chart():
    rows, lines = Figure().add_subplot(), Figure().add_subplot()
    rows.plot(TIMES, range(6), "o")
    plots.name_rows(rows, "abcdef")
    lines.plot(range(6), SHARES)
    few, many, two = Figure().add_subplot(), Figure().add_subplot(), Figure().subplots(2)
    few.plot(TIMES[:4], SHARES[:4])
    many.plot(pd.date_range(*TIMES[[0, -1]], periods=MOST_MARKS + 1), np.zeros(MOST_MARKS + 1))
    two[0].plot(TIMES, SHARES)
    dots, bars = of_time().axes[0], of_time().axes[0]  # of which a chart would show the rest alone
    dots.scatter(TIMES, SHARES)
    bars.bar(TIMES, SHARES)
    for axes in (rows, lines, few, many, two[0], dots, bars):
        assert chart_of(axes.figure) is None


def test_what_spans_the_axes_is_two_levels():
    figure = of_time()
    figure.axes[0].axhspan(0.2, 0.4, color="#56B4E9", label="usual")
    levels = [(one.name, one.y) for one in marks(chart_of(figure), "level")]
    assert levels == [("usual", pytest.approx(0.2)), ("usual", pytest.approx(0.4)), ("objective 95 %", 0.95)]


def test_a_site_has_what_draws_charts_also_where_nothing_can_be_kept_for_the_next_one(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    add_scripts(tmp_path)
    assert "vegaEmbed" in (tmp_path / "vega.js").read_text() and (tmp_path / "charts.js").is_file()


@pytest.mark.parametrize("width", [560, "container"])
def test_a_chart_is_vega_lite_and_read_back_from_it(width):
    axes = Figure().add_subplot()
    axes.stairs([1, 2], [0, 0.5, 1])
    for figure in (of_time(), of_time(yscale="log"), axes.figure):
        chart = chart_of(figure)
        written = json.loads(json.dumps(chart.vega_lite(width), allow_nan=False))
        assert vl_convert.vegalite_to_vega(written, vl_version=VEGA_LITE_VERSION)["marks"]
        assert Chart.of_vega_lite(written) == chart


def test_only_a_chart_of_the_kits_own_kind_comes_onto_a_page():
    good = chart_of(of_time()).vega_lite()
    shown = chart_html({CHART: good})
    assert "good &lt;b&gt;events" in shown and "<b>" not in shown
    mine = {**good, "data": {"url": "https://elsewhere.example"}, "layer": [{"mark": {"type": "image"}}]}
    assert chart_html({CHART: mine}) == shown, "all but the points is made anew"
    first = good["datasets"]["marks"][0]
    for wrong in (
        {"colour": "url(#a)"}, {"href": "javascript:a()"}, {"y": float("nan")}, {"name": "x" * 201}, {"kind": "image"},
    ):  # fmt: skip
        assert chart_html({CHART: {**good, "datasets": {"marks": [{**first, **wrong}]}}}) == ""
    for other in ({"mark": "bar"}, [], "text", None, {**good, "usermeta": 3}, {**good, "datasets": {"marks": []}}):
        assert chart_html({CHART: other}) == ""
    assert chart_html({"image/png": ""}) == ""


def test_committed_notebooks_hold_pictures_alone():
    outputs = [
        out for path in find_notebooks(ROOT) for cell in read_notebook(path).cells for out in cell.get("outputs", [])
    ]
    assert outputs and not [one for one in outputs if CHART in one.get("data", {})]

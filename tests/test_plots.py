"""Every figure, on little and on much: its words can be read, and nothing lies on anything else."""

import inspect
import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, figures_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from lepton_kit import plots
from lepton_kit.runs.notebooks import find_notebooks
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.slo import Objective

PHONE = 390  # px
LEAST_PX = 8.0
asked = parse_selector("asked_total")
OBJECTIVE = Objective(
    "price-freshness", "Freshness of the $price$ <b>feed</b>", "goog", "", 0.999, 60, "good", asked, asked, 20
)


@dataclass(frozen=True)
class Data:
    """What a figure is drawn of: so many names, and values over so long a time."""

    names: int = 3
    points: int = 40
    span: str = "2min"
    gaps: bool = False

    @property
    def window(self) -> tuple[pd.Timestamp, pd.Timestamp]:
        start = pd.Timestamp("2026-11-25T09:00:00Z")
        return start, start + pd.Timedelta(self.span)

    @property
    def times(self) -> pd.DatetimeIndex:
        return pd.date_range(*self.window, periods=self.points + 2)[1:-1]

    @property
    def labels(self) -> list[str]:
        return [f"feature_{i}_$x_{i}^2$_of_a_long_name" for i in range(self.names)]

    def values(self, low: float, high: float, count: int | None = None) -> np.ndarray:
        count = self.names if count is None else count
        drawn = np.random.default_rng(count).uniform(low, high, count)
        return np.where(np.arange(count) % 2 == 0, np.nan, drawn) if self.gaps else drawn

    def series(self, low: float, high: float) -> pd.Series:
        return pd.Series(self.values(low, high, self.points), self.times, name=(self.labels or ["x"])[0])

    def events(self) -> dict[str, pd.Timestamp | None]:
        start, end = self.window
        near = (end - start) / 200
        middle = start + 0.6 * (end - start)
        found = {"onset": middle, "alert": middle + near, "first action": middle + 3 * near, "over": end + near}
        return found | {"recovered": None}


def ranges(data: Data, low: float, high: float, index: list[str], count: int) -> pd.DataFrame:
    """Three columns: a value, and the ends of its interval."""
    middle = data.values(low, high, count)
    return pd.DataFrame({index[0]: middle, index[1]: middle - 0.05, index[2]: np.minimum(middle + 0.05, high)})


def of_times(data: Data, **columns: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame({name: data.values(*ends, data.points) for name, ends in columns.items()}, data.times)


def of_names(data: Data, **columns: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame({name: data.values(*ends) for name, ends in columns.items()}, data.labels)


def waits(data: Data) -> pd.DataFrame:
    rows = [(version, workers) for version in data.labels for workers in range(1, 9)]
    ends = [(0.0, float("inf"), 1e-9, *data.values(1e-4, 10, 5))[workers - 1] for _, workers in rows]
    return pd.DataFrame(rows, columns=["version", "workers"]).assign(wait_s=ends)


def spreads(data: Data) -> pd.DataFrame:
    table = of_names(data, spread_ratio=(0.01, 300))
    return pd.concat([table, pd.DataFrame({"spread_ratio": [1.4]}, ["actual"])]) if data.names else table


def happened(data: Data) -> pd.DataFrame:
    count = 2 * data.names
    kind = [("signal", "alert", "run", "decision", "action")[i % 5] for i in range(count)]
    event = [
        f"runbook {i} was started on the recording of $the$ <b>incident</b>, and went on for long" for i in range(count)
    ]
    return pd.DataFrame({"time": pd.date_range(*data.window, periods=count), "kind": kind, "event": event})


SHARED = {
    name: function
    for name, function in inspect.getmembers(plots, inspect.isfunction)
    if function.__module__ == plots.__name__ and inspect.signature(function).return_annotation == "Axes"
}
OF_NOTEBOOKS = {name: function for path in find_notebooks(ROOT) for name, function in figures_of(path).items()}
figures = SimpleNamespace(**SHARED, **OF_NOTEBOOKS)
DRAWINGS: dict[str, Callable] = {
    "column_over_time": lambda d, ax: figures.column_over_time(
        d.series(-1, 1), d.series(-1, 1), d.events(), "log return per day", ax, d.window
    ),
    "confusion_matrix": lambda d, ax: figures.confusion_matrix(
        pd.DataFrame(d.values(0, 99, d.names**2).reshape(d.names, d.names), d.labels, d.labels), ax
    ),
    "coverage_over_time": lambda d, ax: figures.coverage_over_time(
        {name: d.series(0.5, 1) for name in d.labels}, 0.85, d.events(), ax, d.window
    ),
    "drift_distances": lambda d, ax: figures.drift_distances(
        of_names(d, psi=(0, 30), psi_before=(0, 1)).rename_axis("column").reset_index()
        .assign(news=np.arange(d.names) % 2 == 0), 0.25, ax,
    ),
    "error_budgets": lambda d, ax: figures.error_budgets(
        of_names(d, budget_left=(-40, 1)).rename_axis("objective").reset_index(), ax
    ),
    "incident_timeline": lambda d, ax: figures.incident_timeline(happened(d), d.events(), ax),
    "indicator_over_time": lambda d, ax: figures.indicator_over_time(
        ranges(d, 0.9, 1, ["share", "low", "high"], d.points).assign(time=d.times), OBJECTIVE, d.events(), d.window, ax
    ),
    "missing_by_feature": lambda d, ax: figures.missing_by_feature(of_names(d, before=(0, 0.1), since=(0, 1)), ax),
    "recovery_intervals": lambda d, ax: figures.recovery_intervals(
        ranges(d, 0.8, 1, ["share", "low", "high"], d.names).assign(period=d.labels), OBJECTIVE, ax
    ),
    "reliability_curve": lambda d, ax: figures.reliability_curve(
        of_names(d, stated=(0.4, 1), right=(0.4, 1)).assign(drills=range(1000, 1000 + d.names)), ax
    ),
    "requests_over_time": lambda d, ax: figures.requests_over_time(
        of_times(d, **dict.fromkeys(("answered", "wrong", "overloaded", "failed"), (0, 20))), d.events()["onset"], ax
    ),
    "response_time_over_time": lambda d, ax: figures.response_time_over_time(
        of_times(d, p50=(2, 9), p95=(10, 3000)), d.events()["onset"], ax
    ),
    "share_intervals": lambda d, ax: figures.share_intervals(
        ranges(d, -0.3, 0.3, ["value", "lower", "upper"], d.names).assign(label=d.labels), ax, 0.1
    ),
    "signal_onsets": lambda d, ax: figures.signal_onsets(
        pd.DataFrame({"signal": d.labels, "since": d.window[0] + pd.to_timedelta(d.values(0, 100), unit="s")}),
        d.events(), d.window, ax,
    ),
    "sizes_by_feature": lambda d, ax: figures.sizes_by_feature(of_names(d, came=(0, 1e8), used=(0.5, 2)), ax),
    "spread_changes": lambda d, ax: figures.spread_changes(spreads(d), 1.5, ax),
    "values_then_and_now": lambda d, ax: figures.values_then_and_now(
        pd.Series(d.values(-1, 1, d.points)), pd.Series(d.values(0, 2, d.points), name=(d.labels or ["x"])[0]), "$", ax
    ),
    "waits_by_workers": lambda d, ax: figures.waits_by_workers(waits(d), (2, 0.3), 0.05, ax),
}  # fmt: skip
CASES = {
    "three names in two minutes": Data(),
    "sixty names in two years": Data(names=60, points=200, span="730D"),
    "nothing": Data(names=0, points=0),
    "one of each": Data(names=1, points=1),
    "every other value unknown": Data(names=6, gaps=True),
    "no value known": Data(names=1, points=1, gaps=True),
}


@contextmanager
def words_drawn():
    """Note each text that is really drawn: what lies outside the limits is not."""
    drawn: dict[int, Text] = {}
    draw = Text.draw

    def noted(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            drawn[id(self)] = self
        return draw(self, renderer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        yield drawn


def drawn(name: str, data: Data, height: float = 0.0):
    """Draw a figure as pages do; return it with its axes and the words that are seen on it."""
    rows = 2 * data.names if name == "incident_timeline" else min(data.names, plots.MOST_ROWS)
    with mpl.rc_context(plots.THEME):
        figure = Figure(figsize=(plots.WIDTH, height or max(3.4, 1.2 + 0.2 * rows)))
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        with np.errstate(all="raise"):
            assert DRAWINGS[name](data, axes) is axes
        with words_drawn() as seen:
            canvas.draw()
    return figure, axes, list(seen.values())


def box(text: Text) -> Bbox:
    """The box of the words alone, a little smaller: lines of one paragraph touch."""
    return Text.get_window_extent(text).padded(-1)


def units_missing(axes) -> list[str]:
    """The axes with numbers on them whose label has no unit in brackets."""
    found = []
    for axis in (axes.xaxis, axes.yaxis):
        ticks = [label.get_text() for label in axis.get_majorticklabels()]
        is_numbers = any(ticks) and all(re.fullmatch(r"[-−:.\d]*|\$.*\d.*\$", tick) for tick in ticks)
        if is_numbers and not re.search(r"\(.+\)", axis.get_label_text()):
            found.append(f"{axis.axis_name}: {axis.get_label_text()!r}")
    return found


def test_every_figure_is_drawn_here():
    assert {*SHARED, *OF_NOTEBOOKS} - {"legend"} == set(DRAWINGS)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", DRAWINGS)
@pytest.mark.filterwarnings("error")
def test_a_figure_can_be_read(name, case):
    figure, axes, words = drawn(name, CASES[case])
    boxes = {f"{number} {word.get_text()}": box(word) for number, word in enumerate(words)}
    assert not [pair for pair in combinations(boxes, 2) if boxes[pair[0]].overlaps(boxes[pair[1]])]
    inside = figure.bbox.padded(1)
    assert not [name for name, own in boxes.items() if not (inside.contains(*own.min) and inside.contains(*own.max))]
    assert not units_missing(axes)
    legend, told = axes.get_legend(), " ".join(boxes)
    assert name == "waits_by_workers" or CASES[case].names or "nothing was recorded" in told
    assert legend is None or not legend.get_window_extent().padded(-1).overlaps(axes.bbox)
    small = {w.get_text(): w.get_fontsize() / 72 / figure.get_figwidth() * PHONE for w in words}
    assert min(small.values()) >= LEAST_PX, small
    assert axes.bbox.height > figure.bbox.height / 4, "hardly any room is left for the data"


def test_columns_whose_names_differ_at_their_end_have_rows_of_different_names():
    names = [f"transaction_amount_mean_of_the_last_{days}_days" for days in (7, 30, 90)]
    axes = Figure().add_subplot()
    plots.name_rows(axes, names)
    assert len({label.get_text() for label in axes.get_yticklabels()}) == 3


SHARES = [0.999, 1.0, 0.98, 0.995, 0.999, 1.0]


def indicator(points: int, events: dict[str, pd.Timestamp | None], window: tuple[pd.Timestamp, pd.Timestamp]):
    """The decisive figure of so many points in the middle of a window; with its axes and the words on it."""
    table = pd.DataFrame({"share": SHARES[:points], "low": np.array(SHARES[:points]) - 0.01, "high": 1.0})
    table["time"] = pd.date_range(*window, periods=points + 2)[1:-1]
    with mpl.rc_context(plots.THEME):
        figure = Figure()
        canvas = FigureCanvasAgg(figure)
        axes = plots.indicator_over_time(table, OBJECTIVE, events, window, figure.add_subplot())
        with words_drawn() as seen:
            canvas.draw()
    return axes, [word.get_text() for word in seen.values()], list(seen.values())


@pytest.mark.parametrize("points", [0, 1, 2, 4, 5])
def test_the_decisive_figure_shows_the_recordings_window_and_says_when_it_has_few_points(points):
    window = Data(span="4min").window
    axes, words, _ = indicator(points, {"onset": window[0] + pd.Timedelta("1min")}, window)
    left, right = mpl.dates.num2date(axes.get_xlim())
    assert (pd.Timestamp(left), pd.Timestamp(right)) == window
    assert max(float(word) for word in words if re.fullmatch(r"[\d.]+", word)) == 100
    assert any(OBJECTIVE.title[:20] in word and "(%)" in word for word in words)
    said = {0: "nothing was recorded", 1: "only 1 point: ", 2: "only 2 points: ", 4: "only 4 points: "}
    assert any(word.startswith(said.get(points, "95 % interval")) for word in words)
    assert points < 5 or not any("only" in word for word in words)


@pytest.mark.parametrize("apart", ["1s", "20s", "3min"])
@pytest.mark.parametrize("first", ["-30s", "2s", "2min", "230s", "9min"])
def test_names_of_events_lie_neither_on_each_other_nor_on_a_line(first, apart):
    window = Data(span="4min").window
    time = window[0] + pd.Timedelta(first)
    events = {"onset": time, "alert": time + pd.Timedelta(apart), "first action": time + 2 * pd.Timedelta(apart)}
    axes, words, drawn_words = indicator(6, events, window)
    named = [box(word) for word in drawn_words if word.get_text().strip("◂▸ ") in events]
    assert len(named) == len(events)
    assert not [pair for pair in combinations(named, 2) if pair[0].overlaps(pair[1])]
    assert not [one for one in named if one.overlaps(axes.bbox)], "the objective's line is within the axes"
    is_out = [not window[0] <= moment <= window[1] for moment in events.values()]
    assert sum("◂" in word or "▸" in word for word in words) == sum(is_out)


def test_what_lies_beyond_an_axis_is_marked_and_said():
    table = pd.DataFrame({"spread_ratio": [1e9, 1e-9, 2.0, 1.0]}, ["a", "b", "c", "actual"])
    with mpl.rc_context(plots.THEME):
        axes = figures.spread_changes(table, 1.5, Figure().add_subplot())
    markers = {line.get_marker(): list(line.get_xdata()) for line in axes.lines if line.get_marker() in "<>"}
    assert markers == {"<": [0.01], ">": [100.0]}
    assert "beyond the axis" in axes.get_legend().get_title().get_text()


def test_of_many_features_the_most_moved_are_shown_and_the_others_counted():
    table = pd.DataFrame({"before": 0.0, "since": np.arange(33) / 40}, [f"f{i}" for i in range(33)])
    with mpl.rc_context(plots.THEME):
        axes = figures.missing_by_feature(table, Figure().add_subplot())
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"f{i}" for i in range(21, 33)]
    assert axes.get_legend().get_title().get_text() == "the 12 most changed of 33; 21 are not drawn"

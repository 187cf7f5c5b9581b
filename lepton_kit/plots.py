"""One theme for all figures; every function takes data and an Axes, draws, and returns the Axes.

A figure is `WIDTH` inches wide, so that its words can still be read on a phone. Legends and the names of events stand
above the axes, never on the data. A figure with a row per name shows the `MOST_ROWS` that matter most and says how
many it leaves out. A value beyond the axis is a triangle at its edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import date2num
from matplotlib.rcsetup import cycler
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

if TYPE_CHECKING:
    from lepton_kit.telemetry.slo import Objective

# Okabe and Ito's palette, told apart by colour-blind readers: https://jfly.uni-koeln.de/color/
INK, MUTED = "#1f2933", "#7b8794"
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)

WIDTH = 6.0  # inches; at 390 px of a phone, 9 points of it are 8 px high
SMALL = 9  # points of the smallest words
MOST_ROWS = 12
FEW_POINTS = 5

THEME: dict[str, Any] = {
    "figure.figsize": (WIDTH, 3.4),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": cycler(color=list(PALETTE)),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "xaxis.labellocation": "left",  # on the right stands the day that the hours belong to
    "xtick.color": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.color": MUTED,
    "ytick.labelsize": SMALL,
    "text.color": INK,
    "font.size": 10,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "date.converter": "concise",
    "lines.linewidth": 1.5,
}

Events = Mapping[str, pd.Timestamp | None]
Window = tuple[pd.Timestamp, pd.Timestamp]


def use_theme() -> None:
    """Make the kit's theme the default of every figure drawn from here on."""
    mpl.rcParams.update(THEME)  # type: ignore[arg-type]


# --- what figures share -------------------------------------------------------------------------------------------


def _shorten(name: object, longest: int = 26) -> str:
    text = " ".join(str(name).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _legend(axes: Axes, *notes: str, rows_above: int = 0) -> Axes:
    """Put the legend above the axes, over the names of events, in as many columns as fit; notes are its title."""
    handles, labels = axes.get_legend_handles_labels()
    figure, title = axes.figure, "\n".join(note for note in notes if note)
    if not handles and not title:
        return axes
    _lay_out(axes)
    box, width = axes.get_window_extent(), figure.bbox.width
    is_wide = box.width > 0.6 * width
    room = 0.97 * (width - box.x0 if is_wide else box.x1)
    place = axes.transAxes + ScaledTranslation(0, (2 + EVENT_ROW * rows_above) / 72, figure.dpi_scale_trans)
    for columns in range(len(handles) or 1, 0, -1):
        legend = axes.legend(
            handles, [_shorten(label, 40) for label in labels], ncols=columns, title=title or None,
            loc="lower left" if is_wide else "lower right", bbox_to_anchor=(0 if is_wide else 1, 1),
            bbox_transform=place, alignment="left", borderaxespad=0, borderpad=0.1, columnspacing=1.2,
            handletextpad=0.5,
        )  # fmt: skip
        legend.get_title().set(color=MUTED, parse_math=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
        if legend.get_window_extent().width <= room:
            break
    return axes


def _lay_out(axes: Axes) -> None:
    """Let the axes have the place that they get when the figure is drawn, so that words can be measured."""
    if (figure := axes.get_figure(root=True)) and (engine := figure.get_layout_engine()):
        engine.execute(figure)


def _few(points: int) -> str:
    if not points:
        return "nothing was recorded"
    return f"only {points} point{'s' if points != 1 else ''}: too little was recorded" if points < FEW_POINTS else ""


def _coloured(drawn: Mapping[str, Any]) -> tuple[Iterable[tuple[str, str, Any]], str]:
    """Return colour, name and data of as many as there are colours, and a note of how many are left out."""
    left_out = max(0, len(drawn) - len(PALETTE))
    pairs = [(colour, name, data) for colour, (name, data) in zip(PALETTE, drawn.items(), strict=False)]
    return pairs, f"{left_out} more are not drawn" if left_out else ""


def _rows(axes: Axes, names: Iterable[object], shown_of: int = 0, which: str = "") -> tuple[np.ndarray, str]:
    """Name a row of the axes each, the first on top; return their heights and a note of how many are left out."""
    labels = [_shorten(name) for name in names]
    heights = np.arange(len(labels))[::-1]
    axes.set_yticks(heights, labels, parse_math=False)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(-0.6, max(len(labels), 1) - 0.4)
    left_out = shown_of - len(labels)
    if not labels:
        return heights, _few(0)
    return heights, f"the {len(labels)} {which} of {shown_of}; {left_out} are not drawn" if left_out > 0 else ""


def _most(table: pd.DataFrame, by: pd.Series) -> pd.DataFrame:
    """Return the rows with the largest values, in the table's order; what is not known comes last."""
    best = by.reset_index(drop=True).sort_values(ascending=False, kind="stable", na_position="last").index[:MOST_ROWS]
    return table.iloc[sorted(best)]


def _dots(axes: Axes, values: Any, heights: np.ndarray, limits: tuple[float, float], **style: Any) -> None:
    """Draw a dot per row; what lies beyond the limits is a triangle at the edge that points at it."""
    numbers, label = np.asarray(values, dtype=float), style.pop("label", None)
    low, high = limits
    for marker, drawn, where in (
        (style.pop("marker", "o"), numbers, (numbers >= low) & (numbers <= high)),
        ("<", np.full_like(numbers, low), numbers < low),
        (">", np.full_like(numbers, high), numbers > high),
    ):
        if where.any() or label:
            axes.plot(drawn[where], heights[where], marker, **style, label=label, clip_on=False)
            label = None


def _beyond(values: Iterable[Any], limits: tuple[float, float]) -> str:
    numbers = np.concatenate([np.asarray(one, dtype=float).ravel() for one in values])
    return "◂ ▸: beyond the axis" if ((numbers < limits[0]) | (numbers > limits[1])).any() else ""


def _percent(axes: Axes, *values: Any) -> None:
    """Let the vertical axis end at 100 % and begin a little below the least of the values, given as shares."""
    numbers = 100 * np.concatenate([np.atleast_1d(np.asarray(one, dtype=float)) for one in values])
    known = numbers[np.isfinite(numbers)]
    low = float(known.min()) if len(known) else 0.0
    span = max(100 - low, 0.01)
    axes.set_ylim(max(low - 0.06 * span, -0.04 * span), 100 + 0.04 * span)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.ticklabel_format(axis="y", useOffset=False)


def _time(axes: Axes, window: Window | None = None, times: Any = (), label: str = "time (UTC)") -> None:
    """Let the axis of time show the window, or all times where there is none; a single time is no four years."""
    if window is None:
        known = pd.Series(times).dropna()
        if known.empty:
            axes.set_xticks([])
        else:
            room = (known.max() - known.min()) * 0.02 or pd.Timedelta("1min")
            window = known.min() - room, known.max() + room
    if window is not None:
        axes.set_xlim(*window)  # type: ignore[arg-type]  # dates have their units
    if axes.xaxis.get_tick_params().get("labelbottom", True):  # not above another one that shares it
        axes.set_xlabel(label)


EVENT_ROW = 13  # points between the names of two events, one above the other


def _events(events: Events, axes: Axes) -> int:
    """Draw a line at each event, the first one dotted, and its name above the axes; return the rows of names.

    The limits of the axis stay: what lies outside is at the edge, with an arrow. Names are drawn without markup.
    """
    known = {name: float(date2num(time)) for name, time in events.items() if time is not None}
    figure, (low, high) = axes.figure, axes.get_xlim()
    _lay_out(axes)
    points = 72 / figure.dpi
    across = 0.85 * axes.get_window_extent().width * points  # the axes may yet get narrower
    taken: list[list[tuple[float, float]]] = []
    for step, (name, time) in enumerate(known.items()):
        place = min(max(time, low), high)
        label = f"◂ {_shorten(name)}" if time < low else f"{_shorten(name)} ▸" if time > high else _shorten(name)
        style: dict[str, Any] = {"color": VERMILLION, "linewidth": 1.2, "linestyle": "-" if step else ":"}
        axes.axvline(place, **style)
        text = axes.annotate(
            label, (place, 1), (0, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
            color=VERMILLION, fontsize=SMALL, parse_math=False, va="bottom",
            bbox={"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
        width, begin = text.get_window_extent().width * points + 8, across * (place - low) / (high - low)
        is_left = begin + width > across and begin > width
        span = (begin - width, begin) if is_left else (begin, begin + width)
        row = next((i for i, row in enumerate(taken) if all(span[1] <= a or b <= span[0] for a, b in row)), len(taken))
        taken += [[]] if row == len(taken) else []
        taken[row].append(span)
        height = 2 + EVENT_ROW * row
        text.set(position=(-4 if is_left else 4, height), ha="right" if is_left else "left")
        above = axes.transAxes + ScaledTranslation(0, (height + 8) / 72, figure.dpi_scale_trans)
        foot = 1 - (height + 8) / (axes.get_window_extent().height * points)
        axes.plot(
            [place, place], [foot, 1], **style, transform=blended_transform_factory(axes.transData, above),
            clip_on=False, scalex=False, scaley=False,
        )  # fmt: skip
    return len(taken)


def _keep_apart(texts: Sequence[Text], axes: Axes) -> None:
    """Take away each text that lies on an earlier one or is cut off, so that the others can be read."""
    _lay_out(axes)
    kept: list[Any] = []
    for text in texts:
        box = text.get_window_extent().padded(3)
        inside = box.x0 >= axes.bbox.x0 - 40 and box.x1 <= axes.figure.bbox.x1
        if inside and not any(box.overlaps(other) for other in kept):
            kept.append(box)
        else:
            text.remove()


# --- models -------------------------------------------------------------------------------------------------------


def forecast_interval(forecast: pd.DataFrame, actual: pd.Series, axes: Axes, window: Window | None = None) -> Axes:
    """Draw what came as dots on the forecast 90 % interval, with the misses in another colour.

    Parameters
    ----------
    forecast
        Columns `lower` and `upper` in log return, indexed by date (n,).
    actual
        The next day's log return, with the same index.
    axes
        Where to draw.
    window
        From when to when to draw; None draws all.
    """
    axes.set(ylabel="next day's return (%)")
    _time(axes, window, actual.index, "time of the forecast (UTC)")
    if forecast.empty:
        return _legend(axes, _few(0))
    missed = (actual < forecast["lower"]) | (actual > forecast["upper"])
    axes.fill_between(
        forecast.index, 100 * forecast["lower"], 100 * forecast["upper"],
        color=SKY, alpha=0.35, linewidth=0, label="90 % interval",
    )  # fmt: skip
    axes.plot(actual.index[~missed], 100 * actual[~missed], ".", color=INK, markersize=4, label="day inside")
    axes.plot(actual.index[missed], 100 * actual[missed], "o", color=VERMILLION, markersize=5, label="day outside")
    return _legend(axes, _few(actual.count()))


def share_intervals(table: pd.DataFrame, axes: Axes, margin: float | None = None) -> Axes:
    """Draw relative differences with their intervals, one row each, and a line at no difference.

    Parameters
    ----------
    table
        Columns `label`, and `value`, `lower`, `upper` as shares.
    axes
        Where to draw.
    margin
        The loss that must not be reached, a share; None draws no line.
    """
    shown = _most(table, table["value"].abs())
    heights, note = _rows(axes, shown["label"], len(table), "largest differences")
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.hlines(heights, 100 * shown["lower"], 100 * shown["upper"], color=BLUE, linewidth=3)
    axes.plot(100 * shown["value"], heights, "o", color=BLUE, markersize=8)
    if margin is not None:
        axes.axvline(100 * margin, color=VERMILLION, linestyle=":", label="loss not to be reached")
    axes.set_xlabel("difference (%)")
    return _legend(axes, note)


# --- telemetry and diagnosis --------------------------------------------------------------------------------------


def coverage_over_time(
    coverage: Mapping[str, pd.Series], objective: float, events: Events, axes: Axes, window: Window | None = None
) -> Axes:
    """Draw rolling coverages by time, the objective, and a labelled line at each event such as the onset.

    Parameters
    ----------
    coverage
        Per version, the share of recent actuals that its interval held, indexed by time.
    objective
        The least share that is acceptable.
    events
        Times by name, earliest first; those that are None are left out.
    axes
        Where to draw.
    window
        From when to when to draw, such as that of the recording; None draws all of the coverage.
    """
    drawn, note = _coloured(coverage)
    for colour, name, series in drawn:
        axes.plot(
            series.index, 100 * series, color=colour, marker="o" if len(series) < FEW_POINTS else "", markersize=3.5,
            label=name,
        )  # fmt: skip
    axes.axhline(100 * objective, color=MUTED, linestyle="--", linewidth=1, label=f"objective {100 * objective:g} %")
    axes.set(ylabel="interval coverage (%)")
    _percent(axes, objective, *coverage.values())
    times = pd.Series([time for series in coverage.values() for time in series.index])
    _time(axes, window, times)
    most = max((series.count() for series in coverage.values()), default=0)
    return _legend(axes, note, _few(most), rows_above=_events(events, axes))


def signal_onsets(table: pd.DataFrame, events: Events, window: Window, axes: Axes) -> Axes:
    """Draw since when each signal moved, one above the other, the earliest on top, and a labelled line at each event.

    Parameters
    ----------
    table
        `signal`, `since` (UTC), as `lepton_kit.diagnosis.evidence.signal_order` gives them.
    events
        Times by name, earliest first, such as the onset and the alert.
    window
        From when to when to draw.
    axes
        Where to draw.
    """
    moved = table.dropna(subset=["since"]).sort_values("since")
    shown = moved.head(MOST_ROWS)
    heights, note = _rows(axes, shown["signal"], len(moved), "earliest")
    for height, since in zip(heights, shown["since"], strict=True):
        axes.plot([since, window[1]], [height, height], color=SKY, linewidth=6, alpha=0.6, solid_capstyle="butt")
        axes.plot([since], [height], "o", color=BLUE)
    _time(axes, window)
    return _legend(axes, note, rows_above=_events(events, axes))


FURTHEST_RATIO = 100.0


def spread_changes(table: pd.DataFrame, factor: float, axes: Axes) -> Axes:
    """Draw how many times wider the most moved series became: the actuals apart from the inputs, which follow.

    Parameters
    ----------
    table
        Index: names of the inputs, and `actual`; column `spread_ratio`. Beyond `FURTHEST_RATIO` is a triangle there.
    factor
        The change, up or down, from which on a series has moved.
    axes
        Where to draw; its horizontal axis becomes logarithmic.
    """
    ratios, limits = table["spread_ratio"].astype(float), (1 / FURTHEST_RATIO, FURTHEST_RATIO)
    inputs = ratios.drop("actual", errors="ignore")
    size = inputs.clip(*limits).map(np.log).abs()
    shown = pd.concat([ratios[ratios.index == "actual"], _most(inputs.to_frame(), size)["spread_ratio"]])
    heights, note = _rows(axes, shown.index, len(ratios), "most moved")
    axes.axvspan(1 / factor, factor, color=MUTED, alpha=0.15, linewidth=0, label=f"unmoved (up to × {factor:g})")
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.set_xscale("log", base=2)
    for name, colour, rows in (
        ("inputs", BLUE, shown.index != "actual"),
        ("actuals", ORANGE, shown.index == "actual"),
    ):
        _dots(axes, shown[rows], heights[rows], limits, color=colour, label=name)
    within = shown.clip(*limits)
    _ratio_axis(axes, np.nanmin([0.5, within.min() / 1.2]), np.nanmax([4.0, within.max() * 1.2]))
    axes.set_xlabel("spread since the onset (× before; log scale)")
    return _legend(axes, note, _beyond([shown], limits))


def _ratio_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(base=2 if high / low < 50 else 10, numticks=7))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


# --- health and drift ---------------------------------------------------------------------------------------------

OUTCOMES = {"answered": BLUE, "wrong": ORANGE, "overloaded": PURPLE, "failed": VERMILLION}


def requests_over_time(table: pd.DataFrame, split: pd.Timestamp, axes: Axes) -> Axes:
    """Draw requests per second by their outcome, stacked, and a line where the period that is judged begins.

    Parameters
    ----------
    table
        Index: time; columns `answered`, `wrong`, `overloaded`, `failed`, as `health.by_time` returns it.
    split
        Where the period begins.
    axes
        Where to draw.
    """
    known = table.fillna(0.0)
    shown = [name for name in OUTCOMES if name == "answered" or known[name].any()]
    width = known.index.to_series().diff().median() if len(known) > 1 else pd.Timedelta("10s")
    foot = pd.Series(0.0, known.index)
    for name in shown:
        axes.bar(known.index, known[name], width, bottom=foot, color=OUTCOMES[name], alpha=0.8, label=name)  # type: ignore[arg-type]
        foot = foot + known[name]
    axes.set(ylabel="requests (1/s)", ylim=(0, 1.05 * foot.max() if foot.max() > 0 else 1))
    _time(axes, times=known.index)
    return _legend(axes, _few(len(table)), rows_above=_events({"this period": split}, axes))


def response_time_over_time(table: pd.DataFrame, split: pd.Timestamp, axes: Axes) -> Axes:
    """Draw the median and the 95th percentile of the response time on a logarithmic scale.

    Parameters
    ----------
    table
        Index: time; columns `p50` and `p95` in ms, as `health.by_time` returns it.
    split
        Where the period that is judged begins.
    axes
        Where to draw.
    """
    for name, colour in (("p50", BLUE), ("p95", ORANGE)):
        axes.plot(table.index, table[name], "o-", color=colour, markersize=3, label=name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set(ylabel="response time (ms)")
    _time(axes, times=table.index)
    return _legend(axes, _few(len(table.dropna())), rows_above=_events({"this period": split}, axes))


def error_budgets(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw how much of each objective's error budget is left; what is overspent further is a triangle at -100 %.

    Parameters
    ----------
    table
        Columns `objective` and `budget_left` (a share, NaN where not known), as `health.objective_table` returns it.
    axes
        Where to draw.
    """
    shown = _most(table, -table["budget_left"])
    heights, note = _rows(axes, shown["objective"], len(table), "most spent")
    left = 100 * shown["budget_left"].clip(-1, 1).fillna(0)
    axes.barh(heights, left, color=[BLUE if value > 0 else VERMILLION for value in left], height=0.55)
    for height, value in zip(heights, shown["budget_left"], strict=True):
        text = "no events" if pd.isna(value) else f"{100 * value:.0f} %" if value >= -1 else f"◂ {100 * value:,.0f} %"
        place = max(0.0, 100 * value) if value == value else 0.0
        axes.annotate(text, (place, height), (5, 0), textcoords="offset points", va="center", fontsize=SMALL)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set(xlabel="error budget left (%)", xlim=(-105, 135), xticks=(-100, -50, 0, 50, 100))
    return _legend(axes, note, _beyond([shown["budget_left"]], (-1, 1)))


FURTHEST_DISTANCE = 10.0


def drift_distances(table: pd.DataFrame, limit: float, axes: Axes) -> Axes:
    """Draw the distance of the columns furthest from the reference, in the period before (open) and now (full).

    Parameters
    ----------
    table
        Columns `column`, `wasserstein`, `wasserstein_before` (standard deviations of the reference) and `news`, as
        `drift_watch.effects` returns it. Beyond `FURTHEST_DISTANCE` is a triangle there.
    limit
        The distance from which on a column counts as moved.
    axes
        Where to draw; its horizontal axis becomes logarithmic.
    """
    shown, limits = _most(table, table["wasserstein"]), (0.01, FURTHEST_DISTANCE)
    heights, note = _rows(axes, shown["column"], len(table), "furthest")
    axes.set_xscale("log")
    axes.axvspan(limits[0], limit, color=MUTED, alpha=0.15, linewidth=0, label=f"too small to count (≤ {limit:g})")
    was, now = (shown[name].astype(float) for name in ("wasserstein_before", "wasserstein"))
    axes.hlines(heights, was.clip(*limits), now.clip(*limits), color=MUTED, linewidth=1, zorder=1)
    _dots(axes, was, heights, limits, markerfacecolor="white", color=BLUE, markersize=6, label="period before")
    for is_news, colour, label in ((False, BLUE, "now"), (True, VERMILLION, "now, moved since")):
        part = (shown["news"] == is_news).to_numpy()
        if part.any():
            _dots(axes, now[part], heights[part], limits, color=colour, markersize=6, zorder=3, label=label)
    _ratio_axis(axes, 0.009, 1.1 * FURTHEST_DISTANCE)
    axes.set_xlabel("Wasserstein distance (sd of the reference; log)")
    return _legend(axes, note, _beyond([was, now], limits))


def column_over_time(
    series: pd.Series, reference: pd.Series, events: Events, unit: str, axes: Axes, window: Window | None = None
) -> Axes:
    """Draw a column's values by time, the middle 90 % of its reference as a band, and a line at each event.

    Parameters
    ----------
    series
        Values by time.
    reference
        The reference's values.
    events
        Times by name, earliest first.
    unit
        Unit of the values.
    axes
        Where to draw.
    window
        From when to when to draw; None draws all values.
    """
    low, high = reference.quantile([0.05, 0.95])
    if low == low:
        axes.axhspan(low, high, color=SKY, alpha=0.35, linewidth=0, label="middle 90 % of the reference")
    axes.plot(series.index, series, ".", color=INK, markersize=4, label="values")
    axes.set_ylabel(f"{_shorten(series.name)}\n({unit})", parse_math=False)
    _time(axes, window, series.index)
    return _legend(axes, _few(series.count()), rows_above=_events(events, axes))


# --- drills -------------------------------------------------------------------------------------------------------


def confusion_matrix(counts: pd.DataFrame, axes: Axes) -> Axes:
    """Draw how often each true cause (index) was named what (columns): a cell is as dark as its share of its row.

    Parameters
    ----------
    counts
        Numbers of cases; a row may hold none. Of more than `MOST_ROWS` causes the commonest are drawn.
    axes
        Where to draw.
    """
    whole = counts.fillna(0)
    rows, columns = (_most(one, one.sum(axis=1)) for one in (whole, whole.T))
    shown = whole.loc[rows.index, columns.index]
    numbers = shown.to_numpy(dtype=int)
    left_out = max(0, len(counts) - len(rows), len(counts.columns) - len(columns))
    shares = numbers / numbers.sum(axis=1, keepdims=True).clip(min=1)
    axes.set(xlabel="named (number of drills)", ylabel="true cause")
    axes.grid(visible=False)
    if not shares.size:
        axes.set(xticks=[], yticks=[])
        return _legend(axes, _few(0))
    axes.imshow(
        shares, cmap=LinearSegmentedColormap.from_list("counts", ["white", BLUE]), vmin=0, vmax=1, aspect="auto"
    )
    for row, column in np.ndindex(shares.shape):
        count = int(numbers[row, column])
        colour = "white" if shares[row, column] > 0.5 else INK if count else MUTED
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=SMALL)
    upright = len(columns) > 6 or max(len(str(name)) for name in columns.index) > 9
    names = [_shorten(name, 16) for name in columns.index]
    axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0, parse_math=False)
    axes.set_yticks(range(len(rows)), [_shorten(name, 16) for name in rows.index], parse_math=False)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=3)
    axes.tick_params(which="both", length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    return _legend(axes, f"{left_out} rarer ones are not drawn" if left_out else "")


def reliability_curve(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw how often what was named was right against the probability that was stated; the diagonal is perfect.

    Parameters
    ----------
    table
        Columns `stated` and `right`, both shares, and `drills`, which stands beside each point.
    axes
        Where to draw.
    """
    known = table.dropna(subset=["stated", "right"])
    axes.plot([0, 100], [0, 100], color=MUTED, linestyle="--", linewidth=1, label="perfect")
    axes.plot(
        100 * known["stated"], 100 * known["right"], "o-", color=BLUE, markersize=6,
        label="named; beside it, how many drills",
    )  # fmt: skip
    least = 100 * min([1.0, *known["stated"], *known["right"]])
    axes.set(xlabel="stated probability (%)", ylabel="right (%)", xlim=(least - 5, 102))
    _percent(axes, least / 100)
    names = [
        axes.annotate(
            str(point["drills"]), (100 * point["stated"], 100 * point["right"]), (0, 8 if above % 2 else -16),
            textcoords="offset points", ha="center", fontsize=SMALL,
        )
        for above, point in enumerate(known.to_dict("records"))
    ]  # fmt: skip
    _keep_apart(names, axes)
    return _legend(axes, "" if len(known) else _few(0))


# --- postmortem ---------------------------------------------------------------------------------------------------

LANES = {"signal": PURPLE, "alert": VERMILLION, "run": BLUE, "decision": ORANGE, "action": GREEN}


def incident_timeline(events: pd.DataFrame, milestones: Events, axes: Axes, longest: int = 36) -> Axes:
    """Draw what happened in an incident from top to bottom, a row per event with a dot in the colour of its kind.

    Parameters
    ----------
    events
        `time` (UTC), `kind` (of `LANES`) and `event`, in order of time, as `postmortem.timeline` returns it.
    milestones
        Times to draw as lines across, by name; those that are None are left out.
    axes
        Where to draw; 0.2 inches of height per event are enough.
    longest
        Characters of an event that are shown.
    """
    heights, _ = _rows(axes, [])
    heights = np.arange(len(events))[::-1]
    axes.set_yticks(heights, [_shorten(event, longest) for event in events["event"]], parse_math=False)
    axes.set_ylim(-0.6, max(len(events), 1) - 0.4)
    for kind, colour in LANES.items():
        lane = (events["kind"] == kind).to_numpy()
        if lane.any():
            axes.plot(events["time"][lane], heights[lane], "o", color=colour, markersize=6, label=kind)
    _time(axes, times=pd.Series([*events["time"], *milestones.values()]).dropna())
    return _legend(axes, "" if len(events) else _few(0), rows_above=_events(milestones, axes))


def indicator_over_time(table: pd.DataFrame, objective: Objective, events: Events, window: Window, axes: Axes) -> Axes:
    """Draw an objective's indicator by time with its interval, what is promised, and a labelled line at each event.

    Parameters
    ----------
    table
        Columns `time` (UTC), `share`, `low` and `high`, as `recovery.sli_over_time` has them.
    objective
        Its title names the axis, its target is the line.
    events
        Times by name, earliest first; those that are None are left out.
    window
        From when to when was recorded: the limits of the axis.
    axes
        Where to draw.
    """
    known, target = table.dropna(subset=["share"]), 100 * objective.target
    _time(axes, window)
    axes.set_ylabel(f"{_shorten(objective.title, 32)}\ngood events (%)", parse_math=False)
    axes.axhline(target, color=MUTED, linestyle="--", linewidth=1, label=f"objective {target:g} %")
    _percent(axes, objective.target, 2 * objective.target - 1 if known.empty else known["low"])
    if len(known):
        low, high = 100 * known["low"], 100 * known["high"]
        axes.fill_between(known["time"], low, high, color=SKY, alpha=0.35, linewidth=0, label="95 % interval")
        if len(known) < FEW_POINTS:  # the band of one point has no width
            axes.vlines(known["time"], low, high, color=SKY, alpha=0.6, linewidth=3)
        axes.plot(known["time"], 100 * known["share"], "o-", color=BLUE, markersize=3.5, label="good events")
    return _legend(axes, _few(len(known)), rows_above=_events(events, axes))


def recovery_intervals(table: pd.DataFrame, objective: Objective, axes: Axes) -> Axes:
    """Draw an indicator before, during and after an incident with its intervals, and the share that is promised.

    Parameters
    ----------
    table
        Columns `period`, `share`, `low` and `high`, as `Recovery.table` has them; a period without events is left out.
    objective
        Its title names the axis, its target is the line.
    axes
        Where to draw.
    """
    known = table.dropna(subset=["share"])
    shown = known.tail(MOST_ROWS)
    heights, note = _rows(axes, shown["period"], len(known), "last periods")
    target = 100 * objective.target
    axes.axvline(target, color=VERMILLION, linestyle="--", label=f"objective {target:g} %")
    axes.hlines(heights, 100 * shown["low"], 100 * shown["high"], color=BLUE, linewidth=3, label="95 % interval")
    axes.plot(100 * shown["share"], heights, "o", color=BLUE, markersize=8, clip_on=False)
    low = min([target, *(100 * shown["low"])])
    axes.set_xlim(low - 0.06 * (100 - low), 100 + 0.02 * (100 - low))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlabel(f"{_shorten(objective.title, 40)}\ngood events (%)", parse_math=False)
    return _legend(axes, note)


def sizes_by_feature(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw how large the values of the most moved features are beside the usual ones: as they came, and as used now.

    Parameters
    ----------
    table
        Index: feature; columns `came` and `used`, times the usual size. Beyond `FURTHEST_SIZE` is a triangle there.
    axes
        Where to draw; its horizontal axis becomes logarithmic.
    """
    limits = (1 / FURTHEST_SIZE, FURTHEST_SIZE)
    moved = table.astype(float).clip(*limits).map(np.log).abs().max(axis=1)
    shown = _most(table, moved)
    heights, note = _rows(axes, shown.index, len(table), "most moved")
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.set_xscale("log")
    _dots(
        axes, shown["came"], heights, limits, markerfacecolor="none", color=VERMILLION, markersize=8,
        label="as they came",
    )  # fmt: skip
    _dots(axes, shown["used"], heights, limits, color=BLUE, markersize=5, label="as they are used")
    within = shown.astype(float).clip(*limits)  # a market's own swings are no news, so ten times are shown at least
    _ratio_axis(axes, np.nanmin([0.1, within.min().min() / 2]), np.nanmax([10.0, 2 * within.max().max()]))
    axes.set_xlabel("median size (× before the onset; log scale)")
    return _legend(axes, note, _beyond([shown], limits))


FURTHEST_SIZE = 1e6


def missing_by_feature(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw in which share of the rows the most changed features are missing, before the onset and since.

    Parameters
    ----------
    table
        Index: feature; columns `before` and `since`, 0 to 1.
    axes
        Where to draw.
    """
    shown = _most(table, (table["since"] - table["before"]).abs())
    heights, note = _rows(axes, shown.index, len(table), "most changed")
    axes.hlines(heights, 100 * shown["before"], 100 * shown["since"], color=MUTED, linewidth=1)
    axes.plot(100 * shown["before"], heights, "o", color=MUTED, markersize=5, label="before the onset")
    axes.plot(100 * shown["since"], heights, "o", color=VERMILLION, markersize=6, label="since")
    axes.set(xlabel="rows that lack it (%)", xlim=(-3, 103))
    return _legend(axes, note)


LEAST_WAIT = 0.01  # ms; nobody notices less


def waits_by_workers(table: pd.DataFrame, measured: tuple[int, float], target: float, axes: Axes) -> Axes:
    """Draw the predicted mean wait against the number of workers, what was measured, and what is wanted.

    Parameters
    ----------
    table
        Columns `version`, `workers` and `wait_s`. A wait without end is a triangle on top, one below `LEAST_WAIT`
        one at the bottom.
    measured
        Workers, and their mean wait in seconds, which may be NaN.
    target
        Seconds.
    axes
        Where to draw.
    """
    waits = 1000 * pd.Series([*table["wait_s"], measured[1], target], dtype=float)
    high = 3 * max([1.0, *waits[np.isfinite(waits)]])
    named = {f"predicted, {version!s}" if version else "predicted": rows for version, rows in table.groupby("version")}
    drawn, note = _coloured(named)
    is_beyond = False
    for colour, name, rows in drawn:
        own = (1000 * rows["wait_s"].astype(float)).to_numpy()
        workers = rows["workers"].to_numpy()
        axes.plot(workers, np.clip(own, LEAST_WAIT, high), "-", color=colour, label=name)
        for marker, where in (("o", (own >= LEAST_WAIT) & (own <= high)), ("v", own < LEAST_WAIT), ("^", own > high)):
            axes.plot(workers[where], np.clip(own[where], LEAST_WAIT, high), marker, color=colour, clip_on=False)
            is_beyond |= marker != "o" and bool(where.any())
    axes.plot(measured[0], 1000 * measured[1], "D", color=VERMILLION, markersize=9, label="measured")
    axes.axhline(1000 * target, color=MUTED, linestyle="--", label=f"wanted: {1000 * target:g} ms")
    axes.set_yscale("log")
    axes.set(xlabel="workers (number)", ylabel="mean wait (ms)", ylim=(LEAST_WAIT, high))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.margins(x=0.1)
    return _legend(axes, note, "▴ ▾: without end, or beyond the axis" if is_beyond else "")

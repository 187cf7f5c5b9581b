"""One theme for all figures, and those that several notebooks draw; the others stand in their notebook's own cells.

Each is a function that takes data and an Axes, draws, and returns the Axes.

A figure is `WIDTH` inches wide, so that its words can still be read on a phone. Legends and the names of events stand
above the axes, never on the data. A figure with a row per name shows the `MOST_ROWS` that matter most and says how
many it leaves out. A value beyond the axis is a triangle at its edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import date2num
from matplotlib.rcsetup import cycler
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

if TYPE_CHECKING:
    from lepton_kit.telemetry.slo import Objective

# Okabe and Ito's palette, safe for colour-blind readers: https://jfly.uni-koeln.de/color/
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


def shorten(name: object, longest: int = 26) -> str:
    """Return a name on one line; of a longer one both ends, by which the columns of a table differ.

    >>> shorten("amount_mean_of_the_last_7_days", 20)
    'amount_mean_…_7_days'
    """
    text, end = " ".join(str(name).split()), longest // 3 + 1
    return text if len(text) <= longest else f"{text[: longest - end - 1]}…{text[-end:]}"


def legend(axes: Axes, *notes: str, rows_above: int = 0) -> Axes:
    """Put the legend above the axes, over the names of events, in as many columns as fit; notes are its title."""
    handles, labels = axes.get_legend_handles_labels()
    figure, title = axes.figure, "\n".join(note for note in notes if note)
    if not handles and not title:
        return axes
    lay_out(axes)
    box, width = axes.get_window_extent(), figure.bbox.width
    is_wide = box.width > 0.6 * width
    room = 0.97 * (width - box.x0 if is_wide else box.x1)
    place = axes.transAxes + ScaledTranslation(0, (2 + EVENT_ROW * rows_above) / 72, figure.dpi_scale_trans)
    for columns in range(len(handles) or 1, 0, -1):
        drawn = axes.legend(
            handles, [shorten(label, 40) for label in labels], ncols=columns, title=title or None,
            loc="lower left" if is_wide else "lower right", bbox_to_anchor=(0 if is_wide else 1, 1),
            bbox_transform=place, alignment="left", borderaxespad=0, borderpad=0.1, columnspacing=1.2,
            handletextpad=0.5,
        )  # fmt: skip
        drawn.get_title().set(color=MUTED, parse_math=False)
        for text in drawn.get_texts():
            text.set_parse_math(False)
        if drawn.get_window_extent().width <= room:
            break
    return axes


def lay_out(axes: Axes) -> None:
    """Let the axes have the place that they get when the figure is drawn, so that words can be measured."""
    if (figure := axes.get_figure(root=True)) and (engine := figure.get_layout_engine()):
        engine.execute(figure)


def few_points(points: int) -> str:
    """Return the note of a figure with none or few points; an empty one where there are enough."""
    if not points:
        return "nothing was recorded"
    return f"only {points} point{'s' if points != 1 else ''}: too little was recorded" if points < FEW_POINTS else ""


def coloured(drawn: Mapping[str, Any]) -> tuple[Iterable[tuple[str, str, Any]], str]:
    """Return colour, name and data of as many as there are colours, and a note of how many are left out."""
    left_out = max(0, len(drawn) - len(PALETTE))
    pairs = [(colour, name, data) for colour, (name, data) in zip(PALETTE, drawn.items(), strict=False)]
    return pairs, f"{left_out} more are not drawn" if left_out else ""


def name_rows(
    axes: Axes, names: Iterable[object], shown_of: int = 0, which: str = "", longest: int = 26
) -> tuple[np.ndarray, str]:
    """Name a row of the axes each, the first on top; return their heights and a note of how many are left out."""
    labels = [shorten(name, longest) for name in names]
    heights = np.arange(len(labels))[::-1]
    axes.set_yticks(heights, labels, parse_math=False)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(-0.6, max(len(labels), 1) - 0.4)
    left_out = shown_of - len(labels)
    if not labels:
        return heights, few_points(0)
    return heights, f"the {len(labels)} {which} of {shown_of}; {left_out} are not drawn" if left_out > 0 else ""


def most(table: pd.DataFrame, by: pd.Series) -> pd.DataFrame:
    """Return the rows with the largest values, in the table's order; what is not known comes last."""
    best = by.reset_index(drop=True).sort_values(ascending=False, kind="stable", na_position="last").index[:MOST_ROWS]
    return table.iloc[sorted(best)]


def dots(axes: Axes, values: Any, heights: np.ndarray, limits: tuple[float, float], **style: Any) -> None:
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


def beyond(values: Iterable[Any], limits: tuple[float, float]) -> str:
    """Return the note that `dots` drew triangles; an empty one where all values are within the limits."""
    numbers = np.concatenate([np.asarray(one, dtype=float).ravel() for one in values])
    return "◂ ▸: beyond the axis" if ((numbers < limits[0]) | (numbers > limits[1])).any() else ""


def percent_axis(axes: Axes, *values: Any) -> None:
    """Let the vertical axis end at 100 % and begin a little below the least of the values, given as shares."""
    numbers = 100 * np.concatenate([np.atleast_1d(np.asarray(one, dtype=float)) for one in values])
    known = numbers[np.isfinite(numbers)]
    low = float(known.min()) if len(known) else 0.0
    span = max(100 - low, 0.01)
    axes.set_ylim(max(low - 0.06 * span, -0.04 * span), 100 + 0.04 * span)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.ticklabel_format(axis="y", useOffset=False)


def time_axis(axes: Axes, window: Window | None = None, times: Any = (), label: str = "time (UTC)") -> None:
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


def ratio_axis(axes: Axes, low: float, high: float) -> None:
    """Let a logarithmic horizontal axis show so much, with a few round numbers on it."""
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(base=2 if high / low < 50 else 10, numticks=7))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


EVENT_ROW = 13  # points between the names of two events, one above the other


def mark_events(events: Events, axes: Axes) -> int:
    """Draw a line at each event, the first one dotted, and its name above the axes; return the rows of names.

    The limits of the axis stay: what lies outside is at the edge, with an arrow. Names are drawn without markup.
    """
    known = {name: float(date2num(time)) for name, time in events.items() if time is not None}
    figure, (low, high) = axes.figure, axes.get_xlim()
    lay_out(axes)
    points = 72 / figure.dpi
    across = 0.85 * axes.get_window_extent().width * points  # the axes may yet get narrower
    taken: list[list[tuple[float, float]]] = []
    for step, (name, time) in enumerate(known.items()):
        place = min(max(time, low), high)
        label = f"◂ {shorten(name)}" if time < low else f"{shorten(name)} ▸" if time > high else shorten(name)
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


# --- figures of several notebooks ------------------------------------------------------------------------------------


def share_intervals(table: pd.DataFrame, axes: Axes, margin: float | None = None) -> Axes:
    """Draw relative differences with their intervals, one row each, and a line at no difference.

    Columns are `label`, and `value`, `lower`, `upper` as shares; `margin` is the loss that must not be reached.
    """
    shown = most(table, table["value"].abs())
    heights, note = name_rows(axes, shown["label"], len(table), "largest differences")
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.hlines(heights, 100 * shown["lower"], 100 * shown["upper"], color=BLUE, linewidth=3)
    axes.plot(100 * shown["value"], heights, "o", color=BLUE, markersize=8)
    if margin is not None:
        axes.axvline(100 * margin, color=VERMILLION, linestyle=":", label="loss not to be reached")
    axes.set_xlabel("difference (%)")
    return legend(axes, note)


def coverage_over_time(
    coverage: Mapping[str, pd.Series], objective: float, events: Events, axes: Axes, window: Window | None = None
) -> Axes:
    """Draw rolling shares of right answers by time, the objective, and a labelled line at each event such as the onset.

    `coverage` holds, per version, the share of its recent answers that were right, indexed by time. Events are times by
    name, earliest first; those that are None are left out. Without a window all of the coverage is drawn.
    """
    drawn, note = coloured(coverage)
    for colour, name, series in drawn:
        axes.plot(
            series.index, 100 * series, color=colour, marker="o" if len(series) < FEW_POINTS else "", markersize=3.5,
            label=name,
        )  # fmt: skip
    axes.axhline(100 * objective, color=MUTED, linestyle="--", linewidth=1, label=f"objective {100 * objective:g} %")
    axes.set(ylabel="right answers (%)")
    percent_axis(axes, objective, *coverage.values())
    times = pd.Series([time for series in coverage.values() for time in series.index])
    time_axis(axes, window, times)
    points = max((series.count() for series in coverage.values()), default=0)
    return legend(axes, note, few_points(points), rows_above=mark_events(events, axes))


def indicator_over_time(table: pd.DataFrame, objective: Objective, events: Events, window: Window, axes: Axes) -> Axes:
    """Draw an objective's indicator by time with its interval, what is promised, and a labelled line at each event.

    The table has `time` (UTC), `share`, `low` and `high`, as `recovery.sli_over_time` gives them. Events are times by
    name, earliest first; those that are None are left out. The window is what was recorded.
    """
    known, target = table.dropna(subset=["share"]), 100 * objective.target
    time_axis(axes, window)
    axes.set_ylabel(f"{shorten(objective.title, 32)}\ngood events (%)", parse_math=False)
    axes.axhline(target, color=MUTED, linestyle="--", linewidth=1, label=f"objective {target:g} %")
    percent_axis(axes, objective.target, 2 * objective.target - 1 if known.empty else known["low"])
    if len(known):
        low, high = 100 * known["low"], 100 * known["high"]
        axes.fill_between(known["time"], low, high, color=SKY, alpha=0.35, linewidth=0, label="95 % interval")
        if len(known) < FEW_POINTS:  # the band of one point has no width
            axes.vlines(known["time"], low, high, color=SKY, alpha=0.6, linewidth=3)
        axes.plot(known["time"], 100 * known["share"], "o-", color=BLUE, markersize=3.5, label="good events")
    return legend(axes, few_points(len(known)), rows_above=mark_events(events, axes))


def recovery_intervals(table: pd.DataFrame, objective: Objective, axes: Axes) -> Axes:
    """Draw an indicator before, during and after an incident with its intervals, and the share that is promised.

    The table is as `Recovery.table` gives it (period, share, low, high); a period without events is left out.
    """
    known = table.dropna(subset=["share"])
    shown = known.tail(MOST_ROWS)
    heights, note = name_rows(axes, shown["period"], len(known), "last periods")
    target = 100 * objective.target
    axes.axvline(target, color=VERMILLION, linestyle="--", label=f"objective {target:g} %")
    axes.hlines(heights, 100 * shown["low"], 100 * shown["high"], color=BLUE, linewidth=3, label="95 % interval")
    axes.plot(100 * shown["share"], heights, "o", color=BLUE, markersize=8, clip_on=False)
    low = min([target, *(100 * shown["low"])])
    axes.set_xlim(low - 0.06 * (100 - low), 100 + 0.02 * (100 - low))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlabel(f"{shorten(objective.title, 40)}\ngood events (%)", parse_math=False)
    return legend(axes, note)

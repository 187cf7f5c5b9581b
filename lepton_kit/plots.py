"""One theme for all figures; every function takes data and an Axes, draws, and returns the Axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator

from lepton_kit.data import quality

# Okabe and Ito's palette, told apart by colour-blind readers: https://jfly.uni-koeln.de/color/
INK, MUTED = "#1f2933", "#7b8794"
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"

THEME: dict[str, Any] = {
    "figure.figsize": (8.0, 3.6),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY]),
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
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "font.size": 10,
    "legend.frameon": False,
    "date.converter": "concise",
    "lines.linewidth": 1.5,
}


def use_theme() -> None:
    """Make the kit's theme the default of every figure drawn from here on."""
    mpl.rcParams.update(THEME)  # type: ignore[arg-type]


# --- data ---------------------------------------------------------------------------------------------------------

SPLIT_COLOURS = {"train": BLUE, "validation": ORANGE, "test": GREEN}


def closed_days_by_year(closed: pd.DataFrame, dates: pd.Series, axes: Axes) -> Axes:
    """Draw one line per year with a dot for every closure: small where it recurs, large and named where it does not.

    Parameters
    ----------
    closed
        `date`, `recurs`, as `trading_days.closed_days` returns it.
    dates
        The table's dates, which give the line of each year its extent.
    axes
        Where to draw.
    """
    extent = dates.groupby(dates.dt.year).agg(["min", "max"])
    axes.hlines(
        extent.index,
        extent["min"].dt.day_of_year,
        extent["max"].dt.day_of_year,
        color=SKY,
        alpha=0.5,
        linewidth=3,
        zorder=1,
    )
    for recurs, colour, size, label in (
        (True, INK, 18, "recurs: a holiday"),
        (False, VERMILLION, 60, "does not recur"),
    ):
        days = closed.loc[closed["recurs"] == recurs, "date"].dt
        axes.scatter(days.day_of_year, days.year, s=size, color=colour, label=f"{label} ({len(days.year)})", zorder=2)
    starts = pd.date_range("2001-01-01", periods=12, freq="MS")
    axes.set_xticks(starts.day_of_year, starts.strftime("%b"))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.grid(False)
    axes.invert_yaxis()
    axes.set(xlabel="day of the year", ylabel="year")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, title="weekday without a price")
    return axes


def returns_with_outliers(prices: pd.DataFrame, axes: Axes, named: int = 6) -> Axes:
    """Draw daily log returns, the band of 3.5 robust deviations about their median, and the outliers beyond it.

    Parameters
    ----------
    prices
        A clean table: `date`, `close`.
    axes
        Where to draw.
    named
        How many of the largest outliers carry their date.
    """
    returns = quality.daily_returns(prices)
    middle, reach = quality.rolling_median(returns), quality.OUTLIER * quality.robust_sigma(returns)
    outlying = quality.find_outliers(prices)
    axes.fill_between(
        prices["date"], 100 * (middle - reach), 100 * (middle + reach), color=SKY, alpha=0.35, linewidth=0,
        label="3.5 robust deviations, quarter around the day",
    )  # fmt: skip
    axes.plot(prices["date"], 100 * returns, ".", color=MUTED, markersize=3)
    axes.plot(
        prices["date"][outlying], 100 * returns[outlying], "o", color=VERMILLION, markersize=5, label="outlier, kept"
    )
    halfway = prices["date"].iloc[len(prices) // 2]
    for row in returns[outlying].abs().nlargest(named).index:
        early = prices["date"][row] < halfway  # so that no date is cut off at the figure's edge
        axes.annotate(
            f"{prices['date'][row]:%d %b %Y}", (prices["date"][row], 100 * returns[row]),
            xytext=(6 if early else -6, 0), textcoords="offset points", ha="left" if early else "right", va="center",
            fontsize=8,
        )  # fmt: skip
    axes.set(xlabel="date", ylabel="log return per day (%)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return axes


def planted_faults(marked: pd.DataFrame, axes: Axes) -> Axes:
    """Draw every planted fault at its date, one line per kind: a full dot was found by its rule, an open one was not.

    Parameters
    ----------
    marked
        `kind`, `date`, `found`, as `faults.mark_found` returns it.
    axes
        Where to draw.
    """
    kinds = sorted(marked["kind"].unique(), reverse=True)
    height = marked["kind"].map(kinds.index)
    for found, face, edge, label in ((True, BLUE, BLUE, "found"), (False, "white", VERMILLION, "not found")):
        shown = marked["found"] == found
        axes.scatter(
            marked["date"][shown], height[shown], s=45, facecolor=face, edgecolor=edge, linewidth=1.5,
            label=f"{label} ({shown.sum()})",
        )  # fmt: skip
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set(xlabel="date", ylabel="kind of fault planted")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return axes


def prices_by_split(split: pd.DataFrame, axes: Axes) -> Axes:
    """Draw the close in one colour per part; the embargo between two parts is a grey line.

    Parameters
    ----------
    split
        `date`, `close`, `split`, as `splits.split_by_time` returns it.
    axes
        Where to draw.
    """
    for part, colour in SPLIT_COLOURS.items():
        rows = split[split["split"] == part]
        axes.plot(rows["date"], rows["close"], color=colour, label=f"{part} ({len(rows)} days)")
    for day in split.loc[split["split"] == "embargo", "date"]:
        axes.axvline(day, color=MUTED, linewidth=1)
    axes.set(xlabel="date", ylabel="close (USD)", ylim=(0, None))
    axes.legend()
    return axes


# --- models -------------------------------------------------------------------------------------------------------

PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)


def loss_curves(histories: Mapping[str, pd.DataFrame], axes: Axes) -> Axes:
    """Draw each model's validation loss (line) and training loss (thin, dotted) per epoch; a dot marks the epoch kept.

    Parameters
    ----------
    histories
        Per model, a table with columns `number`, `train_loss`, `validation_loss` and `best`.
    axes
        Where to draw.
    """
    for colour, (name, history) in zip(PALETTE, histories.items(), strict=False):
        kept = history[history["best"]].iloc[-1]
        axes.plot(history["number"], history["validation_loss"], color=colour, label=name)
        axes.plot(history["number"], history["train_loss"], color=colour, linestyle=":", linewidth=1)
        axes.plot(kept["number"], kept["validation_loss"], "o", color=colour)
    axes.set(xlabel="epoch", ylabel="mean loss per day (nats)")
    axes.legend(title="validation; dotted: training")
    return axes


def forecast_interval(forecast: pd.DataFrame, actual: pd.Series, axes: Axes) -> Axes:
    """Draw what came as dots on the forecast 90 % interval, with the misses in another colour.

    Parameters
    ----------
    forecast
        Columns `lower` and `upper` in log return, indexed by date (n,).
    actual
        The next day's log return, with the same index.
    axes
        Where to draw.
    """
    missed = (actual < forecast["lower"]) | (actual > forecast["upper"])
    axes.fill_between(
        forecast.index, 100 * forecast["lower"], 100 * forecast["upper"],
        color=SKY, alpha=0.35, linewidth=0, label="90 % interval",
    )  # fmt: skip
    axes.plot(actual.index[~missed], 100 * actual[~missed], ".", color=INK, markersize=4, label="day inside")
    axes.plot(actual.index[missed], 100 * actual[missed], "o", color=VERMILLION, markersize=5, label="day outside")
    axes.set(xlabel="date of the forecast", ylabel="next day's return (%)")
    axes.legend(ncols=3, loc="upper left")
    axes.margins(y=0.18)
    return axes


def calibration_curve(tables: Mapping[str, pd.DataFrame], axes: Axes) -> Axes:
    """Draw how often intervals held what came against how often they claim to; the diagonal is perfect.

    Parameters
    ----------
    tables
        Per forecaster, a table with columns `level` and `coverage`, both shares.
    axes
        Where to draw.
    """
    axes.plot([50, 100], [50, 100], color=MUTED, linestyle="--", linewidth=1, label="perfect")
    for colour, (name, table) in zip(PALETTE, tables.items(), strict=False):
        axes.plot(100 * table["level"], 100 * table["coverage"], "o-", color=colour, markersize=4, label=name)
    axes.set(xlabel="claimed coverage (%)", ylabel="measured coverage (%)")
    axes.legend()
    return axes


def share_intervals(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw relative differences with their intervals, one row each, and a line at no difference.

    Parameters
    ----------
    table
        Columns `label`, and `value`, `lower`, `upper` as shares.
    axes
        Where to draw.
    """
    rows = range(len(table))[::-1]
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.hlines(rows, 100 * table["lower"], 100 * table["upper"], color=BLUE, linewidth=3)
    axes.plot(100 * table["value"], rows, "o", color=BLUE, markersize=8)
    axes.set_yticks(rows, table["label"])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.margins(y=0.4)
    axes.grid(axis="y", visible=False)
    return axes


def tuning_trials(table: pd.DataFrame, baseline: float, axes: Axes) -> Axes:
    """Draw each trial's score on the newest fold against its size: one colour per number of folds it was scored on.

    Parameters
    ----------
    table
        Columns `trial`, `parameters`, `folds`, `newest_fold` and `chosen`, as `tuning.tune` gives them.
    baseline
        The score of a forecast that has learnt nothing, on the same days.
    axes
        Where to draw.
    """
    shown = table[table["newest_fold"].notna()]
    axes.axhline(100 * baseline, color=MUTED, linestyle="--", linewidth=1, label="EWMA volatility")
    for colour, (folds, own) in zip((SKY, ORANGE, BLUE), shown.groupby("folds"), strict=False):
        label = f"{folds} fold{'s' if folds != 1 else ''}"
        axes.plot(own["parameters"], 100 * own["newest_fold"], "o", color=colour, markersize=7, label=label)
    for row, name, offset in ((shown["trial"] == 0, "in use", -14), (shown["chosen"], "chosen", 8)):
        for _, trial in shown[row].iterrows():
            place = (trial["parameters"], 100 * trial["newest_fold"])
            axes.annotate(name, place, (0, offset), textcoords="offset points", ha="center", fontsize=9)
    axes.set(xlabel="parameters", ylabel="interval score, newest fold (%)")
    axes.margins(x=0.1, y=0.18)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)
    return axes


def students_by_time(table: pd.DataFrame, teacher: float, slowest: float, axes: Axes) -> Axes:
    """Draw how far each student is from its teacher against the time that a batch takes it.

    Parameters
    ----------
    table
        Columns `forecaster`, `us_per_batch` (microseconds), `divergence` (nats per row) and `chosen`.
    teacher, slowest
        The teacher's time, and the longest that a student may take.
    axes
        Where to draw.
    """
    axes.axvspan(0, slowest, color=GREEN, alpha=0.08, linewidth=0, label="fast enough")
    axes.axvline(teacher, color=MUTED, linestyle="--", linewidth=1, label="teacher")
    for chosen, colour in ((False, BLUE), (True, VERMILLION)):
        own = table[table["chosen"] == chosen]
        axes.plot(own["us_per_batch"], own["divergence"], "o", color=colour, markersize=8)
        for row in own.itertuples():
            name = f"{row.forecaster}{' (chosen)' if chosen else ''}"
            axes.annotate(name, (row.us_per_batch, row.divergence), (8, -3), textcoords="offset points", fontsize=9)
    axes.set(xlabel="time for a batch of 256 rows (µs)", ylabel="divergence (nats per day)")
    axes.set(xlim=(0, 1.15 * max(teacher, table["us_per_batch"].max())), ylim=(0, 1.15 * table["divergence"].max()))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    return axes


def latency_curve(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw the time per forecast against how many are asked for at once, both on logarithmic scales.

    Parameters
    ----------
    table
        Columns `rows` and `ms_per_row` (milliseconds).
    axes
        Where to draw.
    """
    axes.loglog(table["rows"], table["ms_per_row"], "o-")
    axes.set(xlabel="forecasts asked for at once", ylabel="time per forecast (ms)")
    axes.set_xticks(table["rows"], [str(rows) for rows in table["rows"]])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    return axes


def requests_by_step(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw how many requests each of two versions answered in the steps of a deployment, one bar a step.

    Parameters
    ----------
    table
        Index: the share that the new version was given, in percent; columns `old` and `new`, numbers of requests.
    axes
        Where to draw.
    """
    places = list(range(len(table)))[::-1]
    axes.barh(places, table["old"], height=0.6, color=BLUE, label="old version")
    axes.barh(places, table["new"], height=0.6, left=table["old"], color=ORANGE, label="new version")
    axes.set_yticks(places, [f"{share:g} %" for share in table.index])
    axes.set(xlabel="requests answered", ylabel="share of the new version")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    return axes


FURTHEST_FROM_LIMIT = 4.0


def findings_by_step(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw how much worse than the old version the new one was, in units of what is allowed, step by step.

    Parameters
    ----------
    table
        One row per indicator and step: `name`, `share` (percent), `found`, and `low` and `high`, the ends of its
        interval; 0 is as good as the old version, 1 the limit. Beyond `FURTHEST_FROM_LIMIT` is drawn there.
    axes
        Where to draw.
    """
    names, shares = list(dict.fromkeys(table["name"])), list(dict.fromkeys(table["share"]))
    axes.axvspan(1, FURTHEST_FROM_LIMIT, color=VERMILLION, alpha=0.08, linewidth=0)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.axvline(1, color=VERMILLION, linewidth=1.2, linestyle="--", label="limit")
    for number, (share, colour) in enumerate(zip(shares, PALETTE, strict=False)):
        own = table[table["share"] == share]
        heights = [-names.index(name) - 0.16 * (number - (len(shares) - 1) / 2) for name in own["name"]]
        low, found, high = (
            own[end].clip(-FURTHEST_FROM_LIMIT, FURTHEST_FROM_LIMIT).to_numpy() for end in ("low", "found", "high")
        )
        axes.hlines(heights, low, high, color=colour, linewidth=2.5)
        axes.plot(found, heights, "o", color=colour, markersize=5, label=f"{share:g} %")
    axes.set_yticks([-number for number in range(len(names))], names)
    axes.set(xlabel="new version worse than the old, in units of the limit", xlim=(-4.1, 4.1))
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=5, borderaxespad=0, handletextpad=0.2, columnspacing=1)
    return axes


# --- telemetry and diagnosis --------------------------------------------------------------------------------------


def coverage_over_time(
    coverage: Mapping[str, pd.Series],
    objective: float,
    events: Mapping[str, pd.Timestamp],
    axes: Axes,
) -> Axes:
    """Draw rolling coverages by time, the objective, and a labelled line at each event such as the onset.

    Parameters
    ----------
    coverage
        Per version, the share of recent actuals that its interval held, indexed by time.
    objective
        The least share that is acceptable.
    events
        Times by name, earliest first; names are drawn as they are, without markup.
    axes
        Where to draw.
    """
    for colour, (name, series) in zip(PALETTE, coverage.items(), strict=False):
        axes.plot(series.index, 100 * series, color=colour, label=name)
    axes.axhline(100 * objective, color=MUTED, linestyle="--", linewidth=1, label=f"objective {objective:.0%}")
    _draw_events(events, axes)
    axes.set(ylabel="interval coverage (%)")
    axes.legend(loc="lower left")
    return axes


FURTHEST_RATIO = 100.0


def signal_onsets(
    table: pd.DataFrame, events: Mapping[str, pd.Timestamp], window: tuple[pd.Timestamp, pd.Timestamp], axes: Axes
) -> Axes:
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
    ordered = table.sort_values("since", ascending=False)
    for place, row in enumerate(ordered.to_dict("records")):
        axes.plot([row["since"], window[1]], [place, place], color=SKY, linewidth=6, alpha=0.6, solid_capstyle="butt")
        axes.plot([row["since"]], [place], "o", color=BLUE)
    axes.set_yticks(range(len(ordered)), ordered["signal"].astype(str), parse_math=False)
    _draw_events(events, axes)
    axes.set(xlabel="time (UTC)", xlim=window, ylim=(-0.6, len(ordered) + 0.2))
    return axes


def spread_changes(table: pd.DataFrame, factor: float, axes: Axes) -> Axes:
    """Draw how many times wider each series became: the actuals apart from the inputs, and a band where nothing moved.

    Parameters
    ----------
    table
        Index: names of the inputs, and `actual`; column `spread_ratio`. Beyond `FURTHEST_RATIO` is drawn there.
    factor
        The change, up or down, from which on a series has moved.
    axes
        Where to draw; its horizontal axis becomes logarithmic.
    """
    axes.axvspan(1 / factor, factor, color=MUTED, alpha=0.15, linewidth=0, label=f"unmoved (up to × {factor:g})")
    ratios = table["spread_ratio"].clip(1 / FURTHEST_RATIO, FURTHEST_RATIO)
    inputs = ratios.drop("actual").sort_values()
    axes.plot(inputs.to_numpy(), [str(name) for name in inputs.index], "o", color=BLUE, label="inputs")
    axes.plot([ratios["actual"]], ["actual"], "o", color=ORANGE, label="actuals")
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.2g}")
    limits = min(0.5, ratios.min() / 1.2), max(4.0, ratios.max() * 1.2)
    axes.set(xlabel="spread since the onset ÷ spread before (log scale)", xlim=limits)
    axes.legend(loc="best")
    return axes


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
    shown = [name for name in OUTCOMES if name == "answered" or table[name].any()]
    axes.stackplot(
        table.index, [table[name] for name in shown], labels=shown, colors=[OUTCOMES[name] for name in shown],
        step="mid", alpha=0.8, linewidth=0,
    )  # fmt: skip
    axes.set(ylabel="requests (1/s)", ylim=(0, None))
    _mark_split(split, axes, "this period")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(shown))
    return axes


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
    _mark_split(split, axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
    return axes


def error_budgets(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw how much of each objective's error budget is left; what is overspent is drawn at -100 % at most.

    Parameters
    ----------
    table
        Columns `objective` and `budget_left` (a share, NaN where not known), as `health.objective_table` returns it.
    axes
        Where to draw.
    """
    shown = table.iloc[::-1]
    left = 100 * shown["budget_left"].clip(-1, 1).fillna(0)
    axes.barh(shown["objective"], left, color=[BLUE if value > 0 else VERMILLION for value in left], height=0.55)
    for row, value in enumerate(shown["budget_left"]):
        text = "no events" if pd.isna(value) else f"{100 * value:.0f} %" if value > -1 else "overspent, < -100 %"
        axes.annotate(
            text, (max(0.0, left.iloc[row]), row), (5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set(xlabel="error budget left (%)", xlim=(-105, 125))
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", visible=False)
    return axes


FURTHEST_DISTANCE = 10.0


def drift_distances(table: pd.DataFrame, limit: float, axes: Axes) -> Axes:
    """Draw each column's distance from the reference, in the period before (open) and now (full).

    Parameters
    ----------
    table
        Columns `column`, `wasserstein`, `wasserstein_before` (standard deviations of the reference) and `news`, as
        `drift_watch.effects` returns it. Beyond `FURTHEST_DISTANCE` is drawn there.
    limit
        The distance from which on a column counts as moved.
    axes
        Where to draw; its horizontal axis becomes logarithmic.
    """
    shown = table.iloc[::-1]
    names = shown["column"].astype(str).tolist()
    was, now = (shown[name].clip(0.01, FURTHEST_DISTANCE) for name in ("wasserstein_before", "wasserstein"))
    axes.axvspan(0.01, limit, color=MUTED, alpha=0.15, linewidth=0, label=f"too small to count (up to {limit:g})")
    axes.hlines(names, was, now, color=MUTED, linewidth=1, zorder=1)
    axes.scatter(was, names, s=36, facecolor="white", edgecolor=BLUE, zorder=2, label="period before")
    for is_news, colour, label in ((False, BLUE, "now"), (True, VERMILLION, "now, and moved since then")):
        part = (shown["news"] == is_news).to_numpy()
        if part.any():
            axes.scatter(
                now[part], [n for n, p in zip(names, part, strict=True) if p], s=36, color=colour, zorder=3, label=label
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="distance from the reference (Wasserstein, standard deviations; log scale)", xlim=(0.01, None))
    axes.tick_params(axis="y", labelcolor=INK)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=9)
    return axes


def column_over_time(
    series: pd.Series, reference: pd.Series, events: Mapping[str, pd.Timestamp], unit: str, axes: Axes
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
    """
    low, high = reference.quantile([0.05, 0.95])
    axes.axhspan(low, high, color=SKY, alpha=0.35, linewidth=0, label="middle 90 % of the reference")
    axes.plot(series.index, series, ".", color=INK, markersize=4, label=str(series.name))
    for step, (name, time) in enumerate(events.items()):
        axes.axvline(time, color=VERMILLION, linewidth=1.2, linestyle=":" if step else "-")  # type: ignore[arg-type]
        axes.annotate(
            name, (time, 1), (4, -10 - 13 * step), xycoords=("data", "axes fraction"), textcoords="offset points",
            color=VERMILLION, fontsize=9, parse_math=False,
        )  # fmt: skip
    axes.set(ylabel=f"{series.name} ({unit})")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
    return axes


def _mark_split(split: pd.Timestamp, axes: Axes, name: str = "") -> None:
    axes.axvline(split, color=INK, linewidth=1, linestyle="--")  # type: ignore[arg-type]
    axes.annotate(
        name, (split, 1), (4, -10), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=9
    )
    axes.margins(x=0.01)


# --- drills -------------------------------------------------------------------------------------------------------


def confusion_matrix(counts: pd.DataFrame, axes: Axes) -> Axes:
    """Draw how often each true cause (index) was named what (columns): a cell is as dark as its share of its row.

    Parameters
    ----------
    counts
        Numbers of cases; a row may hold none.
    axes
        Where to draw.
    """
    numbers = counts.to_numpy(dtype=int)
    shares = numbers / numbers.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(
        shares, cmap=LinearSegmentedColormap.from_list("counts", ["white", BLUE]), vmin=0, vmax=1, aspect="auto"
    )
    for row, column in np.ndindex(shares.shape):
        count = int(numbers[row, column])
        colour = "white" if shares[row, column] > 0.5 else INK if count else MUTED
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=11)
    axes.set_xticks(range(len(counts.columns)), counts.columns)
    axes.set_yticks(range(len(counts)), counts.index)
    axes.set_xticks(np.arange(len(counts.columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="white", linewidth=3)
    axes.tick_params(which="both", length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="named", ylabel="true cause")
    return axes


def reliability_curve(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw how often what was named was right against the probability that was stated; the diagonal is perfect.

    Parameters
    ----------
    table
        Columns `stated` and `right`, both shares, and `drills`, which stands beside each point.
    axes
        Where to draw.
    """
    axes.plot([0, 100], [0, 100], color=MUTED, linestyle="--", linewidth=1, label="perfect")
    axes.plot(100 * table["stated"], 100 * table["right"], "o-", color=BLUE, markersize=6, label="named")
    for above, point in enumerate(table.to_dict("records")):
        place = (100 * point["stated"], 100 * point["right"])
        axes.annotate(
            str(point["drills"]),
            place,
            (0, 8 if above % 2 else -16),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    least = 100 * min(table["stated"].min(), table["right"].min())
    axes.set(xlabel="stated probability (%)", ylabel="right (%)", xlim=(least - 5, 102), ylim=(least - 5, 104.9))
    axes.legend(loc="lower right")
    return axes


# --- postmortem ---------------------------------------------------------------------------------------------------

LANES = {"signal": PURPLE, "alert": VERMILLION, "run": BLUE, "decision": ORANGE, "action": GREEN}


def incident_timeline(
    events: pd.DataFrame, milestones: Mapping[str, pd.Timestamp | None], axes: Axes, longest: int = 70
) -> Axes:
    """Draw what happened in an incident from top to bottom, each event at its time in the colour of its kind.

    Parameters
    ----------
    events
        `time` (UTC), `kind` (of `LANES`) and `event`, in order of time, as `postmortem.timeline` returns it.
    milestones
        Times to draw as lines across, by name; those that are None are left out.
    axes
        Where to draw.
    longest
        Characters of an event that are shown.
    """
    known = {name: time for name, time in milestones.items() if time is not None}
    for number, (name, time) in enumerate(known.items()):
        axes.axvline(time, color=MUTED, linestyle="--", linewidth=1)  # type: ignore[arg-type]  # a date has its unit
        axes.annotate(
            name, (time, 1.0), (3, 3 + 11 * (number % 3)), xycoords=("data", "axes fraction"),
            textcoords="offset points", color=MUTED, fontsize=9,
        )  # fmt: skip
    for kind, colour in LANES.items():
        lane = events[events["kind"] == kind]
        axes.plot(lane["time"], lane.index, "o", color=colour, markersize=6, label=kind)
    for row, (time, event) in enumerate(zip(events["time"], events["event"], strict=True)):
        is_late = time > events["time"].min() + (events["time"].max() - events["time"].min()) / 2
        text = event if len(event) <= longest else f"{event[:longest]}…"
        axes.annotate(
            text, (time, row), (-8 if is_late else 8, 0), textcoords="offset points",
            ha="right" if is_late else "left", va="center", fontsize=8, parse_math=False,
            bbox={"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 0.8},  # lines across end at the words
        )  # fmt: skip
    axes.set(yticks=[], xlabel="time (UTC)", ylim=(len(events) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(LANES))
    return axes


def indicator_over_time(
    table: pd.DataFrame, objective: float, events: Mapping[str, pd.Timestamp | None], axes: Axes
) -> Axes:
    """Draw an indicator by time with its interval, the share that is promised, and a labelled line at each event.

    Parameters
    ----------
    table
        Columns `time` (UTC), `share`, `low` and `high`, as `recovery.sli_over_time` has them.
    objective
        The share that is promised, between 0 and 1.
    events
        Times by name, earliest first; those that are None are left out.
    axes
        Where to draw.
    """
    axes.fill_between(
        table["time"], 100 * table["low"], 100 * table["high"],
        color=SKY, alpha=0.35, linewidth=0, label="95 % interval",
    )  # fmt: skip
    axes.plot(table["time"], 100 * table["share"], "o-", color=BLUE, markersize=3.5, label="good events")
    axes.axhline(100 * objective, color=MUTED, linestyle="--", linewidth=1, label=f"objective {100 * objective:g} %")
    _draw_events({name: time for name, time in events.items() if time is not None}, axes)
    axes.set(ylabel="good events (%)", xlabel="time (UTC)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return axes


def recovery_intervals(table: pd.DataFrame, objective: float, axes: Axes) -> Axes:
    """Draw an indicator before, during and after an incident with its intervals, and the share that is promised.

    Parameters
    ----------
    table
        Columns `period`, `share`, `low` and `high`, as `Recovery.table` has them; a period without events is left out.
    objective
        Between 0 and 1.
    axes
        Where to draw.
    """
    known = table.dropna(subset=["share"])
    rows = range(len(known))[::-1]
    axes.axvline(100 * objective, color=VERMILLION, linestyle="--", label="objective")
    axes.hlines(rows, 100 * known["low"], 100 * known["high"], color=BLUE, linewidth=3)
    axes.plot(100 * known["share"], rows, "o", color=BLUE, markersize=8)
    axes.set_yticks(rows, known["period"])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.margins(y=0.4)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("good events (%)")
    axes.legend(loc="lower left")
    return axes


def sizes_by_feature(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw how large each feature's values are beside the usual ones: as they came, and as they are used now.

    Parameters
    ----------
    table
        Index: feature; columns `came` and `used`, times the usual size.
    axes
        Where to draw.
    """
    rows = range(len(table))[::-1]
    axes.axvline(1, color=MUTED, linewidth=1)
    axes.plot(table["came"], rows, "o", markerfacecolor="none", color=VERMILLION, markersize=8, label="as they came")
    axes.plot(table["used"], rows, "o", color=BLUE, markersize=5, label="as they are used")
    axes.set_xscale("log")
    largest = float(table.max().max())
    smallest = float(table[table > 0].min().min())
    axes.set_xlim(min(0.1, smallest / 2), max(10.0, 2 * largest))  # a market's own swings are no news
    axes.set_yticks(rows, table.index)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("median size (× before the onset)")
    axes.legend(loc="lower right")
    return axes


def missing_by_feature(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw in which share of the rows each feature is missing, before the onset and since.

    Parameters
    ----------
    table
        Index: feature; columns `before` and `since`, 0 to 1.
    axes
        Where to draw.
    """
    rows = range(len(table))[::-1]
    axes.hlines(rows, 100 * table["before"], 100 * table["since"], color=MUTED, linewidth=1)
    axes.plot(100 * table["before"], rows, "o", color=MUTED, markersize=5, label="before the onset")
    axes.plot(100 * table["since"], rows, "o", color=VERMILLION, markersize=6, label="since")
    axes.set_xlim(-3, 103)
    axes.set_yticks(rows, table.index)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("rows that lack it (%)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return axes


def waits_by_workers(table: pd.DataFrame, measured: tuple[int, float], target: float, axes: Axes) -> Axes:
    """Draw the predicted mean wait against the number of workers, what was measured, and what is wanted.

    Parameters
    ----------
    table
        Columns `version`, `workers` and `wait_s`; what waits without end is not drawn.
    measured
        Workers, and their mean wait in seconds, which may be NaN.
    target
        Seconds.
    axes
        Where to draw.
    """
    for (version, rows), colour in zip(table.groupby("version", sort=False), (BLUE, GREEN), strict=False):
        finite = rows[rows["wait_s"].between(0, float("inf"), inclusive="neither")]
        name = f"predicted, {version!s}" if version else "predicted"
        axes.plot(finite["workers"], 1000 * finite["wait_s"], "o-", color=colour, markersize=5, label=name)
    axes.plot(measured[0], 1000 * measured[1], "D", color=VERMILLION, markersize=9, label="measured")
    axes.axhline(1000 * target, color=MUTED, linestyle="--", label="wanted")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.01)  # nobody notices less
    axes.set_xticks(sorted(table["workers"].unique()))
    axes.set_xlabel("workers")
    axes.set_ylabel("mean wait (ms)")
    axes.legend(loc="lower left")
    return axes


def _draw_events(events: Mapping[str, pd.Timestamp], axes: Axes) -> None:
    """Draw a labelled line at each event, the first one dotted; names are drawn as they are, without markup."""
    for step, (name, time) in enumerate(events.items()):
        axes.axvline(time, color=VERMILLION, linewidth=1.2, linestyle="-" if step else ":")  # type: ignore[arg-type]
        axes.annotate(
            name, (time, 1), (4, -10 - 13 * step), xycoords=("data", "axes fraction"), textcoords="offset points",
            color=VERMILLION, fontsize=9, parse_math=False,
        )  # fmt: skip

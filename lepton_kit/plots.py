"""One theme for all figures; every function takes data and an Axes, draws, and returns the Axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
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
        extent.index, extent["min"].dt.day_of_year, extent["max"].dt.day_of_year, color=SKY, linewidth=3, zorder=1
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
    for row in returns[outlying].abs().nlargest(named).index:
        axes.annotate(
            f"{prices['date'][row]:%d %b %Y}", (prices["date"][row], 100 * returns[row]), xytext=(-6, 0),
            textcoords="offset points", ha="right", va="center", fontsize=8,
        )  # fmt: skip
    axes.set(xlabel="date", ylabel="log return per day (%)")
    axes.legend(loc="lower left")
    return axes


def precision_and_recall(scores: pd.DataFrame, axes: Axes) -> Axes:
    """Draw per rule which share of the planted faults it found (recall), and of its finds was planted (precision).

    Parameters
    ----------
    scores
        `rule`, `planted`, `precision`, `recall`, as `faults.score_rules` returns it.
    axes
        Where to draw.
    """
    scores = scores.iloc[::-1]
    rows = range(len(scores))
    axes.plot(scores["recall"], rows, "o", color=BLUE, markersize=10, label="recall")
    axes.plot(scores["precision"], rows, "D", color=ORANGE, markersize=5, label="precision")
    axes.set_yticks(rows, (scores["rule"] + "  (" + scores["planted"].astype(str) + ")").tolist())
    axes.set(xlabel="share (1 = perfect)", ylabel="rule (rows planted)", xlim=(-0.05, 1.05))
    axes.legend(loc="center left")
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
    """Draw each model's validation loss (line) and training loss (thin, dashed) per epoch; a dot marks the epoch kept.

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


# --- telemetry and diagnosis --------------------------------------------------------------------------------------

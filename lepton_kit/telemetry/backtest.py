"""Would an objective's alerts have fired in the past: on which incidents, how early, and how often for nothing.

The past is replayed through the evaluator that raises the alerts, at each time at which Prometheus would evaluate its
rules. Other windows and thresholds are tried on the same past, beside those in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy

from lepton_kit.errors import InputError
from lepton_kit.telemetry.burn_rates import WINDOWS, BurnWindow, firing, scaled
from lepton_kit.telemetry.selectors import Source
from lepton_kit.telemetry.slo import Objective

WEEK = 7 * 86400.0
LENGTHS = (0.25, 0.5, 1.0, 2.0)
RATES = (0.5, 1.0, 2.0)
"""Factors of the windows' lengths and burn rates that `alternatives` tries."""
MOST_TIMES = 2_000_000
"""Evaluations of one objective on one past; finer steps over a longer past would not fit into memory."""


@dataclass(frozen=True)
class Incident:
    """What really happened: an alert that fired from `alerted` to `ended` (Unix seconds)."""

    name: str
    alerted: float
    ended: float


@dataclass(frozen=True)
class Past:
    """Samples from `start` to `end` (Unix seconds), and the incidents in that time."""

    source: Source
    start: float
    end: float
    incidents: tuple[Incident, ...] = ()


@dataclass(frozen=True)
class Backtest:
    """What an objective's alerts of one severity would have done.

    Parameters
    ----------
    incidents
        A row for each incident: `incident`, `alerted` (UTC), `is_measured` (whether the objective was, at any time of
        the incident), `first_firing` (UTC; NaT where it would not have fired), `lead_s` (how many seconds before the
        alert; negative after it).
    false_alerts
        Alerts that belong to no incident.
    healthy_s
        Seconds without an incident, in which the objective was measured.
    """

    incidents: pd.DataFrame
    false_alerts: int
    healthy_s: float

    @property
    def fired(self) -> int:
        """On how many incidents it would have fired."""
        return int(self.incidents["first_firing"].notna().sum())

    @property
    def lead(self) -> float:
        """Median seconds before the alert that was raised, where it would have fired; NaN without any."""
        return float(self.incidents["lead_s"].median())

    @property
    def false_per_week(self) -> tuple[float, float, float]:
        """False alerts per healthy week, with the exact 95 % interval of a Poisson count (Garwood 1936).

        NaN where there was no healthy time.
        """
        weeks, count = self.healthy_s / WEEK, self.false_alerts
        if weeks <= 0:
            return float("nan"), float("nan"), float("nan")
        low = scipy.stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
        return count / weeks, float(low) / weeks, float(scipy.stats.chi2.ppf(0.975, 2 * count + 2)) / 2 / weeks


def backtest(
    objective: Objective,
    pasts: Sequence[Past],
    severity: str = "page",
    windows: Sequence[BurnWindow] = WINDOWS,
    time_scale: float = 1.0,
    step: float | None = None,
) -> Backtest:
    """Replay pasts through an objective's alerts of one severity.

    An alert belongs to an incident when it fires at any time between the shortest of the long windows in force before
    the incident's alert and the incident's end.

    Parameters
    ----------
    windows, time_scale
        As in `lepton_kit.telemetry.burn_rates.firing`.
    step
        Seconds between two evaluations; those of Prometheus' rules unless given: 30 s, shortened as the windows are.

    Raises
    ------
    InputError
        When there is nothing to replay, the severity is none of the windows, or a source refuses the samples.
    """
    chosen = [window for window in windows if window.severity == severity]
    if not chosen:
        raise InputError(
            f"severity {severity!r}: must be one of {', '.join(dict.fromkeys(w.severity for w in windows))}"
        )
    if not pasts:
        raise InputError(f"backtest of {objective.name}: there is no past to replay")
    step = step or max(1.0, round(30 / time_scale))
    in_force = [window for window in WINDOWS if window.severity == severity] or chosen
    early = min(scaled(window.long, time_scale) for window in in_force)  # the same, whatever windows are tried
    rows, false, healthy = [], 0, 0.0
    for past in pasts:
        times = _times(past, step)
        fires, is_measured = firing(objective, past.source, times, chosen, time_scale)
        spells = _spells(times, fires[severity])
        free = np.ones(len(spells), dtype=bool)
        sick = np.zeros(len(times), dtype=bool)
        for one in past.incidents:
            own = (spells[:, 1] >= one.alerted - early) & (spells[:, 0] <= one.ended)
            first = float(spells[own, 0].min()) if own.any() else np.nan
            during = (times >= one.alerted - early) & (times <= one.ended)
            is_known = bool(is_measured[during].any() or own.any())
            rows.append((one.name, one.alerted, is_known, first, one.alerted - first))
            free &= ~own
            sick |= during
        false += int(free.sum())
        healthy += float((is_measured & ~sick).sum()) * step
    table = pd.DataFrame(rows, columns=["incident", "alerted", "is_measured", "first_firing", "lead_s"])
    for column in ("alerted", "first_firing"):
        table[column] = pd.to_datetime(table[column].astype(float), unit="s", utc=True)
    return Backtest(table, false, healthy)


def alternatives(
    objective: Objective,
    pasts: Sequence[Past],
    severity: str = "page",
    time_scale: float = 1.0,
    step: float | None = None,
) -> pd.DataFrame:
    """Try shorter and longer windows, and lower and higher burn rates, on the same pasts.

    Returns
    -------
    DataFrame
        A row per pair of factors: `windows` and `rates` (1 and 1 are in force), `fired` and `incidents` (that were
        measured), `lead_s` (median), `false_alerts`, `false_per_week`, and `best`: of those that fire on the most
        incidents, the one with the fewest false alerts, then with the largest lead, then the one in force. Without an
        incident none is best.
    """
    rows = []
    for length in LENGTHS:
        for rate in RATES:
            windows = [
                replace(one, rate=one.rate * rate, long=round(one.long * length), short=round(one.short * length))
                for one in WINDOWS
            ]
            found = backtest(objective, pasts, severity, windows, time_scale, step)
            false, measured = found.false_per_week[0], int(found.incidents["is_measured"].sum())
            rows.append((length, rate, found.fired, measured, found.lead, found.false_alerts, false))
    columns = ["windows", "rates", "fired", "incidents", "lead_s", "false_alerts", "false_per_week"]
    table = pd.DataFrame(rows, columns=columns)
    in_force = (table["windows"] == 1) & (table["rates"] == 1)
    order = pd.DataFrame({"f": -table["fired"], "n": table["false_alerts"], "l": -table["lead_s"], "other": ~in_force})
    table["best"] = False
    if table["fired"].max() > 0:
        table.loc[order.sort_values(["f", "n", "l", "other"]).index[0], "best"] = True
    return table


def _times(past: Past, step: float) -> np.ndarray:
    count = int((past.end - past.start) / step) + 1
    if not 0 < count <= MOST_TIMES:
        raise InputError(
            f"{count} evaluations from {past.start:.0f} to {past.end:.0f}, one each {step:g} s: must be from 1 to "
            f"{MOST_TIMES:,}; give a shorter time or a longer step"
        )
    return past.start + step * np.arange(count)


def _spells(times: np.ndarray, fires: np.ndarray) -> np.ndarray:
    """Return the first and the last time of each spell of firing (n, 2)."""
    edges = np.flatnonzero(np.diff(np.r_[False, fires, False]))
    return np.column_stack([times[edges[::2]], times[edges[1::2] - 1]])

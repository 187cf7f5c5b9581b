"""Whether a repair worked: the indicator that alerted, before the incident, during it, and after the repair.

The indicator is the objective's own: the part of events that were good, counted from a recording. An improvement must
be more than chance, and a repair that made things worse is distinguished from one that did nothing. What the repair did
to the other objectives of the service is judged as well: one that fixes an objective and breaks another is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.stats import difference_interval, wilson_interval
from lepton_kit.telemetry.health import RecordedMetrics, bad_ratio
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.selectors import Selector, parse_selector
from lepton_kit.telemetry.signals import preset, presets, role_of
from lepton_kit.telemetry.slo import Objective, alert_name

Verdict = Literal["recovered", "not recovered", "worse", "too few"]
LEAST_EVENTS = 20


@dataclass(frozen=True)
class Ratio:
    """How many events were good, of how many; seconds count as events where an indicator measures time."""

    good: float
    total: float

    def __post_init__(self) -> None:
        if not 0 <= self.good <= self.total:
            raise InputError(f"good = {self.good!r} of total = {self.total!r}: must be from 0 to the total")

    @property
    def share(self) -> float:
        """The indicator, 0 to 1; NaN of nothing."""
        return self.good / self.total if self.total else float("nan")

    def __str__(self) -> str:
        """Return the share and what it is of, in words.

        >>> str(Ratio(995, 1000)), str(Ratio(0, 0))
        ('99.5 % of 1,000', 'none of 0')
        """
        return f"{100 * self.share:.4g} % of {self.total:,.0f}" if self.total else "none of 0"

    @property
    def interval(self) -> tuple[float, float]:
        """The score interval of the share (Wilson 1927), 95 %; from 0 to 1 of nothing."""
        return wilson_interval(self.good, self.total)


@dataclass(frozen=True)
class Recovery:
    """What became of an indicator.

    `gain` is by how much it is better after the repair than during the incident, and `loss` by how much it is worse
    than before the incident, each as low and high end of Newcombe's interval (1998, method 10); (−1, 1) of nothing.
    """

    verdict: Verdict
    reason: str
    before: Ratio
    during: Ratio
    after: Ratio
    objective: float
    gain: tuple[float, float]
    loss: tuple[float, float]

    def table(self) -> pd.DataFrame:
        """Return a row per period: `period`, `share`, `low`, `high`, `events`."""
        rows = [(name, one.share, *one.interval, one.total) for name, one in self._periods().items()]
        return pd.DataFrame(rows, columns=["period", "share", "low", "high", "events"])

    def as_dict(self) -> dict[str, Any]:
        """Return the judgement as JSON can hold it."""
        shares = {
            name: {"share": one.share if one.total else None, "interval": list(one.interval), "events": one.total}
            for name, one in self._periods().items()
        }
        ends = {"gain": list(self.gain), "loss": list(self.loss)}
        return {"verdict": self.verdict, "reason": self.reason, "objective": self.objective, **shares, **ends}

    def _periods(self) -> dict[str, Ratio]:
        return {"before": self.before, "during": self.during, "after": self.after}


def judge_recovery(
    before: Ratio,
    during: Ratio,
    after: Ratio,
    objective: float,
    least: float = LEAST_EVENTS,
    until: Ratio | None = None,
) -> Recovery:
    """Say whether an indicator recovered, by what it was before the incident, during it, and after the repair.

    It did when what is seen after the repair may come from a service that keeps its objective, is not certainly below
    what it was before the incident, and is certainly better than during it; or where it keeps its objective for
    certain. It became worse when it is certainly below what it was during the incident, and below what it was right
    before the repair (`until`): an incident that was still getting worse is not made worse by a repair that does
    nothing. Certain is what the 95 % interval says; at least `least` events are needed after the repair.

    >>> was, bad = Ratio(990, 1000), Ratio(60, 100)
    >>> judge_recovery(was, bad, Ratio(199, 200), 0.99).verdict
    'recovered'
    >>> judge_recovery(was, bad, Ratio(60, 200), 0.99).verdict
    'worse'
    >>> judge_recovery(was, bad, Ratio(60, 200), 0.99, until=Ratio(10, 40)).verdict
    'not recovered'
    >>> judge_recovery(was, bad, Ratio(4, 4), 0.99).verdict
    'too few'
    """
    if not 0 < objective < 1:
        raise InputError(f"objective = {objective!r}: must be between 0 and 1")
    gain, loss = _difference(during, after), _difference(after, before)
    latest = until if until is not None and until.total else during
    fell = min(-gain[1], -_difference(latest, after)[1])
    verdict, reason = _verdict(after, objective, gain, loss, fell, least)
    return Recovery(verdict, reason, before, during, after, objective, gain, loss)


def _verdict(
    after: Ratio, objective: float, gain: tuple[float, float], loss: tuple[float, float], fell: float, least: float
) -> tuple[Verdict, str]:
    low, high = after.interval
    if after.total < least:
        return "too few", f"{after.total:.0f} events since the repair; {least:g} are needed to judge it"
    if low >= objective:
        return "recovered", f"at least {low:.1%} are good, which keeps the objective of {objective:.1%}"
    if fell > 0:
        return "worse", f"{fell:.1%} or more below what it was during the incident, and right before the repair"
    if high < objective:
        return "not recovered", f"at most {high:.1%} are good, below the objective of {objective:.1%}"
    if loss[0] > 0:
        return "not recovered", f"{loss[0]:.1%} or more below what it was before the incident"
    if gain[0] <= 0:
        return "not recovered", "no better than during the incident, as far as the events tell"
    return "recovered", f"{gain[0]:.1%} or more better than during the incident, and within the objective"


def _difference(old: Ratio, new: Ratio) -> tuple[float, float]:
    if not (old.total and new.total):
        return -1.0, 1.0
    return difference_interval((old.good, old.total), (new.good, new.total))


@dataclass(frozen=True)
class SideEffect:
    """What a repair did to an objective that did not alert: its indicator before the incident, until it, and after.

    `until` is what it was right before the repair where that is known, else during the incident. A loss that leaves
    the objective kept, such as the few requests that a fresh worker makes wait, is none to undo a repair for; nor is an
    objective that was missed before and is missed as much since. Certain is what the 95 % interval says.

    A queue that is made shorter answers in time those that it takes, and refuses a tenth:

    >>> from lepton_kit.telemetry.selectors import parse_selector
    >>> asked = parse_selector("asked_total")
    >>> kept = Objective("demo-availability", "Availability", "demo", "", 0.999, 86400, "bad", asked, asked, 20)
    >>> SideEffect(kept, Ratio(1000, 1000), Ratio(300, 300), Ratio(270, 300)).is_worse
    True
    >>> SideEffect(kept, Ratio(1000, 1000), Ratio(300, 300), Ratio(299, 300)).is_worse
    False
    """

    objective: Objective
    before: Ratio
    until: Ratio
    after: Ratio

    @property
    def change(self) -> tuple[float, float]:
        """By how much it is better since, as low and high end of Newcombe's interval; (−1, 1) of nothing."""
        return _difference(self.until, self.after)

    @property
    def is_judged(self) -> bool:
        """Whether enough events came on both sides."""
        return bool(self.until.total) and self.after.total >= self.objective.minimum

    @property
    def is_missed(self) -> bool:
        """Whether the objective is missed since the repair, for certain."""
        return self.after.total >= self.objective.minimum and self.after.interval[1] < self.objective.target

    @property
    def is_worse(self) -> bool:
        """Whether it is below what it was up to the repair, and misses its objective: both for certain."""
        return self.is_judged and self.change[1] < 0 and self.is_missed


def sli_ratio(recording: Recording, objective: Objective, start: pd.Timestamp, end: pd.Timestamp) -> Ratio:
    """Return an objective's indicator between two times of a recording.

    Counted by the objective's own queries from the recorded metrics. Where these hold no such event, and for what
    comes true only later (the actuals of forecasts), the requests of that time are counted by the same queries: an
    actual belongs to the time of its forecast, and not to that of the feedback.
    """
    if counts_hits(objective) and (judged := _hits(recording, start, end)).total:
        return judged
    share, events = bad_ratio(objective, RecordedMetrics(recording.metrics), start, end)
    if events > 0:
        return Ratio(good=min(events, max(0.0, (1 - share) * events)), total=events)
    return _from_requests(recording.requests, objective, start, end) or Ratio(0, 0)


MOST_PERIODS = 60
LEAST_PERIODS = 8
LEAST_DRAWN = 5


def sli_over_time(recording: Recording, objective: Objective) -> pd.DataFrame:
    """Return an objective's indicator by periods of about equal length over the whole window.

    As many periods as give each the events that the objective needs to be judged, and at most `MOST_PERIODS`. Of a
    recording too short for `LEAST_PERIODS` of them, fewer events do, as long as each has `LEAST_DRAWN`: the intervals
    say how little that is. They begin and end where metrics were read, so that no increase is cut in two.

    Columns are `time` (the middle of the period, UTC), `share` of good events, `low` and `high` (its 95 % interval) and
    `events`; there is no row for a period without events.
    """
    window = recording.incident.window
    start, end = (pd.Timestamp(one).tz_convert("UTC") for one in (window.start, window.end))
    events = sli_ratio(recording, objective, start, end).total
    enough, few = events // objective.minimum, min(LEAST_PERIODS, events // LEAST_DRAWN)
    count = int(min(MOST_PERIODS, max(1.0, enough, few)))
    borders = pd.date_range(start, end, periods=count + 1)
    read = pd.DatetimeIndex(recording.metrics["time"].unique()).sort_values()
    if not counts_hits(objective) and len(read) > count:
        inner = read[read.get_indexer(borders[1:-1], method="nearest")]
        borders = pd.to_datetime([start, *inner.unique(), end], utc=True)
    rows = []
    for first, last in pairwise(borders):
        held = sli_ratio(recording, objective, first, last)
        if held.total:
            rows.append((first + (last - first) / 2, held.share, *held.interval, held.total))
    table = pd.DataFrame(rows, columns=["time", "share", "low", "high", "events"])
    return table.astype({"time": "datetime64[us, UTC]", **dict.fromkeys(table.columns.drop("time"), "float64")})


def objective_of(recording: Recording, objectives: Sequence[Objective]) -> Objective:
    """Return the objective whose alert led to the recording.

    By the label `slo` of its alerts, or their name; of several the first that fired. Without an alert it is the one
    whose indicator fell most below its promise in the last half of the window, or in all of it where nothing was
    counted then. Objectives of other services are none.

    Raises
    ------
    InputError
        When there is no objective of the recording's service at all.
    """
    service = recording.incident.service
    own = [one for one in objectives if one.service == service]
    if not own:
        others = ", ".join(sorted({one.service for one in objectives})) or "none"
        raise InputError(
            f"recording {recording.incident.id}: no objective of its service {service!r} is given to judge a recovery "
            f"by (there are some of: {others})"
        )
    if (alerted := alerted_objective(recording, own)) is not None:
        return alerted
    window = recording.incident.window
    start, end = pd.Timestamp(window.start), pd.Timestamp(window.end)
    for first in (start + (end - start) / 2, start):
        counted = [(one, held) for one in own if (held := sli_ratio(recording, one, first, end)).total]
        if counted:
            return max(counted, key=lambda each: (1 - each[1].share) / each[0].budget)[0]
    return own[0]


def alerted_objective(recording: Recording, objectives: Sequence[Objective]) -> Objective | None:
    """Return the objective of the first alert that belongs to one; None where none does."""
    for alert in sorted(recording.incident.alerts, key=lambda one: one.starts_at):
        for one in objectives:
            if alert.labels.get("slo") == one.name or alert.name == alert_name(one):
                return one
    return None


# --- the same queries, asked of requests --------------------------------------------------------------------------


def counts_hits(objective: Objective) -> bool:
    """Return whether an objective counts correct answers, which the recorded requests show too."""
    return objective.counts == "hits" or role_of(objective.total) == "targets_known"


def _hits(recording: Recording, start: pd.Timestamp, end: pd.Timestamp) -> Ratio:
    """Return how many of the judged answers to the requests of a time were hits of the service's task."""
    requests, task = recording.requests, recording.task
    if task is None:
        return Ratio(0, 0)
    missed = task.misses(requests[(requests["time"] >= start) & (requests["time"] < end)])
    return Ratio(len(missed) - float(missed.sum()), len(missed))


def _from_requests(
    requests: pd.DataFrame, objective: Objective, start: pd.Timestamp, end: pd.Timestamp
) -> Ratio | None:
    """Return the indicator as the requests of a time show it; None where they do not hold what the queries count."""
    rows = requests[(requests["time"] >= start) & (requests["time"] < end)]
    total, counted = (_count(rows, selector) for selector in (objective.total, objective.selector))
    if not total or counted is None:
        return None
    return Ratio(counted if objective.events == "good" else total - counted, total)


STATUSES: Mapping[str, tuple[int, int]] = {
    "requests_total": (0, 599), "latency": (0, 599), "answered": (0, 399), "invalid": (400, 499),
    "refusals": (429, 429), "errors": (500, 599),
}  # fmt: skip
"""The statuses of the requests that a signal counts."""

OF_A_PLACE = ("job", "instance", "service", "route", "method", "handler", "endpoint", "path", "model")
"""Labels whose names hold one of these tell nothing of a request that its row does not."""


def _count(rows: pd.DataFrame, selector: Selector) -> float | None:
    """Return how many requests a selector counts; None where it says nothing of single requests."""
    role = role_of(selector)
    if role not in STATUSES:
        return None
    known = [parse_selector(signals[role].selector) for signals in map(preset, presets()) if role in signals]
    own = {one for series in known for one in series.matchers}
    status, counted = rows["status"], rows["status"].between(*STATUSES[role])
    if role == "invalid":
        counted &= status.ne(429)
    for one in set(selector.matchers) - own:
        if "status" in one.label or "code" in one.label:
            fitting = [code for code in status.dropna().unique() if one.matches({one.label: f"{code:.0f}"})]
            counted &= status.isin(fitting)
        elif one.label == "version":
            fitting = [name for name in rows["version"].unique() if one.matches({"version": str(name)})]
            counted &= rows["version"].isin(fitting)
        elif one.label == "le" and one.operator == "=":
            counted &= rows["latency_ms"] <= 1000 * float(one.value)
        elif not any(part in one.label for part in OF_A_PLACE):
            return None
    return float(counted.sum())

"""The onset: when an incident began, by the first symptom that moved, and what that time rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

import numpy as np
import pandas as pd

from lepton_kit.data.drift import ChangePoint, change_point
from lepton_kit.diagnosis.recovery import LEAST_PERIODS, MOST_PERIODS, alerted_objective, counts_hits
from lepton_kit.diagnosis.rows import following
from lepton_kit.errors import InputError
from lepton_kit.telemetry.health import RecordedMetrics, growth, mean_seconds
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.slo import Objective


@dataclass(frozen=True)
class Criteria:
    """From where on something counts. Effects decide; `alpha` only guards them against chance.

    Parameters
    ----------
    promise
        Least share of answers that must be right (`Task.hit`). None: that of the service's own objective, or of such
        models; where neither says, `DROP` less than it was before.
    alpha
        Highest p-value of an effect that counts.
    least_rows
        Requests needed on either side of the onset before anything is judged.
    broken_share
        Rise of the share of rows that break the contract.
    error_share
        Rise of the share of requests that the service failed (status 500 and above).
    spread_factor
        Change of a series' spread, up or down, that counts as moved.
    apart_factor
        An input whose size changed this many times more, or less, than the actuals' spread did not move with them.
    reverting
        Actuals whose correlation with the actual before is this far below 0 swing back, as faulty ones do.
    output_difference
        Mean distance of two versions' answers that counts as different, in the task's unit; None: the task's own.
    slower_factor
        Rise of the median or the 95th percentile of the latency, or of the mean queue.
    unfelt_ms
        Nobody notices a latency below this many ms, however much it rose.
    """

    promise: float | None = None
    alpha: float = 0.01
    least_rows: int = 20
    broken_share: float = 0.03
    error_share: float = 0.02
    spread_factor: float = 1.5
    apart_factor: float = 2.0
    reverting: float = 0.25
    output_difference: float | None = None
    slower_factor: float = 2.0
    unfelt_ms: float = 50.0

    def __post_init__(self) -> None:
        for name in ("promise", "alpha", "broken_share", "error_share", "reverting"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)!r}: must be between 0 and 1")
        for name in ("spread_factor", "apart_factor", "slower_factor"):
            if not getattr(self, name) > 1:
                raise InputError(f"{name} = {getattr(self, name)!r}: must be above 1")
        if self.least_rows < 2 or not (self.output_difference is None or self.output_difference > 0):
            raise InputError(
                f"least_rows = {self.least_rows}, output_difference = {self.output_difference}: "
                "must be at least 2, and above 0"
            )


@dataclass(frozen=True)
class Onset:
    """When an incident began, and what that rests on: a `symptom` that changed, the alert, or the window's middle.

    >>> str(Onset(pd.Timestamp("2026-01-05", tz="UTC"), "symptom", "latency"))
    'change point of latency'
    """

    time: pd.Timestamp
    source: Literal["symptom", "alert", "middle"]
    symptom: str = ""

    def __str__(self) -> str:
        """Say in words what the time rests on."""
        told = {"alert": "start of the alert", "middle": "middle of the window"}
        return told.get(self.source, f"change point of {self.symptom}")


@dataclass(frozen=True)
class Symptom:
    """A series that may show that something is wrong, by request time, and which change of its mean is large.

    Where `unit` is `×`, the series holds logarithms.
    """

    name: str
    series: pd.Series
    unit: str
    is_large: Callable[[float, float], bool]

    def counts(self, change: ChangePoint | None, alpha: float) -> TypeGuard[ChangePoint]:
        """Tell whether a change of the series is large, and not by chance."""
        return change is not None and change.p_value < alpha and self.is_large(change.before, change.after)


def symptoms(recording: Recording, breaches: pd.DataFrame, criteria: Criteria) -> tuple[Symptom, ...]:
    """Return the symptoms in the order in which they are believed: what users notice comes first."""
    requests = recording.requests
    time = pd.DatetimeIndex(requests["time"])

    def rises(least: float) -> Callable[[float, float], bool]:
        return lambda before, after: after - before >= least

    def slower(before: float, after: float) -> bool:
        return bool(after - before >= np.log(criteria.slower_factor) and after >= np.log(criteria.unfelt_ms))

    def moves(factor: float) -> Callable[[float, float], bool]:
        return lambda before, after: abs(after - before) >= np.log(factor)

    least = promised(recording, criteria)

    def breaks(before: float, after: float) -> bool:
        return bool(1 - after < (1 - before - DROP if least is None else least))

    return (
        Symptom("misses", misses(recording, requests), "share", breaks),
        Symptom("errors", by_time(failed(requests), time), "share", rises(criteria.error_share)),
        Symptom("latency", latencies(recording), "×", slower),
        Symptom("time to first token", _log_ms(mean_seconds(recording, "time_to_first_token")), "×", slower),
        Symptom("missing workers", missing_workers(recording), "share", rises(MISSING)),
        Symptom("broken rows", by_time(breaches.any(axis=1), time), "share", rises(criteria.broken_share)),
        Symptom("rows out of order", out_of_order(recording), "share", rises(OUT_OF_ORDER)),
        Symptom("size of the inputs", input_size(recording), "×", moves(criteria.spread_factor)),
        Symptom("size of the actuals", actual_size(recording), "×", moves(criteria.spread_factor)),
    )


DROP = 0.05
"""A model that promises nothing by itself has become worse where so much less of its answers is right than before."""


def promised(recording: Recording, criteria: Criteria) -> float | None:
    """Return the share of answers that must be right: as criteria, an objective or the task say; None where none does.

    >>> from lepton_kit.telemetry.recordings import FORMER, Incident
    >>> incident = Incident(format=FORMER, id="x", service="demo", versions={"current": "1"},
    ...                     window={"start": "2008-01-01T00:00Z", "end": "2008-02-01T00:00Z"})
    >>> promised(Recording(incident), Criteria()), promised(Recording(incident), Criteria(promise=0.7))
    (0.85, 0.7)
    """
    if criteria.promise is not None:
        return criteria.promise
    own = [one.target for one in recording.incident.promises if counts_hits(one.objective())]
    return own[0] if own else None if recording.task is None else recording.task.least


def changes_of(
    recording: Recording, breaches: pd.DataFrame, criteria: Criteria
) -> Iterator[tuple[Symptom, ChangePoint | None]]:
    """Give each symptom with its change point, where it has one."""
    for symptom in symptoms(recording, breaches, criteria):
        depth = DEEPEST if symptom.name == "misses" else 0
        yield symptom, _change(symptom, symptom.series, criteria.alpha, depth)


DEEPEST = 3
"""So often the misses are cut in two where their clearest change is none for the worse: in months they come and go."""


def _change(symptom: Symptom, series: pd.Series, alpha: float, depth: int) -> ChangePoint | None:
    """Return the change of a series, or where it is a clear one that is not large the first large one on its sides."""
    change = change_point(series)
    if change is None or depth == 0 or change.p_value >= alpha or symptom.counts(change, alpha):
        return change
    for part in (series.dropna().iloc[: change.position], series.dropna().iloc[change.position :]):
        if symptom.counts(inner := _change(symptom, part, alpha / 2, depth - 1), alpha / 2):
            return inner
    return change


def find_onset(
    recording: Recording, changes: Sequence[tuple[Symptom, ChangePoint | None]], criteria: Criteria
) -> Onset:
    """Return when the incident began, and what that time rests on.

    The SLI of the objective that alerted comes first, and dates the onset to one of its periods; a symptom of the
    requests with a change point there dates it better. Where it shows none, the first symptom with a change point that
    is large, and not by chance, decides; but where requests were slow before they were refused, the slowness does. What
    moved well after the alert did not bring it, so a symptom that moved before comes first. Without any, the first
    alert; without one, the middle of the window.
    """
    alerted = min((pd.Timestamp(alert.starts_at) for alert in recording.incident.alerts), default=None)
    seen = sli_onset(recording, criteria)
    found = {symptom.name: onset_of(change) for symptom, change in changes if symptom.counts(change, criteria.alpha)}
    if seen is not None:  # known to a period: what requests show within that is known better
        near = {name: at for name, at in found.items() if seen.first <= at <= seen.last}
        found = near or {f"the SLI of {seen.title}": seen.since}
    for name in sorted(found, key=lambda one: alerted is not None and found[one] > _soon(recording, alerted)):
        first = min({name, "latency"} & set(found), key=found.__getitem__) if name == "errors" else name
        return Onset(found[first], "symptom", first)
    window = recording.incident.window
    if alerted is not None:
        return Onset(alerted, "alert")
    return Onset(pd.Timestamp(window.start + (window.end - window.start) / 2), "middle")


@dataclass(frozen=True)
class Seen:
    """When the SLI of an objective fell: `since`, and the `first` and `last` moment at which it may have."""

    title: str
    since: pd.Timestamp
    first: pd.Timestamp
    last: pd.Timestamp


LEAST_SIDE = 3
"""Periods of an SLI needed on either side of its change."""


def sli_onset(recording: Recording, criteria: Criteria, objective: Objective | None = None) -> Seen | None:
    """Return since when the SLI of the objective that alerted misses its target; None where it does not tell.

    `objective` is the one that alerted, where the recording does not hold it.
    """
    objective = objective or alerted_objective(recording, [one.objective() for one in recording.incident.promises])
    if objective is None:
        return None
    events = _events(recording, objective)
    periods = int(min(MOST_PERIODS, max(events["total"].sum() // objective.minimum, LEAST_PERIODS)))
    if len(events) < 2 * LEAST_SIDE or events.index[-1] == events.index[0]:
        return None
    step = (events.index[-1] - events.index[0]) / periods
    place = np.asarray((events.index - events.index[0]) / step).astype(int)
    summed = events.groupby(np.minimum(place, periods - 1)).sum()
    share = 1 - (summed["bad"] / summed["total"].where(summed["total"] > 0)).dropna()
    change = change_point(share, LEAST_SIDE)
    if change is None or change.p_value >= criteria.alpha or change.after >= min(change.before, objective.target):
        return None
    since = pd.Timestamp(events.index[0] + share.index[change.position] * step)
    return Seen(objective.title, since, since - step, since + step)


def _events(recording: Recording, objective: Objective) -> pd.DataFrame:
    """Return how many events of an objective came by time, and how many of them were bad: `total`, `bad`."""
    if counts_hits(objective) and len(missed := misses(recording, recording.requests)):
        return pd.DataFrame({"total": 1.0, "bad": missed})
    window, source = recording.incident.window, RecordedMetrics(recording.metrics)
    total, counted = (
        growth(source.query(str(one), window.start.timestamp(), window.end.timestamp()))
        for one in (objective.total, objective.selector)
    )
    counted = counted.reindex(total.index).fillna(0.0).clip(upper=total)
    return pd.DataFrame({"total": total, "bad": counted if objective.events == "bad" else total - counted})


NEAR_ROWS = 20
"""A change point is known to within this many requests."""


def _soon(recording: Recording, moment: pd.Timestamp) -> pd.Timestamp:
    """Return until when a change point may lie that is at a moment."""
    times = recording.requests["time"]
    return pd.Timestamp(times[times >= moment].head(NEAR_ROWS).max()) if (times >= moment).any() else moment


def onset_of(change: ChangePoint) -> pd.Timestamp:
    """Return the time of a change in a series indexed by time."""
    return pd.Timestamp(change.label)  # type: ignore[arg-type]  # a label may be anything, here it is a time


def by_time(values: pd.Series, time: pd.DatetimeIndex) -> pd.Series:
    """Return a series of numbers indexed by time."""
    return values.astype(float).set_axis(time)


def misses(recording: Recording, requests: pd.DataFrame) -> pd.Series:
    """Return 1.0 for each judged request whose answer was no hit of its task, else 0.0, by request time."""
    missed = pd.Series(dtype=float) if recording.task is None else recording.task.misses(requests)
    return by_time(missed, pd.DatetimeIndex(requests.loc[missed.index, "time"]))


def rolling_hits(recording: Recording, requests: pd.DataFrame, window: int) -> pd.Series:
    """Return the share of the last `window` judged requests whose answer was a hit of its task, by request time."""
    return (1 - misses(recording, requests)).rolling(window).mean()


def failed(requests: pd.DataFrame) -> pd.Series:
    """Tell for each request whether the service failed it, or refused it because too many waited (status 429)."""
    return requests["status"].ge(500) | requests["status"].eq(429)


def latencies(recording: Recording) -> pd.Series:
    """Return the logarithm of the latency in ms: of each request, or where none is known, each scrape's mean."""
    known = log_latency(recording.requests)
    if known.notna().any():
        return by_time(known, pd.DatetimeIndex(recording.requests["time"]))
    return _log_ms(mean_seconds(recording, "latency"))


def _log_ms(seconds: pd.Series) -> pd.Series:
    return (1000 * seconds[seconds > 0]).transform(np.log)


def log_latency(requests: pd.DataFrame) -> pd.Series:
    """Return the logarithm of each latency in ms; one of 0 is not a measurement, and a refusal is no work done."""
    measured = requests["latency_ms"].gt(0) & ~requests["status"].between(400, 499)
    return requests["latency_ms"].where(measured).transform(np.log)


MISSING = 0.1
"""From this rise on of the share of workers that do not answer, workers were lost."""


def answering_workers(recording: Recording) -> pd.Series:
    """Return how many workers answered at each scrape."""
    by_scrape: pd.Series = recording.samples("workers").groupby("time")["value"].sum()
    return by_scrape


def expected_workers(answering: pd.Series) -> float:
    """Return how many workers there were at first: the median of the first quarter of the scrapes; 0 of none."""
    return float(answering.head(max(1, len(answering) // 4)).median()) if len(answering) else 0.0


def missing_workers(recording: Recording) -> pd.Series:
    """Return, by time of the scrape, the share of the workers that there were at first that does not answer."""
    answering = answering_workers(recording)
    expected = expected_workers(answering)
    return 1 - answering / expected if expected > 0 else answering.head(0)


OUT_OF_ORDER = 0.15
"""Rise of the share of rows that do not follow on another one; less may come of requests that are lost."""


def out_of_order(recording: Recording) -> pd.Series:
    """Return 1.0 for each request whose values do not follow on an earlier one's, else 0.0, by request time."""
    if not recording.incident.declaration.time_series:
        return pd.Series(dtype=float)
    inputs = recording.features(recording.requests).set_axis(recording.requests.index)
    kept = following(inputs.assign(actual=recording.requests["actual"]))
    return by_time(~kept.astype(bool), pd.DatetimeIndex(recording.requests.loc[kept.index, "time"]))


def input_size(recording: Recording) -> pd.Series:
    """Return, by request time, the logarithm of the root mean square of the inputs in training standard deviations."""
    features, learnt = recording.features(recording.requests), recording.reference.select_dtypes("number")
    known = [column for column in features if column in learnt]
    scaled = (features[known] - learnt[known].mean()) / learnt[known].std().replace(0, np.nan)
    size = scaled.pow(2).mean(axis=1)
    return size.where(size > 0).transform(np.log) / 2


def actual_size(recording: Recording) -> pd.Series:
    """Return, by request time, the logarithm of each known actual's distance from their median; nothing of classes."""
    if recording.task is None or recording.task.name not in ("interval_forecast", "regression"):
        return pd.Series(dtype=float)
    actual = recording.requests.dropna(subset=["actual"]).set_index("time")["actual"]
    size = (actual - actual.median()).abs()
    return size.where(size > 0).transform(np.log)

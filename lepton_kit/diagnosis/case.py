"""The case: a recording made ready to question.

`build_case` finds the onset, splits the requests there, and replays those whose inputs keep the contract through the
current and the last good version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from lepton_kit.data.drift import ChangePoint, TwoSample, change_point, two_sample
from lepton_kit.data.ranges import ALLOWED_RANGES, allowed_range
from lepton_kit.diagnosis.relations import asked_anew, following
from lepton_kit.errors import InputError
from lepton_kit.models.forecasters import load_forecaster
from lepton_kit.models.tasks import covered
from lepton_kit.telemetry.recordings import Deployment, Recording, feature_columns, is_inside, printable

MOST_LACKING = 0.5
"""Where more of the rows lacked a value before the onset, nothing tells whether values went missing at it."""

MOST_COMPARED = 600
"""Rows of either side that a classifier learns to tell apart at most."""

BREACHES = {
    "missing": "a feature is missing or not finite",
    "stale": "a feature that always changes repeats its last value, though the actual is a new one",
    "duplicated": "the request id was answered before",
    "out_of_range": f"a feature lies over {ALLOWED_RANGES:g} ranges outside the training rows' range, or is a category "
    "that they do not have",
}


@dataclass(frozen=True)
class Criteria:
    """From where on something counts. Effects decide; `alpha` only guards them against chance.

    Parameters
    ----------
    coverage_objective
        Least share of actuals that the 90 % interval must hold.
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
        Mean distance of two versions' interval bounds, in widths of the interval, that counts as different.
    slower_factor
        Rise of the median or the 95th percentile of the latency, or of the mean queue.
    unfelt_ms
        A latency below so many ms is nothing that anybody waits for, however much it rose.
    """

    coverage_objective: float = 0.85
    alpha: float = 0.01
    least_rows: int = 20
    broken_share: float = 0.03
    error_share: float = 0.02
    spread_factor: float = 1.5
    apart_factor: float = 2.0
    reverting: float = 0.25
    output_difference: float = 0.25
    slower_factor: float = 2.0
    unfelt_ms: float = 50.0

    def __post_init__(self) -> None:
        for name in ("coverage_objective", "alpha", "broken_share", "error_share", "reverting"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)!r}: must be between 0 and 1")
        for name in ("spread_factor", "apart_factor", "slower_factor"):
            if not getattr(self, name) > 1:
                raise InputError(f"{name} = {getattr(self, name)!r}: must be above 1")
        if self.least_rows < 2 or not self.output_difference > 0:
            raise InputError(
                f"least_rows = {self.least_rows}, output_difference = {self.output_difference}: "
                "must be at least 2, and above 0"
            )


@dataclass(frozen=True)
class Case:
    """A recording made ready to question: its requests before and during, and what two versions answer to them.

    `replayed` holds one table per version that could be loaded (`current`, `last_good`): `mean` … `prob_up` for every
    request whose inputs keep the contract, with the index of `requests`. `unreplayed` says why a version is not there.
    """

    recording: Recording
    criteria: Criteria
    onset: pd.Timestamp
    onset_from: str
    requests: pd.DataFrame
    breaches: pd.DataFrame
    replayed: dict[str, pd.DataFrame]
    unreplayed: dict[str, str]

    @cached_property
    def before(self) -> pd.DataFrame:
        """Return the requests before the onset."""
        return self.requests[self.requests["time"] < self.onset]

    @cached_property
    def during(self) -> pd.DataFrame:
        """Return the requests from the onset on."""
        return self.requests[self.requests["time"] >= self.onset]

    @cached_property
    def samples(self) -> dict[str, pd.DataFrame]:
        """Return the samples of each metric, by its name."""
        return {str(name): part for name, part in self.recording.metrics.groupby("metric")}

    @cached_property
    def deployments(self) -> tuple[Deployment, ...]:
        """Return the deployments that changed the version: not a service's first start, before which none answered."""
        known = sorted(self.recording.incident.deployments, key=lambda item: item.time)
        is_first = bool(known) and not (self.requests["time"] < pd.Timestamp(known[0].time)).any()
        window = self.recording.incident.window
        return tuple(known[1:] if is_first and known[0].time >= window.start else known)

    @cached_property
    def inputs(self) -> pd.DataFrame:
        """Return the inputs of the requests, with the index of `requests`."""
        return self.recording.features(self.requests).set_axis(self.requests.index)

    @cached_property
    def categories(self) -> pd.DataFrame:
        """Return those inputs of the requests that are text, with the index of `requests`."""
        return self.recording.categories(self.requests).set_axis(self.requests.index)

    @cached_property
    def unreadable(self) -> str:
        """Say which inputs tell nothing of what the onset changed; nothing where all do."""
        learnt = self.recording.reference.select_dtypes("number")
        if texts := [str(name) for name in self.categories if name in learnt and learnt[name].notna().any()]:
            return f"{', '.join(texts[:5])}: the model learnt from numbers, and the requests hold text"
        lacking = self.breaches.loc[self.before.index, "missing"].mean()
        return f"{lacking:.0%} of the rows before the onset lack a value, too" if lacking > MOST_LACKING else ""

    @cached_property
    def whole_inputs(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the inputs before and since the onset, of the rows that lack no value and are not asked again.

        A crowd that asks about a row a thousand times tells no more of the feed than once; the load tells of it.
        """
        finite = asked_anew(self.inputs[is_finite(self.inputs)])
        is_before = finite.index.isin(self.before.index)
        return finite[is_before], finite[~is_before]

    @cached_property
    def two_sample(self) -> TwoSample | str:
        """Return how well a classifier tells the inputs since the onset from those before, or why it was not asked."""
        before, during = self.whole_inputs
        if min(len(before), len(during)) < self.criteria.least_rows or before.columns.empty:
            return f"{len(before)} whole rows of inputs before the onset and {len(during)} since"
        return two_sample(sampled(before, MOST_COMPARED), sampled(during, MOST_COMPARED))

    @cached_property
    def following(self) -> pd.Series:
        """Tell for each request whether its values follow on an earlier one's, as they did at first."""
        return following(self.inputs.assign(actual=self.requests["actual"]))

    @cached_property
    def changes(self) -> tuple[tuple[Symptom, ChangePoint | None], ...]:
        """Return each symptom with its change point, where it has one."""
        return tuple(changes_of(self.recording, self.breaches, self.criteria))


def build_case(recording: Recording, criteria: Criteria | None = None) -> Case:
    """Split the requests of a recording at the onset, and replay them.

    Rows far outside of the incident's window are left out: their clock is wrong, and nothing tells by how much.
    """
    criteria = criteria or Criteria()
    recording = settled(within_window(recording))
    breaches = contract_breaches(recording)
    onset, onset_from = find_onset(recording, breaches, criteria)
    is_broken = breaches.to_numpy(bool).any(axis=1)
    is_whole = is_finite(recording.features(recording.requests)) & ~is_broken
    replayed, unreplayed = replays(recording, recording.requests[is_whole])
    return Case(recording, criteria, onset, onset_from, recording.requests, breaches, replayed, unreplayed)


def settled(recording: Recording) -> Recording:
    """Leave out the last requests of a slow service, of which only those that it refused at once are known yet.

    As long as its slowest recent answer took, what came before the end of the window may still be unanswered.
    """
    requests = recording.requests
    slowest = requests["latency_ms"].tail(RECENT).max() / 1000 if len(requests) else 0.0
    window = recording.incident.window
    if not SLOW_SECONDS <= slowest < (window.end - window.start).total_seconds():  # longer than that is no measurement
        return recording
    known = requests["time"] < window.end - pd.Timedelta(seconds=slowest)
    return replace(recording, requests=requests[known].reset_index(drop=True)) if known.any() else recording


RECENT, SLOW_SECONDS = 500, 0.5
"""Requests whose answers tell how slow a service is, and from where on it matters."""


def sampled(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return so many rows of a table at most, drawn at random, the same each time, and left in order.

    Every n-th row would pick some days only where the same days are asked about again and again.

    >>> sampled(pd.DataFrame({"a": range(9)}), 3)["a"].is_monotonic_increasing
    True
    """
    return table if len(table) <= most else table.sample(most, random_state=0).sort_index()


def is_finite(table: pd.DataFrame) -> np.ndarray:
    """Tell for each row whether all its values are finite numbers.

    >>> is_finite(pd.DataFrame({"a": [1.0, np.nan], "b": [2.0, 3.0]})).tolist()
    [True, False]
    """
    every: np.ndarray = np.isfinite(table.to_numpy(float)).all(axis=1)
    return every


def replays(recording: Recording, requests: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Return what the current and the last good version answer to some requests, and why one of them does not."""
    versions = recording.incident.versions
    replayed, unreplayed = {}, {}
    for role, version in (("current", versions.current), ("last_good", versions.last_good)):
        if version is None:
            unreplayed[role] = "the recording names no last good version"
        elif version not in recording.models:
            unreplayed[role] = f"the recording holds no models/{version}"
        elif requests.empty:
            unreplayed[role] = "no request whose inputs keep the contract"
        else:
            try:
                replayed[role] = replay(recording, requests, version)
            except InputError as error:
                told = str(error).replace(str(recording.models[version]), f"models/{version}")
                unreplayed[role] = printable(told, 200)
    return replayed, unreplayed


def within_window(recording: Recording) -> Recording:
    """Return a recording without the requests, samples and log lines whose times lie far outside of its window."""

    def kept(table: pd.DataFrame) -> pd.DataFrame:
        return table[is_inside(table["time"], recording.incident.window)].reset_index(drop=True)

    return replace(
        recording, requests=kept(recording.requests), metrics=kept(recording.metrics), logs=kept(recording.logs)
    )


def replay(recording: Recording, requests: pd.DataFrame, version: str) -> pd.DataFrame:
    """Return what one version of the recording answers to some of its requests, with their index."""
    forecaster = load_forecaster(recording.models[version])
    return forecaster.predict(recording.features(requests)).set_axis(requests.index)


def answered_by(case: Case, role: str) -> pd.DataFrame:
    """Return the requests of a case as if a replayed version (`current`, `last_good`) had answered them."""
    answers = case.replayed[role]
    return case.requests.loc[answers.index].drop(columns=answers.columns).join(answers)


def contract_breaches(recording: Recording) -> pd.DataFrame:
    """Tell for every request which promises its inputs break: `missing`, `stale`, `duplicated`, `out_of_range`.

    Without reference rows the range is unknown and nothing is out of it; which features always change is then read
    from the requests themselves. A repeated value is stale only where the actuals tell that a new one was due: several
    requests on one day's features are not. An id counts as duplicated where it was answered before: to ask again after
    a refusal or a failure is right. A request that was refused for the load, or failed, may have left no inputs in the
    log, which says nothing of them.
    """
    features = recording.features(recording.requests).reset_index(drop=True)
    categories = recording.categories(recording.requests).reset_index(drop=True)
    learnt = recording.reference.select_dtypes("number")
    reference = learnt[[column for column in features if column in learnt]]
    sample = reference if len(reference) else features
    changing = [column for column in sample if sample[column].nunique() > len(sample) / 2]
    allowed = allowed_range(reference)
    known = features[list(reference.columns)]
    status = recording.requests["status"].reset_index(drop=True)
    answered, ids = status.lt(400), recording.requests["request_id"].reset_index(drop=True)
    is_lacking = ~is_finite(features) | categories.isna().any(axis=1)
    is_empty = features.isna().all(axis=1) & categories.isna().all(axis=1)
    is_unknown = is_empty & status.ge(400) & status.ne(422)
    return pd.DataFrame(
        {
            "missing": is_lacking & ~is_unknown,
            "stale": (features[changing].diff() == 0).any(axis=1) & is_new_period(recording.requests).to_numpy(),
            "duplicated": ids[answered].duplicated().reindex(features.index, fill_value=False),
            "out_of_range": (known.lt(allowed["low"]) | known.gt(allowed["high"])).any(axis=1)
            | unseen_categories(categories, recording.reference).any(axis=1),
        },
        index=recording.requests.index,
    )


def unseen_categories(categories: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Tell of each text whether the training rows have none like it, where they hold each of theirs twice on average.

    >>> came, learnt = pd.DataFrame({"region": ["north", "nort"]}), pd.DataFrame({"region": ["north", "south"] * 4})
    >>> unseen_categories(came, learnt)["region"].tolist()
    [False, True]
    """
    texts = reference.select_dtypes(exclude="number")
    known = {name: texts[name].dropna().unique() for name in categories if name in texts}
    closed = [name for name, values in known.items() if 2 * len(values) <= texts[name].count()]
    return pd.DataFrame(
        {name: categories[name].notna() & ~categories[name].isin(known[name]) for name in closed},
        index=categories.index, dtype=bool,
    )  # fmt: skip


def is_new_period(requests: pd.DataFrame) -> pd.Series:
    """Tell for each request whether its actual, or the time of it, is another than that of the last known before it.

    Where the actual is not known yet, nothing tells that new inputs were due.

    >>> is_new_period(pd.DataFrame({"actual": [0.1, 0.1, 0.2, np.nan, 0.3]})).tolist()
    [False, False, True, False, True]
    """
    new = pd.Series(False, index=requests.index)
    for column in requests.columns.intersection(["actual", "actual_time"]):
        known, last = requests[column], requests[column].ffill().shift()
        new |= known.notna() & last.notna() & (known != last)
    return new


def actuals_by_period(requests: pd.DataFrame) -> pd.Series:
    """Return the known actuals in order of time, one for each period however many requests asked for it.

    Requests for two periods may alternate, so rows of one actual (and time of it, and inputs) are one period wherever
    they stand.

    >>> actuals_by_period(pd.DataFrame({"actual": [0.1, 0.2, 0.1, 0.2, np.nan, 0.3]})).tolist()
    [0.1, 0.2, 0.3]
    """
    known = requests.dropna(subset=["actual"])
    told = [*known.columns.intersection(["actual", "actual_time"]), *feature_columns(known)]
    one_each: pd.Series = known.drop_duplicates(told)["actual"]
    return one_each


@dataclass(frozen=True)
class Symptom:
    """A series that may show that something is wrong, by request time, and which change of its mean is large.

    Where `unit` is `×`, the series holds logarithms.
    """

    name: str
    series: pd.Series
    unit: str
    is_large: Callable[[float, float], bool]


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

    objective = criteria.coverage_objective
    return (
        Symptom("interval misses", misses(requests), "share", lambda _, after: 1 - after < objective),
        Symptom("errors", by_time(failed(requests), time), "share", rises(criteria.error_share)),
        Symptom("latency", by_time(log_latency(requests), time), "×", slower),
        Symptom("missing workers", missing_workers(recording), "share", rises(MISSING)),
        Symptom("broken rows", by_time(breaches.any(axis=1), time), "share", rises(criteria.broken_share)),
        Symptom("rows out of order", out_of_order(recording), "share", rises(OUT_OF_ORDER)),
        Symptom("size of the inputs", input_size(recording), "×", moves(criteria.spread_factor)),
        Symptom("size of the actuals", actual_size(requests), "×", moves(criteria.spread_factor)),
    )


def changes_of(
    recording: Recording, breaches: pd.DataFrame, criteria: Criteria
) -> Iterator[tuple[Symptom, ChangePoint | None]]:
    """Give each symptom with its change point, where it has one."""
    for symptom in symptoms(recording, breaches, criteria):
        yield symptom, change_point(symptom.series)


def find_onset(recording: Recording, breaches: pd.DataFrame, criteria: Criteria) -> tuple[pd.Timestamp, str]:
    """Return when the incident began, and what that time rests on.

    The first symptom with a change point that is large, and not by chance, decides; but where requests were slow
    before they were refused, the slowness does. What moved well after the alert did not bring it, so a symptom that
    moved before comes first. Without any, the first alert; without one, the middle of the window.
    """
    alerted = min((pd.Timestamp(alert.starts_at) for alert in recording.incident.alerts), default=None)
    found = {
        symptom.name: onset_of(change)
        for symptom, change in changes_of(recording, breaches, criteria)
        if change and change.p_value < criteria.alpha and symptom.is_large(change.before, change.after)
    }
    for name in sorted(found, key=lambda one: alerted is not None and found[one] > _soon(recording, alerted)):
        first = min({name, "latency"} & set(found), key=found.__getitem__) if name == "errors" else name
        return found[first], f"change point of {first}"
    window = recording.incident.window
    if alerted is not None:
        return alerted, "start of the alert"
    return pd.Timestamp(window.start + (window.end - window.start) / 2), "middle of the window"


NEAR_ROWS = 20
"""A change point is only known to so many requests."""


def _soon(recording: Recording, moment: pd.Timestamp) -> pd.Timestamp:
    """Return until when a change point may lie that is at a moment."""
    times = recording.requests["time"]
    return pd.Timestamp(times[times >= moment].head(NEAR_ROWS).max()) if (times >= moment).any() else moment


def onset_table(case: Case) -> pd.DataFrame:
    """Return what moved and when: for every symptom its change point, the mean before and since, and what it means.

    Returns
    -------
    DataFrame
        `symptom`, `since` (UTC), `before`, `after` (geometric means where the unit is `×`), `change` (after − before,
        or after ÷ before where the unit is `×`), `unit`, `p`, `counts` (whether it is large, and not by chance).
        A symptom that never varies has no change point and no row.
    """
    rows = []
    for symptom, change in case.changes:
        if change:
            counts = change.p_value < case.criteria.alpha and symptom.is_large(change.before, change.after)
            before, after = change.before, change.after
            if symptom.unit == "×":
                before, after = float(np.exp(before)), float(np.exp(after))
            amount = after / before if symptom.unit == "×" else after - before
            rows.append((symptom.name, onset_of(change), before, after, amount, symptom.unit, change.p_value, counts))
    return pd.DataFrame(rows, columns=["symptom", "since", "before", "after", "change", "unit", "p", "counts"])


LONG_WINDOW = pd.Timedelta(days=14)
"""A time within a window as long as this is told by its day alone."""


def time_format(recording: Recording) -> str:
    """Return how the times of a recording are written: days where it spans weeks, seconds where it spans minutes."""
    window = recording.incident.window
    return "%Y-%m-%d" if window.end - window.start >= LONG_WINDOW else "%Y-%m-%d %H:%M:%S"


def onset_of(change: ChangePoint) -> pd.Timestamp:
    """Return the time of a change in a series indexed by time."""
    return pd.Timestamp(change.label)  # type: ignore[arg-type]  # a label may be anything, here it is a time


def by_time(values: pd.Series, time: pd.DatetimeIndex) -> pd.Series:
    """Return a series of numbers indexed by time."""
    return values.astype(float).set_axis(time)


def misses(requests: pd.DataFrame) -> pd.Series:
    """Return 1.0 for each answered request whose actual fell outside the interval, else 0.0, by request time."""
    judged = requests.dropna(subset=["lower", "upper", "actual"])
    return by_time(~covered(judged, judged["actual"]), pd.DatetimeIndex(judged["time"]))


def rolling_coverage(requests: pd.DataFrame, window: int) -> pd.Series:
    """Return the share of the last `window` judged requests whose actual the interval held, by request time.

    >>> times = pd.date_range("2008-01-01", periods=4, tz="UTC")
    >>> requests = pd.DataFrame({"time": times, "lower": -1.0, "upper": 1.0, "actual": [0.0, 2.0, 0.5, 0.0]})
    >>> rolling_coverage(requests, window=2).tolist()
    [nan, 0.5, 0.5, 1.0]
    """
    return (1 - misses(requests)).rolling(window).mean()


def failed(requests: pd.DataFrame) -> pd.Series:
    """Tell for each request whether the service failed it, or refused it because too many waited (status 429)."""
    return requests["status"].ge(500) | requests["status"].eq(429)


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


def actual_size(requests: pd.DataFrame) -> pd.Series:
    """Return, by request time, the logarithm of each known actual's distance from their median."""
    actual = requests.dropna(subset=["actual"]).set_index("time")["actual"]
    size = (actual - actual.median()).abs()
    return size.where(size > 0).transform(np.log)

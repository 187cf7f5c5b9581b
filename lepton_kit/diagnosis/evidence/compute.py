"""Evidence of the compute: latency, queue, errors, load, memory and workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence.base import (
    FEWEST_SCRAPES,
    NEEDS,
    Evidence,
    NotCheckedError,
    answer,
    counts_by_itself,
    evidence,
    honest_p_value,
    need_rows,
    onset_in,
    scrapes_of,
    share_p_value,
    share_rose,
    split,
)
from lepton_kit.diagnosis.onset import MISSING, answering_workers, by_time, expected_workers, failed, log_latency
from lepton_kit.telemetry.health import NO_SAMPLES, gauge, growth, mean_seconds
from lepton_kit.telemetry.signals import ROLES


@evidence()
def latency(case: Case) -> Evidence:
    """Answer whether requests took longer: `grew` or `steady`.

    The median and the 95th percentile are compared, as a few slow requests move only the latter, and the larger ratio
    counts, if it leads to times that are felt (`unfelt_ms`). Slow requests come in bursts, so the percentile has grown
    only where most stretches of time since the onset hold more of them than stretches before it (`_stretches`). A
    change point of the latency that counts in `onset_table` is growth too, wherever it lies. Where no request tells its
    latency, the means of the service's own histogram are compared.
    """
    if NEEDS["requests.latency_ms"].lacking(case):
        return _answers_later(case, "latency")
    before, during = (np.exp(log_latency(side)).dropna() for side in (case.before, case.during))
    need_rows(case, before, during, "measured latencies")
    was, since = before.quantile([0.5, 0.95]), during.quantile([0.5, 0.95])
    tails = before > was[0.95], during > was[0.95]
    burst_p = float(scipy.stats.mannwhitneyu(*map(_stretches, tails)).pvalue)
    p_values = float(scipy.stats.mannwhitneyu(before, during).pvalue), max(share_p_value(*tails), burst_p)
    growths = zip(since / was, p_values, strict=True)
    ratio, p_value = max(growths, key=lambda growth: (growth[1] < case.criteria.alpha, growth[0]))
    summary = (
        f"median latency {was[0.5]:.3g} ms before and {since[0.5]:.3g} ms since; "
        f"95th percentile {was[0.95]:.3g} ms and {since[0.95]:.3g} ms"
    )
    series = by_time(log_latency(case.requests), pd.DatetimeIndex(case.requests["time"]))
    p_value = honest_p_value(case, "latency", p_value)
    grew = _grew(case, ratio, p_value) or counts_by_itself(case, "latency")
    if grew and since[0.95] < case.criteria.unfelt_ms:
        summary, grew = f"{summary}: nobody waits for less than {case.criteria.unfelt_ms:g} ms", False
    return _grown(case, summary, ratio, p_value, series, grew)


STRETCHES = 10


def _stretches(hits: pd.Series) -> np.ndarray:
    """Return the share of hits in each of `STRETCHES` equally long stretches of rows (batch means; Conway, 1963)."""
    return np.array([part.mean() for part in np.array_split(hits.to_numpy(), STRETCHES)])


def _answers_later(case: Case, role: str) -> Evidence:
    """Answer by the signal of a histogram whether its mean of a scrape grew, to a time that is felt."""
    _need_signals(case, role)
    series = mean_seconds(case.recording, role)
    before, during = scrapes_of(case, series)
    was, since = 1000 * float(before.median()), 1000 * float(during.median())
    p_value = float(scipy.stats.mannwhitneyu(before, during).pvalue)
    grew = _grew(case, since / was, p_value) and since >= case.criteria.unfelt_ms
    told = f"{ROLES[role].meaning}: {was:.3g} ms before and {since:.3g} ms since (median of the scrapes' means)"
    return _grown(case, told, since / was, p_value, series, grew)


def _need_signals(case: Case, *roles: str) -> None:
    if lacking := case.recording.lacking(*roles):
        raise NotCheckedError(lacking)


@evidence(needs=("signals.time_to_first_token",))
def time_to_first_token(case: Case) -> Evidence:
    """Answer whether the first token of an answer came later: `grew` or `steady`."""
    return _answers_later(case, "time_to_first_token")


@evidence(needs=("signals.time_per_output_token",))
def time_per_output_token(case: Case) -> Evidence:
    """Answer whether the tokens of an answer came slower: `grew` or `steady`."""
    return _answers_later(case, "time_per_output_token")


@evidence(needs=("signals.queue_length",))
def queue(case: Case) -> Evidence:
    """Answer whether a queue grew: `grew` or `steady`."""
    values = gauge(case.recording.samples("queue_length"))
    before, during = split(values, case.onset)
    need_rows(case, before, during, "values of the queue")
    # One waiting request more on either side, so that an empty queue has a ratio too.
    ratio = float((during.mean() + 1) / (before.mean() + 1))
    p_value = float(scipy.stats.mannwhitneyu(before, during).pvalue)
    summary = f"mean queue {before.mean():.3g} before and {during.mean():.3g} since"
    return _grown(case, summary, ratio, p_value, values, _grew(case, ratio, p_value))


@evidence()
def errors(case: Case) -> Evidence:
    """Answer whether the service failed (status 500 and above) or refused (429) more requests: `grew` or `steady`.

    A change point of the errors that counts in `onset_table` is growth too, wherever it lies. Where no request tells
    its status, the service's own counters do.
    """
    if NEEDS["requests.status"].lacking(case):
        return _counted_share(case, "errors")
    return share_rose(
        case, failed(case.requests), case.criteria.error_share,
        lambda before, since: f"{before:.1%} of requests failed before and {since:.1%} since", symptom="errors",
    )  # fmt: skip


def _grew(case: Case, ratio: float, p_value: float) -> bool:
    return ratio >= case.criteria.slower_factor and p_value < case.criteria.alpha


def _grown(case: Case, told: str, ratio: float, p_value: float, series: pd.Series, grew: bool) -> Evidence:
    return answer("grew" if grew else "steady", told, ratio, "×", p_value, onset_in(series, case) if grew else None)


@evidence()
def refusals(case: Case) -> Evidence:
    """Answer whether more requests were refused for the load or found no worker: `grew` or `steady`.

    These are the statuses 429, 502, 503 and 504; or what the service's own counters say.
    """
    if NEEDS["requests.status"].lacking(case):
        return _counted_share(case, "refusals")
    return share_rose(
        case, case.requests["status"].isin(OVERLOADED), case.criteria.error_share,
        lambda before, since: f"{before:.1%} of requests were refused for the load before and {since:.1%} since",
    )  # fmt: skip


OVERLOADED = (429, 502, 503, 504)


def _counted_share(case: Case, role: str) -> Evidence:
    """Answer by the service's own counters whether more requests of a kind came, of all that it counts."""
    _need_signals(case, role, "requests_total")
    kind, every = (growth(case.recording.samples(name)) for name in (role, "requests_total"))
    counted = [float(side.sum()) for side in split(kind, case.onset)]
    others = [max(0.0, float(side.sum()) - own) for side, own in zip(split(every, case.onset), counted, strict=True)]
    totals = [own + other for own, other in zip(counted, others, strict=True)]  # some servers count answers alone
    _need_counted(case, totals)
    was, since = (own / total for own, total in zip(counted, totals, strict=True))
    p_value = float(scipy.stats.fisher_exact(np.round([counted, others]).astype(int)).pvalue)
    grew = since - was >= case.criteria.error_share and p_value < case.criteria.alpha
    told = f"{ROLES[role].meaning}: {was:.1%} of all before and {since:.1%} since, as the service counts them"
    onset = onset_in(kind, case) if grew else None
    return answer("grew" if grew else "steady", told, since - was, "change of share", p_value, onset)


def _need_counted(case: Case, counts: list[float]) -> None:
    if min(counts) < case.criteria.least_rows:
        told = f"{counts[0]:.0f} requests before the onset and {counts[1]:.0f} since"
        raise NotCheckedError(f"{told}; {case.criteria.least_rows} are needed on each side")


@evidence(needs=("signals.queue_time", "signals.service_time"))
def queue_or_model(case: Case) -> Evidence:
    """Answer whether requests waited longer, or the model took longer: `waiting`, `computing`, `both` or `neither`.

    From the service's own sums of the time in the queue and in the model. Waiting alone is too much load for the
    workers there are; computing alone is a processor taken away, or a slower model.
    """
    roles = {"waiting": "queue_time", "computing": "service_time"}
    sides = {name: scrapes_of(case, mean_seconds(case.recording, role)) for name, role in roles.items()}
    means = {name: [1000 * float(side.mean()) for side in both] for name, both in sides.items()}
    grew = [name for name, both in sides.items() if _takes_longer(*both, case)]
    summary = (
        f"mean time in the queue {means['waiting'][0]:.3g} ms before and {means['waiting'][1]:.3g} ms since; in the "
        f"model {means['computing'][0]:.3g} ms and {means['computing'][1]:.3g} ms"
    )
    ratio = max(after / before if before > 0 else 1.0 for before, after in means.values())
    return answer("both" if len(grew) == 2 else grew[0] if grew else "neither", summary, ratio, "×")


def _takes_longer(before: pd.Series, during: pd.Series, case: Case) -> bool:
    """Tell whether a mean time grew by a factor, not by chance, and by an amount that a user could feel in a sum."""
    p_value = float(scipy.stats.mannwhitneyu(before, during, alternative="less").pvalue)
    rose = during.mean() >= case.criteria.slower_factor * before.mean()
    return bool(rose and p_value < case.criteria.alpha and 1000 * (during.mean() - before.mean()) >= FELT_PART_MS)


FELT_PART_MS = 10.0


@evidence(needs=("signals.memory",))
def memory(case: Case) -> Evidence:
    """Answer whether the workers' memory kept growing since the onset: `grew` or `steady`."""
    largest = case.recording.samples("memory").groupby("time")["value"].max()
    if len(largest) < 2 * FEWEST_SCRAPES:
        raise NotCheckedError(f"{len(largest)} samples of the workers' memory")
    rise, keeps = memory_growth(largest)
    grew = rise >= LEAK and keeps >= KEEPS
    summary = (
        f"memory of the largest worker {largest.iloc[0] / 2**20:.4g} MiB at first, at most {largest.max() / 2**20:.4g} "
        f"MiB; it rose in {keeps:.0%} of the stretches that it changed in"
    )
    onset = onset_in(largest, case) if grew else None
    return answer("grew" if grew else "steady", summary, rise, "part of the memory at first", onset=onset)


LEAK, KEEPS = 0.2, 0.7


def memory_growth(memory: pd.Series) -> tuple[float, float]:
    """Return by which part of its first value memory rose at most, and in which share of its steps it did not fall.

    A leak rises step by step; a burst of work rises and falls.

    >>> memory_growth(pd.Series([100.0, 125.0, 130.0, 140.0, 150.0]))
    (0.5, 1.0)
    >>> memory_growth(pd.Series([100.0, 150.0, 100.0, 150.0, 100.0]))
    (0.5, 0.5)
    """
    steps = memory.diff().dropna()
    moved = steps[steps != 0]
    first = float(memory.head(3).median()) if len(memory) > 5 else float(memory.iloc[0])
    return float(memory.max() / first - 1) if first > 0 else 0.0, float((moved > 0).mean()) if len(moved) else 0.0


@evidence()
def restarts(case: Case) -> Evidence:
    """Answer whether workers were started within the window, after its first scrape: `restarted` or `none`.

    By the service's own count, or by the times at which its processes were started.
    """
    lacking = [case.recording.lacking(role) for role in ("restarts", "start_time")]
    if all(lacking):
        raise NotCheckedError("; ".join(lacking))
    if lacking[0]:
        times = case.recording.samples("start_time").pivot_table(index="time", columns="labels", values="value")
        grown = times.diff().gt(1.0).sum(axis=1)  # s; the same start is reported less exactly
    else:
        grown = growth(case.recording.samples("restarts"))
    started = float(grown.sum())
    summary = f"{started:.0f} workers were started within the window"
    if started < 1:
        return answer("none", summary, started, "workers")
    return answer("restarted", summary, started, "workers", onset=pd.Timestamp(grown[grown > 0].index[0]))


@evidence()
def workers(case: Case) -> Evidence:
    """Answer whether workers were lost: `fewer` or `as many`; from those that answer, and whether scrapes did."""
    answering, up = answering_workers(case.recording), gauge(case.recording.samples("up"))
    if answering.empty and up.empty:
        raise NotCheckedError(case.recording.lacking("workers", "up"))
    lost, since = workers_lost(answering)
    down = float((up < up.max()).mean()) if len(up) else 0.0
    finding = "fewer" if max(lost, down) >= MISSING else "as many"
    summary = f"{lost:.0%} of the workers missing on average since the first was; {down:.0%} of the scrapes failed"
    return answer(finding, summary, max(lost, down), "share", onset=since if lost >= MISSING else None)


FEWEST_MISSING = 3
"""A worker that is missing for fewer scrapes was started again in time."""


def workers_lost(answering: pd.Series) -> tuple[float, pd.Timestamp | None]:
    """Return which share of the workers is missing on average since the first was, and since when.

    As many as there were at first are expected.

    >>> time = pd.date_range("2026-01-01", periods=8, freq="10s", tz="UTC")
    >>> workers_lost(pd.Series([2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0], time))
    (0.5, Timestamp('2026-01-01 00:00:40+0000', tz='UTC'))
    """
    expected = expected_workers(answering)
    missing = answering[answering < expected]
    if expected <= 0 or len(missing) < FEWEST_MISSING:
        return 0.0, None
    first = pd.Timestamp(missing.index[0])
    return float(max(0.0, 1 - answering[answering.index >= first].mean() / expected)), first


@evidence()
def saturation(case: Case) -> Evidence:
    """Answer whether the service had hardly any room left: `saturated`, `rising`, `full` (as before) or `idle`.

    By the first that is known: how full the resource is that runs out first, such as a cache; the time that workers
    were at work, over the time that all had (ρ = λ · s / c; above about 0.8 queues grow without bound in bursts); the
    part of the time in which GPUs, or else processors, were at work. `rising` is one that doubled and still left room.
    """
    told, used = next(((told, used) for told, used in _loads(case) if len(used)), ("", NO_SAMPLES))
    if used.empty:
        roles = ("saturation", "workers", "busy_seconds", "gpu_utilisation", "idle_seconds")
        raise NotCheckedError(case.recording.lacking(*roles))
    before, during = scrapes_of(case, used)
    was, since = float(before.median()), float(during.median())
    rose = since >= case.criteria.slower_factor * was and since >= NOTABLE
    is_full = since >= SATURATED
    finding = "saturated" if is_full and since > 1.2 * was else "rising" if rose else "full" if is_full else "idle"
    summary = f"{told}: {was:.0%} before and {since:.0%} since"
    return answer(finding, summary, since, "share", onset=onset_in(used, case) if rose else None)


SATURATED, NOTABLE = 0.8, 0.2


def _loads(case: Case) -> Iterator[tuple[str, pd.Series]]:
    """Give what tells how loaded the service was, in order of preference: in words, and as a share by time."""
    samples = case.recording.samples
    yield "the resource that runs out first was in use", samples("saturation").groupby("time")["value"].mean()
    busy, count = growth(samples("busy_seconds")), answering_workers(case.recording)
    if len(busy) and len(count):
        yield "part of the workers' time at work", utilisation(busy, count).dropna()
    yield "part of the time in which a GPU was at work", samples("gpu_utilisation").groupby("time")["value"].mean()
    idle = samples("idle_seconds")
    processors = pd.Series(float(idle["labels"].nunique()), growth(idle).index)
    yield "part of the processors' time at work", (1 - utilisation(growth(idle), processors)).dropna()


def utilisation(busy: pd.Series, workers: pd.Series) -> pd.Series:
    """Return which share of their time workers were at work, from seconds of work since the scrape before.

    >>> time = pd.to_datetime([10, 20], unit="s", utc=True)
    >>> utilisation(pd.Series([5.0, 16.0], time), pd.Series([2.0, 2.0], time)).tolist()
    [nan, 0.8]
    """
    seconds = busy.index.to_series().diff().dt.total_seconds()
    share: pd.Series = busy / (seconds * workers.reindex(busy.index).ffill())
    return share.replace([np.inf, -np.inf], np.nan)


@evidence()
def arrivals(case: Case) -> Evidence:
    """Answer whether requests came more often since the onset: `surged`, `fell` or `steady`.

    More requests are no fault: whether they were too many, latency and queue tell.
    """
    window = case.recording.incident.window
    counts = [float(len(case.before)), float(len(case.during))]
    if case.requests.empty and not case.recording.lacking("requests_total"):
        grown = growth(case.recording.samples("requests_total"))
        counts = [float(side.sum()) for side in split(grown, case.onset)]
    _need_counted(case, counts)
    was = counts[0] / max((case.onset - pd.Timestamp(window.start)).total_seconds(), 1e-9)
    since = counts[1] / max((pd.Timestamp(window.end) - case.onset).total_seconds(), 1e-9)
    ratio = since / was
    finding = "surged" if ratio >= SURGE else "fell" if ratio <= 1 / SURGE else "steady"
    return answer(finding, f"{was:.3g} requests a second before and {since:.3g} since", ratio, "×")


SURGE = 1.5

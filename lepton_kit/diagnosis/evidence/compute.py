"""Evidence of the compute: latency, queue, errors, load, memory and workers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence.base import (
    Evidence,
    counts_by_itself,
    evidence,
    honest_p_value,
    not_checked,
    onset_in,
    share_p_value,
    share_rose,
    too_few,
)
from lepton_kit.diagnosis.evidence.samples import gauge, growth, ratio_of_growth
from lepton_kit.diagnosis.onset import MISSING, answering_workers, by_time, expected_workers, failed, log_latency


@evidence(needs=("requests.latency_ms",))
def latency(case: Case) -> Evidence:
    """Answer whether requests took longer: `grew` or `steady`.

    The median and the 95th percentile are compared, as a few slow requests move only the latter, and the larger ratio
    counts, if it leads to times that are felt (`unfelt_ms`). Slow requests come in bursts, so the percentile has grown
    only where most stretches of time since the onset hold more of them than stretches before it (`_stretches`). A
    change point of the latency that counts in `onset_table` is growth too, wherever it lies.
    """
    before, during = (np.exp(log_latency(side)).dropna() for side in (case.before, case.during))
    if few := too_few(case, before, during, "measured latencies"):
        return not_checked("latency", few)
    was, since = before.quantile([0.5, 0.95]), during.quantile([0.5, 0.95])
    tails = before > was[0.95], during > was[0.95]
    burst_p = float(stats.mannwhitneyu(*map(_stretches, tails)).pvalue)
    p_values = float(stats.mannwhitneyu(before, during).pvalue), max(share_p_value(*tails), burst_p)
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
    return _compute_evidence("latency", case, summary, ratio, p_value, series, grew)


STRETCHES = 10


def _stretches(hits: pd.Series) -> np.ndarray:
    """Return the share of hits in each of `STRETCHES` equally long stretches of rows (batch means; Conway, 1963)."""
    return np.array([part.mean() for part in np.array_split(hits.to_numpy(), STRETCHES)])


COUNTED = ("_total", "_count", "_sum", "_bucket", "_created")
"""Endings of series that only ever grow: how many waited so far says nothing of how many wait."""


@evidence()
def queue(case: Case) -> Evidence:
    """Answer whether a queue grew, of all gauges with queue in their name: `grew` or `steady`."""
    metrics = case.recording.metrics
    named = metrics["metric"].str.contains("queue", case=False, regex=False)
    series = metrics[named & ~metrics["metric"].str.endswith(COUNTED)]
    if series.empty:
        return not_checked("queue", "no metric with queue in its name was recorded")
    values = series.groupby("time")["value"].max()
    before, during = values[values.index < case.onset], values[values.index >= case.onset]
    if few := too_few(case, before, during, "values of the queue"):
        return not_checked("queue", few)
    # One waiting request more on either side, so that an empty queue has a ratio too.
    ratio = float((during.mean() + 1) / (before.mean() + 1))
    p_value = float(stats.mannwhitneyu(before, during).pvalue)
    summary = f"mean queue {before.mean():.3g} before and {during.mean():.3g} since"
    return _compute_evidence("queue", case, summary, ratio, p_value, values, _grew(case, ratio, p_value))


@evidence(needs=("requests.status",))
def errors(case: Case) -> Evidence:
    """Answer whether the service failed (status 500 and above) or refused (429) more requests: `grew` or `steady`.

    A change point of the errors that counts in `onset_table` is growth too, wherever it lies.
    """
    return share_rose(
        "errors", case, failed(case.requests), case.criteria.error_share,
        lambda before, since: f"{before:.1%} of requests failed before and {since:.1%} since", symptom="errors",
    )  # fmt: skip


def _grew(case: Case, ratio: float, p_value: float) -> bool:
    return ratio >= case.criteria.slower_factor and p_value < case.criteria.alpha


def _compute_evidence(
    name: str, case: Case, summary: str, effect: float, p_value: float, series: pd.Series, grew: bool
) -> Evidence:
    since = onset_in(series, case) if grew else None
    return Evidence(name, "grew" if grew else "steady", summary, effect, "×", p_value, since)


@evidence(needs=("requests.status",))
def refusals(case: Case) -> Evidence:
    """Answer whether more requests were refused for the load or found no worker: `grew` or `steady`.

    These are the statuses 429, 502, 503 and 504.
    """
    return share_rose(
        "refusals", case, case.requests["status"].isin(OVERLOADED), case.criteria.error_share,
        lambda before, since: f"{before:.1%} of requests were refused for the load before and {since:.1%} since",
    )  # fmt: skip


OVERLOADED = (429, 502, 503, 504)


@evidence()
def queue_or_model(case: Case) -> Evidence:
    """Answer whether requests waited longer, or the model took longer: `waiting`, `computing`, `both` or `neither`.

    From the service's own sums of the time in the queue and in the model. Waiting alone is too much load for the
    workers there are; computing alone is a processor taken away, or a slower model.
    """
    times = {}
    for name, metric in (("waiting", "lepton_queue_seconds"), ("computing", "lepton_model_seconds")):
        total, count = (growth(case.samples.get(f"{metric}_{ending}")) for ending in ("sum", "count"))
        times[name] = ratio_of_growth(total, count).dropna()
    if min(map(len, times.values())) == 0:
        return not_checked("queue_or_model", "the times in the queue and in the model were not recorded")
    split = {name: _split(series, case.onset) for name, series in times.items()}
    if min(len(side) for sides in split.values() for side in sides) < FEWEST_SCRAPES:
        return not_checked("queue_or_model", f"fewer than {FEWEST_SCRAPES} scrapes on either side of the onset")
    means = {name: tuple(1000 * float(side.mean()) for side in sides) for name, sides in split.items()}
    grew = [name for name, sides in split.items() if _takes_longer(*sides, case)]
    return Evidence(
        name="queue_or_model",
        finding="both" if len(grew) == 2 else grew[0] if grew else "neither",
        summary=f"mean time in the queue {means['waiting'][0]:.3g} ms before and {means['waiting'][1]:.3g} ms since; "
        f"in the model {means['computing'][0]:.3g} ms and {means['computing'][1]:.3g} ms",
        effect=max(after / before if before > 0 else 1.0 for before, after in means.values()),
        unit="×",
    )


FEWEST_SCRAPES = 5


def _split(series: pd.Series, onset: pd.Timestamp) -> tuple[pd.Series, pd.Series]:
    return series[series.index < onset], series[series.index >= onset]


def _takes_longer(before: pd.Series, during: pd.Series, case: Case) -> bool:
    """Tell whether a mean time grew by a factor, not by chance, and by an amount that a user could feel in a sum."""
    p_value = float(stats.mannwhitneyu(before, during, alternative="less").pvalue)
    rose = during.mean() >= case.criteria.slower_factor * before.mean()
    return bool(rose and p_value < case.criteria.alpha and 1000 * (during.mean() - before.mean()) >= FELT_PART_MS)


FELT_PART_MS = 10.0


@evidence()
def memory(case: Case) -> Evidence:
    """Answer whether the workers' memory kept growing since the onset: `grew` or `steady`."""
    samples = case.samples.get("lepton_worker_resident_memory_bytes")
    if samples is None:
        return not_checked("memory", "the memory of the workers was not recorded")
    largest = samples.groupby("time")["value"].max()
    if len(largest) < 2 * FEWEST_SCRAPES:
        return not_checked("memory", f"{len(largest)} samples of the workers' memory")
    rise, keeps = memory_growth(largest)
    grew = rise >= LEAK and keeps >= KEEPS
    return Evidence(
        name="memory",
        finding="grew" if grew else "steady",
        summary=f"memory of the largest worker {largest.iloc[0] / 2**20:.4g} MiB at first, at most "
        f"{largest.max() / 2**20:.4g} MiB; it rose in {keeps:.0%} of the stretches that it changed in",
        effect=rise,
        unit="part of the memory at first",
        onset=onset_in(largest, case) if grew else None,
    )


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
    """Answer whether workers were started within the window, after its first scrape: `restarted` or `none`."""
    samples = case.samples.get("lepton_worker_starts_total")
    if samples is None:
        return not_checked("restarts", "the starts of workers were not recorded")
    grown = growth(samples)
    started = float(grown.sum())
    return Evidence(
        name="restarts",
        finding="restarted" if started >= 1 else "none",
        summary=f"{started:.0f} workers were started within the window",
        effect=started,
        unit="workers",
        onset=pd.Timestamp(grown[grown > 0].index[0]) if started >= 1 else None,
    )


@evidence()
def workers(case: Case) -> Evidence:
    """Answer whether workers were lost: `fewer` or `as many`; from those that answer, and whether scrapes did."""
    answering, up = answering_workers(case.recording), gauge(case.samples.get("up"))
    if answering.empty and up.empty:
        return not_checked("workers", "neither the workers nor whether the service was up was recorded")
    lost, since = workers_lost(answering)
    down = float((up < up.max()).mean()) if len(up) else 0.0
    return Evidence(
        name="workers",
        finding="fewer" if max(lost, down) >= MISSING else "as many",
        summary=f"{lost:.0%} of the workers missing on average since the first was; {down:.0%} of the scrapes failed",
        effect=max(lost, down),
        unit="share",
        onset=since if lost >= MISSING else None,
    )


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
    """Answer whether the workers had hardly a moment left: `saturated`, `rising` or `idle`.

    Utilisation is the time that the model was at work, over the time that all workers had (ρ = λ · s / c; above about
    0.8 queues grow without bound in bursts). `rising` is a utilisation that doubled and still left room.
    """
    busy, count = growth(case.samples.get("lepton_model_seconds_sum")), answering_workers(case.recording)
    if busy.empty or count.empty:
        return not_checked("saturation", "the model's time, or the number of workers, was not recorded")
    used = utilisation(busy, count).dropna()
    before, during = _split(used, case.onset)
    if min(len(before), len(during)) < FEWEST_SCRAPES:
        return not_checked("saturation", f"{len(before)} scrapes before the onset and {len(during)} since")
    was, since = float(before.median()), float(during.median())
    rose = since >= case.criteria.slower_factor * was and since >= NOTABLE
    return Evidence(
        name="saturation",
        finding="saturated" if since >= SATURATED and since > 1.2 * was else "rising" if rose else "idle",
        summary=f"the model was at work in {was:.0%} of the workers' time before and {since:.0%} since",
        effect=since,
        unit="share of the workers' time",
        onset=onset_in(used, case) if rose else None,
    )


SATURATED, NOTABLE = 0.8, 0.2


def utilisation(busy: pd.Series, workers: pd.Series) -> pd.Series:
    """Return which share of their time workers were at work between scrapes.

    Parameters
    ----------
    busy
        Seconds of work since the scrape before, by time.
    workers
        Workers at each scrape.

    Examples
    --------
    >>> time = pd.to_datetime([10, 20], unit="s", utc=True)
    >>> utilisation(pd.Series([5.0, 16.0], time), pd.Series([2.0, 2.0], time)).tolist()
    [nan, 0.8]
    """
    seconds = busy.index.to_series().diff().dt.total_seconds()
    share: pd.Series = busy / (seconds * workers.reindex(busy.index).ffill())
    return share.replace([np.inf, -np.inf], np.nan)


@evidence(needs=("requests",))
def arrivals(case: Case) -> Evidence:
    """Answer whether requests came more often since the onset: `surged`, `fell` or `steady`.

    More requests are no fault: whether they were too many, latency and queue tell.
    """
    start, end = (
        pd.Timestamp(time) for time in (case.recording.incident.window.start, case.recording.incident.window.end)
    )
    if few := too_few(case, case.before, case.during, "requests"):
        return not_checked("arrivals", few)
    was = len(case.before) / max((case.onset - start).total_seconds(), 1e-9)
    since = len(case.during) / max((end - case.onset).total_seconds(), 1e-9)
    ratio = since / was
    return Evidence(
        name="arrivals",
        finding="surged" if ratio >= SURGE else "fell" if ratio <= 1 / SURGE else "steady",
        summary=f"{was:.3g} requests a second before and {since:.3g} since",
        effect=ratio,
        unit="×",
    )


SURGE = 1.5

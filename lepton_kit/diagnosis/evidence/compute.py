"""Evidence of the compute: latency, queue and errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from lepton_kit.diagnosis.case import Case, by_time, failed, log_latency
from lepton_kit.diagnosis.evidence.base import (
    Evidence,
    counts_by_itself,
    honest_p_value,
    not_checked,
    onset_in,
    share_p_value,
    too_few,
)


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


def errors(case: Case) -> Evidence:
    """Answer whether the service failed (status 500 and above) or refused (429) more requests: `grew` or `steady`.

    A change point of the errors that counts in `onset_table` is growth too, wherever it lies.
    """
    before, during = failed(case.before), failed(case.during)
    if few := too_few(case, before, during, "requests"):
        return not_checked("errors", few)
    rise = float(during.mean() - before.mean())
    p_value = honest_p_value(case, "errors", share_p_value(before, during))
    grew = rise >= case.criteria.error_share and p_value < case.criteria.alpha
    summary = f"{before.mean():.1%} of requests failed before and {during.mean():.1%} since"
    series = by_time(failed(case.requests), pd.DatetimeIndex(case.requests["time"]))
    grew = grew or counts_by_itself(case, "errors")
    return _compute_evidence("errors", case, summary, rise, p_value, series, grew, unit="change of share")


def _grew(case: Case, ratio: float, p_value: float) -> bool:
    return ratio >= case.criteria.slower_factor and p_value < case.criteria.alpha


def _compute_evidence(
    name: str,
    case: Case,
    summary: str,
    effect: float,
    p_value: float,
    series: pd.Series,
    grew: bool,
    unit: str = "×",
) -> Evidence:
    return Evidence(
        name=name,
        finding="grew" if grew else "steady",
        summary=summary,
        effect=effect,
        unit=unit,
        p_value=p_value,
        onset=onset_in(series, case) if grew else None,
    )

"""Compares a new version of a model with the old one while both answer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from lepton_kit.errors import InputError
from lepton_kit.models.tasks import TASKS, Task
from lepton_kit.stats import difference_interval

Verdict = Literal["worse", "not worse", "not known"]


@dataclass(frozen=True)
class Counts:
    """What one version did in some time, as the service counts it.

    `slower` holds, for each bound of a bucket in seconds, how many requests took no longer; `width` is the sum over
    `forecasts` of the interval's width (log return per day); `inside` of `actuals` answers were hits; `loss` and
    `loss_squares` are sums over `losses` of what answers lost, by the measure of their task.
    """

    requests: float = 0.0
    failed: float = 0.0
    slower: Mapping[float, float] = field(default_factory=dict)
    width: float = 0.0
    forecasts: float = 0.0
    inside: float = 0.0
    actuals: float = 0.0
    loss: float = 0.0
    loss_squares: float = 0.0
    losses: float = 0.0

    def since(self, earlier: Counts) -> Counts:
        """Return what has been counted since an earlier reading."""
        slower = {bound: count - earlier.slower.get(bound, 0.0) for bound, count in self.slower.items()}
        return Counts(slower=slower, **{name: getattr(self, name) - getattr(earlier, name) for name in SUMS})


SUMS = ("requests", "failed", "width", "forecasts", "inside", "actuals", "loss", "loss_squares", "losses")


@dataclass(frozen=True)
class Rule:
    """When a new version counts as worse than the old one; each limit is exceeded by both ends of an interval.

    Parameters
    ----------
    minimum_requests
        Requests of the new version that a step needs to be judged.
    error_margin
        By how much its share of requests without a forecast may be higher (0.01 is one in a hundred).
    latency_quantile
        Which quantile of the latency is compared; the 99th percentile would need 400 requests of each version before
        its interval has two ends.
    latency_ratio
        How many times as long it may be ...
    latency_good
        ... unless it stays below this, in seconds.
    width_ratio
        How many times as wide, or as narrow, its 90 % intervals may be on average.
    coverage_margin
        By how much less often an answer may be a hit: an interval hold the actual value, a class be the right one.
    loss_margin
        How much more its answers may lose on average, as a part of what the old version's lose.
    z
        Quantile of the normal distribution that the intervals are made with; 1.96 gives 95 %.
    """

    minimum_requests: int = 20
    error_margin: float = 0.01
    latency_quantile: float = 0.95
    latency_ratio: float = 2.0
    latency_good: float = 0.05
    width_ratio: float = 2.0
    coverage_margin: float = 0.05
    loss_margin: float = 0.2
    z: float = 1.96

    def __post_init__(self) -> None:
        for name, held in asdict(self).items():
            is_ratio = name in ("latency_ratio", "width_ratio")
            if not (held > 1 if is_ratio else held >= 1 if name == "minimum_requests" else held > 0):
                allowed = "above 1" if is_ratio else "at least 1" if name == "minimum_requests" else "above 0"
                raise InputError(f"rule of a deployment: {name} = {held!r}: must be {allowed}")


@dataclass(frozen=True)
class Finding:
    """One indicator of both versions, and whether the new one is worse.

    `low` and `high` bound what is compared with the limit: the difference of shares, or the ratio.
    """

    name: str
    old: float | None
    new: float | None
    compared: str
    low: float | None
    high: float | None
    limit: float
    verdict: Verdict

    def in_limits(self) -> tuple[float, float, float] | None:
        """Return `low`, what was found, and `high`, where 0 is as good as the old version and 1 the limit."""
        if self.old is None or self.new is None or self.low is None or self.high is None:
            return None
        if self.compared == "difference":
            return self.low / self.limit, (self.new - self.old) / self.limit, self.high / self.limit
        ends = (self.low, _ratio(self.new, self.old), self.high)
        low, found, high = (math.log(max(end, 1e-9)) / math.log(self.limit) for end in ends)
        return (abs(found),) * 3 if self.low == self.high else (low, found, high)  # a width may change either way


def read_counts(text: str) -> dict[str, Counts]:
    """Return what each version has done since the service started, from the text of its `/metrics`."""
    found: dict[str, dict[str, Any]] = defaultdict(lambda: {**dict.fromkeys(SUMS, 0.0), "slower": {}})
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if version := sample.labels.get("version"):
                _add(found[version], sample.name, sample.labels, sample.value)
    return {version: Counts(**held) for version, held in found.items()}


ADDED = {
    "lepton_forecast_interval_width_sum": "width",
    "lepton_forecast_interval_width_count": "forecasts",
    "lepton_prediction_loss_sum": "loss",
    "lepton_prediction_loss_count": "losses",
    "lepton_prediction_loss_squares_total": "loss_squares",
}


def _add(held: dict[str, Any], name: str, labels: Mapping[str, str], value: float) -> None:
    if name == "lepton_predict_requests_total":
        held["requests"] += value
        held["failed"] += value * (labels["outcome"] != "answered")
    elif name == "lepton_predict_seconds_bucket":
        held["slower"][float(labels["le"])] = value
    elif name in ADDED:
        held[ADDED[name]] += value
    elif name == "lepton_forecast_actuals_total":
        held["actuals"] += value
        held["inside"] += value * (labels["inside"] == "true")


def judge(
    old: Counts, new: Counts, rule: Rule, is_same_time: bool = True, task: Task = TASKS["interval_forecast"]
) -> list[Finding]:
    """Compare what two versions did.

    Parameters
    ----------
    old, new
        Counts of a time with at least `rule.minimum_requests` of the new version.
    is_same_time
        Whether both answered in the same minutes; latencies of different times say more of the machine than of a
        version, and are then not judged.
    task
        What both do: an interval is judged by its width and its hits, any other answer by its hits and its loss.

    Examples
    --------
    >>> old, new = Counts(requests=1000, failed=1), Counts(requests=100, failed=12)
    >>> [(found.name, found.verdict) for found in judge(old, new, Rule())][0]
    ('share of requests without a forecast', 'worse')
    """
    is_interval = task.name == "interval_forecast"
    missed = "share of actual values outside the interval" if is_interval else f"share of answers not {task.promise}"
    return [
        _shares(f"share of requests without a{' forecast' if is_interval else 'n answer'}",
                (old.failed, old.requests), (new.failed, new.requests), rule.error_margin, rule.z),
        _latency(old, new, rule, is_same_time),
        _width(old, new, rule) if is_interval else _loss(old, new, rule, task),
        _shares(missed, (old.actuals - old.inside, old.actuals), (new.actuals - new.inside, new.actuals),
                rule.coverage_margin, rule.z),
    ]  # fmt: skip


def quantile_interval(slower: Mapping[float, float], quantile: float, z: float) -> tuple[float, float, float]:
    """Return a quantile from a histogram, and its interval from the ranks it may lie at (Conover 1999, section 3.2).

    Within a bucket values count as evenly spread, as Prometheus' `histogram_quantile` has it; beyond the last bound
    there is only infinity.

    >>> quantile_interval({0.1: 98.0, 0.2: 100.0, math.inf: 100.0}, 0.5, z=1.96)[0]
    0.05102040816326531
    """
    count = slower[math.inf]
    half = z * math.sqrt(quantile * (1 - quantile) / count)
    value, low, high = (
        _at_rank(slower, share * count) for share in (quantile, max(0.0, quantile - half), quantile + half)
    )
    return value, low, high


def _at_rank(slower: Mapping[float, float], rank: float) -> float:
    below, passed = 0.0, 0.0
    for bound in sorted(slower):
        count = slower[bound]
        if rank <= count and count > passed:
            return below + (bound - below) * (rank - passed) / (count - passed) if math.isfinite(bound) else math.inf
        below, passed = bound, count
    return math.inf


def _shares(name: str, old: tuple[float, float], new: tuple[float, float], limit: float, z: float) -> Finding:
    if not (old[1] and new[1]):
        return Finding(name, None, None, "difference", None, None, limit, "not known")
    low, high = difference_interval(old, new, z)
    return Finding(name, old[0] / old[1], new[0] / new[1], "difference", low, high, limit, _above(low, limit))


def _latency(old: Counts, new: Counts, rule: Rule, is_same_time: bool) -> Finding:
    name, limit = f"{100 * rule.latency_quantile:g}th percentile of the latency, s", rule.latency_ratio
    if not (old.slower.get(math.inf) and new.slower.get(math.inf)):
        return Finding(name, None, None, "ratio", None, None, limit, "not known")
    (was, was_low, was_high), (now, now_low, now_high) = (
        quantile_interval(counts.slower, rule.latency_quantile, rule.z) for counts in (old, new)
    )
    low, high = _ratio(now_low, was_high), _ratio(now_high, was_low)
    verdict: Verdict = _above(low, limit) if now_low > rule.latency_good else "not worse"
    return Finding(name, was, now, "ratio", low, high, limit, verdict if is_same_time else "not known")


def _width(old: Counts, new: Counts, rule: Rule) -> Finding:
    name, limit = "mean width of the 90 % interval", rule.width_ratio
    if not (old.forecasts and new.forecasts and old.width > 0):
        return Finding(name, None, None, "ratio", None, None, limit, "not known")
    was, now = old.width / old.forecasts, new.width / new.forecasts
    ratio = now / was
    verdict: Verdict = "worse" if not 1 / limit <= ratio <= limit else "not worse"
    return Finding(name, was, now, "ratio", ratio, ratio, limit, verdict)


def _loss(old: Counts, new: Counts, rule: Rule, task: Task) -> Finding:
    """Compare what answers lost on average: Welch's interval of the difference, as a part of the old version's loss."""
    name, limit = f"mean {task.loss_name}", rule.loss_margin
    if min(old.losses, new.losses) < 2 or old.loss <= 0:
        return Finding(name, None, None, "difference", None, None, limit, "not known")
    was, now = old.loss / old.losses, new.loss / new.losses
    variances = (
        max(0.0, one.loss_squares / one.losses - (one.loss / one.losses) ** 2) / one.losses for one in (old, new)
    )
    half = rule.z * math.sqrt(sum(variances))
    low, high = ((now - was + end) / was for end in (-half, half))
    return Finding(name, was, now, "difference", low, high, limit, _above(low, limit))


def _ratio(above: float, below: float) -> float:
    if math.isinf(below):
        return 0.0 if math.isfinite(above) else 1.0
    return above / below if below > 0 else math.inf


def _above(low: float, limit: float) -> Verdict:
    return "worse" if low > limit else "not worse"


def as_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON can hold it: what is infinite, beyond the last bucket, becomes None."""
    return {n: None if isinstance(v, float) and not np.isfinite(v) else v for n, v in asdict(finding).items()}

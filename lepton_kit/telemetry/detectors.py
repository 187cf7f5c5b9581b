"""Streaming anomaly detectors for telemetry: one value in, one score in [0, 1] out, in bounded memory.

A detector asks how improbable a value is, given the values before it. `TailDetector` judges the value itself,
`ContextDetector` where the value and its recent means lie among those seen before; `TelemetryDetector`, the one to use,
joins the two and lets one incident sound one alarm. Nothing looks ahead and nothing is trained.

A score says how many decimal digits of improbability there are: `s = d / (d + 3)` with `d = -log₁₀ p`, so that 0.5 is a
tail probability of one in a thousand, 0.25 one in ten, 0.67 one in a million. The tail is taken as exponential. Of
100,000 values of noise, 0 reached 0.67 on a daily cycle with normal noise, 7 with gamma noise, and 48 with Student's t
of 3 degrees of freedom, whose tail is far heavier.

Every detector takes values one by one (`update`) or many at once (`score`), with the same scores to the last bit: what
it compares with is renewed at fixed rows only, and between these all arithmetic is done row by row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.signal import lfilter
from scipy.spatial import cKDTree

from lepton_kit.errors import InputError

Floats = NDArray[np.float64]

HISTORY = 10_000
"""Most past values that a detector compares with: 35 days of samples in 5 minutes."""
WARM_UP = 100
"""Values before the first score above 0: the fewest that have a 95 % quantile with a few values beyond it."""
BODY = 0.95
"""The tail begins at this quantile: late enough to be a tail, early enough to be measured in a short history."""
LEAST_EXCESS = 0.02
"""The least mean excess, as a share of the range between the 5 % and the 95 % quantile: where noise is bounded (a
square wave, a percentage) the measured one is near 0, and the smallest step would count as improbable."""
MOST_DIGITS = 300.0
"""Digits of the smallest probability that a double holds."""
LARGEST = 1e100
"""Values are clipped to ± this, so that their squares stay finite."""
DIGITS_AT_HALF = 3.0
"""Digits of improbability whose score is 0.5: an alarm in a thousand values."""
ALARM = 2 / 3
"""The score from which a value is an anomaly unless said otherwise: six digits."""
SPANS = (5, 20, 80)
"""Spans of the recent means in values: from a burst to a shift that lasts."""
REFERENCES = 3000
"""Most past contexts that a new one is compared with."""
RECENT = 80
"""Contexts that are too recent to compare with: an anomaly would be its own neighbour."""


class Detector(ABC):
    """What all detectors share: rows are scored in blocks, and between two blocks the detector learns.

    A block ends after 100 values, and after each twentieth of what was seen once that is more, so that learning costs
    little however long the history is. Missing and infinite values score 0 and teach nothing.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._block_end = WARM_UP

    def update(self, value: float) -> float:
        """Take the next value and return its score in [0, 1]."""
        return float(self.score([value])[0])

    def score(self, values: ArrayLike) -> Floats:
        """Take the next values (n,) in order and return their scores (n,), the same as `update` gives one by one.

        Raises
        ------
        InputError
            When the values have more than one dimension.
        """
        values = np.asarray(values, dtype=float)
        if values.ndim != 1:
            raise InputError(f"values with {values.ndim} dimensions: a detector takes one series, of one dimension")
        scores = np.zeros(len(values))
        known = np.flatnonzero(np.isfinite(values))
        start = 0
        while start < len(known):
            rows = known[start : start + self._block_end - self._seen]
            scores[rows] = self._score_block(np.clip(values[rows], -LARGEST, LARGEST))
            self._advance(len(rows))
            start += len(rows)
        return scores

    def _advance(self, count: int) -> None:
        self._seen += count
        if self._seen == self._block_end:
            self._learn()
            self._block_end += max(WARM_UP, min(self._seen, HISTORY) // 20)

    @abstractmethod
    def _score_block(self, values: Floats) -> Floats:
        """Return the scores of finite values that lie in one block, and remember the values."""

    @abstractmethod
    def _learn(self) -> None:
        """Renew what values are compared with."""


class History:
    """The last rows of a stream, at most `HISTORY`, in an array that never grows."""

    def __init__(self, width: int) -> None:
        self._rows = np.empty((HISTORY, width))
        self._written = 0

    def append(self, rows: Floats) -> None:
        """Add rows (n, width), n at most `HISTORY`; the oldest make room."""
        places = (self._written + np.arange(len(rows))) % HISTORY
        self._rows[places] = rows
        self._written += len(rows)

    def rows(self) -> Floats:
        """Return the rows (n, width), oldest first."""
        if self._written <= HISTORY:
            return self._rows[: self._written]
        return np.roll(self._rows, -(self._written % HISTORY), axis=0)


class Tail:
    """The upper tail of a sample: exponential beyond a quantile, with the mean excess measured there.

    The excess over a high threshold tends to a generalised Pareto law (Pickands, Ann. Stat. 3, 1975), as in the
    detector SPOT (Siffer et al., KDD 2017); here with shape 0, whose one parameter a short history can carry. What that
    parameter, measured from k excesses of mean m, leaves uncertain makes the tail heavier: the posterior predictive
    of an exponential is (1 + x / km)⁻ᵏ (Gelman et al., Bayesian Data Analysis, 2013, section 2.6).

    Examples
    --------
    >>> tail = Tail(np.random.default_rng(0).exponential(size=100_000))
    >>> tail.digits(np.array([0.0, 4.6, 6.9])).round(1).tolist()  # exp(-4.6) is 0.01, exp(-6.9) is 0.001
    [0.0, 2.0, 3.0]
    """

    def __init__(self, sample: Floats) -> None:
        low, self._from = np.quantile(sample, [1 - BODY, BODY])
        beyond = sample[sample > self._from]
        self._count = max(len(beyond), 1)
        measured = float(np.mean(beyond - self._from)) if len(beyond) else 0.0
        smallest = np.spacing(np.abs(sample).max()) * 1e3  # rounding noise is no excess
        self._excess = max(measured, LEAST_EXCESS * float(self._from - low), float(smallest))

    def digits(self, values: Floats) -> Floats:
        """Return -log₁₀ of the probability of a value as high, 0 below the tail."""
        over = values - self._from
        with np.errstate(over="ignore"):  # beside an excess near 0 a ratio may be infinite
            log_tail = self._count * np.log1p(np.maximum(over, 0) / (self._count * self._excess))
        digits = (log_tail - np.log(1 - BODY)) / np.log(10)
        return np.where(over > 0, np.minimum(digits, MOST_DIGITS), 0.0)


def to_score(digits: Floats) -> Floats:
    """Return digits of improbability as a score in [0, 1].

    >>> to_score(np.array([0.0, 3.0, 6.0])).round(2).tolist()
    [0.0, 0.5, 0.67]
    """
    return digits / (digits + DIGITS_AT_HALF)


def to_digits(score: Floats) -> Floats:
    """Return a score as digits of improbability, the inverse of `to_score`."""
    return DIGITS_AT_HALF * score / (1 - score)


class TailDetector(Detector):
    """How improbable a value is, high or low, by the tails of the values before it.

    Examples
    --------
    >>> values = np.random.default_rng(0).normal(size=1000)
    >>> values[700] = 9.0
    >>> scores = TailDetector().score(values)
    >>> int(scores.argmax()), bool(scores[700] > 0.7)
    (700, True)
    """

    def __init__(self) -> None:
        super().__init__()
        self._history = History(1)
        self._tails: tuple[Tail, Tail] | None = None

    def _score_block(self, values: Floats) -> Floats:
        self._history.append(values[:, None])
        if self._tails is None:
            return np.zeros(len(values))
        high, low = self._tails
        return to_score(np.maximum(high.digits(values), low.digits(-values)))

    def _learn(self) -> None:
        past = self._history.rows()[:, 0]
        self._tails = Tail(past), Tail(-past)


class ContextDetector(Detector):
    """How far the value and its recent means lie from those seen before.

    A context is the value with its exponentially weighted means of a few spans. Its distance to the nearest of the past
    contexts is judged by the tail of such distances: a conformal anomaly detector on nearest neighbours (Burnaev and
    Ishimtsev, arXiv:1608.04585), with means in place of lags. It finds values that are usual in themselves, but not
    where they come: a peak that is missing, a cycle that runs too fast.

    Examples
    --------
    >>> values = np.sin(np.arange(3000) * 2 * np.pi / 100)
    >>> values[2030:2080] = values[2030]  # for half a cycle the value stays where it is
    >>> scores = ContextDetector().score(values + np.random.default_rng(0).normal(scale=0.02, size=3000))
    >>> bool(scores[2030:2080].max() > ALARM > scores[:2030].max())
    True
    """

    def __init__(self, spans: Sequence[int] = SPANS) -> None:
        super().__init__()
        self._weights = [2 / (span + 1) for span in spans]
        self._means: list[Floats] = []
        self._contexts = History(1 + len(spans))
        self._distances = History(1)
        self._past: cKDTree | None = None
        self._tail: Tail | None = None

    def _score_block(self, values: Floats) -> Floats:
        contexts = self._contexts_of(values)
        self._contexts.append(contexts)
        if self._past is None:
            return np.zeros(len(values))
        distances, _ = self._past.query(contexts)
        self._distances.append(distances[:, None])
        return np.zeros(len(values)) if self._tail is None else to_score(self._tail.digits(distances))

    def _contexts_of(self, values: Floats) -> Floats:
        """Return value and means (n, 1 + spans), and remember the means."""
        if not self._means:
            self._means = [np.array([(1 - weight) * values[0]]) for weight in self._weights]
        columns = [values]
        for number, weight in enumerate(self._weights):
            mean, self._means[number] = lfilter([weight], [1, weight - 1], values, zi=self._means[number])
            columns.append(mean)
        return np.column_stack(columns)

    def _learn(self) -> None:
        past = self._contexts.rows()[:-RECENT]
        if len(past) > REFERENCES:
            past = past[np.linspace(0, len(past) - 1, REFERENCES).astype(int)]
        self._past = cKDTree(past, balanced_tree=False, compact_nodes=False, copy_data=True)
        distances = self._distances.rows()[:, 0]
        distances = distances[len(distances) // 2 :]  # the earlier were measured when fewer contexts were known
        if len(distances) >= WARM_UP:
            self._tail = Tail(distances)


class TelemetryDetector(Detector):
    """`TailDetector` and `ContextDetector` together; one incident sounds one alarm.

    Their digits are averaged, and the less surprising one's weigh half: both look at the same value, so that their
    digits may not be added, as Fisher's method does for independent tests; but what both find is surer.

    After an alarm the scores are scaled down to below half its level for a quiet time: 50 values and 3 % of those seen,
    at most 400. What follows an alarm is mostly the same incident, and who has watched a series for long asks for rarer
    alarms.

    Parameters
    ----------
    alarm
        The score that is an alarm, above 0 and at most 1. Lower it where a miss costs more than false alarms do.

    Raises
    ------
    InputError
        When the alarm is out of its range.

    Examples
    --------
    >>> values = np.random.default_rng(0).normal(size=2000)
    >>> values[1500:1510] += 12
    >>> scores = TelemetryDetector().score(values)
    >>> np.flatnonzero(scores >= ALARM).tolist()
    [1500]
    """

    OTHER = 0.5
    QUIET_LEAST, QUIET_SHARE, QUIET_MOST = 50, 0.03, 400

    def __init__(self, alarm: float = ALARM) -> None:
        if not 0 < alarm <= 1:
            raise InputError(f"alarm = {alarm}: must be above 0 and at most 1")
        super().__init__()
        self._alarm = alarm
        self._parts = (TailDetector(), ContextDetector())
        self._quiet_until = 0

    def _score_block(self, values: Floats) -> Floats:
        one, other = (to_digits(part.score(values)) for part in self._parts)
        digits = (np.maximum(one, other) + self.OTHER * np.minimum(one, other)) / (1 + self.OTHER)
        scores = to_score(digits)
        for at in np.flatnonzero(scores >= self._alarm):
            row = self._seen + int(at)
            if row < self._quiet_until:
                scores[at] *= self._alarm / 2
            else:
                quiet = min(self.QUIET_LEAST + int(self.QUIET_SHARE * row), self.QUIET_MOST)
                self._quiet_until = row + 1 + quiet
        return scores

    def _learn(self) -> None:
        """Nothing: the parts learn by themselves."""


def detect(series: pd.Series[float], threshold: float = ALARM) -> pd.DataFrame:
    """Return the score of each value of a series by a new `TelemetryDetector`, and whether it is an anomaly.

    Parameters
    ----------
    series
        Values in order of time; its index becomes the column `time`. Missing ones score 0.
    threshold
        The least score of an anomaly, above 0 and at most 1; 0.5 is one in a thousand, 0.67 one in a million.

    Returns
    -------
    DataFrame
        `time`, `value`, `score` (0 to 1), `is_anomaly`, one row per value.

    Raises
    ------
    InputError
        When the threshold is out of its range, or the index is not in order.

    Examples
    --------
    >>> minutes = pd.date_range("2026-01-01", periods=500, freq="min", tz="UTC")
    >>> latency = pd.Series(np.random.default_rng(0).gamma(9, 5, 500), index=minutes)
    >>> latency.iloc[400] = 900.0
    >>> found = detect(latency)
    >>> found.loc[found["is_anomaly"], "time"].dt.strftime("%H:%M").tolist()
    ['06:40']
    """
    if not series.index.is_monotonic_increasing:
        raise InputError("series: its index must be in order of time; sort it first")
    scores = TelemetryDetector(alarm=threshold).score(series.to_numpy(dtype=float, na_value=np.nan))
    table = {"time": series.index, "value": series.to_numpy(), "score": scores, "is_anomaly": scores >= threshold}
    return pd.DataFrame(table)

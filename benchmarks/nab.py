"""The scoring rules of the Numenta Anomaly Benchmark (NAB), and the corpus as it lies on the disk.

Lavin and Ahmad, Evaluating Real-time Anomaly Detection Algorithms, ICMLA 2015 (arXiv:1510.03336), section II, as their
scorer v1.1 computes it: https://github.com/numenta/NAB. A row whose score reaches the threshold is a detection. In each
window the earliest detection counts, weighed by a scaled sigmoid of its position; each detection outside costs, less
where it closely follows a window; a missed window costs. The first rows of a series are not scored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lepton_kit.errors import InputError

Floats = NDArray[np.float64]

PROBATION_SHARE, PROBATION_MOST = 0.15, 750
"""The share of a series that is not scored, and the most rows of it (15 % of 5,000)."""
OUTSIDE = -1
NEVER = 1.1
"""A threshold above every score: nothing is detected."""


@dataclass(frozen=True)
class Profile:
    """What a detection in a window, a false one and a missed window weigh."""

    true_positive: float
    false_positive: float
    false_negative: float


PROFILES = {
    "standard": Profile(1.0, 0.11, 1.0),
    "reward_low_FP_rate": Profile(1.0, 0.22, 1.0),
    "reward_low_FN_rate": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True)
class Series:
    """One labelled series: `name` is `group/file.csv`, `windows` holds first and last row of each anomaly window."""

    name: str
    time: pd.Series[pd.Timestamp]
    values: Floats
    windows: tuple[tuple[int, int], ...]

    @property
    def group(self) -> str:
        """The folder the series lies in."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Marks:
    """What NAB gives the scored rows of a series, before any detector: `gain` unweighted, `window` its number or -1."""

    rows: NDArray[np.int64]
    gain: Floats
    window: NDArray[np.int64]
    windows: int


def read_corpus(folder: Path) -> list[Series]:
    """Return the labelled series of a folder with `data/*/*.csv` and `labels/combined_windows.json`.

    Raises
    ------
    InputError
        When there are none.
    """
    paths = sorted((folder / "data").glob("*/*.csv"))
    if not paths:
        raise InputError(f"corpus {folder}: has no data/*/*.csv; it is the layout of https://github.com/numenta/NAB")
    windows = json.loads((folder / "labels" / "combined_windows.json").read_text(encoding="utf-8"))
    return [_read_series(path, windows) for path in paths]


def _read_series(path: Path, windows: Mapping[str, list[list[str]]]) -> Series:
    name = f"{path.parent.name}/{path.name}"
    table = pd.read_csv(path, parse_dates=["timestamp"])
    index = pd.Index(table["timestamp"])
    rows = tuple((_first(index, start, name), _first(index, end, name)) for start, end in windows[name])
    return Series(name, table["timestamp"], table["value"].to_numpy(dtype=float), rows)


def _first(index: pd.Index, time: str, name: str) -> int:
    found = np.flatnonzero(index == pd.Timestamp(time))
    if not len(found):
        raise InputError(f"window of {name} at {time}: must begin and end at a row of the series")
    return int(found[0])


def probation(rows: int) -> int:
    """Return how many first rows of a series are not scored.

    >>> probation(1000), probation(20_000)
    (150, 750)
    """
    return min(int(PROBATION_SHARE * rows), PROBATION_MOST)


def scaled_sigmoid(position: Floats | float) -> Floats:
    """Return 2σ(−5y) − 1 of a position y: -1 is a window's left edge, 0 its right; past 3 it is -1 (their eq. 1).

    >>> scaled_sigmoid(np.array([-1.0, -0.5, 0.0, 1.0, 4.0])).round(5).tolist()
    [0.98661, 0.84828, 0.0, -0.98661, -1.0]
    """
    position = np.asarray(position, dtype=float)
    return np.where(position > 3, -1.0, 2 / (1 + np.exp(5 * np.minimum(position, 3))) - 1)


def mark(series: Series) -> Marks:
    """Return what a detection at each scored row of a series is worth."""
    rows = len(series.values)
    row = np.arange(rows)
    gain, window = np.full(rows, -1.0), np.full(rows, OUTSIDE)
    for number, (first, last) in enumerate(series.windows):
        after = row > last  # a later window overwrites what follows an earlier one
        gain[after] = scaled_sigmoid((row[after] - last) / max(last - first, 1))
        inside = slice(first, last + 1)
        gain[inside] = scaled_sigmoid(-(last - row[inside] + 1) / (last - first + 1)) / scaled_sigmoid(-1.0)
        window[inside] = number
        window[after] = OUTSIDE
    scored = row[probation(rows) :]
    return Marks(scored, gain[scored], window[scored], len(series.windows))


@dataclass(frozen=True)
class Sweep:
    """Raw scores of a corpus at each threshold, highest threshold first; the first detects nothing."""

    thresholds: Floats
    scores: Floats

    def best(self) -> tuple[float, float]:
        """Return threshold and score of the maximum; the highest threshold where several reach it."""
        at = int(np.argmax(self.scores))
        return float(self.thresholds[at]), float(self.scores[at])

    def at(self, threshold: float) -> float:
        """Return the raw score where every row that reaches `threshold` is a detection."""
        return float(self.scores[np.flatnonzero(self.thresholds >= threshold)[-1]])


def sweep(marks: Iterable[Marks], scores: Iterable[Floats], profile: Profile) -> Sweep:
    """Return the raw score of a corpus at every threshold that changes it.

    Parameters
    ----------
    marks, scores
        Of each series: its marks, and one score in [0, 1] per row, probation included.
    profile
        The weights.
    """
    level, change = [np.array([NEVER])], [np.zeros(1)]
    for one, score in zip(marks, scores, strict=True):
        reached = np.asarray(score, dtype=float)[one.rows]
        outside = one.window == OUTSIDE
        level.append(reached[outside])
        change.append(profile.false_positive * one.gain[outside])
        for number in np.unique(one.window[~outside]):
            inside = one.window == number
            steps = _window_steps(reached[inside], one.gain[inside], profile)
            change[0] -= profile.false_negative
            level.append(steps[0])
            change.append(steps[1])
    levels, changes = np.concatenate(level), np.concatenate(change)
    thresholds, places = np.unique(-levels, return_inverse=True)
    return Sweep(-thresholds, np.cumsum(np.bincount(places, weights=changes)))


def _window_steps(score: Floats, gain: Floats, profile: Profile) -> tuple[Floats, Floats]:
    """Return at which thresholds a window's part of the raw score changes, and by how much.

    The gain falls along a window, so only a row that no earlier row reaches can be the earliest detection.
    """
    records = np.flatnonzero(score > np.concatenate([[-np.inf], np.maximum.accumulate(score)[:-1]]))
    worth = profile.true_positive * gain[records]
    return score[records], worth - np.append(worth[1:], -profile.false_negative)


def normalised(raw: float, marks: Iterable[Marks], profile: Profile) -> float:
    """Return a raw score between the null detector's (0) and the perfect one's (100).

    As in NAB's runner, the perfect detector finds every labelled window at its left edge, and the null detector misses
    every window that has a scored row.
    """
    marks = list(marks)
    null = -profile.false_negative * sum(len(np.unique(one.window[one.window != OUTSIDE])) for one in marks)
    perfect = profile.true_positive * sum(one.windows for one in marks)
    return 100 * (raw - null) / (perfect - null)

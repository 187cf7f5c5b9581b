"""When requests arrive: the times of a real service, or a generator that says what it is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError

TRACE = "traffic/AzureLLMInferenceTrace_conv.csv"
DAY = 86400.0
NATURAL_RATE, DAILY_SWING = 5.0, 0.6


@dataclass(frozen=True)
class Arrivals:
    """Times at which requests arrive, as gaps.

    `source` says where they come from, `rate` is their mean number per second; `gaps` gives, without end, the seconds
    from each arrival to the next.
    """

    source: str
    rate: float
    gaps: Iterator[float]

    def faster(self, speed: float) -> Arrivals:
        """Return the same arrivals with the clock running `speed` times as fast."""
        words = self.source if speed == 1 else f"{self.source}, {speed:.4g} times as fast"
        return Arrivals(words, self.rate * speed, (gap / speed for gap in self.gaps))


def find_trace(*folders: Path) -> Path | None:
    """Return the trace of a real service's arrivals in the first folder that has it, or None."""
    return next((folder / TRACE for folder in folders if (folder / TRACE).is_file()), None)


def traced(path: Path) -> Arrivals:
    """Return the arrivals of a trace, a CSV with a column `TIMESTAMP`: from first to last, and again from the first.

    Raises InputError when the file is not readable, has no such column, or holds fewer than two different times.
    """
    try:
        times = pd.to_datetime(pd.read_csv(path, usecols=["TIMESTAMP"])["TIMESTAMP"]).sort_values()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a CSV with times in a column TIMESTAMP ({error})") from error
    gaps = times.diff().dropna().dt.total_seconds().to_numpy()
    if len(gaps) == 0 or gaps.sum() <= 0:
        raise InputError(f"{path}: holds fewer than two different times")
    return Arrivals(f"real arrival times of {path.name}", len(gaps) / float(gaps.sum()), itertools.cycle(gaps.tolist()))


def generated(seed: int) -> Arrivals:
    """Return a Poisson process whose rate swings over the day: 5 per second on average, from 2 at night to 8 by day.

    Notes
    -----
    Thinning: arrivals at the highest rate, of which each is kept with the share that the rate of its moment has of the
    highest (Lewis and Shedler 1979, "Simulation of nonhomogeneous Poisson processes by thinning"). It begins at a mean
    hour, going up.

    Examples
    --------
    >>> gaps = list(itertools.islice(generated(0).gaps, 2000))
    >>> 4.5 < len(gaps) / sum(gaps) < 5.5
    True
    """
    words = f"a generator (Poisson process with a daily cycle, seed {seed})"
    return Arrivals(words, NATURAL_RATE, _thinned(np.random.default_rng(seed)))


def _thinned(rng: np.random.Generator) -> Iterator[float]:
    highest, time, last = NATURAL_RATE * (1 + DAILY_SWING), 0.0, 0.0
    while True:
        time += rng.exponential(1 / highest)
        rate = NATURAL_RATE * (1 + DAILY_SWING * np.sin(2 * np.pi * time / DAY))
        if rng.random() * highest < rate:
            yield time - last
            last = time

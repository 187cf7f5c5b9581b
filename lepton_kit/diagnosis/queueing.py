"""Queues: how long requests wait before several workers, and how many are refused where the queue is bounded.

Sources: A. K. Erlang (1917) for the wait of M/M/c; the Allen–Cunneen approximation for other arrivals and service times
(A. O. Allen, "Probability, Statistics, and Queueing Theory", 2nd ed., 1990, section 5.3; judged by W. Whitt,
"Approximations for the GI/G/m queue", Production and Operations Management 2(2), 1993); the stationary distribution of
M/M/c/K from any textbook's birth and death equations (L. Kleinrock, "Queueing Systems" I, 1975, chapter 3), with its
room for waiting in the scale of the diffusion (W. Whitt, "A diffusion approximation for the G/GI/n/m queue", Operations
Research 52(6), 2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lepton_kit.errors import InputError


@dataclass(frozen=True)
class Demand:
    """What is asked of the workers: requests per second, and mean seconds that one keeps a worker busy.

    `arrival_scv` and `service_scv` are squared coefficients of variation (variance over squared mean) of the gaps
    between arrivals, and of the service times; 1 is exponential, 0 a clock.
    """

    rate: float
    service: float
    arrival_scv: float = 1.0
    service_scv: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            may_be_zero = name.endswith("_scv")
            if not (math.isfinite(value) and (value > 0 or (may_be_zero and value == 0))):
                raise InputError(f"{name} = {value!r}: must be a number {'from' if may_be_zero else 'above'} 0")

    @property
    def load(self) -> float:
        """The offered load, in workers that would be busy all the time (erlangs)."""
        return self.rate * self.service

    def utilisation(self, workers: int) -> float:
        """Return the share of the time in which a worker would be busy; from 1 on the queue grows without end."""
        return self.load / workers


def erlang_c(load: float, workers: int) -> float:
    """Return the probability that a request must wait in M/M/c under a load in erlangs; 1 where workers are too few.

    Erlang's own table: 2 erlangs on 3 lines wait with probability 4/9.

    >>> round(erlang_c(2.0, 3), 4)
    0.4444
    """
    if load >= workers:
        return 1.0
    blocked = 1.0  # Erlang B, by its recursion over the number of workers, which never overflows
    for number in range(1, workers + 1):
        blocked = load * blocked / (number + load * blocked)
    share = load / workers
    return blocked / (1 - share * (1 - blocked))


def mean_wait(demand: Demand, workers: int) -> float:
    """Return the mean seconds that a request waits: Erlang's, times half the sum of both variabilities (Allen–Cunneen).

    Exact for M/M/c, and for M/G/1 (Pollaczek–Khinchine); infinite where the workers do not suffice.

    Examples
    --------
    >>> mean_wait(Demand(rate=8, service=0.1), workers=1)
    0.4...
    >>> round(mean_wait(Demand(rate=8, service=0.1, service_scv=0), workers=1), 3)
    0.2
    >>> mean_wait(Demand(rate=12, service=0.1), workers=1)
    inf
    """
    if demand.load >= workers:
        return math.inf
    waiting = erlang_c(demand.load, workers) * demand.service / (workers - demand.load)
    return waiting * (demand.arrival_scv + demand.service_scv) / 2


def bounded(demand: Demand, workers: int, room: int) -> tuple[float, float]:
    """Return the share of requests refused, and the mean wait of the others, where at most `room` may wait.

    Exact for M/M/c/K. Other variabilities stretch the room: half their sum is how many times as far as in M/M/c a queue
    sways, so that a room for `room` requests is like one for `room` divided by it (heavy traffic; Whitt 2004). Without
    a bound the wait is that of `mean_wait`.

    Examples
    --------
    >>> refused, wait = bounded(Demand(rate=20, service=0.1), workers=1, room=1)
    >>> round(refused, 3), round(wait, 3)
    (0.571, 0.067)

    Where requests come in bursts, the same room refuses more of them:

    >>> even, bursts = (Demand(rate=8, service=0.1, arrival_scv=scv) for scv in (1.0, 4.0))
    >>> [round(bounded(demand, workers=1, room=10)[0], 3) for demand in (even, bursts)]
    [0.018, 0.089]
    """
    sway = max((demand.arrival_scv + demand.service_scv) / 2, SMALLEST_SWAY)
    states = np.arange(workers + min(int(room / sway), MOST_ROOM) + 1)
    busy = np.minimum(states, workers)
    logarithms = np.concatenate([[0.0], np.cumsum(np.log(demand.load) - np.log(busy[1:]))])
    shares = np.exp(logarithms - logarithms.max())
    shares /= shares.sum()
    refused = float(shares[-1])
    waiting = float((shares * (states - busy)).sum()) * sway
    return refused, waiting / (demand.rate * (1 - refused))


SMALLEST_SWAY, MOST_ROOM = 0.1, 100_000
"""No queue is taken to be calmer than this, as no measured variability is exact; and room beyond changes nothing."""

"""The machine of a simulated service: workers that are busy, swap, hang and end, under a virtual clock.

Each request waits for the first worker that is free, as in the recursion of Kiefer and Wolfowitz (1955) for several
servers, and is refused where too many wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lepton_kit.errors import InputError

USED_BYTES, LIMIT_BYTES = 150e6, 512e6
"""Memory of a fresh worker, and where it is ended."""

SWAPS_FROM, SWAP_FACTOR = 0.35, 12.0
"""From this part of the way to its limit on a leaking worker swaps; at the limit it would be this many times slower."""

START_SECONDS, HANG_SECONDS, DRAIN_SECONDS = 3.0, 20.0, 30.0
"""How long a start takes, after how long a worker that hangs is replaced, and how long one that ends may answer."""

ALWAYS = ((-np.inf, np.inf),)


@dataclass(frozen=True)
class Setting:
    """What a service is like: seconds, and requests per second.

    `service_cv` is the coefficient of variation of the time that a request keeps a worker busy (gamma distribution).
    """

    rate: float
    workers: int
    service: float
    service_cv: float = 0.3
    queue_limit: int = 64

    def __post_init__(self) -> None:
        if not (0 < self.rate <= 1000 and self.workers >= 1 and 0 < self.service <= 10 and 0 < self.service_cv <= 5):
            raise InputError(f"{self}: rate, service and service_cv must be above 0, workers at least 1")

    @property
    def utilisation(self) -> float:
        """The share of the workers' time that the usual load takes."""
        return self.rate * self.service / self.workers


@dataclass
class Worker:
    """One worker: when it is free, when those that it holds are done, and what was taken from it."""

    pid: int
    born: float
    free_at: float = 0.0
    taken: float = 0.0
    ended: float = np.inf
    held: deque[float] = field(default_factory=deque)

    def waiting(self, now: float) -> int:
        """Return how many requests are in it at a time; times asked for never fall."""
        while self.held and self.held[0] <= now:
            self.held.popleft()
        return len(self.held)


class Machine:
    """The workers of a simulated service.

    Parameters
    ----------
    setting
        How many workers, and the limit of the requests in each.
    seed
        Of the noise of their memory.
    tell
        Called with the time and the process id of each worker that starts.
    """

    def __init__(self, setting: Setting, seed: int, tell: Callable[[float, int], None]) -> None:
        self._seed, self._tell = seed, tell
        self._pids = iter(range(4001, 10**6))
        self.lives = [Worker(next(self._pids), 0.0) for _ in range(setting.workers)]
        self.running = list(self.lives)
        self._starts = [0.0] * setting.workers
        self.wanted, self._lost, self._lost_at = setting.workers, 0, np.inf
        self._leak_from, self._leak_seconds = np.inf, np.inf
        self.queue_limit = setting.queue_limit

    def size(self, workers: int, queue_limit: int, now: float) -> None:
        """Ask for `workers`, each with room for `queue_limit` requests."""
        self.wanted, self.queue_limit = workers, queue_limit
        self._fit(now)

    def restart(self, now: float) -> None:
        """Replace each worker by a fresh one: one after the other, and each is ready before the next."""
        for worker in list(self.running):
            self._end(worker, now)
        self._fit(now)
        for worker in self.running:
            worker.free_at = now

    def drained_at(self, now: float) -> float:
        """Return when all that the workers hold is answered; now where they never held anything."""
        return max((worker.free_at for worker in self.lives), default=now)

    def slow(self, taken: float) -> None:
        """Take this share of the processor from each worker that runs now."""
        for worker in self.running:
            worker.taken = taken

    def lose(self, count: int, now: float) -> None:
        """End this many workers, and those that replace them."""
        self._lost, self._lost_at = self._lost + count, now
        self._fit(now)

    def leak(self, seconds: float, now: float) -> None:
        """Let each worker lose memory, so that it reaches the limit this many seconds after its start, or after now."""
        self._leak_from, self._leak_seconds = now, seconds

    def _fit(self, now: float) -> None:
        """Let as many workers run as are wanted, less those that are lost."""
        wanted = max(1, self.wanted - self._lost)
        while len(self.running) > wanted:
            self._end(self.running[-1], now)
        while len(self.running) < wanted:
            self._start(now)

    def _start(self, now: float) -> Worker:
        worker = Worker(next(self._pids), now, free_at=now + START_SECONDS)
        self.lives.append(worker)
        self.running.append(worker)
        self._starts.append(now)
        self._tell(now, worker.pid)
        return worker

    def _end(self, worker: Worker, now: float) -> None:
        worker.ended = now
        self.running.remove(worker)

    def _memory(self, worker: Worker, times: np.ndarray) -> np.ndarray:
        leaking = np.maximum(0.0, times - max(worker.born, self._leak_from))
        used: np.ndarray = USED_BYTES + (LIMIT_BYTES - USED_BYTES) * leaking / self._leak_seconds
        return used

    def _way_to_limit(self, worker: Worker, now: float) -> float:
        return max(0.0, now - max(worker.born, self._leak_from)) / self._leak_seconds

    def _factor(self, worker: Worker, way: float) -> float:
        """Return how many times longer than usual a request keeps a worker busy."""
        return (1 + SWAP_FACTOR * max(0.0, way - SWAPS_FROM)) / (1 - worker.taken)

    def take(self, now: float, service: float) -> tuple[float, float] | None:
        """Return the wait and the time of a request that comes now; None where it is refused."""
        worker = min(self.running, key=lambda one: one.free_at)
        way = self._way_to_limit(worker, now)
        if way >= 1:
            worker.ended = now
            self.running.remove(worker)
            worker = self._start(now)
            way = 0.0
        if worker.waiting(now) >= self.queue_limit:
            return None
        wait = max(0.0, worker.free_at - now)
        service *= self._factor(worker, way)
        worker.free_at = now + wait + service
        worker.held.append(worker.free_at)
        return wait, service

    def alive(self, grid: np.ndarray, spans: Sequence[tuple[float, float]] = ALWAYS) -> np.ndarray:
        """Return how many workers answer at some times, within some spans of time."""
        count = sum(((grid >= one.born) & (grid < one.ended)).astype(float) for one in self.lives)
        serves = sum(((grid >= start) & (grid < end)).astype(float) for start, end in spans)
        return np.asarray(count * serves, dtype=float)

    def memory_at(self, grid: np.ndarray, worker: Worker, place: int) -> np.ndarray:
        """Return the memory of the worker at a place among all that there were, in bytes; NaN where it is not there."""
        noise = 1 + 0.01 * np.sin(grid / (7.0 + place) + self._seed + place)  # allocations come and go
        is_there = (grid >= worker.born) & (grid < worker.ended)
        return np.where(is_there, self._memory(worker, grid) * noise, np.nan)

    def started(self, grid: np.ndarray) -> np.ndarray:
        """Return how many workers were started up to some times, also those that hang and are replaced again."""
        started = np.searchsorted(np.sort(self._starts), grid, "right").astype(float)
        again = np.floor(np.maximum(0.0, grid - self._lost_at) / HANG_SECONDS)
        total: np.ndarray = started + self._lost * np.where(grid >= self._lost_at, again, 0.0)
        return total

"""Drives load at a service: requests at given times, whether it answers or not, and what came true afterwards.

The load is an open loop: a request is due at its own time and does not wait for the answers before it. Latency counts
from that time, so what a slow service makes others wait is in it (no "coordinated omission", as Gil Tene calls it).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
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


TIMEOUT = 10.0
MOST_WAITING = 1000
LATE = 0.05
"""Seconds by which the generator itself may be late in 1 of 100 requests before the summary warns."""

Row = Mapping[str, float | str | None]


@dataclass(frozen=True)
class Item:
    """One request to come: its row of features, when its newest data were known (Unix time), and what will come true.

    A value of the row may be None, for a feed that left it out; `actual` is a number or a class, NaN where it is not
    known. `copies` is how many times more the request is sent under the same id.
    """

    row: Row
    as_of: float
    actual: Any
    copies: int = 0


Rows = Iterator[tuple[Row, Any]]
"""Rows of features with what will come true of each."""

Change = Callable[[Item, float], Item]
"""Takes an item and the seconds since the load began; returns what is sent. Faults are such changes."""


@dataclass(frozen=True)
class Plan:
    """What a replay does.

    `seconds` and `requests` bound it, whichever comes first; actuals are reported `feedback_after` seconds after their
    answer, the last ones at the end; `ratings` is the share of the answers (0 to 1) that also get a rating, which is
    made up: 4 or 5 where the interval held the actual, 1 or 2 where it did not; answers of other tasks get none. `name`
    stands in the request ids; one that was used before asks the same requests again, and their actuals do not count
    twice.
    """

    arrivals: Arrivals
    seconds: float = 60.0
    requests: int = 1_000_000
    feedback_after: float = 5.0
    ratings: float = 0.0
    seed: int = 0
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("seconds", 0.1, 86400.0), ("requests", 1, 10_000_000), ("feedback_after", 0.0, 86400.0), ("ratings", 0, 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if not lowest <= value <= highest:  # NaN is refused by this too
                raise InputError(f"{name} = {value!r}: must be from {lowest:g} to {highest:g}")


@dataclass
class Summary:
    """What a replay did. Latencies are in ms, from the time a request was due to the end of its answer.

    `by_status` counts HTTP statuses, and `timeout` and `connection` for requests without an answer; `not_sent` those
    that were due while `MOST_WAITING` others waited; `late_p99` is how many ms the generator itself was behind.
    """

    source: str
    seconds: float = 0.0
    sent: int = 0
    answered: int = 0
    not_sent: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    by_version: dict[str, int] = field(default_factory=dict)
    rate: float = 0.0
    latency_p50: float = math.nan
    latency_p95: float = math.nan
    latency_p99: float = math.nan
    late_p99: float = math.nan
    feedback: dict[str, int] = field(default_factory=dict)
    warning: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it; a quantile of nothing is None."""
        held = asdict(self).items()
        return {name: None if isinstance(one, float) and math.isnan(one) else one for name, one in held}


def check_address(address: str, is_remote_allowed: bool = False) -> str:
    """Return a service's address in the form that is used; load is driven at loopback only, unless said otherwise.

    Raises InputError when it is not an http address, or leads off this machine and that was not allowed.

    Examples
    --------
    >>> check_address("http://127.0.0.1:8000/")
    'http://127.0.0.1:8000'
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"address {address!r}: not an address ({error})") from error
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.path not in ("", "/"):
        raise InputError(f"address {address!r}: must be such as http://127.0.0.1:8000")
    if not (is_remote_allowed or _is_loopback(host)):
        raise InputError(
            f"address {address!r}: {host} is not this machine; driving load at another needs --allow-remote"
        )
    return f"{parts.scheme}://{parts.netloc}"


def needed_features(address: str) -> list[str]:
    """Ask a service which features a row must hold.

    Raises InputError when there is no such service at the address, or it does not answer.
    """
    try:
        answer = httpx.get(f"{address}/openapi.json", timeout=TIMEOUT)
        described = answer.raise_for_status().json()["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
        row = described["application/json"]["schema"]["properties"]["row"]
        return list(next(one for one in row["anyOf"] if "required" in one)["required"])
    except httpx.HTTPError as error:
        raise InputError(f"service at {address}: does not answer ({type(error).__name__}); is it running?") from error
    except (ValueError, LookupError, TypeError, StopIteration) as error:
        raise InputError(f"service at {address}: is not one of this kit; it does not describe /v1/predict") from error


def feed(table: pd.DataFrame) -> Rows:
    """Give a table's rows of features and what came true (`actual`), in order, and from the first again at the end."""
    rows: list[Any] = table.drop(columns="actual").rename(columns=str).to_dict("records")
    return itertools.cycle(zip(rows, table["actual"].tolist(), strict=True))


def replay(address: str, rows: Rows, plan: Plan, change: Change | None = None) -> Summary:
    """Send load to a service and return the results.

    Parameters
    ----------
    rows
        As `feed` gives them: one per request, with its actual value.
    change
        What is done to each item before it is sent; the newest data of an unchanged one are as old as its due time.

    Notes
    -----
    Request ids are `replay-<name>-<number>`, so a plan of the same name gives the same requests to a candidate.
    """
    driven = _Replay(address, rows, plan, change)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(driven.run())
    with ThreadPoolExecutor(1) as beside:  # called in a notebook, whose kernel runs a loop of its own
        return beside.submit(lambda: asyncio.run(driven.run())).result()


class _Replay:
    def __init__(self, address: str, rows: Rows, plan: Plan, change: Change | None) -> None:
        self._address, self._rows, self._plan, self._change = address, rows, plan, change
        self._made = Summary(plan.arrivals.source)
        self._statuses, self._versions, self._feedback = Counter[str](), Counter[str](), Counter[str]()
        self._latencies: list[float] = []
        self._lateness: list[float] = []
        self._waiting = 0
        self._rng = np.random.default_rng(plan.seed)

    async def run(self) -> Summary:
        limits = httpx.Limits(max_connections=200, keepalive_expiry=2)  # shorter than the server's 5 s
        self._sent_all = asyncio.Event()
        self._few = asyncio.Semaphore(20)  # the last actuals must not come all at once
        async with (
            httpx.AsyncClient(base_url=self._address, limits=limits, timeout=TIMEOUT, trust_env=False) as self._client,
            asyncio.TaskGroup() as self._afterwards,
        ):
            async with asyncio.TaskGroup() as requests:
                await self._send_all(requests)
            self._sent_all.set()
        return self._summary()

    async def _send_all(self, requests: asyncio.TaskGroup) -> None:
        began, due = time.monotonic(), 0.0
        for number in range(self._plan.requests):
            due += next(self._plan.arrivals.gaps)
            if due > self._plan.seconds:
                await asyncio.sleep(began + self._plan.seconds - time.monotonic())
                break
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            late = time.monotonic() - began - due
            self._lateness.append(1000 * late)
            row, actual = next(self._rows)
            item = Item(row, time.time() - late, actual)
            if self._change is not None:
                item = self._change(item, due)
            is_rated = self._rng.random() < self._plan.ratings
            if self._waiting >= MOST_WAITING:
                self._made.not_sent += 1
                continue
            for _ in range(1 + item.copies):
                self._made.sent += 1
                self._waiting += 1
                requests.create_task(self._request(number, item, began + due, is_rated))
        self._made.seconds = time.monotonic() - began

    async def _request(self, number: int, item: Item, due: float, is_rated: bool) -> None:
        request_id = f"replay-{self._plan.name}-{number}"
        body = {"row": dict(item.row), "as_of": item.as_of}
        answer = await self._post("/v1/predict", body, {"X-Request-ID": request_id})
        self._waiting -= 1
        self._latencies.append(1000 * (time.monotonic() - due))
        self._statuses[answer if isinstance(answer, str) else str(answer.status_code)] += 1
        if isinstance(answer, str) or answer.status_code != 200:
            return
        given = answer.json()
        self._versions[given["version"]] += 1
        told: dict[str, Any] = {"request_id": request_id}
        if pd.notna(item.actual):
            told["actual"] = item.actual
            if is_rated and "forecasts" in given:
                (forecast,) = given["forecasts"]
                is_good = forecast["lower"] <= item.actual <= forecast["upper"]
                told["rating"] = (4 if is_good else 1) + number % 2
            self._afterwards.create_task(self._tell(told))

    async def _tell(self, told: dict[str, Any]) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._sent_all.wait(), self._plan.feedback_after)
        async with self._few:
            answer = await self._post("/v1/feedback", told, {})
        is_accepted = not isinstance(answer, str) and answer.status_code == 202
        self._feedback["accepted" if is_accepted else "refused"] += 1
        self._feedback["ratings"] += "rating" in told and is_accepted

    async def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response | str:
        try:
            return await self._client.post(path, json=body, headers=headers)
        except httpx.TimeoutException:
            return "timeout"
        except httpx.TransportError:
            return "connection"

    def _summary(self) -> Summary:
        made = self._made
        made.by_status, made.by_version = dict(sorted(self._statuses.items())), dict(sorted(self._versions.items()))
        made.answered = self._statuses["200"]
        made.rate = made.sent / made.seconds if made.seconds else math.nan
        if self._latencies:
            made.latency_p50, made.latency_p95, made.latency_p99 = np.quantile(
                self._latencies, (0.5, 0.95, 0.99)
            ).tolist()
        made.feedback = {name: self._feedback[name] for name in ("accepted", "refused", "ratings")}
        if self._lateness:
            made.late_p99 = float(np.quantile(self._lateness, 0.99))
            if made.late_p99 > 1000 * LATE:
                made.warning = (
                    f"the generator itself fell behind: 1 of 100 requests was {made.late_p99:.0f} ms late or more; "
                    "ask for less, or from another machine"
                )
        if made.not_sent:
            made.warning += f"; {made.not_sent} requests were not sent, since {MOST_WAITING} waited for their answers"
            made.warning = made.warning.removeprefix("; ")
        return made


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

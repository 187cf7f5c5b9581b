"""Faults of the machine: processor, queue, memory and workers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import itertools
import json
import multiprocessing
import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from lepton_kit.ops.faults.base import Fault, Plant, fault
from lepton_kit.project.subjects import asked_rows
from lepton_kit.serving.control import read_reports
from lepton_kit.serving.replay import feed, needed_features

PERIOD = 0.5
"""Seconds of one turn of running and standing still, where the processor is taken away."""

MOST_CLIENTS, THINKING = 400, 0.1
"""How many clients make a flood, and the seconds that each takes to ask again."""


class Meddler(Fault):
    """The base of faults that a thread keeps doing to a running service until they end."""

    cause = "compute"

    def begin(self, service: Path) -> None:
        """Start the thread."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._meddle, args=(service,), name=self.name, daemon=True)
        self._thread.start()

    def end(self, service: Path) -> None:
        """End the thread, which puts back what it did."""
        self._over.set()
        self._thread.join()

    @abstractmethod
    def _meddle(self, service: Path) -> None:
        """Do harm until `_over` is set."""


@fault
class CpuTaken(Meddler):
    """Other work takes the processor. Severity: the share of the time that the workers do not run, up to 95 %.

    Live, the workers that run when it begins are stopped (SIGSTOP) for that share of each half second; ones that are
    started later run freely, as on another machine.
    """

    name = "cpu-taken"
    description = "other work takes the processor away from the workers"
    severities = (0.75, 1.0)

    @property
    def share(self) -> float:
        """Return the share of the time that the workers do not run."""
        return 0.95 * self.severity

    def inject(self, plant: Plant) -> None:
        plant.slow(self.share)

    def _meddle(self, service: Path) -> None:
        victims = worker_pids(service)
        try:
            while not self._over.is_set():
                send(victims, signal.SIGSTOP)
                self._over.wait(PERIOD * self.share)
                send(victims, signal.SIGCONT)
                self._over.wait(PERIOD * (1 - self.share))
        finally:
            send(victims, signal.SIGCONT)


@fault
class QueueSaturation(Meddler):
    """A flood of requests beside the usual load. Severity: the load is 1.6 times what the workers can do, or less.

    Live, as many clients as fit the severity (up to `MOST_CLIENTS`) ask again `THINKING` seconds after each answer, and
    when they are refused, as much later as the answer asks. They are a process of their own: the usual load must go
    on as before. Before a service that the kit did not make, up to nine copies of each request are sent beside it.

    >>> QueueSaturation(severity=0.5).copies
    4
    """

    name = "queue-saturation"
    description = "a client floods the service with requests: they wait, and some are refused"
    severities = (0.5, 1.0)
    proxied = True

    @property
    def copies(self) -> int:
        return round(9 * self.severity)

    def inject(self, plant: Plant) -> None:
        plant.flood_to(max(1.6 * self.severity, 1.1 * plant.utilisation))

    def _meddle(self, service: Path) -> None:
        address = (service / "address").read_text(encoding="utf-8").strip()
        rows = feed(asked_rows(service.name, service.parents[1], needed_features(address)))
        made = (address, round(MOST_CLIENTS * self.severity), [next(rows)[0] for _ in range(500)])
        crowd = multiprocessing.get_context("spawn").Process(target=flood, args=made, daemon=True)
        crowd.start()
        try:
            self._over.wait()
        finally:
            crowd.kill()
            crowd.join()


def flood(address: str, clients: int, rows: Sequence[Mapping[str, float | None]]) -> None:
    """Send rows to a service from several clients, without end."""
    os.nice(5)  # the service's own work goes first: the flood is what must overload it
    host = urlsplit(address).netloc
    asked = [_request(host, json.dumps({"row": row}).encode()) for row in rows]
    asyncio.run(_ask_as(clients, host, asked))


def _request(host: str, body: bytes) -> bytes:
    head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def _ask_as(clients: int, host: str, requests: Sequence[bytes]) -> None:
    """Write requests to sockets: a client library takes longer for a request than the service does."""

    async def ask(first: int) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError):
                await _ask_over_one_connection(host, requests, first)
            await asyncio.sleep(THINKING)

    await asyncio.gather(*(ask(first) for first in range(clients)))


async def _ask_over_one_connection(host: str, requests: Sequence[bytes], first: int) -> None:
    reader, writer = await asyncio.open_connection(*host.rsplit(":", 1))
    try:
        for number in itertools.count(first):
            writer.write(requests[number % len(requests)])
            headers = http.client.parse_headers(io.BytesIO((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[1]))
            await reader.readexactly(int(headers["Content-Length"]))
            await asyncio.sleep(float(headers.get("Retry-After", THINKING)))
    finally:
        writer.close()


@fault
class MemoryLeak(Fault):
    """The workers lose memory. Severity 1: their limit is reached within 2 minutes of simulated time; less is later.

    No running service can be made to lose memory from outside, so there is no live form.
    """

    name = "memory-leak"
    cause = "compute"
    description = "the workers lose memory, swap, and are ended at their limit"
    severities = (0.4, 1.0)
    live = False

    def inject(self, plant: Plant) -> None:
        plant.leak(120.0 / self.severity)


@fault
class LostWorker(Meddler):
    """Workers stand still for good. Severity: the share of the workers that are lost, at least one, and never all.

    Live, they are stopped (SIGSTOP), and so is each that the supervisor starts in the place of one.
    """

    name = "lost-worker"
    description = "workers hang, and so do those that are started in their place"
    severities = (0.5, 1.0)

    def lost(self, workers: int) -> int:
        """Return how many of the workers are lost.

        >>> LostWorker(severity=0.5).lost(4), LostWorker().lost(2)
        (2, 1)
        """
        return max(1, min(workers - 1, round(workers * self.severity)))

    def inject(self, plant: Plant) -> None:
        plant.lose(self.lost(plant.workers))

    def _meddle(self, service: Path) -> None:
        held = worker_pids(service)
        victims = set(held[: self.lost(len(held))])
        kept = set(held) - victims
        wanted, stopped = len(victims), set[int]()
        try:
            while not self._over.is_set():
                alive = [pid for pid in worker_pids(service) if pid not in kept]
                for pid in alive[: max(0, wanted - len(stopped & set(alive)))]:
                    send([pid], signal.SIGSTOP)
                    stopped.add(pid)
                self._over.wait(0.1)
        finally:
            send(sorted(stopped), signal.SIGCONT)


def worker_pids(service: Path) -> list[int]:
    """Return the processes that answer for a service."""
    return sorted(report.pid for report in read_reports(service))


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to processes, as far as they still are."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@fault
class SlowBodies(Fault):
    """The network before the service is slow: each request's body comes half a second after its head."""

    name = "slow-network"
    cause = "compute"
    description = "the body of each request comes half a second after its head"
    live, proxied = False, True
    delay = 0.5


@fault
class Dropped(Fault):
    """Connections end between the head of a request and its body."""

    name = "dropped-connections"
    cause = "compute"
    description = "the connections of a third of the requests end before their bodies came"
    live, proxied = False, True
    dropped = 1 / 3

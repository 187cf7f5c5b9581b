"""Posts alerts at `lepton watch`, kills it in the middle, and counts what it queued; writes to `benchmarks/RESULTS.md`.

    python benchmarks/webhook.py [--posts N] [--alerts N] [--senders N] [--quick]

Each distinct alert is posted ten times in random order by many senders at once, who try again until they are answered
202, as Alertmanager does. When four in ten posts are answered `lepton watch` is killed with SIGKILL and started again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import nbformat
from results import write_section

from lepton_kit.ops.watch.queue import Queue

TOKEN = "only for this benchmark"
SETTINGS = """
[watch]
token = "env:WATCH_TOKEN"
workers = 0 # receive and queue only: how fast runbooks run is measured elsewhere

[alerts.Burn]
runbook = "runbooks/diagnose.ipynb"
parameters = { service = { label = "service" } }
"""


@dataclass
class Sent:
    """What the senders saw: seconds of each answered post, the alerts answered before the kill, failed attempts."""

    seconds: list[float] = field(default_factory=list)
    before_kill: set[int] = field(default_factory=set)
    retries: int = 0
    killed: bool = False


def main() -> None:
    """Measure, print and write the section."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--posts", type=int, default=10_000)
    arguments.add_argument("--alerts", type=int, default=1_000)
    arguments.add_argument("--senders", type=int, default=16)
    arguments.add_argument("--quick", action="store_true", help="a tenth of everything, and nothing is written")
    given = arguments.parse_args()
    scale = 10 if given.quick else 1
    posts, alerts = given.posts // scale, given.alerts // scale
    with tempfile.TemporaryDirectory() as folder:
        alone = asyncio.run(without_kill(make_project(Path(folder) / "alone"), 500 // scale, senders=1))
        steady = asyncio.run(without_kill(make_project(Path(folder) / "steady"), posts // 5, given.senders))
        project = make_project(Path(folder) / "killed")
        sent, took = asyncio.run(with_kill(project, posts, alerts, given.senders))
        text = report(project, sent, took, alone, steady, posts, alerts, given.senders, disk_wait(Path(folder)))
    print(text)
    if not given.quick:
        write_section(text)


def make_project(folder: Path) -> Path:
    """Write a project with one alert and its runbook."""
    (folder / "runbooks").mkdir(parents=True)
    (folder / "lepton.toml").write_text(SETTINGS)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cell = nbformat.v4.new_code_cell("service: str = ''", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), folder / "runbooks/diagnose.ipynb")
    return folder


async def without_kill(project: Path, posts: int, senders: int) -> list[float]:
    """Return the seconds that each of so many posts of new alerts took."""
    port = free_port()
    process = await start(project, port)
    sent = Sent()
    await send_all(list(range(posts)), senders, port, sent, nothing)
    process.terminate()
    process.wait()
    return sent.seconds


async def with_kill(project: Path, posts: int, alerts: int, senders: int) -> tuple[Sent, float]:
    """Post with a kill in the middle; return what the senders saw, and the seconds it took in all."""
    port, sent = free_port(), Sent()
    running = [await start(project, port)]

    async def kill_once() -> None:
        if not sent.killed and len(sent.seconds) >= 0.4 * posts:
            sent.killed = True
            running[0].kill()
            running[0].wait()
            running.append(await start(project, port, wait=False))

    numbers = [number % alerts for number in range(posts)]
    random.Random(0).shuffle(numbers)
    began = time.perf_counter()
    await send_all(numbers, senders, port, sent, kill_once)
    took = time.perf_counter() - began
    running[-1].terminate()
    running[-1].wait()
    return sent, took


async def nothing() -> None:
    """Kill nobody."""


async def start(project: Path, port: int, wait: bool = True) -> subprocess.Popen[bytes]:
    """Start `lepton watch`, and wait until it listens."""
    command = [sys.executable, "-m", "lepton_kit.cli", "watch", "--port", str(port)]
    environment = {**os.environ, "WATCH_TOKEN": TOKEN}
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.DEVNULL)
    while wait:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            break
        except OSError:
            await asyncio.sleep(0.05)
    return process


async def send_all(
    numbers: list[int], senders: int, port: int, sent: Sent, after_each: Callable[[], Awaitable[None]]
) -> None:
    """Post the alerts of these numbers, several at once, each until it is answered 202."""
    waiting = iter(numbers)

    async def sender() -> None:
        connection = None
        for number in waiting:
            while True:
                began = time.perf_counter()
                try:
                    connection = connection or await asyncio.open_connection("127.0.0.1", port)
                    status = await post(number, *connection)
                except (OSError, asyncio.IncompleteReadError, IndexError):
                    status, connection = 0, None
                if status == 202:
                    break
                sent.retries += 1
                await asyncio.sleep(0.1)
            sent.seconds.append(time.perf_counter() - began)
            if not sent.killed:
                sent.before_kill.add(number)
            await after_each()
        if connection:
            connection[1].close()

    await asyncio.gather(*(sender() for _ in range(senders)))


async def post(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Post one alert over an open connection; return the status of the answer."""
    alert = {
        "status": "firing", "labels": {"alertname": "Burn", "service": f"s{number}", "severity": "page"},
        "annotations": {"summary": "the error budget burns too fast"}, "startsAt": "2026-11-25T03:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "http://127.0.0.1:9090/", "fingerprint": f"{number:016x}",
    }  # fmt: skip
    body = json.dumps({"version": "4", "status": "firing", "receiver": "lepton", "alerts": [alert]}).encode()
    head = (
        f"POST /alerts HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(answer.split("content-length:")[1].split()[0]))
    return int(answer.split()[1])


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def disk_wait(folder: Path) -> float:
    """Return the median seconds that one fsync of a small append takes: what durability costs at least."""
    taken = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def report(
    project: Path, sent: Sent, took: float, alone: list[float], steady: list[float], posts: int, alerts: int,
    senders: int, fsync: float,
) -> str:  # fmt: skip
    """Return the section in Markdown."""
    queue = Queue(project)
    jobs, incidents = queue.jobs(10**6), queue.incidents(10**6)
    numbers = [int(incident.fingerprint, 16) for incident in incidents]
    lost = len((set(range(alerts)) | sent.before_kill) - set(numbers))
    twice = len(jobs) - len({job.incident for job in jobs})
    rows = {
        "one sender, new alerts": alone,
        f"{senders} senders, new alerts": steady,
        f"{senders} senders, {posts // alerts} posts of each alert, killed once": sent.seconds,
    }
    lines = [
        "## Receiving alerts",
        "",
        f"`benchmarks/webhook.py`, {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, {os.cpu_count()} "
        f"cores shared with the senders, fastapi {version('fastapi')}, uvicorn {version('uvicorn')}. One fsync of "
        f"4 KiB took {1000 * fsync:.1f} ms. Times of posts answered 202, in milliseconds; the target is 50.",
        "",
        "| posts | p50 | p99 | largest |",
        "|---|---|---|---|",
    ]
    for name, seconds in rows.items():
        p50, p99 = (1000 * statistics.quantiles(seconds, n=100)[rank - 1] for rank in (50, 99))
        lines.append(f"| {name} ({len(seconds)}) | {p50:.1f} | {p99:.1f} | {1000 * max(seconds):.1f} |")
    exact = len(jobs) == len(incidents) == alerts and not lost and not twice
    lines += [
        "",
        f"{posts} posts of {alerts} distinct alerts; kill -9 after {len(sent.before_kill)} alerts were answered: "
        f"{len(jobs)} runs queued, {lost} lost, {twice} twice ({'met' if exact else 'MISSED'}). "
        f"{sent.retries} attempts were repeated while nothing answered; all took {took:.1f} s.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Sends a server of `subjects.slotted` the rows of its subject, and later what came true."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

HOLIDAY_RATE = 10
"""How many times as many requests come at a holiday."""

Rows = Callable[[int, int], pd.DataFrame]


@dataclass(frozen=True)
class Sent:
    """What is sent to a route: rows of features, and what comes true under the name of `target`.

    `holiday` is the span (s since the start) in which `holiday_rows` are sent, `HOLIDAY_RATE` times as fast.
    """

    route: str
    target: str
    rows: list[dict[Any, Any]]
    holiday_rows: list[dict[Any, Any]]
    holiday: tuple[float, float]

    def at(self, seconds: float) -> tuple[list[dict[Any, Any]], int]:
        """Return what is sent at a time, and how many times as fast as usual."""
        is_holiday = self.holiday[0] <= seconds < self.holiday[1]
        return (self.holiday_rows, HOLIDAY_RATE) if is_holiday else (self.rows, 1)


async def feed(what: Sent, address: str, rate: float, labels_after: float, parent: int) -> None:
    """Send requests at a rate until this process is ended, or the one that started all is gone."""
    limits = httpx.Limits(max_connections=200)

    async def one(client: httpx.AsyncClient, row: dict[Any, Any]) -> None:
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            label = row.pop(what.target)
            answer = await client.post(what.route, json={"inputs": row})
            asked = answer.json()["id"]
            await asyncio.sleep(labels_after)
            await client.post("/outcome", json={"id": asked, what.target: label})

    began, due, sent, running = time.monotonic(), 0.0, 0, set[asyncio.Task[None]]()
    async with httpx.AsyncClient(base_url=address, timeout=30, limits=limits, trust_env=False) as client:
        while not parent or Path(f"/proc/{parent}").exists():
            table, factor = what.at(due)
            task = asyncio.create_task(one(client, dict(table[sent % len(table)])))
            running.add(task)
            task.add_done_callback(running.discard)
            sent, due = sent + 1, due + 1 / (rate * factor)
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))


def note(folder: Path, pid: int | None, words: list[str]) -> None:
    """Say which process this is, or that it has ended: whole, as `manage.py` reads it at any moment."""
    made = folder / "feed.new"
    made.write_text(json.dumps({"pid": pid, "words": words}), encoding="utf-8")
    made.replace(folder / "feed.json")


def main(module: str, route: str, target: str, rows: Rows, rate: float, holiday_rows: Rows | None = None) -> None:
    """Run the feed of `subjects.<name>.feed` with this process's arguments, and note them for a restart."""
    folder = Path("services") / module.split(".")[1]
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--rate", type=float, default=rate)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--labels-after", type=float, default=1)
    parser.add_argument("--parent", type=int, default=0, help="the process with which it ends")
    parser.add_argument("--folder", type=Path, default=folder)
    said = f"{HOLIDAY_RATE} times the rate between these seconds since its start, of what people ask for then"
    parser.add_argument("--holiday", type=float, nargs=2, default=(0.0, 0.0), metavar=("FROM", "TO"), help=said)
    told = parser.parse_args()
    words = ["-m", module, told.address, "--rate", str(told.rate)]
    words += ["--labels-after", str(told.labels_after), "--parent", str(told.parent), "--folder", str(told.folder)]
    told.folder.mkdir(parents=True, exist_ok=True)
    note(told.folder, os.getpid(), words)
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(0)))
    usual, busy = (made(5000, told.seed).to_dict("records") for made in (rows, holiday_rows or rows))
    sent = Sent(route, target, usual, busy, tuple(told.holiday))
    try:
        asyncio.run(feed(sent, told.address, told.rate, told.labels_after, told.parent))
    finally:
        with contextlib.suppress(OSError):
            note(told.folder, None, words)

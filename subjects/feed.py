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

import httpx
import pandas as pd


@dataclass(frozen=True)
class Sent:
    """What is sent to a route: a table of features, and what comes true in the column `target`."""

    route: str
    target: str
    table: pd.DataFrame


async def feed(what: Sent, address: str, rate: float, labels_after: float, parent: int) -> None:
    """Send requests at a rate until this process is ended, or the one that started all is gone."""
    labels = what.table[what.target].tolist()
    inputs = what.table.drop(columns=what.target).to_dict("records")
    limits = httpx.Limits(max_connections=200)

    async def one(client: httpx.AsyncClient, place: int) -> None:
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            answer = await client.post(what.route, json={"inputs": inputs[place]})
            asked = answer.json()["id"]
            await asyncio.sleep(labels_after)
            await client.post("/outcome", json={"id": asked, what.target: labels[place]})

    began, sent, running = time.monotonic(), 0, set[asyncio.Task[None]]()
    async with httpx.AsyncClient(base_url=address, timeout=30, limits=limits, trust_env=False) as client:
        while not parent or Path(f"/proc/{parent}").exists():
            task = asyncio.create_task(one(client, sent % len(inputs)))
            running.add(task)
            task.add_done_callback(running.discard)
            sent += 1
            await asyncio.sleep(max(0.0, began + sent / rate - time.monotonic()))


def note(folder: Path, pid: int | None, words: list[str]) -> None:
    """Say which process this is, or that it has ended: whole, as `manage.py` reads it at any moment."""
    made = folder / "feed.new"
    made.write_text(json.dumps({"pid": pid, "words": words}), encoding="utf-8")
    made.replace(folder / "feed.json")


def main(module: str, route: str, target: str, rows: Callable[[int, int], pd.DataFrame], rate: float) -> None:
    """Run the feed of `subjects.<name>.feed` with this process's arguments, and note them for a restart."""
    folder = Path("services") / module.split(".")[1]
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--rate", type=float, default=rate)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--labels-after", type=float, default=1)
    parser.add_argument("--parent", type=int, default=0, help="the process with which it ends")
    parser.add_argument("--folder", type=Path, default=folder)
    told = parser.parse_args()
    words = ["-m", module, told.address, "--rate", str(told.rate)]
    words += ["--labels-after", str(told.labels_after), "--parent", str(told.parent), "--folder", str(told.folder)]
    told.folder.mkdir(parents=True, exist_ok=True)
    note(told.folder, os.getpid(), words)
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(0)))
    sent = Sent(route, target, rows(5000, told.seed))
    try:
        asyncio.run(feed(sent, told.address, told.rate, told.labels_after, told.parent))
    finally:
        with contextlib.suppress(OSError):
            note(told.folder, None, words)

"""Sends the scoring example what clinics measure, and later what came true.

python -m subjects.scoring.feed http://127.0.0.1:8200 --rate 6
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path

import httpx

from subjects.scoring.model import rows


async def feed(address: str, rate: float, seed: int, labels_after: float, parent: int) -> None:
    """Send requests at a rate until this process is ended, or the one that started all is gone."""
    table = rows(5000, seed)
    labels, numbers = table.pop("malignant").tolist(), table.to_dict("records")
    limits = httpx.Limits(max_connections=200)

    async def one(client: httpx.AsyncClient, place: int) -> None:
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            answer = await client.post("/score", json={"inputs": numbers[place]})
            asked = answer.json()["id"]
            await asyncio.sleep(labels_after)
            await client.post("/outcome", json={"id": asked, "malignant": labels[place]})

    began, sent, running = time.monotonic(), 0, set[asyncio.Task[None]]()
    async with httpx.AsyncClient(base_url=address, timeout=30, limits=limits, trust_env=False) as client:
        while not parent or Path(f"/proc/{parent}").exists():
            task = asyncio.create_task(one(client, sent % len(numbers)))
            running.add(task)
            task.add_done_callback(running.discard)
            sent += 1
            await asyncio.sleep(max(0.0, began + sent / rate - time.monotonic()))


def note(folder: Path, pid: int | None, words: list[str]) -> None:
    """Say which process this is, or that it has ended: whole, as `manage.py` reads it at any moment."""
    made = folder / "feed.new"
    made.write_text(json.dumps({"pid": pid, "words": words}), encoding="utf-8")
    made.replace(folder / "feed.json")


def main() -> None:
    """Run the feed with these arguments, and note them for a restart."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--rate", type=float, default=6)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--labels-after", type=float, default=1)
    parser.add_argument("--parent", type=int, default=0, help="the process with which it ends")
    parser.add_argument("--folder", type=Path, default=Path("services/scoring"))
    told = parser.parse_args()
    words = ["-m", "subjects.scoring.feed", told.address, "--rate", str(told.rate)]
    words += ["--labels-after", str(told.labels_after), "--parent", str(told.parent), "--folder", str(told.folder)]
    told.folder.mkdir(parents=True, exist_ok=True)
    note(told.folder, os.getpid(), words)
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(0)))
    try:
        asyncio.run(feed(told.address, told.rate, told.seed, told.labels_after, told.parent))
    finally:
        with contextlib.suppress(OSError):
            note(told.folder, None, words)


if __name__ == "__main__":
    main()

"""Asks the chat example questions as readers do, and rates its answers.

python -m subjects.chat.readers http://127.0.0.1:8300 --rate 4
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import time
from pathlib import Path

import httpx

from subjects.chat.engine import WORDS, unknown_share


def prompt(chance: random.Random) -> str:
    """Return a question: mostly English, of some 20 words, seldom long."""
    words = WORDS["de" if chance.random() < 0.2 else "en"]
    return " ".join(chance.choices(words, k=min(200, 5 + int(chance.expovariate(1 / 15)))))


def rating(answer: str, chance: random.Random) -> int:
    """Return what a reader gives: the fewer words are made up, the better; one in eight is never content."""
    grumbles = chance.random() < 0.125
    return 2 if grumbles else max(1, 5 - round(unknown_share(answer) * 6))


async def read(address: str, rate: float, seed: int, rate_after: float, parent: int) -> None:
    """Send questions at a rate until this process is ended, or the one that started all is gone."""
    chance = random.Random(seed)

    async def one(client: httpx.AsyncClient, asked: str) -> None:
        body = {"model": "stand-in", "messages": [{"role": "user", "content": asked}], "stream": True}
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            told, number = [], ""
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line[6:])
                        number = event["id"]
                        told.append(event["choices"][0]["delta"].get("content", ""))
            await asyncio.sleep(rate_after)
            await client.post("/ratings", json={"id": number, "rating": rating("".join(told), chance)})

    began, sent, running = time.monotonic(), 0, set[asyncio.Task[None]]()
    limits = httpx.Limits(max_connections=400)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits, trust_env=False) as client:
        while not parent or Path(f"/proc/{parent}").exists():
            task = asyncio.create_task(one(client, prompt(chance)))
            running.add(task)
            task.add_done_callback(running.discard)
            sent += 1
            await asyncio.sleep(max(0.0, began + sent / rate - time.monotonic()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--rate", type=float, default=4)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rate-after", type=float, default=1)
    parser.add_argument("--parent", type=int, default=0, help="the process with which it ends")
    told = parser.parse_args()
    asyncio.run(read(told.address, told.rate, told.seed, told.rate_after, told.parent))

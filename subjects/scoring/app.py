"""The scoring example's server: one decision a request, with names, logs and scripts of its own.

    python -m subjects.scoring.app --port 8200

It knows nothing of Lepton Kit. A decision takes a slot for `LOOKUP` seconds, which stand for a question to the
laboratory's database; `scale` changes how many slots there are, `deploy` which version answers (see manage.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import prometheus_client as prom
import skops.io
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from subjects.scoring.manage import LOOKUP, link, read_state
from subjects.scoring.model import NUMBERS, SIZES, train

TICK = 0.01
KEPT = 100_000
"""Decisions whose label is waited for."""


class Scoring:
    """The state of the server: the version that answers, its slots, its metrics and its logs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.version, self.slots, self.busy = folder, "", 0, 0
        self.asked: list[tuple[dict[str, Any], asyncio.Future[float]]] = []
        self.room, self.decided = asyncio.Condition(), OrderedDict[str, int]()
        (folder / "log").mkdir(parents=True, exist_ok=True)
        self.registry = prom.CollectorRegistry()
        prom.ProcessCollector(registry=self.registry)
        kept: dict[str, Any] = {"registry": self.registry}
        self.requests = prom.Counter("scoring_requests", "Requests by status.", ["status"], **kept)
        buckets = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10)
        self.duration = prom.Histogram("scoring_duration_seconds", "From head to answer.", buckets=buckets, **kept)
        self.judged = prom.Counter("scoring_decisions", "Decisions whose label came, right or not.", ["right"], **kept)
        self.worked = prom.Counter("scoring_busy_seconds", "Seconds for which slots were taken.", **kept)
        self.waiting = prom.Gauge("scoring_waiting", "Requests that wait for a slot.", **kept)
        self.places = prom.Gauge("scoring_slots", "Slots.", **kept)
        for right in ("yes", "no"):
            self.judged.labels(right)

    def write(self, name: str, **entry: Any) -> None:
        """Append a line to one of the logs, with the time."""
        with (self.folder / name).open("a", encoding="utf-8") as log:
            log.write(json.dumps({"ts": datetime.now(UTC).isoformat(), **entry}) + "\n")

    async def follow(self) -> None:
        """Take up what the scripts ask for, as long as the server runs."""
        while True:
            await self.take_up()
            await asyncio.sleep(0.1)

    async def take_up(self) -> None:
        """Load the version and take the slots that state.json asks for; a version that cannot be loaded is left."""
        state = read_state(self.folder)
        if state["version"] != self.version:
            try:
                path = self.folder / "models" / state["version"] / "model.skops"
                self.model = skops.io.load(path, trusted=[])
            except Exception as error:
                self.write("log/app.jsonl", level="ERROR", message=f"version not loaded: {error}")
                return
            self.version = state["version"]
            self.write("deployments.jsonl", time=datetime.now(UTC).isoformat(), version=self.version)
            self.write("log/app.jsonl", level="INFO", message=f"version {self.version} answers")
        if state["workers"] != self.slots:
            async with self.room:
                self.slots = state["workers"]
                self.places.set(self.slots)
                self.room.notify_all()

    async def decide(self, inputs: dict[str, Any]) -> float:
        """Return the probability that the tumour is malignant, once a slot was free for it."""
        self.waiting.inc()
        try:
            async with self.room:
                await self.room.wait_for(lambda: self.busy < self.slots)
                self.busy += 1
        finally:
            self.waiting.dec()
        began = time.monotonic()
        try:
            await asyncio.sleep(LOOKUP)
            answer = asyncio.get_running_loop().create_future()
            self.asked.append((inputs, answer))
            if len(self.asked) == 1:  # requests that arrive within this tick are answered with it
                asyncio.get_running_loop().call_later(TICK, self.answer)
            return float(await answer)
        finally:
            self.worked.inc(time.monotonic() - began)
            async with self.room:
                self.busy -= 1
                self.room.notify()

    def answer(self) -> None:
        """Give their probabilities to those who asked since the last time: one call of the model for all."""
        asked, self.asked = self.asked, []
        try:
            told = self.model.predict_proba(pd.DataFrame([inputs for inputs, _ in asked]))[:, 1]
        except Exception as error:
            for _, answer in asked:
                answer.set_exception(error)
            return
        for (_, answer), proba in zip(asked, told, strict=True):
            if not answer.done():
                answer.set_result(proba)


def valid(inputs: Any) -> bool:
    """Say whether a request holds a number for each measurement, and a size."""
    if not isinstance(inputs, dict) or set(inputs) != {*NUMBERS, "size"}:
        return False
    numbers = [inputs[name] for name in NUMBERS]
    return all(isinstance(one, int | float) for one in numbers) and isinstance(inputs["size"], str)


def make_app(folder: Path) -> FastAPI:
    """Return the server on a folder, in which `models/<version>` lie."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await scoring.take_up()
        following = asyncio.create_task(scoring.follow())
        yield
        following.cancel()

    scoring = Scoring(folder)
    app = FastAPI(title="Scoring", lifespan=lifespan)

    @app.post("/score")
    async def score(request: Request) -> JSONResponse:
        began, asked, version = time.monotonic(), uuid.uuid4().hex, scoring.version
        answer: dict[str, Any] = {}
        inputs, status = None, 500
        try:
            inputs = (await request.json()).get("inputs")
            status = 200 if valid(inputs) else 422
            if status == 200:
                proba = await scoring.decide(inputs)
                scoring.decided[asked] = int(proba >= 0.5)
                if len(scoring.decided) > KEPT:
                    scoring.decided.popitem(last=False)
                answer = {"id": asked, "model_version": version, "y_pred_proba": proba}
            else:
                answer = {"detail": f"inputs: a number each for {', '.join(NUMBERS)}, and size ({', '.join(SIZES)})"}
                scoring.write("log/app.jsonl", level="WARNING", message="refused: a value is missing or of no type")
        except Exception as error:  # such as a client that is gone, or a version that fails
            scoring.write("log/app.jsonl", level="ERROR", message=f"{type(error).__name__}: {error}")
            answer = {"detail": "failed"}
        took = time.monotonic() - began
        scoring.requests.labels(str(status)).inc()
        scoring.duration.observe(took)
        scoring.write(
            "log/requests.jsonl", id=asked, model_version=version, status=status, took_ms=round(took * 1000, 3),
            inputs=inputs if isinstance(inputs, dict) else {}, y_pred_proba=answer.get("y_pred_proba"),
        )  # fmt: skip
        return JSONResponse(answer, status)

    @app.post("/outcome")
    async def outcome(request: Request) -> dict[str, bool]:
        given = await request.json()
        decision = scoring.decided.pop(given["id"], None)
        if decision is not None:
            scoring.judged.labels("yes" if decision == given["malignant"] else "no").inc()
            scoring.write("labels.jsonl", id=given["id"], malignant=given["malignant"])
        return {"known": decision is not None}

    @app.get("/alive")
    async def alive() -> dict[str, Any]:
        return {"version": scoring.version, "slots": scoring.slots}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(prom.generate_latest(scoring.registry), media_type=prom.CONTENT_TYPE_LATEST)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("services/scoring"))
    parser.add_argument("--port", type=int, default=8200)
    told = parser.parse_args()
    for name, spoilt in (("v1", False), ("v2", True)):  # v2 is the worse one
        if not (made := told.folder / "models" / name).exists():
            train(made, spoilt)
    if not (told.folder / "models" / "current").exists():
        link(told.folder, "current", read_state(told.folder)["version"])
    uvicorn.run(make_app(told.folder), host="127.0.0.1", port=told.port, log_level="warning")

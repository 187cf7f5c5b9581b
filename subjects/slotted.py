"""A server of one decision a request, as scoring, support and opinion are: slots, versions, metrics, logs and labels.

It knows nothing of Lepton Kit. A decision takes a slot for `LOOKUP` seconds, which stand for a question to a database
of its owner; `scale` changes how many slots there are, `deploy` which version answers (`subjects.manage`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import prometheus_client as prom
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from subjects.manage import LOOKUP, link, read_state

TICK = 0.01
KEPT = 100_000
"""Decisions whose label is waited for."""

Answer = dict[str, Any]


class Slotted(ABC):
    """The state of a server: the version that answers, its slots, its metrics and its logs."""

    name: str
    route: str
    target: str
    columns: tuple[str, ...]

    def __init__(self, folder: Path) -> None:
        self.folder, self.version, self.slots, self.busy = folder, "", 0, 0
        self.asked: list[tuple[dict[str, Any], asyncio.Future[Answer]]] = []
        self.room, self.decided = asyncio.Condition(), OrderedDict[str, Any]()
        (folder / "log").mkdir(parents=True, exist_ok=True)
        self.registry = prom.CollectorRegistry()
        prom.ProcessCollector(registry=self.registry)
        kept: dict[str, Any] = {"registry": self.registry, "namespace": self.name}
        self.requests = prom.Counter("requests", "Requests by status.", ["status"], **kept)
        buckets = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10)
        self.duration = prom.Histogram("duration_seconds", "From head to answer.", buckets=buckets, **kept)
        self.judged = prom.Counter("decisions", "Decisions whose label came, right or not.", ["right"], **kept)
        self.worked = prom.Counter("busy_seconds", "Seconds for which slots were taken.", **kept)
        self.waiting = prom.Gauge("waiting", "Requests that wait for a slot.", **kept)
        self.places = prom.Gauge("slots", "Slots.", **kept)
        for right in ("yes", "no"):
            self.judged.labels(right)

    def counter(self, name: str, what: str, label: str, values: Sequence[str]) -> prom.Counter:
        """Return a counter of the subject's own, whose values of the label are all shown from the beginning."""
        made = prom.Counter(name, what, [label], namespace=self.name, registry=self.registry)
        for value in values:
            made.labels(value)
        return made

    # --- a subject's own

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Take up the version in a folder."""

    @abstractmethod
    def refused(self, inputs: Any) -> str:
        """Return why inputs are refused; nothing where they are not."""

    @abstractmethod
    def answers(self, asked: Sequence[dict[str, Any]]) -> list[Answer]:
        """Return the columns of each answer."""

    @abstractmethod
    def decision(self, answer: Answer) -> Any:
        """Return what an answer's label must be for it to be right."""

    def agrees(self, decision: Any, label: Any) -> bool:
        """Tell whether a label makes a decision right."""
        return bool(decision == label)

    # --- what all do

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
                self.load(self.folder / "models" / state["version"])
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

    async def decide(self, inputs: dict[str, Any]) -> Answer:
        """Return an answer, once a slot was free for it."""
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
            answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self.asked.append((inputs, answer))
            if len(self.asked) == 1:  # requests that arrive within this tick are answered with it
                asyncio.get_running_loop().call_later(TICK, self._answer)
            return await answer
        finally:
            self.worked.inc(time.monotonic() - began)
            async with self.room:
                self.busy -= 1
                self.room.notify()

    def _answer(self) -> None:
        """Answer those who asked since the last time: one call of the model for all."""
        asked, self.asked = self.asked, []
        try:
            told = self.answers([inputs for inputs, _ in asked])
        except Exception as error:
            for _, answer in asked:
                answer.set_exception(error)
            return
        for (_, answer), one in zip(asked, told, strict=True):
            if not answer.done():
                answer.set_result(one)

    async def serve(self, request: Request) -> JSONResponse:
        """Answer a request, count it and log it, however it ends."""
        began, asked, version = time.monotonic(), uuid.uuid4().hex, self.version
        answer: Answer = {}
        told: Answer = {"detail": "failed"}
        inputs, status = None, 500
        try:
            inputs = (await request.json()).get("inputs")
            why = self.refused(inputs)
            status = 422 if why else 200
            if why:
                told = {"detail": why}
                self.write("log/app.jsonl", level="WARNING", message="refused: a value is missing or of no type")
            else:
                answer = await self.decide(inputs)
                self.decided[asked] = self.decision(answer)
                if len(self.decided) > KEPT:
                    self.decided.popitem(last=False)
                told = {"id": asked, "model_version": version, **answer}
        except Exception as error:  # such as a client that is gone, or a version that fails
            status = 500
            self.write("log/app.jsonl", level="ERROR", message=f"{type(error).__name__}: {error}")
        took = time.monotonic() - began
        self.requests.labels(str(status)).inc()
        self.duration.observe(took)
        self.write(
            "log/requests.jsonl", id=asked, model_version=version, status=status, took_ms=round(took * 1000, 3),
            inputs=inputs if isinstance(inputs, dict) else {}, **{name: answer.get(name) for name in self.columns},
        )  # fmt: skip
        return JSONResponse(told, status)

    def judge(self, asked: str, label: Any) -> bool:
        """Take up what came true of a decision; tell whether that decision is known."""
        decision = self.decided.pop(asked, None)
        if decision is not None:
            self.judged.labels("yes" if self.agrees(decision, label) else "no").inc()
            self.write("labels.jsonl", id=asked, **{self.target: label})
        return decision is not None


def make_app(service: Slotted) -> FastAPI:
    """Return the server of a service, in whose folder `models/<version>` lie."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.take_up()
        following = asyncio.create_task(service.follow())
        yield
        following.cancel()

    app = FastAPI(title=service.name.capitalize(), lifespan=lifespan)

    @app.post(service.route)
    async def serve(request: Request) -> JSONResponse:
        return await service.serve(request)

    @app.post("/outcome")
    async def outcome(request: Request) -> dict[str, bool]:
        given = await request.json()
        return {"known": service.judge(given["id"], given[service.target])}

    @app.get("/alive")
    async def alive() -> dict[str, Any]:
        return {"version": service.version, "slots": service.slots}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(prom.generate_latest(service.registry), media_type=prom.CONTENT_TYPE_LATEST)

    return app


def main(kind: Callable[[Path], Slotted], folder: Path, port: int, train: Callable[..., Any]) -> None:
    """Run the server: train its versions `v1` and `v2`, the worse one, where they are missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=folder)
    parser.add_argument("--port", type=int, default=port)
    told = parser.parse_args()
    for name, spoilt in (("v1", False), ("v2", True)):
        if not (made := told.folder / "models" / name).exists():
            train(made, spoilt)
    if not (told.folder / "models" / "current").exists():
        link(told.folder, "current", read_state(told.folder)["version"])
    uvicorn.run(make_app(kind(told.folder)), host="127.0.0.1", port=told.port, log_level="warning")

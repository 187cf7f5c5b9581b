"""What every request passes on its way in and out: an id, a limit of its size, a time taken, a line in the log."""

from __future__ import annotations

import json
import re
import time
import traceback
import uuid
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lepton_kit.serving.requestlog import LineLog
from lepton_kit.serving.worker import Worker

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
QUIET = {"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
METHODS = {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT"}


class TooLarge(Exception):  # noqa: N818 - an answer, not an error of the service
    """A body beyond the limit."""


class Edge:
    """The outermost part of a worker's application (ASGI)."""

    def __init__(self, app: ASGIApp, worker: Worker) -> None:
        self.app = app
        self.worker = worker
        self.lines = LineLog(worker.config.folder / "service.jsonl")
        self.lines.write("INFO", "worker started", version=worker.current.version)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500
        has_begun = False

        async def answer(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        self.worker.metrics.active.inc()
        try:
            await self.app(scope, self._bounded(receive), answer)
        except TooLarge:
            self.worker.metrics.errors.labels("too_large").inc()
            limit = self.worker.config.body_limit
            await _say(answer, 413, f"the body is larger than {limit} bytes")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            self.lines.write("ERROR", f"unexpected {type(error).__name__}", request_id=request_id, place=place)
            if not has_begun:
                await _say(answer, 500, "an unexpected error; the service's log has it under this request id")
        finally:
            self.worker.metrics.active.dec()
            self._note(scope, status, time.perf_counter() - began, request_id)

    def _bounded(self, receive: Receive) -> Receive:
        room = self.worker.config.body_limit

        async def receive_some() -> Message:
            nonlocal room
            message = await receive()
            room -= len(message.get("body", b""))
            if room < 0:
                raise TooLarge
            return message

        return receive_some

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")  # the template: a label of bounded number
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        self.worker.metrics.duration.labels(method, route, str(status)).observe(seconds)
        if route not in QUIET:
            level = "ERROR" if status >= 500 else "WARNING" if status >= 400 else "INFO"
            told = {"request_id": request_id, "status": status, "latency_ms": round(seconds * 1000, 3)}
            self.lines.write(level, f"{method} {route} answered {status}", **told)


async def _say(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return uuid.uuid4().hex

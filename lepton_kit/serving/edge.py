"""What every request passes on its way in and out: an id, a limit of its size, a time taken, a line in the log."""

from __future__ import annotations

import json
import os
import re
import time
import traceback
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lepton_kit.serving.worker import Worker

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
QUIET = {"/healthz", "/readyz", "/metrics"}
LOG_BYTES = 64 * 1024 * 1024
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


class LineLog:
    """A log of JSON lines that several processes append to; at 64 MiB it is put aside, and the one before removed.

    Only what the service itself says stands in it: no body, no header, no query.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def write(self, level: str, message: str, **fields: Any) -> None:
        """Append one line."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "message": message}
        os.write(self._file, (json.dumps({**line, "fields": {**fields, "pid": os.getpid()}}) + "\n").encode())
        self._count += 1
        if self._count % 1000 == 0:
            self._turn()

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        self._count = 0

    def _turn(self) -> None:
        """Put a large file aside, and follow where another worker did so."""
        held = os.fstat(self._file)
        try:
            is_mine = self._path.stat().st_ino == held.st_ino
        except FileNotFoundError:
            is_mine = False
        if is_mine and held.st_size > LOG_BYTES:
            self._path.replace(self._path.with_suffix(".1.jsonl"))
        elif is_mine:
            return
        os.close(self._file)
        self._open()


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

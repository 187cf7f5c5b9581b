"""A small HTTP proxy before a service that the kit did not make, which injects a fault into what passes.

It runs in a thread of the drill. Until the fault begins, requests and answers pass as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from lepton_kit.ops.faults import Fault
from lepton_kit.serving.replay import Item
from lepton_kit.tls import trusted

HOP = {"host", "content-length", "transfer-encoding", "connection", "keep-alive"}
"""Headers that hold for one connection, and not for the next."""


class _Cut(Exception):  # noqa: N818 - it is no error: the fault asks for it
    """The connection ends here."""


def row_of(body: Any, features: Sequence[str]) -> dict[str, Any] | None:
    """Return the object within a request's body that holds its features, to be changed in place; None where none does.

    >>> row_of({"inputs": {"radius": 2.0}}, ["inputs.*"])
    {'radius': 2.0}
    >>> row_of([1, 2], ["inputs.*"]) is None
    True
    """
    for name in features[:1]:
        for part in name.split(".")[:-1]:
            body = body.get(part) if isinstance(body, dict) else None
    return body if isinstance(body, dict) and features else None


class _Proxy:
    def __init__(self, upstream: str, features: Sequence[str], fault: Fault, is_on: Callable[[], bool]) -> None:
        self._upstream, self._features, self._fault, self._is_on = upstream, features, fault, is_on
        self._state: dict[str, Any] = {}
        self._running = set[asyncio.Task[None]]()
        self._client: httpx.AsyncClient

    def app(self) -> Starlette:
        @contextlib.asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            limits = httpx.Limits(max_connections=1000)
            async with httpx.AsyncClient(
                base_url=self._upstream, timeout=60, trust_env=False, limits=limits, verify=trusted()
            ) as self._client:
                yield
                for task in self._running:
                    task.cancel()

        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        return Starlette(routes=[Route("/{path:path}", self._pass, methods=methods)], lifespan=lifespan)

    async def _pass(self, request: Request) -> Response:
        body = await request.body()
        content: AsyncIterator[bytes] | bytes = body
        headers = [(name, value) for name, value in request.headers.items() if name not in HOP]
        if self._is_on() and (changed := self._changed(body)) is not None:
            sent, copies = changed
            for _ in range(copies):
                self._send_beside(request, headers, sent)
            content = self._paced(sent)
            headers += [("content-length", str(len(sent)))]
        asked = self._client.build_request(
            request.method, request.url.path, params=request.query_params, headers=headers, content=content
        )
        try:
            answer = await self._client.send(asked, stream=True)
        except (_Cut, httpx.HTTPError):
            return Response("the service does not answer", 502)
        kept = {name: value for name, value in answer.headers.items() if name not in HOP}

        async def told() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_raw():
                    yield part
            finally:
                await answer.aclose()

        return StreamingResponse(told(), answer.status_code, headers=kept)

    def _changed(self, body: bytes) -> tuple[bytes, int] | None:
        """Return what is sent in the place of a body, and how many copies; None where it is left alone."""
        try:
            told = json.loads(body)
        except ValueError:
            return None
        row = row_of(told, self._features)
        if row is None and "data" in self._fault.causes:
            return None
        item = self._fault.apply(Item(dict(row or {}), 0.0, float("nan")), self._state)
        if row is not None and dict(item.row) != row:
            row.clear()
            row.update(item.row)
            body = json.dumps(told).encode()
        return body, item.copies + self._fault.copies

    async def _paced(self, body: bytes) -> AsyncIterator[bytes]:
        """Send a body as late as the fault says, or end its connection in the midst of it."""
        await asyncio.sleep(self._fault.delay)
        if self._fault.rng.random() < self._fault.dropped:
            yield body[:1]
            raise _Cut
        yield body

    def _send_beside(self, request: Request, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        async def send() -> None:
            with contextlib.suppress(httpx.HTTPError):
                path = request.url.path
                await self._client.request(request.method, path, headers=list(headers), content=body)

        task = asyncio.create_task(send())
        self._running.add(task)
        task.add_done_callback(self._running.discard)


@contextlib.contextmanager
def proxied(upstream: str, features: Sequence[str], fault: Fault, is_on: Callable[[], bool]) -> Iterator[str]:
    """Run a proxy before a service on a free port of this machine, and yield its address.

    Features are named as the declaration has them: `inputs.*` lie in the body's object `inputs`. Faults of data harm
    only requests that have such an object, all others whatever is JSON; `is_on` says with each whether the fault is
    there now.
    """
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(1000)  # connections made before the server has started wait for it
        app = _Proxy(upstream, features, fault, is_on).app()
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [held]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{held.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)

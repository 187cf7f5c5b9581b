"""Which requests `lepton watch` accepts: complete ones for this server, in time, on a bounded number of connections."""

from __future__ import annotations

import asyncio
import ipaddress
import platform
import resource
from collections.abc import Callable, Collection
from typing import Any, ClassVar
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lepton_kit.ops.watch.webhook import LOOPBACK

HEAD_S, BODY_S = 10.0, 10.0
"""Seconds that the head of a request, and its body, may take."""
MOST_HEAD = 64 * 1024
MOST_CONNECTIONS = min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is not answered as asked: the status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


def host_name(header: str) -> str | None:
    """Return the name in a Host header, in small letters and without the port; None where it is malformed.

    >>> host_name("Example.org:8088"), host_name("[::1]:80"), host_name("["), host_name("me@example.org")
    ('example.org', '::1', None, None)
    """
    try:
        split = urlsplit(f"//{header}")
        is_whole = split.netloc == header and "@" not in header and (split.port is None or split.port > 0)
    except ValueError:
        return None
    return split.hostname if is_whole else None


class OwnHost:
    """Answers 4xx to requests that name another host than this server (ASGI): no other name leads here by DNS.

    Parameters
    ----------
    app
        What answers the others.
    host
        The address that the server listens at. On one that other machines reach, an address in place of a name is
        taken as well: a page of another site cannot be bound to that.
    names
        Further names of this server, such as that of the proxy before it.
    """

    def __init__(self, app: ASGIApp, host: str, names: Collection[str] = ()) -> None:
        self._app = app
        self._takes_addresses = host not in LOOPBACK
        own = {platform.node().lower()} if self._takes_addresses else set()
        self._names = LOOPBACK | {host.lower()} | own | {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        refused = self._refusal(scope) if scope["type"] == "http" else None
        answer = self._app if refused is None else JSONResponse({"error": refused[1]}, refused[0])
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        name = host_name(given[0]) if len(given) == 1 else None
        if name is None:
            return 400, "the Host header is missing or malformed"
        if name in self._names or (self._takes_addresses and _is_address(name)):
            return None
        return 403, f"this server is not {name[:100]!a}; [watch] hosts in lepton.toml lists further names of it"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def whole_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises Refused as soon as it is larger than the limit, or takes too long.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise Refused(413, f"the body is larger than {limit} bytes")
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"the body took longer than {BODY_S:g} s") from None
    return b"".join(parts)


class PatientProtocol(HttpToolsProtocol):
    """Uvicorn's connection, which waits for a request up to a deadline, and closes where there are many."""

    _waiting: ClassVar[dict[PatientProtocol, None]] = {}  # oldest first
    _deadline: asyncio.TimerHandle | None = None
    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn declares it
        """Wait for a request; of too many connections, the one that has waited longest gives way."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS and (oldest := next(iter(self._waiting), None)) is not None:
            oldest._leave()
        self._wait(HEAD_S, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request, whose head is bounded."""
        self._head += len(data)
        if self.cycle is None and self._head > MOST_HEAD:
            self.send_400_response(f"The head of the request is larger than {MOST_HEAD} bytes.")
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of the head."""
        super().on_message_begin()
        if self._deadline is None:
            self._wait(HEAD_S, self._too_late)

    def on_headers_complete(self) -> None:
        """Begin to wait for the body; the application ends that wait in good order, so this one is longer."""
        self._wait(2 * BODY_S, self._leave)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait no longer: the request is there."""
        self._wait_no_longer()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer: nobody is there."""
        self._wait_no_longer()
        super().connection_lost(exc)

    def _wait(self, seconds: float, then: Callable[[], Any]) -> None:
        self._wait_no_longer()
        self._waiting[self] = None
        self._deadline = self.loop.call_later(seconds, then)

    def _wait_no_longer(self) -> None:
        self._waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self._leave()

    def _leave(self) -> None:
        self._wait_no_longer()
        self.transport.close()

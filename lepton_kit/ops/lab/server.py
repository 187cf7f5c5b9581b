"""`lepton ui`: serves the pages on this machine, to who has the token."""

from __future__ import annotations

import contextlib
import hmac
import secrets
from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lepton_kit.ops.lab.app import application
from lepton_kit.ops.lab.started import StartedRuns
from lepton_kit.ops.watch import page
from lepton_kit.ops.watch.answers import answer
from lepton_kit.ops.watch.approvals import is_own_form
from lepton_kit.ops.watch.door import OwnHost, PatientProtocol
from lepton_kit.runs.ending import repair
from lepton_kit.serving.listening import address_of, listening

HOST = "127.0.0.1"
COOKIE = "lepton_ui"


class TokenDoor:
    """Lets in who brings the token (ASGI): as `?token=`, which a cookie then stands for, or as a bearer.

    A form that comes with the cookie must come from a page of this very server. Cookies are not told apart by port, so
    the cookie's name has it.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token, self._cookie = app, token, f"{COOKIE}_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and self._is_token(query.pop("token", [""])[-1]):
            rest = urlencode(query, doseq=True)
            welcome = RedirectResponse(scope["path"] + f"?{rest}" * bool(rest), 303)
            welcome.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            return welcome
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() in ("bearer", "token") and self._is_token(given.strip()):
            return None
        held = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        if held is None or not self._is_token(held.value):
            why = "Open the address with the token that `lepton ui` has printed."
            return answer(page.rendered("message", "no entry", heading="No entry", words=why, is_wrong=True), 401)
        if scope["method"] not in ("GET", "HEAD") and not is_own_form(headers):
            why = "refused: the form was not sent from a page of this server"
            return answer(page.refused_page(why), 403)
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def serve(project: Path, port: int, announce: Callable[[str], object], token: str | None = None) -> None:
    """Serve the pages of a project until Ctrl-C or SIGTERM; runs that go on then are cancelled.

    Raises InputError when the address is taken.
    """
    token, started = token or secrets.token_urlsafe(24), StartedRuns(project)
    repair(project)
    with listening(HOST, port) as listener:
        app = TokenDoor(application(project, started), token, listener.getsockname()[1])
        config = uvicorn.Config(
            OwnHost(app, HOST),
            log_level="warning",
            access_log=False,
            server_header=False,
            http=PatientProtocol,
            ws="none",
            timeout_graceful_shutdown=5,
        )
        announce(f"{address_of(listener)}/runs?token={token}")
        try:
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended in good order, and passes the signal on
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            started.stop()

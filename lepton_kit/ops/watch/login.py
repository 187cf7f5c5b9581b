"""Who may read the pages of `lepton watch` and `lepton ui`: who shows the token, whom the proxy before it names."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lepton_kit.ops.watch import page
from lepton_kit.ops.watch.answers import answer as answer_with
from lepton_kit.ops.watch.approvals import is_own_form
from lepton_kit.project.settings import Watch
from lepton_kit.secrets import resolve_secret

HOURS = 12
"""How long a login lasts."""
OPEN = ("/healthz", "/metrics", "/alerts", "/style.css", "/login", "/decide")
"""First parts of paths that need no login: machines ask for them, or they have a gate of their own."""
USER = "lepton.user"
"""Where the scope of a request holds the name that the proxy gave."""


@dataclass(frozen=True, repr=False)
class Login:
    """Who may read: a bearer of `token`, and whom a proxy at one of the `proxies` names in the header `user_header`.

    Without either anybody may. Where it `takes_link`, the address `?token=…` logs in; else the page `/login` does.
    """

    token: bytes | None = None
    user_header: str | None = None
    proxies: frozenset[str] = frozenset()
    takes_link: bool = False

    @property
    def cookie(self) -> str:
        """The name of the cookie: cookies are not told apart by port, so that of another server would stand for it."""
        return f"lepton-{hashlib.sha256(self.token or b'').hexdigest()[:8]}"

    def user(self, headers: Mapping[str, str], client: str | None) -> str:
        """Return the name that a proxy gave; empty where none did. Names of headers are in small letters."""
        given = headers.get(self.user_header.lower(), "") if self.user_header and client in self.proxies else ""
        return " ".join(given.split())

    def is_in(self, request: Request) -> bool:
        """Say whether a request may read."""
        client = request.client.host if request.client else None
        if (self.token is None and self.user_header is None) or self.user(request.headers, client):
            return True
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(given):
            return True
        held = request.cookies.get(self.cookie, "")
        try:
            return self.token is not None and bool(_serializer(self.token).loads(held, max_age=HOURS * 3600))
        except BadSignature:
            return False

    def is_token(self, given: str) -> bool:
        """Say whether a text is the token."""
        return self.token is not None and hmac.compare_digest(given.strip().encode(), self.token)

    def answer(self, target: str, is_secure: bool) -> RedirectResponse:
        """Return the answer to who gave the token: on to a page of this server, with a cookie."""
        is_here = target.startswith("/") and not target.startswith(("//", "/\\")) and not urlsplit(target).netloc
        made = RedirectResponse(target if is_here else "/", 303)
        signed = _serializer(self.token or b"").dumps("reader")
        made.set_cookie(self.cookie, str(signed), HOURS * 3600, httponly=True, samesite="lax", secure=is_secure)
        return made


class LoginGate:
    """Answers 401 to requests that may not read, or leads a browser to the login (ASGI).

    What changes something, and comes with a cookie alone, must be a form of this very server.
    """

    def __init__(self, app: ASGIApp, login: Login) -> None:
        self._app, self._login = app, login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer: Any = self._app
        if scope["type"] == "http":
            request = Request(scope)
            scope[USER] = self._login.user(request.headers, request.client.host if request.client else None)
            first = scope["path"].lstrip("/").partition("/")[0]  # not of request.url, which the Host header shapes
            given = request.query_params.get("token", "")
            if self._login.takes_link and request.method == "GET" and self._login.is_token(given):
                rest = urlencode([one for one in request.query_params.multi_items() if one[0] != "token"])
                answer = self._login.answer(scope["path"] + f"?{rest}" * bool(rest), is_secure=False)
            elif f"/{first}" in OPEN:
                pass
            elif not self._login.is_in(request):
                answer = self._refused(request)
            elif request.method not in ("GET", "HEAD") and self._login.cookie in request.cookies:
                answer = self._app if is_own_form(request.headers) else _foreign()
        await answer(scope, receive, send)

    def _refused(self, request: Request) -> Response:
        is_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
        if self._login.takes_link:
            why = "Open the address with the token that this server has printed."
            return answer_with(page.rendered("message", "no entry", heading="No entry", words=why, is_wrong=True), 401)
        if self._login.token is not None and is_page:
            return RedirectResponse(f"/login?next={quote(request.scope['path'])}", 303)
        ways = ["the bearer token of [watch] login"] * (self._login.token is not None)
        ways += [f"a name in {self._login.user_header} from a proxy"] * (self._login.user_header is not None)
        return JSONResponse({"error": f"needs {' or '.join(ways)}"}, 401, {"WWW-Authenticate": "Bearer"})


def _foreign() -> Response:
    return answer_with(page.refused_page("refused: the form was not sent from a page of this server"), 403)


def make_login(settings: Watch, project: Path) -> Login:
    """Return who may read by the settings. Raises InputError when the token cannot be resolved."""
    token = None if settings.login is None else resolve_secret(settings.login, project).strip().encode()
    return Login(token, settings.user_header, frozenset(map(str, settings.proxies)))


def _serializer(token: bytes) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(token, salt="login")

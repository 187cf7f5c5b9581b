"""`lepton ui`: serves the pages on this machine, to who has the token."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path

import uvicorn

from lepton_kit.ops.lab.app import application
from lepton_kit.ops.lab.started import StartedRuns
from lepton_kit.ops.watch.door import OwnHost, PatientProtocol
from lepton_kit.ops.watch.login import Login, LoginGate
from lepton_kit.runs.ending import repair
from lepton_kit.serving.listening import address_of, listening

HOST = "127.0.0.1"


def serve(project: Path, port: int, announce: Callable[[str], object], token: str | None = None) -> None:
    """Serve the pages of a project until Ctrl-C or SIGTERM; runs that go on then are cancelled.

    Raises InputError when the address is taken.
    """
    token, started = token or secrets.token_urlsafe(24), StartedRuns(project)
    repair(project)
    with listening(HOST, port) as listener:
        app = LoginGate(application(project, started), Login(token.encode(), takes_link=True))
        config = uvicorn.Config(
            OwnHost(app, HOST),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
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

"""The pages of `lepton ui` within a Jupyter server, under `/lepton`: Jupyter says who may come in and checks its forms.

`etc/jupyter/jupyter_server_config.d/lepton_kit.json` of the wheel switches the server extension on. The project is
`LEPTON_PROJECT`, or that of the server's root folder; it is looked for when the first page is asked for.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado.web import authenticated

from lepton_kit.errors import InputError
from lepton_kit.runs.project import find_project

OWN = ("content-length", "transfer-encoding", "connection")  # headers that the Jupyter server writes itself


class Pages:
    """The application of the pages, made when it is first asked for: Jupyter starts no slower."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._app: Any = None
        self._making = threading.Lock()

    def app(self) -> Any:
        """Return the application; raises InputError where there is no project."""
        with self._making:
            if self._app is None:
                project = find_project(None if os.environ.get("LEPTON_PROJECT") else self._root)
                from lepton_kit.ops.lab.app import application
                from lepton_kit.ops.lab.started import StartedRuns

                started = StartedRuns(project)
                atexit.register(started.stop)
                self._app = application(project, started, framed_by="'self'")
            return self._app


class PagesHandler(JupyterHandler):
    """Hands a request to the application (ASGI) and its answer back."""

    auth_resource = "lepton"

    def initialize(self, pages: Pages, base: str) -> None:
        """Take what all requests share."""
        self.pages, self.base = pages, base

    @authenticated
    @authorized
    async def get(self) -> None:
        """Answer with a page."""
        await self._answer()

    @authenticated
    @authorized
    async def post(self) -> None:
        """Take a form; Jupyter has checked its `_xsrf`."""
        await self._answer()

    async def _answer(self) -> None:
        try:
            app = await asyncio.to_thread(self.pages.app)
        except InputError as error:
            self.set_status(404)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            await self.finish(str(error))
            return
        request = self.request
        body = iter([{"type": "http.request", "body": request.body, "more_body": False}])
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": request.method,
            "scheme": request.protocol, "path": unquote(request.path), "root_path": unquote(self.base),
            "raw_path": request.path.encode(), "query_string": request.query.encode(),
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1"))
                        for name, value in request.headers.get_all()],
            "client": (request.remote_ip, 0), "server": ("127.0.0.1", 0),
            "lepton.root": self.base, "lepton.hidden": ("_xsrf", self.xsrf_token.decode()),
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            while (message := next(body, None)) is None:  # nobody leaves: at that a file would be sent no further
                await asyncio.Event().wait()
            return message

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.set_status(message["status"])
                told = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
                for name, value in told.items():
                    if name.lower() not in OWN:
                        self.set_header(name, value)
            elif message.get("body"):  # tornado refuses even an empty one beside 304
                self.write(message["body"])

        await app(scope, receive, send)
        await self.finish()


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    base = url_path_join(server.web_app.settings["base_url"], "lepton")
    about = {"pages": Pages(Path(server.root_dir)), "base": base}
    server.web_app.add_handlers(".*$", [(re.escape(base) + r"(?:/.*)?", PagesHandler, about)])

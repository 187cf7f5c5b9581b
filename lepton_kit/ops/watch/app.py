"""`lepton watch`: one process that receives alerts, watches services, and lets them start runbooks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically
from lepton_kit.ops.watch import approvals, page, status
from lepton_kit.ops.watch.answers import Site, answer, form_of, style
from lepton_kit.ops.watch.dispatcher import Dispatcher
from lepton_kit.ops.watch.door import OwnHost, PatientProtocol, Refused, whole_body
from lepton_kit.ops.watch.evidence import FOLDER
from lepton_kit.ops.watch.intake import Full, Intake
from lepton_kit.ops.watch.jobs import Via
from lepton_kit.ops.watch.links import Links
from lepton_kit.ops.watch.login import USER, Login, LoginGate, make_login
from lepton_kit.ops.watch.notify import Notifier, links_of
from lepton_kit.ops.watch.observer import Observer
from lepton_kit.ops.watch.policy import Policy, Routes
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.schedules import Schedules
from lepton_kit.ops.watch.seen_before import seen_before
from lepton_kit.ops.watch.webhook import Gate, Webhook, field_reasons, make_gate
from lepton_kit.project.settings import Settings, read_settings
from lepton_kit.runs.ending import repair
from lepton_kit.serving.listening import address_of, listening
from lepton_kit.telemetry.sealed import check_key

MOST_GROUPS = 20  # of truncated alerts, on the status page
SWITCH_S = 0.001  # the loop and the thread that writes take turns this often, so that answers do not wait for 5 ms
ADDRESS = "address"
"""The file in `incidents/` that says where `lepton watch` answers while it runs."""


class Metrics:
    """What `/metrics` says of this process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self.answers = Counter("lepton_watch_webhooks", "Webhooks by the status of the answer", ["status"], **made)
        self.alerts = Counter("lepton_watch_alerts", "Alerts stored, repeated ones included", **made)
        buckets = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
        self.seconds = Histogram("lepton_watch_webhook_seconds", "Time to answer a webhook", buckets=buckets, **made)
        self.jobs = Gauge("lepton_watch_jobs", "Jobs by state", ["state"], **made)

    def as_text(self, counts: dict[str, int]) -> bytes:
        """Return the metrics in Prometheus' text format."""
        for state, count in counts.items():
            self.jobs.labels(state).set(count)
        return generate_latest(self.registry)


class Watcher:
    """The parts of `lepton watch`, put together from the settings.

    Raises InputError when a setting is wrong: before anything is started.
    """

    def __init__(self, settings: Settings, project: Path, gate: Gate, host: str = "127.0.0.1") -> None:
        self.settings, self.project, self.gate, self.host = settings, project, gate, host
        self.login: Login = make_login(settings.watch, project)
        self.links: Links | None = links_of(settings.notify, project)
        if settings.capture.key is not None:
            check_key(settings.capture.key, project)
        self.metrics = Metrics()
        self.routes = Routes(settings, project)
        self.policy = Policy(settings, project)
        self.queue = Queue(project, flap_s=settings.watch.flap_minutes * 60 / settings.watch.time_scale)
        self.schedules = Schedules(settings, project, self.queue, self.wake)
        self.intake = Intake(self.queue, self.routes, self.wake)
        self.observer = Observer(settings, project, self.queue, self.intake)
        self.notifier = Notifier(
            settings.notify, project, self.queue, self.routes, partial(self.observer.note_troubles, "notify")
        )
        self._dispatcher: Dispatcher | None = None

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Let all parts work; at the end stop taking work, and end runs within the time that the settings give."""
        self.queue.hold_open()
        self._dispatcher = Dispatcher(self.queue, self.project, self.settings.watch, self.policy)
        try:
            if self.settings.watch.alertmanager is None:
                self.queue.note_silences({})  # nobody would say when one is over
            self.schedules.start()
            self.observer.start()
            self.notifier.start()
            yield
        finally:
            self.schedules.stop()
            self.observer.stop()
            self.notifier.stop()
            self.intake.close()
            self._dispatcher.stop(self.settings.watch.stop_seconds)
            self.queue.close()

    def status(self) -> dict[str, Any]:
        """Return how the project stands."""
        return status.status(self.project, self.settings, self.queue, self.observer, self.schedules, self.routes)

    def note_truncated(self, posted: Webhook) -> None:
        """Keep for the status page how many alerts of a group Alertmanager did not send, until it sends all of them."""
        what = f"alerts of group {posted.group[:200]!a}"
        known = {name: why for name, why in self.observer.troubles.get("webhook", {}).items() if name != what}
        if posted.truncated and len(known) < MOST_GROUPS:
            known[what] = (
                f"Alertmanager left out {posted.truncated} of {len(posted.alerts) + posted.truncated}, max_alerts "
                "of its webhook is too low (0 sends all)"
            )
        self.observer.troubles["webhook"] = known

    def wake(self) -> None:
        """Say that there may be work."""
        if self._dispatcher is not None:
            self._dispatcher.wake()


def application(watcher: Watcher) -> FastAPI:
    """Return the HTTP application."""
    app = FastAPI(title="Lepton Kit: watch", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(InputError, _unavailable)
    app.add_exception_handler(ClientDisconnect, _gone)
    _add_webhook(app, watcher)
    _add_machines(app, watcher)
    _add_pages(app, watcher)
    _add_login(app, watcher)
    _add_decisions(app, watcher)
    app.mount("/reports", Site(watcher.project))
    app.add_middleware(LoginGate, login=watcher.login)
    app.add_middleware(OwnHost, host=watcher.host, names=watcher.settings.watch.hosts)
    return app


def _add_webhook(app: FastAPI, watcher: Watcher) -> None:
    @app.post("/alerts")
    async def alerts(request: Request) -> Response:
        began = time.perf_counter()
        answer = await _receive(request, watcher)
        watcher.metrics.seconds.observe(time.perf_counter() - began)
        watcher.metrics.answers.labels(str(answer.status_code)).inc()
        return answer


async def _receive(request: Request, watcher: Watcher) -> Response:
    try:
        body = await whole_body(request, watcher.settings.watch.body_limit)
    except Refused as refused:
        return _refused(refused.status, refused.why)
    if (refusal := watcher.gate.refusal(request.headers, body)) is not None:
        return _refused(*refusal)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return _refused(415, "the content type must be application/json")  # which no form of a web page can send
    try:
        posted = Webhook.model_validate_json(body)
    except ValidationError as error:
        return _refused(422, "not an Alertmanager webhook of version 4", fields=field_reasons(error))
    try:
        await watcher.intake.take(posted.alerts)
    except (Full, InputError) as error:
        return _refused(503, str(error), {"Retry-After": "1"})
    watcher.metrics.alerts.inc(len(posted.alerts))
    watcher.note_truncated(posted)
    return JSONResponse({"status": "accepted", "alerts": len(posted.alerts)}, 202)


def _refused(status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> Response:
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return JSONResponse({"error": message, **more}, status, headers)


def _add_machines(app: FastAPI, watcher: Watcher) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/metrics")
    async def metrics() -> Response:
        counts = await asyncio.to_thread(watcher.queue.counts)
        return Response(watcher.metrics.as_text(counts), media_type=CONTENT_TYPE_LATEST)

    @app.get("/status.json")
    async def status_json() -> Response:
        return JSONResponse(await asyncio.to_thread(watcher.status))


def _add_pages(app: FastAPI, watcher: Watcher) -> None:
    queue, project = watcher.queue, watcher.project

    @app.get("/")
    async def home() -> Response:
        return answer(page.status_page(await asyncio.to_thread(watcher.status)))

    app.get("/style.css")(style)

    @app.get("/incidents/{id}")
    def incident(id: str, request: Request) -> Response:
        return _incident(id, watcher, page.Reader(request.scope[USER], watcher.gate.token is not None))

    @app.get("/decide/{link}")
    def asked(link: str) -> Response:
        if watcher.links is None:
            return answer(page.missing_page("There are no links here: [notify] links is not set."), 404)
        try:
            repair = watcher.links.repair(link, queue)
        except InputError as error:
            return answer(page.refused_page(str(error)), 410)
        return _incident(repair.incident, watcher, page.Reader("", watcher.gate.token is not None, link, repair.job))

    @app.get("/runbooks/{alert}")
    def runbook(alert: str) -> Response:
        known = queue.incidents(status.MOST_INCIDENTS, name=alert)
        facts = [status.incident_facts(one, queue, project, watcher.routes) for one in known]
        return answer(page.runbook_page(alert, watcher.routes.runbook(alert), facts))


def _incident(id: str, watcher: Watcher, reader: page.Reader) -> Response:
    queue, project = watcher.queue, watcher.project
    found = queue.incident(id)
    if found is None:
        return answer(page.missing_page(f"There is no incident {id!r}."), 404)
    facts = status.incident_facts(found, queue, project, watcher.routes)
    facts["seen_before"] = seen_before(found, queue, project)
    return answer(page.incident_page(facts, reader, status.pictures(facts, project)))


def _add_login(app: FastAPI, watcher: Watcher) -> None:
    @app.get("/login")
    async def ask(next: str = "/") -> Response:
        return answer(page.login_page(next))

    @app.post("/login")
    async def login(request: Request) -> Response:
        try:
            form = await form_of(request)
        except Refused as refused:
            return answer(page.refused_page(refused.why), refused.status)
        if not watcher.login.is_token(form.get("token", "")):
            return answer(page.login_page(form.get("next", "/"), "The token is wrong."), 401)
        is_secure = request.headers.get("origin", "").startswith("https:")  # a proxy before this server may end TLS
        return watcher.login.answer(form.get("next", "/"), is_secure)


def _add_decisions(app: FastAPI, watcher: Watcher) -> None:
    @app.post("/approvals")
    async def decide(request: Request) -> Response:
        return await _changed(request, watcher, _decide)

    @app.post("/acknowledgements")
    async def acknowledge(request: Request) -> Response:
        return await _changed(request, watcher, _acknowledge)

    @app.post("/decide/{link}")
    async def decide_by(request: Request, link: str) -> Response:
        return await _changed(request, watcher, partial(_decide, link=link), link)


async def _changed(
    request: Request, watcher: Watcher, change: Callable[[Watcher, dict[str, str]], str], link: str = ""
) -> Response:
    """Do what a form asks for where its sender may, or has a link; show the incident then.

    Who came by a link may not read the incident's page: the answer is all there is.
    """
    client, user = request.client.host if request.client else None, request.scope[USER]
    try:
        form = await form_of(request)
        if user:
            form["by"] = user
        refused = None if link else approvals.refusal(watcher.gate, request.headers, client, form, user)
        if refused is not None:
            raise Refused(*refused)
        incident = await asyncio.to_thread(change, watcher, form)
    except Refused as why:
        return answer(page.refused_page(why.why), why.status)
    except InputError as error:
        return answer(page.refused_page(str(error)), 422)
    watcher.wake()
    if link:
        return answer(page.recorded_page(incident))
    return RedirectResponse(f"/incidents/{incident}", 303)


def _decide(watcher: Watcher, form: dict[str, str], link: str = "") -> str:
    via: Via = "status page"
    if link:
        if watcher.links is None:
            raise InputError("there are no links here: [notify] links is not set")
        form, via = {**form, "job": str(watcher.links.repair(link, watcher.queue).job)}, "signed link"
    return watcher.queue.decide(*approvals.read_decision(form, via))


def _acknowledge(watcher: Watcher, form: dict[str, str]) -> str:
    incident, by = watcher.queue.find(form.get("incident", "")).id, approvals.checked_name(form.get("by", ""))
    watcher.queue.acknowledge(incident, by)
    return incident


async def _unavailable(_: Request, error: Exception) -> Response:
    return _refused(503, str(error))  # such as a full disk: the ledger cannot be read


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


def watch(project: Path, host: str, port: int, insecure: bool, announce: Callable[[str], object]) -> None:
    """Watch a project until SIGTERM or Ctrl-C; the address is written to `incidents/address`.

    With `insecure` anybody may post alerts where neither token nor HMAC key is set; for loopback alone. Raises
    InputError when a setting is wrong, or the address is taken.
    """
    sys.setswitchinterval(SWITCH_S)
    settings = read_settings(project)
    watcher = Watcher(settings, project, make_gate(settings.watch, project, host, insecure), host)
    repair(project)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    with listening(host, port) as listener, _address_file(project, listener) as address, watcher.working():
        config = uvicorn.Config(
            application(watcher),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the client is who connects: `proxies` are known by that
            http=PatientProtocol,
            ws="none",
            timeout_graceful_shutdown=5,
        )
        announce(f"watching {len(settings.services)} service(s) at {address}, {settings.watch.workers} worker(s)")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended in good order, and passes the signal on
            uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def _address_file(project: Path, listener: socket.socket) -> Iterator[str]:
    address = address_of(listener)
    path = project / FOLDER / ADDRESS
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, address + "\n")
    try:
        yield address
    finally:
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8").strip() == address:  # not that of another process that came later
                path.unlink()

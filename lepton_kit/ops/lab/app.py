"""The pages of `lepton ui`, and of JupyterLab under `/lepton`: runs, comparison, incidents, new runs, schedules.

Who may ask is decided by who serves them (`server.py`, `extension.py`). `lepton.hidden` in a request's scope is what
each form must send back to that, and `lepton.root` the address that the pages lie under.

What takes time (reading runs, starting one) is in functions that are not `async`: they run in threads, and JupyterLab
goes on meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.lab.forms import form_of as parameters_form
from lepton_kit.ops.lab.forms import texts_of, texts_of_run
from lepton_kit.ops.lab.promote import promote
from lepton_kit.ops.lab.started import StartedRuns
from lepton_kit.ops.watch import page, status
from lepton_kit.ops.watch.answers import Site, answer, form_of, style
from lepton_kit.ops.watch.door import Refused
from lepton_kit.ops.watch.evidence import FOLDER
from lepton_kit.ops.watch.policy import RECORDING
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.seen_before import seen_before
from lepton_kit.project.settings import read_settings
from lepton_kit.reports.publish import previous_run
from lepton_kit.runs.diff import diff
from lepton_kit.runs.manifest import FILE, Manifest, all_runs, find_run
from lepton_kit.runs.notebooks import find_notebooks, read_notebook, title_of
from lepton_kit.runs.runner import Request as RunRequest
from lepton_kit.runs.shipped import name_of

MOST_RUNS, MOST_INCIDENTS = 200, 50
LOOK_AGAIN_S = 2
FORM_LIMIT, FORM_FIELDS = 256 * 1024, 500  # a notebook may take many parameters, and long ones
STATUSES = ("running", "succeeded", "failed", "expectation_failed", "timed_out", "kernel_died", "cancelled")
TRIGGER = "lepton ui"
WRITING = threading.Lock()
"""Who changes lepton.toml holds it: the file is read first."""
Shown = Callable[..., Response]
"""Makes the answer that shows a page: of a request, by the name of its template and its title, with what is in it."""


async def _sent(request: Request) -> dict[str, str]:
    return await form_of(request, FORM_LIMIT, FORM_FIELDS)


Sent = Annotated[dict[str, str], Depends(_sent)]
"""The fields of the form that a request sends."""


def application(project: Path, started: StartedRuns, framed_by: str = "'none'") -> FastAPI:
    """Return the HTTP application of a project; `framed_by` says whose pages may show these within theirs."""
    app = FastAPI(title="Lepton Kit", docs_url=None, redoc_url=None, openapi_url=None)

    async def wrong(request: Request, error: Exception) -> Response:
        code = error.status if isinstance(error, Refused) else 422 if request.method == "POST" else 404
        words = page.rendered(
            "message", "not done", heading="Nothing was changed", words=str(error), is_wrong=True, **place(request)
        )
        return answer(words, code, framed_by)

    def shown(request: Request, name: str, title: str, code: int = 200, **about: Any) -> Response:
        return answer(page.rendered(name, title, **about, **place(request)), code, framed_by)

    app.add_exception_handler(LeptonError, wrong)
    app.add_exception_handler(Refused, wrong)
    _add_runs(app, project, started, shown)
    _add_new(app, project, started, shown)
    _add_incidents(app, project, shown, framed_by)
    app.get("/style.css")(style)
    app.mount("/reports", Site(project))
    return app


def place(request: Request) -> dict[str, Any]:
    """Return where the pages of this server are, and what its forms send back."""
    root = str(request.scope.get("lepton.root", "")).rstrip("/")
    hidden, home = request.scope.get("lepton.hidden"), (f"{root}/runs", "Runs")
    return {"root": root, "home": home, "hidden": hidden, "base": "lab.html.j2", "decides": False}


def _add_runs(app: FastAPI, project: Path, started: StartedRuns, shown: Shown) -> None:
    @app.get("/")
    def home(request: Request) -> Response:
        return RedirectResponse(f"{place(request)['root']}/runs", 303)

    @app.get("/runs")
    def runs(request: Request, text: str = "") -> Response:
        wanted = request.query_params.get("status", "")
        found = [one for one in all_runs(project) if wanted in ("", one.status) and _matches(one, text)]
        facts = [status.run_facts(one, project) for one in found[:MOST_RUNS]]
        left_out = max(0, len(found) - MOST_RUNS)
        about = {"runs": facts, "statuses": STATUSES, "status": wanted, "text": text, "left_out": left_out}
        return shown(request, "runs", "runs", **about)

    @app.get("/runs/{id}")
    def run(request: Request, id: str, promoted: str = "") -> Response:
        return shown(request, "run", id, **run_facts(find_run(id, project), project, started), promoted=promoted)

    @app.get("/runs/{id}/manifest.json")
    def manifest(id: str) -> Response:
        return FileResponse(find_run(id, project).folder(project) / FILE, media_type="application/json")

    @app.get("/compare")
    def compare(request: Request) -> Response:
        asked = request.query_params.getlist("run")
        if len(asked) != 2:
            raise InputError(f"{len(asked)} runs are ticked: a comparison is of two")
        before, after = sorted((find_run(one, project) for one in asked), key=lambda one: one.started)
        return shown(request, "compare", "comparison", found=diff(before, after, project))

    @app.post("/runs/{id}/stop")
    def stop(request: Request, id: str, _: Sent) -> Response:
        found = started.running(id)
        if found is None or find_run(id, project).ended is not None:
            raise InputError(f"run {id!r}: does not run, or was not started here; end it where it was started")
        found.stop()
        return RedirectResponse(f"{place(request)['root']}/runs/{quote(id)}", 303)

    @app.post("/runs/{id}/schedule")
    def schedule(request: Request, id: str, asked: Sent) -> Response:
        found = find_run(id, project)
        name = asked.get("name", "").strip()
        cron, timezone, service = (asked.get(one, "").strip() for one in ("cron", "timezone", "service"))
        try:
            with WRITING:
                promote(found, name, cron, timezone, service, project)
        except InputError as error:
            facts = run_facts(found, project, started) | {"asked": asked, "wrong": str(error)}
            return shown(request, "run", id, 422, **facts)
        there = f"{place(request)['root']}/runs/{quote(found.run_id)}?promoted={quote(name)}#schedule"
        return RedirectResponse(there, 303)


def _matches(run: Manifest, text: str) -> bool:
    return text.strip().lower() in f"{run.run_id} {run.title} {run.notebook}".lower()


def run_facts(run: Manifest, project: Path, started: StartedRuns) -> dict[str, Any]:
    """Return what the page of a run shows."""
    going = started.running(run.run_id) if run.ended is None else None
    before = previous_run(run, project)
    facts = {
        "Notebook": run.notebook, "Started (UTC)": f"{run.started:%Y-%m-%d %H:%M:%S}",
        "Took": "" if run.duration_s is None else f"{run.duration_s:.1f} s", "Triggered by": run.trigger,
        "Attempt": str(run.attempt) if run.attempt > 1 else "", "Resumed from": run.resumed_from,
        "Ended early": run.ended_early,
    }  # fmt: skip
    return {
        "run": run,
        "facts": facts,
        "progress": going.newest if going else None,
        "refresh": LOOK_AGAIN_S if run.ended is None else None,
        "page": status.report_page(run.run_id, project),
        "before": before.run_id if before else None,
        "parameters": {name: str(value) for name, value in run.parameters.items()},
        "results": {name: result.line for name, result in run.results.items()},
        "expectations": {one.message: "met" if one.passed else f"broken: {one.values}" for one in run.expectations},
        "artifacts": {one.file: f"{one.bytes:,} bytes" for one in run.artifacts},
        "has_recording": RECORDING in run.given_parameters,
        "asked": {"name": run.name},
    }


def _add_new(app: FastAPI, project: Path, started: StartedRuns, shown: Shown) -> None:
    @app.get("/new")
    def new(request: Request) -> Response:
        groups: dict[str, list[tuple[str, str]]] = {"Runbooks": [], "Notebooks": []}
        for path in find_notebooks(project):
            try:
                title = title_of(read_notebook(path), path.stem)
            except InputError:  # the others are listed all the same; its form says what is wrong
                title = path.stem
            kind = "Runbooks" if path.parent.name == "runbooks" else "Notebooks"
            groups[kind].append((name_of(path, project), title))
        return shown(request, "new", "new run", groups=groups)

    @app.get("/new/form")
    def form(request: Request, notebook: str, run: str = "") -> Response:
        given = texts_of_run(find_run(run, project).given_parameters) if run else None
        made = parameters_form(notebook, project, given)
        return shown(request, "form", made.title, form=made)

    @app.post("/new/form")
    def start(request: Request, sent: Sent) -> Response:
        made = parameters_form(sent.get("notebook", ""), project, texts_of(sent), checks=True)
        if not made.is_right:
            wrong = sum(bool(one.error) for one in made.fields)
            return shown(request, "form", made.title, 422, form=made, wrong_fields=wrong)
        number = started.start(RunRequest(made.path, made.values, given_by="the form", trigger=TRIGGER))
        return RedirectResponse(f"{place(request)['root']}/started/{number}", 303)

    @app.get("/started/{number}")
    def begun(request: Request, number: int) -> Response:
        if not 0 <= number < len(started.all):
            raise InputError(f"{number}: no run of this number was started here since this server began")
        run = started.all[number]
        if run.run_id is not None:
            return RedirectResponse(f"{place(request)['root']}/runs/{quote(run.run_id)}", 303)
        if run.is_running:
            about = {"heading": run.name, "words": "Starting …", "refresh": LOOK_AGAIN_S}
            return shown(request, "message", run.name, **about)
        run.wait()  # raises why it did not begin
        raise InputError(f"{run.name}: did not begin")


def _add_incidents(app: FastAPI, project: Path, shown: Shown, framed_by: str) -> None:
    @app.get("/incidents")
    def incidents(request: Request) -> Response:
        queue, address = Queue(project), project / FOLDER / "address"
        facts = [status.incident_facts(one, queue, project) for one in queue.incidents(MOST_INCIDENTS)]
        here = address.read_text(encoding="utf-8").strip() if address.is_file() else ""
        watch = read_settings(project).notify.address or here
        return shown(request, "incidents", "incidents", incidents=facts, watch=watch)

    @app.get("/incidents/{id}")
    def incident(request: Request, id: str) -> Response:
        queue = Queue(project)
        found = queue.find(id)
        facts = status.incident_facts(found, queue, project)
        facts["seen_before"] = seen_before(found, queue, project)
        here = place(request) | {"home": (f"{place(request)['root']}/incidents", "Incidents")}
        return answer(page.incident_page(facts, page.Reader(), status.pictures(facts, project), **here), 200, framed_by)

"""The HTTP server of one worker: forecasts, feedback, health, metrics, and what an administrator may change."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import math
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.routing import Match, Route
from starlette.types import Scope

from lepton_kit.data.input_fixes import InputFixer
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.registry import Registry
from lepton_kit.serving.control import (
    MOST_WORKERS,
    TOKEN,
    ServiceConfig,
    await_workers,
    change_desired_state,
    config_of_worker,
    note_deployment,
    read_desired_state,
)
from lepton_kit.serving.edge import Edge
from lepton_kit.serving.metrics import CONTENT_TYPE
from lepton_kit.serving.requestlog import Answered
from lepton_kit.serving.requests import (
    Feedback,
    feature_values,
    field_errors,
    inferred,
    metadata,
    missing_fields,
    numbers_of,
    received_values,
    rows_asked,
    rows_of,
    unknown_names,
    with_numbers,
    wrong_target,
)
from lepton_kit.serving.worker import Answers, Overloaded, Worker, load

FOLLOW_SECONDS = 30


class Reload(BaseModel):
    """The version that should answer, and the share of requests for a candidate.

    `note` says why, and `record` what more is known; both are kept with the service's deployments.
    """

    model_config = ConfigDict(extra="forbid")

    version: str = "current"
    candidate: str | None = None
    share: float = Field(default=0.0, ge=0, le=1)
    note: str = Field(default="asked for by an administrator", max_length=500)
    record: dict[str, Any] | None = None


class Workers(BaseModel):
    """The desired number of workers."""

    model_config = ConfigDict(extra="forbid")

    workers: int = Field(ge=1, le=MOST_WORKERS)


class PlainRoute(Route):
    """A route without what FastAPI adds, which costs a good part of a forecast; its template is known all the same."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Say whether this route answers a request."""
        match, found = super().matches(scope)
        return match, {**found, "route": self}


class Refused(Exception):  # noqa: N818 - an answer, not an error of the service
    """An error response."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(message)
        self.answer = JSONResponse({"error": message, **more}, status, headers)


def create() -> FastAPI:
    """Return the application of a worker, with the settings that its supervisor gave."""
    return application(Worker(config_of_worker()))


def application(worker: Worker) -> FastAPI:
    """Return the application around a worker."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(worker.follow())
        yield
        following.cancel()
        worker.close()

    app = FastAPI(title=f"Lepton Kit: {worker.config.model}", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_exception_handler(Refused, _refuse)
    _add_public(app, worker)
    _add_protocol(app, worker)
    _add_admin(app, worker)
    _add_docs(app)
    app.add_middleware(Edge, worker=worker)
    return app


def _add_public(app: FastAPI, worker: Worker) -> None:
    async def predict(request: Request) -> Response:
        return await _predict(request, worker)

    app.router.routes.append(PlainRoute("/v1/predict", predict, methods=["POST"]))
    _describe_predict(app, worker)

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> Response:
        return await _feedback(request, worker)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> Response:
        wrong = not_ready(worker)
        candidate = worker.candidate.version if worker.candidate else None
        held = {"version": worker.current.version, "candidate": candidate, "error": wrong}
        return JSONResponse(
            {"status": "ready" if wrong is None else "not ready", **held}, 200 if wrong is None else 503
        )

    @app.get("/metrics")
    async def metrics() -> Response:
        worker.metrics.measure_process()
        return Response(await asyncio.to_thread(worker.metrics.text), media_type=CONTENT_TYPE)


def _add_protocol(app: FastAPI, worker: Worker) -> None:
    """Answer as the Open Inference Protocol has it, beside the service's own endpoints."""

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        wrong = not_ready(worker)
        return JSONResponse({"ready": wrong is None, "error": wrong}, 200 if wrong is None else 503)

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{version}")
    async def told(name: str, version: str | None = None) -> dict[str, Any]:
        chosen = worker.choose("", _served(worker, name, version))
        if chosen is None:
            raise Refused(404, f"model {name!r}, version {version!r}: does not answer here")
        held = [one.version for one in (worker.current, worker.candidate) if one]
        return metadata(name, held, chosen.model)

    async def infer(request: Request) -> Response:
        return await _infer(request, worker)

    for place in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        app.router.routes.append(PlainRoute(place, infer, methods=["POST"]))


def _served(worker: Worker, name: str, version: str | None) -> str | None:
    """Return the version that a path names; the protocol's clients often write `1` for `v1`."""
    if name != worker.config.model:
        raise Refused(404, f"model {name!r}: the service answers for {worker.config.model!r}")
    return f"v{version}" if version is not None and version.isdecimal() else version


async def _infer(request: Request, worker: Worker) -> Response:
    seen = _Seen(worker, request.state.request_id)
    name, version = request.path_params["name"], request.path_params.get("version")
    fixer = _choose(seen, _served(worker, name, version))
    try:
        asked = rows_asked(json.loads(await request.body()), seen.chosen.model)
        form = seen.chosen.body if fixer is None else seen.chosen.fixed_body
        body: Any = form.model_validate({"rows": asked})
    except ValidationError as error:
        seen.end("invalid", 422)
        raise _unlike(worker, error) from error
    except (InputError, ValueError) as error:
        seen.end("invalid", 422)
        raise Refused(422, f"not a request of the Open Inference Protocol: {error}") from error
    names, answers = await _answer(seen, fixer, rows_of(body), None)
    return JSONResponse(inferred(name, seen.chosen.version, seen.request_id, names, answers))


def not_ready(worker: Worker) -> str | None:
    """Say why a worker should get no requests now; None where it should."""
    return worker.log.failure or ("request log: the disk is behind" if worker.log.is_full else None)


def _describe_predict(app: FastAPI, worker: Worker) -> None:
    """Let `/openapi.json` say what a request for a forecast must hold."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        schema = described()
        content = {"application/json": {"schema": _body_schema(worker)}}
        answers = {"200": {"description": "Predictions, a row each"}}
        asked = {"summary": "Predict", "requestBody": {"required": True, "content": content}, "responses": answers}
        return {**schema, "paths": {"/v1/predict": {"post": asked}, **schema["paths"]}}

    app.openapi = openapi  # type: ignore[method-assign]


def _add_docs(app: FastAPI) -> None:
    """Show the API to people at `/docs`; FastAPI's own page would load scripts from elsewhere."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        described = app.openapi()
        sections = "".join(
            f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            f"<pre>{escape(json.dumps(one, indent=2, ensure_ascii=False))}</pre>"
            for path, methods in described["paths"].items()
            for method, one in methods.items()
        )
        title = escape(described["info"]["title"])
        head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>'
        return HTMLResponse(f'{head}<p>For programs: <a href="/openapi.json">/openapi.json</a></p>{sections}')


def _add_admin(app: FastAPI, worker: Worker) -> None:
    @app.post("/admin/reload", dependencies=[Depends(_administrator)])
    async def reload(request: Request) -> Response:
        asked = await _parsed(request, Reload, worker)
        return await asyncio.to_thread(_reload, asked, worker.config)

    @app.post("/admin/workers", dependencies=[Depends(_administrator)])
    async def workers(request: Request) -> Response:
        asked = await _parsed(request, Workers, worker)
        return await asyncio.to_thread(_scale, asked.workers, worker.config.folder)


async def _predict(request: Request, worker: Worker) -> Response:
    seen = _Seen(worker, request.state.request_id)
    named = request.headers.get("x-model-version")
    fixer = _choose(seen, named)
    if named is not None:
        fixer = None  # an explicit version is a test request: the rows are not the feed's
    given = await request.body()
    try:
        form = seen.chosen.body if fixer is None else seen.chosen.fixed_body
        body: Any = form.model_validate_json(given)
    except ValidationError as error:
        _note_refused(seen, fixer, given)
        seen.end("invalid", 422)
        raise _unlike(worker, error) from error
    names, answers = await _answer(seen, fixer, rows_of(body), body.as_of)
    told = [dict(zip(names, values, strict=True)) for values in answers.tolist()]
    answer = {"request_id": seen.request_id, "model": worker.config.model, "version": seen.chosen.version}
    key = "forecasts" if seen.chosen.model.task.name == "interval_forecast" else "predictions"
    return Response(json.dumps({**answer, key: told}), media_type="application/json")


def _choose(seen: _Seen, named: str | None) -> InputFixer | None:
    """Set the version that answers a request, by its name where one is given, and return its input fixes."""
    chosen = seen.worker.choose(seen.request_id, named)
    if chosen is None:
        raise Refused(409, f"version {named!r} does not answer here")
    seen.chosen = chosen
    return chosen.fixer


def _unlike(worker: Worker, error: ValidationError) -> Refused:
    worker.metrics.inputs.labels("missing").inc(len(missing_fields(error)))
    return Refused(422, "the request is not as the model needs it", fields=field_errors(error))


async def _answer(seen: _Seen, fixer: InputFixer | None, rows: list[BaseModel], as_of: float | None) -> Answers:
    """Return the answers to rows that were checked, and note all that is noted of a request."""
    worker, chosen = seen.worker, seen.chosen
    seen.features = feature_values(rows, chosen.model)
    if fixer is not None:
        _fix_inputs(seen, fixer)
    _note_inputs(seen, rows, as_of)
    try:
        if worker.log.is_full:
            raise Overloaded(1)
        names, answers = await worker.forecasts.ask(chosen.model, seen.features)
    except Overloaded as error:
        seen.end("overloaded", 429)
        later = {"Retry-After": str(error.retry_after)}
        raise Refused(429, f"too many requests wait; {error}", later) from error
    except Exception as error:  # whatever the library of a flavor raises
        seen.end("model", 500)
        raise Refused(500, f"model {chosen.version} failed: {type(error).__name__}") from error
    if not _all_known(answers):
        seen.end("model", 500)
        raise Refused(500, f"model {chosen.version} gave an answer that is not a number")
    seen.end(None, 200, (names, answers))
    worker.metrics.of(chosen.version).note(chosen.model.task, names, answers)
    return names, answers


def _all_known(answers: np.ndarray) -> bool:
    if answers.dtype != object:
        return bool(np.isfinite(answers).all())
    return all(not isinstance(value, float) or math.isfinite(value) for value in answers.ravel())


def _fix_inputs(seen: _Seen, fixer: InputFixer) -> None:
    """Replace the received rows by fixed ones; refuse the request where one cannot be used, or must not be."""
    assert seen.features is not None
    metrics, model = seen.worker.metrics, seen.chosen.model
    whole, received = seen.features, numbers_of(seen.features, model)
    fixed = fixer.fix(received)
    seen.features = with_numbers(whole, fixed.values, model)
    metrics.inputs.labels("missing").inc(int((~np.isfinite(received)).sum()))
    unusable = ~np.isfinite(fixed.values).all(axis=1)
    refused = fixed.broken if fixer.input_fixes.quarantine else unusable
    if not refused.any():
        metrics.fixed.inc(int(fixed.changed.sum()))
        return
    if fixer.input_fixes.quarantine:
        seen.keep_aside(whole, refused)
    seen.end("invalid", 422)
    words = "is missing too much" if unusable.any() else "is outside the range of the training rows"
    raise Refused(422, f"row {int(refused.argmax())} {words}", rows=np.flatnonzero(refused).tolist())


def _note_refused(seen: _Seen, fixer: InputFixer | None, body: bytes) -> None:
    """Keep what can be read of a refused body's rows: in the log, and aside where rows are quarantined."""
    model = seen.chosen.model
    received = received_values(body, model.columns, model.categorical)
    if received is None or not len(received):
        return
    seen.features = received
    if fixer is not None and fixer.input_fixes.quarantine:
        seen.keep_aside(received, ~np.isfinite(numbers_of(received, model)).all(axis=1))


class _Seen:
    """One request for a forecast, until it is counted and in the log.

    The log holds the rows as they were used, so after their fixes: a forecast replayed from it is the one given.
    """

    def __init__(self, worker: Worker, request_id: str) -> None:
        self.worker, self.request_id = worker, request_id
        self.chosen = worker.current
        self.features: np.ndarray | None = None
        self._time, self._began = int(time.time() * 1000), time.perf_counter()

    def keep_aside(self, received: np.ndarray, which: np.ndarray) -> None:
        """Keep rows in quarantine, as they were received, and count them."""
        self.worker.quarantine.keep(self.request_id, self.chosen.version, self.chosen.model.columns, received, which)
        self.worker.metrics.quarantined.inc(int(which.sum()))

    def end(self, kind: str | None, status: int, given: Answers | None = None) -> None:
        metrics, version = self.worker.metrics, self.chosen.version
        seconds = time.perf_counter() - self._began
        counted = metrics.of(version)
        counted.seconds.observe(seconds)
        if kind is None:
            counted.answered.inc()
        else:
            metrics.requests.labels(version, kind).inc()
            metrics.errors.labels(kind).inc()
        if not self.worker.log.is_full:  # where it is, this request is being refused for that
            row = (self._time, self.request_id, version, status, seconds * 1000)
            self.worker.log.append(Answered(*row, self.chosen.model.columns, self.features, *(given or ())))


async def _feedback(request: Request, worker: Worker) -> Response:
    given = await _parsed(request, Feedback, worker)
    actual = given.actual
    if wrong := wrong_target(worker.current.model.task, actual):
        raise Refused(422, "the request is not as it must be", fields=[{"field": "actual", "message": wrong}])
    try:
        is_new, held = await asyncio.to_thread(
            worker.log.add_feedback, given.request_id, given.row, actual, given.rating, given.comment
        )
    except (OSError, sqlite3.Error) as error:
        raise Refused(503, f"the feedback was not stored, try again later: {error}", {"Retry-After": "60"}) from error
    if held is None:
        raise Refused(404, f"request {given.request_id!r}, row {given.row}: has no stored answer")
    version, answered = held
    if is_new and given.actual is not None:
        worker.metrics.of(version).note_actual(worker.current.model.task, answered, given.actual)
    if given.rating is not None:
        worker.metrics.ratings.labels(str(given.rating)).inc()
    return JSONResponse({"request_id": given.request_id, "row": given.row, "counted": is_new}, 202)


def _reload(asked: Reload, config: ServiceConfig) -> Response:
    """Change the versions that answer, once they are known to load, and wait for the workers (seconds)."""
    try:
        version = _named_version(config, asked.version)
        candidate = _named_version(config, asked.candidate) if asked.candidate else None
        for wanted in filter(None, (version, candidate)):
            load(config, wanted)
        before = read_desired_state(config.folder)
        desired = change_desired_state(config.folder, version=version, candidate=candidate, share=asked.share)
    except InputError as error:
        raise Refused(409, f"nothing was changed: {error}") from error
    try:
        followed = await_workers(config.folder, desired, FOLLOW_SECONDS)
    except LeptonError as error:
        change_desired_state(config.folder, version=before.version, candidate=before.candidate, share=before.share)
        raise Refused(503, f"the earlier version stays: {error}") from error
    if (version, candidate) != (before.version, before.candidate):
        answering = candidate if candidate and candidate != before.candidate else version
        more = {"record": asked.record} if asked.record is not None else {}
        note_deployment(config.folder, answering, asked.note, **more)
    return JSONResponse({"version": version, "candidate": candidate, "share": asked.share, "workers": followed.workers})


def _scale(workers: int, folder: Path) -> Response:
    desired = change_desired_state(folder, workers=workers)
    try:
        followed = await_workers(folder, desired, FOLLOW_SECONDS).workers
    except LeptonError as error:
        raise Refused(503, f"the service is asked for {workers} workers: {error}") from error
    return JSONResponse({"workers": workers, "answering": followed})


def _named_version(config: ServiceConfig, version: str) -> str:
    return Registry(config.registry).folder(config.model, version).name


def _administrator(request: Request) -> None:
    token = os.environ.get(TOKEN, "")
    if not token:
        raise Refused(403, f"refused: no token is set ({TOKEN} of the service)")
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise Refused(401, "refused: the token is wrong", {"WWW-Authenticate": "Bearer"})


async def _parsed(request: Request, model: type[Any], worker: Worker) -> Any:
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        worker.metrics.errors.labels("invalid").inc()
        raise Refused(422, "the request is not as it must be", fields=field_errors(error)) from error


def _note_inputs(seen: _Seen, rows: list[BaseModel], as_of: float | None) -> None:
    worker, model = seen.worker, seen.chosen.model
    worker.metrics.rows.inc(len(rows))
    if unseen := unknown_names(rows):
        worker.metrics.inputs.labels("unseen").inc(unseen)
    if seen.features is not None and (beyond := seen.chosen.out_of_range(numbers_of(seen.features, model))):
        worker.metrics.inputs.labels("out_of_range").inc(beyond)
    if as_of is not None and as_of > worker.newest:
        worker.newest = min(as_of, time.time())  # a client's clock that is ahead makes no data newer than now
        worker.metrics.as_of.set(worker.newest)


def _body_schema(worker: Worker) -> dict[str, Any]:
    schema = worker.current.body.model_json_schema(ref_template="#/components/schemas/{model}")
    row = schema.pop("$defs")["Row"]
    return json.loads(json.dumps(schema).replace('{"$ref": "#/components/schemas/Row"}', json.dumps(row)))  # type: ignore[no-any-return]


async def _refuse(_: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)
    return refused.answer

"""The HTTP server of one worker: forecasts, feedback, health, metrics, and what an administrator may change."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from html import escape
from typing import Any

import numpy as np
import torch
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.routing import Match, Route
from starlette.types import Scope

from lepton_kit.errors import InputError
from lepton_kit.models.forecasters import FORECAST, FURTHEST_INPUT
from lepton_kit.models.registry import Registry
from lepton_kit.serving.batching import Overloaded
from lepton_kit.serving.config import TOKEN, ServiceConfig, config_of_worker
from lepton_kit.serving.control import MOST_WORKERS, Report, change_wish, note_deployment, read_reports, read_wish
from lepton_kit.serving.edge import Edge
from lepton_kit.serving.mends import Mender
from lepton_kit.serving.metrics import CONTENT_TYPE
from lepton_kit.serving.requestlog import Answered
from lepton_kit.serving.requests import (
    Feedback,
    feature_values,
    field_errors,
    missing_fields,
    received_values,
    rows_of,
    unknown_names,
)
from lepton_kit.serving.worker import Worker, load

FOLLOW_SECONDS = 30


class Reload(BaseModel):
    """Which version shall answer, and which part of the requests a candidate.

    `note` says why, and `record` what more is known; both are kept with the service's deployments.
    """

    model_config = ConfigDict(extra="forbid")

    version: str = "current"
    candidate: str | None = None
    share: float = Field(default=0.0, ge=0, le=1)
    note: str = Field(default="asked for by an administrator", max_length=500)
    record: dict[str, Any] | None = None


class Workers(BaseModel):
    """How many workers shall answer."""

    model_config = ConfigDict(extra="forbid")

    workers: int = Field(ge=1, le=MOST_WORKERS)


class PlainRoute(Route):
    """A route without what FastAPI adds, which costs a good part of a forecast; its template is known all the same."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Say whether this route answers a request."""
        match, found = super().matches(scope)
        return match, {**found, "route": self}


class Refused(Exception):  # noqa: N818 - an answer, not an error of the service
    """An answer other than the wished one."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(message)
        self.answer = JSONResponse({"error": message, **more}, status, headers)


def create() -> FastAPI:
    """Return the application of a worker, with the settings that its supervisor gave."""
    torch.set_num_threads(1)  # so small a model gains nothing from more, and workers would wait for each other's
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
        wrong = worker.log.failure or ("prediction log: the disk is behind" if worker.log.is_full else None)
        candidate = worker.candidate.version if worker.candidate else None
        held = {"version": worker.current.version, "candidate": candidate, "error": wrong}
        return JSONResponse(
            {"status": "ready" if wrong is None else "not ready", **held}, 200 if wrong is None else 503
        )

    @app.get("/metrics")
    async def metrics() -> Response:
        worker.metrics.measure_process()
        return Response(await asyncio.to_thread(worker.metrics.text), media_type=CONTENT_TYPE)


def _describe_predict(app: FastAPI, worker: Worker) -> None:
    """Let `/openapi.json` say what a request for a forecast must hold."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        schema = described()
        content = {"application/json": {"schema": _body_schema(worker)}}
        answers = {"200": {"description": "Forecasts, a row each"}}
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
        return await _reload(asked, worker.config)

    @app.post("/admin/workers", dependencies=[Depends(_administrator)])
    async def workers(request: Request) -> Response:
        asked = await _parsed(request, Workers, worker)
        wish = await asyncio.to_thread(change_wish, worker.config.folder, workers=asked.workers)
        reports = await _reports(worker.config, wish.generation, asked.workers)
        return JSONResponse({"workers": asked.workers, "answering": len(reports)})


async def _predict(request: Request, worker: Worker) -> Response:
    seen = _Seen(worker, request.state.request_id)
    named = request.headers.get("x-model-version")
    chosen = worker.choose(seen.request_id, named)
    if chosen is None:
        raise Refused(409, "the version that X-Model-Version names does not answer here")
    seen.chosen = chosen
    mender = chosen.mender if named is None else None  # who names a version tests it: the rows are not the feed's
    given = await request.body()
    try:
        body = (chosen.body if mender is None else chosen.mended_body).model_validate_json(given)
    except ValidationError as error:
        worker.metrics.inputs.labels("missing").inc(len(missing_fields(error)))
        _note_refused(seen, mender, given)
        seen.end("invalid", 422)
        raise Refused(422, "the request is not as the model needs it", fields=field_errors(error)) from error
    seen.features = feature_values(rows := rows_of(body))
    if mender is not None:
        _mend(seen, mender)
    inputs, scale = chosen.forecaster.scaled(seen.features)
    _note_inputs(worker, rows, inputs, body)
    try:
        if worker.log.is_full:
            raise Overloaded(1)
        forecasts = await worker.forecasts.ask(
            chosen.forecaster, np.clip(inputs, -FURTHEST_INPUT, FURTHEST_INPUT), scale
        )
    except Overloaded as error:
        seen.end("overloaded", 429)
        later = {"Retry-After": str(error.retry_after)}
        raise Refused(429, f"too many requests wait; {error}", later) from error
    except (InputError, ValueError, RuntimeError) as error:
        seen.end("model", 500)
        raise Refused(500, f"model {chosen.version} failed: {type(error).__name__}") from error
    if not np.isfinite(forecasts).all():
        seen.end("model", 500)
        raise Refused(500, f"model {chosen.version} gave a forecast that is not a number")
    told = [dict(zip(FORECAST, values, strict=True)) for values in forecasts.tolist()]
    seen.end(None, 200, forecasts)
    counted = worker.metrics.of(chosen.version)
    for one in told:
        counted.forecast.observe(one["mean"])
        counted.width.observe(one["upper"] - one["lower"])
    answer = {"request_id": seen.request_id, "model": worker.config.model, "version": chosen.version}
    return Response(json.dumps({**answer, "forecasts": told}), media_type="application/json")


def _mend(seen: _Seen, mender: Mender) -> None:
    """Put mended rows in the place of those received; refuse the request where one cannot be used, or must not be."""
    assert seen.features is not None
    metrics, received = seen.worker.metrics, seen.features
    mended = mender.mend(received)
    seen.features = mended.values
    metrics.inputs.labels("missing").inc(int((~np.isfinite(received)).sum()))
    unusable = ~np.isfinite(mended.values).all(axis=1)
    refused = mended.broken if mender.mends.quarantine else unusable
    if not refused.any():
        metrics.mended.inc(int(mended.changed.sum()))
        return
    if mender.mends.quarantine:
        seen.keep_aside(received, refused)
    seen.end("invalid", 422)
    words = "is missing too much" if unusable.any() else "lies outside what the model learnt from"
    raise Refused(422, f"row {int(refused.argmax())} {words}", rows=np.flatnonzero(refused).tolist())


def _note_refused(seen: _Seen, mender: Mender | None, body: bytes) -> None:
    """Keep what can be read of a refused body's rows: in the log, and aside where rows are quarantined."""
    received = received_values(body, seen.chosen.columns)
    if received is None or not len(received):
        return
    seen.features = received
    if mender is not None and mender.mends.quarantine:
        seen.keep_aside(received, ~np.isfinite(received).all(axis=1))


class _Seen:
    """One request for a forecast, until it is counted and in the log.

    The log holds the rows as they were used, so after their mends: a forecast replayed from it is the one given.
    """

    def __init__(self, worker: Worker, request_id: str) -> None:
        self.worker, self.request_id = worker, request_id
        self.chosen = worker.current
        self.features: np.ndarray | None = None
        self._time, self._began = int(time.time() * 1000), time.perf_counter()

    def keep_aside(self, received: np.ndarray, which: np.ndarray) -> None:
        """Keep rows in quarantine, as they were received, and count them."""
        self.worker.quarantine.keep(self.request_id, self.chosen.version, self.chosen.columns, received, which)
        self.worker.metrics.quarantined.inc(int(which.sum()))

    def end(self, kind: str | None, status: int, forecasts: np.ndarray | None = None) -> None:
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
            self.worker.log.append(Answered(*row, self.chosen.columns, self.features, forecasts))


async def _feedback(request: Request, worker: Worker) -> Response:
    given = await _parsed(request, Feedback, worker)
    try:
        is_new, held = await asyncio.to_thread(
            worker.log.add_feedback, given.request_id, given.row, given.actual, given.rating, given.comment
        )
    except (OSError, sqlite3.Error) as error:
        raise Refused(503, f"the feedback is not kept, send it again later: {error}", {"Retry-After": "60"}) from error
    if held is None:
        raise Refused(404, f"request {given.request_id!r}, row {given.row}: no forecast of it is kept")
    version, forecast = held
    if is_new:
        inside = forecast["lower"] <= given.actual <= forecast["upper"]
        worker.metrics.actuals.labels(version, str(inside).lower()).inc()
        worker.metrics.error.labels(version).observe(abs(given.actual - forecast["mean"]))
    if given.rating is not None:
        worker.metrics.ratings.labels(str(given.rating)).inc()
    return JSONResponse({"request_id": given.request_id, "row": given.row, "counted": is_new}, 202)


async def _reload(asked: Reload, config: ServiceConfig) -> Response:
    try:
        version = await asyncio.to_thread(_named_version, config, asked.version)
        candidate = await asyncio.to_thread(_named_version, config, asked.candidate) if asked.candidate else None
        for wanted in (version, candidate):
            if wanted is not None:
                await asyncio.to_thread(load, config, wanted)
        before = await asyncio.to_thread(read_wish, config.folder)
        wish = await asyncio.to_thread(
            change_wish, config.folder, version=version, candidate=candidate, share=asked.share
        )
    except InputError as error:
        raise Refused(409, f"nothing was changed: {error}") from error
    reports = await _reports(config, wish.generation, wish.workers)
    wrong = [report.error for report in reports if report.error] or (
        [f"{len(reports)} of {wish.workers} workers followed within {FOLLOW_SECONDS} s"]
        if len(reports) < wish.workers
        else []
    )
    if wrong:
        back = {"version": before.version, "candidate": before.candidate, "share": before.share}
        await asyncio.to_thread(change_wish, config.folder, **back)
        raise Refused(503, f"the earlier version stays: {'; '.join(wrong)}")
    if (version, candidate) != (before.version, before.candidate):
        answering = candidate if candidate and candidate != before.candidate else version
        more = {"record": asked.record} if asked.record is not None else {}
        await asyncio.to_thread(note_deployment, config.folder, answering, asked.note, **more)
    return JSONResponse({"version": version, "candidate": candidate, "share": asked.share, "workers": len(reports)})


def _named_version(config: ServiceConfig, version: str) -> str:
    return Registry(config.registry).folder(config.model, version).name


async def _reports(config: ServiceConfig, generation: int, workers: int) -> list[Report]:
    """Return the workers that have followed a wish, as soon as all have, or at the end of the time given."""
    deadline = time.monotonic() + FOLLOW_SECONDS
    while True:
        found = await asyncio.to_thread(read_reports, config.folder)
        followed = [report for report in found if report.generation >= generation]
        if (len(followed) == workers == len(found)) or time.monotonic() > deadline:
            return followed
        await asyncio.sleep(0.05)


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


def _note_inputs(worker: Worker, rows: list[BaseModel], inputs: np.ndarray, body: Any) -> None:
    worker.metrics.rows.inc(len(rows))
    if unseen := unknown_names(rows):
        worker.metrics.inputs.labels("unseen").inc(unseen)
    if beyond := int((np.abs(inputs) > FURTHEST_INPUT).sum()):
        worker.metrics.inputs.labels("out_of_range").inc(beyond)
    if body.as_of is not None and body.as_of > worker.newest:
        worker.newest = min(body.as_of, time.time())  # a client's clock that is ahead makes no data newer than now
        worker.metrics.as_of.set(worker.newest)


def _body_schema(worker: Worker) -> dict[str, Any]:
    schema = worker.current.body.model_json_schema(ref_template="#/components/schemas/{model}")
    row = schema.pop("$defs")["Row"]
    return json.loads(json.dumps(schema).replace('{"$ref": "#/components/schemas/Row"}', json.dumps(row)))  # type: ignore[no-any-return]


async def _refuse(_: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)
    return refused.answer

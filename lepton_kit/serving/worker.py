"""One worker of a service: the versions it holds, the thread that forecasts, and how it follows the desired state.

The thread takes all requests that wait at once, so that a busy service forecasts in batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import multiprocessing
import os
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from pydantic import BaseModel

from lepton_kit.data.input_fixes import NO_INPUT_FIXES, InputFixer, InputFixes
from lepton_kit.data.quality import allowed_range
from lepton_kit.errors import InputError
from lepton_kit.models.flavors import Model
from lepton_kit.models.registry import Registry
from lepton_kit.serving.control import (
    DesiredState,
    Report,
    ServiceConfig,
    newest_data,
    read_desired_state,
    write_report,
)
from lepton_kit.serving.metrics import ServiceMetrics, reserve_files
from lepton_kit.serving.requestlog import Quarantine, RequestLog
from lepton_kit.serving.requests import prediction_model

MOST_TOGETHER = 256


Answers = tuple[tuple[str, ...], np.ndarray]
"""The names of the prediction columns (k), and their values (n, k)."""


class Overloaded(Exception):  # noqa: N818 - it is what happened, and not an error of anybody's
    """As many requests wait as may; `retry_after` is the time to come back in, seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass
class _Job:
    model: Model
    values: np.ndarray
    answer: asyncio.Future[Answers]
    since: float = field(default_factory=time.perf_counter)


class Forecasts:
    """The thread, and the queue before it, in which `limit` requests may wait; that may be changed at any time."""

    def __init__(self, limit: int, metrics: ServiceMetrics) -> None:
        self.limit = limit
        self._metrics = metrics
        self._waiting: list[_Job] = []
        self._count = 0
        self._seconds = 0.005  # an average of what one request takes the model
        self._thread = ThreadPoolExecutor(1, "forecasts")
        self._working: asyncio.Task[None] | None = None

    async def ask(self, model: Model, values: np.ndarray) -> Answers:
        """Return a model's answers to some rows, as `model.answers` gives them.

        Raises Overloaded when as many requests wait as may.
        """
        if self._count >= self.limit:
            raise Overloaded(max(1, math.ceil(self._count * self._seconds)))
        job = _Job(model, values, asyncio.get_running_loop().create_future())
        self._count += 1
        self._metrics.queued.set(self._count)
        self._waiting.append(job)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        try:
            return await job.answer
        finally:
            self._count -= 1
            self._metrics.queued.set(self._count)

    def close(self) -> None:
        """Wait for the thread; uvicorn has let every request be answered before."""
        self._thread.shutdown()

    async def _work(self) -> None:
        while self._waiting:
            jobs, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
            for model in {id(one.model): one.model for one in jobs}.values():
                await self._answer(model, [one for one in jobs if one.model is model])

    async def _answer(self, model: Model, jobs: list[_Job]) -> None:
        began = time.perf_counter()
        try:
            together = jobs[0].values if len(jobs) == 1 else np.concatenate([one.values for one in jobs])
            names, given = await asyncio.get_running_loop().run_in_executor(self._thread, model.answers, together)
        except Exception as error:
            if len(jobs) > 1:  # only the request that breaks the model may fail
                for job in jobs:
                    await self._answer(model, [job])
            elif not jobs[0].answer.done():  # else the client went away
                jobs[0].answer.set_exception(error)
            return
        ended = time.perf_counter()
        self._seconds += 0.1 * ((ended - began) / len(jobs) - self._seconds)
        position = 0
        for job in jobs:
            self._metrics.queue_seconds.observe(began - job.since)
            self._metrics.model_seconds.observe(ended - began)
            if not job.answer.done():
                job.answer.set_result((names, given[position : position + len(job.values)]))
            position += len(job.values)


LOOK_EVERY = 0.2
"""Seconds between two looks at the desired."""


@dataclass(frozen=True)
class Loaded:
    """A version in memory, and the input fixes in force, if any."""

    version: str
    model: Model
    fixer: InputFixer | None = None

    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def out_of_range(self, numbers: np.ndarray) -> int:
        """Return how many values (n, numerical columns) lie outside the range of the training rows, where known."""
        if (beyond := self.model.beyond(numbers)) is not None:
            return beyond
        if self.low is None or self.high is None:
            return 0
        return int(((numbers < self.low) | (numbers > self.high)).sum())

    @cached_property
    def body(self) -> type[BaseModel]:
        """The model of a request's body."""
        return prediction_model(self.model)

    @cached_property
    def fixed_body(self) -> type[BaseModel]:
        """The model of the body of a request whose rows are fixed: what is filled may be absent."""
        return prediction_model(self.model, self.fixer.input_fixes.fill if self.fixer else ())

    @property
    def numerical(self) -> tuple[str, ...]:
        """The features of a row that hold numbers."""
        return tuple(name for name in self.model.columns if name not in self.model.categorical)


def load(config: ServiceConfig, version: str, fixes: InputFixes = NO_INPUT_FIXES) -> Loaded:
    """Return a version of the service's model, checked and ready; InputError where it is missing or damaged."""
    loaded = Loaded(version, Registry(config.registry).load(config.model, version))
    if "torch" in sys.modules:  # so small a model gains nothing from more, and workers would wait for each other's
        sys.modules["torch"].set_num_threads(1)
    return with_input_fixes(loaded, config, fixes)


def with_input_fixes(loaded: Loaded, config: ServiceConfig, fixes: InputFixes) -> Loaded:
    """Return a version in memory with these fixes of its rows, ready; InputError where they do not fit its features."""
    fixer, low, high = None, None, None
    reference = Registry(config.registry).reference(config.model, loaded.version)
    if fixes:
        fixer = InputFixer(fixes, loaded.numerical, reference)
    if reference is not None:
        bounds = allowed_range(reference.reindex(columns=list(loaded.numerical)))
        low, high = bounds["low"].to_numpy(float), bounds["high"].to_numpy(float)
    ready = Loaded(loaded.version, loaded.model, fixer, low, high)
    _ = ready.body, ready.fixed_body  # made now, so that the first request does not wait for them
    return ready


class Worker:
    """What one worker process holds."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        reserve_files(config.metrics_folder)
        self.metrics = ServiceMetrics()
        self.metrics.starts.inc()
        desired = read_desired_state(config.folder)
        self.current = load(config, desired.version, desired.input_fixes)
        self.candidate = load(config, desired.candidate, desired.input_fixes) if desired.candidate else None
        self.desired = desired
        self.log = RequestLog(config.folder / "requests")
        self.quarantine = Quarantine(config.folder)
        self.forecasts = Forecasts(desired.queue_limit or config.queue_limit, self.metrics)
        self.newest = 0.0
        self._supervisor = multiprocessing.parent_process()
        self._untold: Report | None = None
        self._tell(None)

    def choose(self, request_id: str, named: str | None = None) -> Loaded | None:
        """Return the version that answers a request: the same for the same id, by the candidate's share.

        A request may name one of the two, for tests; None where the named one is neither.
        """
        if named is not None:
            return next((held for held in (self.current, self.candidate) if held and held.version == named), None)
        if self.candidate is None or zlib.crc32(request_id.encode()) / 2**32 >= self.desired.share:
            return self.current
        return self.candidate

    async def follow(self) -> None:
        """Follow the desired state until cancelled, and end this process where its supervisor is gone."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._supervisor is not None and not self._supervisor.is_alive():
                os._exit(1)  # nobody would restart, scale or stop this worker any more
            now = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk: answering goes on
                self._note_time(now - looked)
            looked = now
            self._report()
            try:
                desired = await asyncio.to_thread(read_desired_state, self.config.folder)
            except InputError:
                continue  # removed or damaged while it runs: go on as before
            if desired.generation != self.desired.generation:
                await self._obey(desired)

    def close(self) -> None:
        """Answer and write what waits."""
        self.forecasts.close()
        self.log.close()

    async def _obey(self, desired: DesiredState) -> None:
        try:
            current = await self._held_or_loaded(desired.version, desired.input_fixes)
            candidate = (
                await self._held_or_loaded(desired.candidate, desired.input_fixes) if desired.candidate else None
            )
        except InputError as error:  # what worked so far goes on answering
            self.desired = replace(self.desired, workers=desired.workers, generation=desired.generation)
            self._tell(str(error))
            return
        self._unmark()
        self.forecasts.limit = desired.queue_limit or self.config.queue_limit
        self.current, self.candidate, self.desired = current, candidate, desired
        self._tell(None)

    async def _held_or_loaded(self, version: str, fixes: InputFixes) -> Loaded:
        for held in (self.current, self.candidate):
            if held is not None and held.version == version:
                if fixes == self.desired.input_fixes:
                    return held
                return await asyncio.to_thread(with_input_fixes, held, self.config, fixes)
        return await asyncio.to_thread(load, self.config, version, fixes)

    def _unmark(self) -> None:
        for role, held in (("current", self.current), ("candidate", self.candidate)):
            if held is not None:
                self.metrics.model.labels(self.config.model, held.version, role).set(0)

    def _tell(self, error: str | None) -> None:
        for role, held in (("current", self.current), ("candidate", self.candidate)):
            if held is not None:
                self.metrics.model.labels(self.config.model, held.version, role).set(1)
                self.metrics.expect_version(held.version)
        candidate = self.candidate.version if self.candidate else None
        report = Report(os.getpid(), self.desired.generation, self.current.version, candidate, error)
        self._untold = report
        self._report()

    def _report(self) -> None:
        """Write what this worker does where that is still to be told; on a full disk the next look tries again."""
        if self._untold is not None:
            with contextlib.suppress(InputError):
                write_report(self.config.folder, self._untold)
                self._untold = None

    def _note_time(self, passed: float) -> None:
        self.metrics.measure_process()
        if newest := newest_data(self.config.folder, self.newest):  # none has been seen before the first request
            is_fresh = time.time() - newest <= self.config.fresh_seconds
            self.metrics.fresh.labels("fresh" if is_fresh else "stale").inc(passed)

"""One thread that forecasts: it takes all requests that wait at once, so a busy service forecasts in batches."""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from lepton_kit.models.flavors import Model
from lepton_kit.serving.metrics import ServiceMetrics

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

"""One thread that forecasts: it takes all requests that wait at once, so a busy service forecasts in batches."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
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
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Answers]
    since: float = field(default_factory=time.perf_counter)


class Forecasts:
    """The thread, and the queue before it.

    Parameters
    ----------
    limit
        Requests that may wait; the next one is refused. It may be changed while the thread works.
    metrics
        Where the queue's length and the times are noted.
    """

    def __init__(self, limit: int, metrics: ServiceMetrics) -> None:
        self.limit = limit
        self._metrics = metrics
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._count = 0
        self._seconds = 0.005  # an average of what one request takes the model
        self._thread = threading.Thread(target=self._work, name="forecasts", daemon=True)
        self._thread.start()

    async def ask(self, model: Model, values: np.ndarray) -> Answers:
        """Return a model's answers to some rows, as `model.answers` gives them.

        Raises Overloaded when as many requests wait as may.
        """
        if self._count >= self.limit:
            raise Overloaded(max(1, math.ceil(self._count * self._seconds)))
        loop = asyncio.get_running_loop()
        job = _Job(model, values, loop, loop.create_future())
        self._count += 1
        self._metrics.queued.set(self._count)
        self._waiting.put(job)
        try:
            return await job.answer
        finally:
            self._count -= 1
            self._metrics.queued.set(self._count)

    def close(self) -> None:
        """Answer what waits, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            jobs, is_over = self._others(job)
            for model in {id(one.model): one.model for one in jobs}.values():
                self._answer(model, [one for one in jobs if one.model is model])
            if is_over:
                return

    def _others(self, first: _Job) -> tuple[list[_Job], bool]:
        jobs = [first]
        while len(jobs) < MOST_TOGETHER:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _answer(self, model: Model, jobs: list[_Job]) -> None:
        began = time.perf_counter()
        try:
            names, given = model.answers(_together(jobs))
        except Exception as error:
            if len(jobs) > 1:  # only the request that breaks the model shall fail
                for job in jobs:
                    self._answer(model, [job])
                return
            _settle(jobs[0], error)
            return
        ended = time.perf_counter()
        self._seconds += 0.1 * ((ended - began) / len(jobs) - self._seconds)
        position = 0
        for job in jobs:
            self._metrics.queue_seconds.observe(began - job.since)
            self._metrics.model_seconds.observe(ended - began)
            _settle(job, (names, given[position : position + len(job.values)]))
            position += len(job.values)


def _together(jobs: list[_Job]) -> np.ndarray:
    return jobs[0].values if len(jobs) == 1 else np.concatenate([one.values for one in jobs])


def _settle(job: _Job, outcome: Answers | Exception) -> None:
    def settle() -> None:
        if job.answer.done():  # the client went away
            return
        if isinstance(outcome, Exception):
            job.answer.set_exception(outcome)
        else:
            job.answer.set_result(outcome)

    job.loop.call_soon_threadsafe(settle)

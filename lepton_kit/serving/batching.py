"""One thread that forecasts: it takes all requests that wait at once, so a busy service forecasts in batches."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from lepton_kit.models.forecasters import Forecaster
from lepton_kit.serving.metrics import ServiceMetrics

MOST_TOGETHER = 256


class Overloaded(Exception):  # noqa: N818 - it is what happened, and not an error of anybody's
    """As many requests wait as may; `retry_after` is the time to come back in, seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass
class _Job:
    forecaster: Forecaster
    inputs: np.ndarray
    scale: np.ndarray
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[np.ndarray]
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

    async def ask(self, forecaster: Forecaster, inputs: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the forecasts (n, 5) of some rows, as `forecaster.answer` gives them.

        Raises
        ------
        Overloaded
            When as many requests wait as may.
        """
        if self._count >= self.limit:
            raise Overloaded(max(1, math.ceil(self._count * self._seconds)))
        loop = asyncio.get_running_loop()
        job = _Job(forecaster, inputs, scale, loop, loop.create_future())
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
            for forecaster in {id(one.forecaster): one.forecaster for one in jobs}.values():
                self._answer(forecaster, [one for one in jobs if one.forecaster is forecaster])
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

    def _answer(self, forecaster: Forecaster, jobs: list[_Job]) -> None:
        began = time.perf_counter()
        try:
            forecast = forecaster.answer(*_together(jobs))
        except Exception as error:
            if len(jobs) > 1:  # only the request that breaks the model shall fail
                for job in jobs:
                    self._answer(forecaster, [job])
                return
            _settle(jobs[0], error)
            return
        ended = time.perf_counter()
        self._seconds += 0.1 * ((ended - began) / len(jobs) - self._seconds)
        position = 0
        for job in jobs:
            self._metrics.queue_seconds.observe(began - job.since)
            self._metrics.model_seconds.observe(ended - began)
            _settle(job, forecast[position : position + len(job.inputs)])
            position += len(job.inputs)


def _together(jobs: list[_Job]) -> tuple[np.ndarray, np.ndarray]:
    if len(jobs) == 1:
        return jobs[0].inputs, jobs[0].scale
    return np.concatenate([one.inputs for one in jobs]), np.concatenate([one.scale for one in jobs])


def _settle(job: _Job, outcome: np.ndarray | Exception) -> None:
    def settle() -> None:
        if job.answer.done():  # the client went away
            return
        if isinstance(outcome, Exception):
            job.answer.set_exception(outcome)
        else:
            job.answer.set_result(outcome)

    job.loop.call_soon_threadsafe(settle)

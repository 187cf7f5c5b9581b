"""Runs several notebooks at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from lepton_kit.errors import LeptonError
from lepton_kit.runs.manifest import Manifest
from lepton_kit.runs.runner import Event, Plan, execute

_events: Queue[Event]  # in a worker: where its events go
_interrupted = False  # in a worker: whether a run of its was ended by Ctrl-C


def run_all(plans: list[Plan], project: Path, workers: int, on_event: Callable[[Event], None]) -> list[Manifest]:
    """Execute checked plans on a pool of processes and return their manifests, in the plans' order."""
    # Fork would copy this process' threads' locks; a fresh interpreter is safe everywhere.
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        events: Any = manager.Queue()
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_events, initargs=(events,)) as pool:
            futures = _submit(plans, project, pool)
            try:
                _relay(futures, events, on_event)
                return [future.result() for future in futures]
            except KeyboardInterrupt:
                for worker in multiprocessing.active_children():
                    if worker.pid:
                        os.kill(worker.pid, signal.SIGINT)  # a scheduler's stop reaches this process alone
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            except BrokenProcessPool as error:
                raise LeptonError("a worker process died (out of memory?); its run stays marked `running`") from error


def _submit(plans: list[Plan], project: Path, pool: Executor) -> list[Future[Manifest]]:
    return [pool.submit(_execute_in_worker, plan, project) for plan in plans]


def _set_events(events: Queue[Event]) -> None:
    global _events  # a worker serves one pool for its whole life
    _events = events
    _listen(signal.SIG_IGN)  # Ctrl-C reaches all processes; it is for the runs, not for idle workers


def _execute_in_worker(plan: Plan, project: Path) -> Manifest:
    global _interrupted
    if _interrupted:
        raise KeyboardInterrupt  # the pool hands out one call ahead, and cannot take it back
    _listen(_interrupt_once)
    try:
        return execute(plan, project, _events.put)
    except KeyboardInterrupt:
        _interrupted = True
        raise
    finally:
        _listen(signal.SIG_IGN)


def _interrupt_once(*_signal: Any) -> None:
    _listen(signal.SIG_IGN)  # a second signal shall not break off the writing of the manifest
    raise KeyboardInterrupt


def _listen(handler: Any) -> None:
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, handler)


def _relay(futures: list[Future[Manifest]], events: Queue[Event], on_event: Callable[[Event], None]) -> None:
    """Pass on events until all runs are done and no event is left."""
    while True:
        done = all(future.done() for future in futures)
        try:
            while True:
                on_event(events.get(timeout=0 if done else 0.1))
        except Empty:
            if done:
                return

"""Runs several notebooks at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lepton_kit.errors import LeptonError
from lepton_kit.runs.manifest import Manifest
from lepton_kit.runs.runner import DEFAULTS, Event, Options, Plan, execute, repair
from lepton_kit.runs.warm import lease

_events: Connection[Event, Any]  # in a worker: where its events go
_interrupted = False  # in a worker: whether a run of its was ended by Ctrl-C


def run_all(
    plans: list[Plan],
    project: Path,
    workers: int,
    on_event: Callable[[Event], None],
    options: Options = DEFAULTS,
) -> list[Manifest]:
    """Execute checked plans on a pool of processes and return their manifests, in the plans' order.

    Raises
    ------
    LeptonError
        When a worker was killed: all runs that had not ended by then are stopped, and marked as what they are.
    """
    # A process that was forked from the server has no threads, so its workers may be forks with all imports at hand.
    # Elsewhere fork would copy threads' locks; a fresh interpreter is safe everywhere.
    context: Any = multiprocessing.get_context("fork" if lease.warm_process else "spawn")
    events, sender = context.Pipe(duplex=False)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_events, initargs=(sender,)) as pool:
        futures = _submit(plans, project, pool, options)
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
            repair(project)
            raise LeptonError("a worker process was killed (out of memory?); `lepton runs` shows its run") from error


def _submit(plans: list[Plan], project: Path, pool: Executor, options: Options) -> list[Future[Manifest]]:
    return [pool.submit(_execute_in_worker, plan, project, options) for plan in plans]


def _set_events(events: Connection[Event, Any]) -> None:
    global _events  # a worker serves one pool for its whole life
    _events = events
    _listen(signal.SIG_IGN)  # Ctrl-C reaches all processes; it is for the runs, not for idle workers


def _execute_in_worker(plan: Plan, project: Path, options: Options) -> Manifest:
    global _interrupted
    if _interrupted:
        raise KeyboardInterrupt  # the pool hands out one call ahead, and cannot take it back
    _listen(_interrupt_once)
    try:
        # So short a message is written whole, though all workers share the pipe and none waits for a lock.
        return execute(plan, project, _events.send, options)
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


def _relay(futures: list[Future[Manifest]], events: Connection[Any, Event], on_event: Callable[[Event], None]) -> None:
    """Pass on events until all runs are done and no event is left."""
    done = False
    while not done:
        done = all(future.done() for future in futures)
        while events.poll(0 if done else 0.05):
            on_event(events.recv())

"""Runs several notebooks at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lepton_kit.errors import LeptonError
from lepton_kit.runs.manifest import FILE, Manifest
from lepton_kit.runs.runner import DEFAULTS, Event, Options, Plan, execute, repair
from lepton_kit.runs.warm import lease

_events: Connection[tuple[int, Event], Any]  # in a worker: where its events go, with the number of their plan
_interrupted = False  # in a worker: whether a run of its was ended by Ctrl-C


def run_all(
    plans: list[Plan],
    project: Path,
    workers: int,
    on_event: Callable[[Event], None],
    options: Options = DEFAULTS,
) -> list[Manifest]:
    """Execute checked plans on a pool of processes and return their manifests, in the plans' order.

    Notes
    -----
    When a worker is killed (out of memory?) the pool ends, and so do the runs that were going on: their manifests say
    so. Plans that had not begun are executed on a new pool.
    """
    runs: dict[int, Manifest] = {}
    while waiting := [number for number in range(len(plans)) if number not in runs]:
        begun: dict[int, str] = {}
        runs |= _run_on_pool({number: plans[number] for number in waiting}, project, workers, on_event, options, begun)
        repair(project)
        lost = {number: run_id for number, run_id in begun.items() if number not in runs}
        runs |= {number: Manifest.load(project / "runs" / run_id / FILE) for number, run_id in lost.items()}
        if not begun:
            raise LeptonError("the worker processes were killed before any of their runs began (out of memory?)")
        for number, run_id in lost.items():
            on_event(Event("run_ended", run_id, plans[number].name, status=runs[number].status))
    return [runs[number] for number in range(len(plans))]


def _run_on_pool(
    plans: dict[int, Plan],
    project: Path,
    workers: int,
    on_event: Callable[[Event], None],
    options: Options,
    begun: dict[int, str],
) -> dict[int, Manifest]:
    """Return the manifests of the runs that came to their end, and note the ids of all that began."""
    # A process that was forked from the server has no threads, so its workers may be forks with all imports at hand.
    # Elsewhere fork would copy threads' locks; a fresh interpreter is safe everywhere.
    context: Any = multiprocessing.get_context("fork" if lease.warm_process else "spawn")
    events, sender = context.Pipe(duplex=False)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_events, initargs=(sender,)) as pool:
        futures = {number: pool.submit(_execute_in_worker, number, plan, project, options)
                   for number, plan in plans.items()}  # fmt: skip
        try:
            _relay(list(futures.values()), events, on_event, begun)
            ended = {number: future for number, future in futures.items() if not _is_broken(future)}
            return {number: future.result() for number, future in ended.items()}
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                if worker.pid:
                    os.kill(worker.pid, signal.SIGINT)  # a scheduler's stop reaches this process alone
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _is_broken(future: Future[Manifest]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


def _set_events(events: Connection[tuple[int, Event], Any]) -> None:
    global _events  # a worker serves one pool for its whole life
    _events = events
    _listen(signal.SIG_IGN)  # Ctrl-C reaches all processes; it is for the runs, not for idle workers


def _execute_in_worker(number: int, plan: Plan, project: Path, options: Options) -> Manifest:
    global _interrupted
    if _interrupted:
        raise KeyboardInterrupt  # the pool hands out one call ahead, and cannot take it back
    _listen(_interrupt_once)
    try:
        # So short a message is written whole, though all workers share the pipe and none waits for a lock.
        return execute(plan, project, lambda event: _events.send((number, event)), options)
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


def _relay(
    futures: list[Future[Manifest]],
    events: Connection[Any, tuple[int, Event]],
    on_event: Callable[[Event], None],
    begun: dict[int, str],
) -> None:
    """Pass on events until all runs are done and no event is left."""
    done = False
    while not done:
        done = all(future.done() for future in futures)
        while events.poll(0 if done else 0.05):
            number, event = events.recv()
            if event.kind in ("run_started", "run_skipped"):
                begun[number] = event.run_id  # of one that was retried the last
            on_event(event)

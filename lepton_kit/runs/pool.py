"""Runs several notebooks at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lepton_kit.errors import LeptonError
from lepton_kit.runs.interrupts import STOPS, deferred, deliver
from lepton_kit.runs.manifest import FILE, Manifest
from lepton_kit.runs.runner import DEFAULTS, Event, Options, Plan, execute, repair
from lepton_kit.runs.warm import lease

_events: Connection[tuple[int, Event], Any]  # in a worker: where its events go, with the number of their plan
_stopped: Connection[Any, Any]  # in a worker: has something to read once no run shall begin any more
_working = threading.Lock()  # in a worker: held while it runs something


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
    stopped, stop = context.Pipe(duplex=False)
    # An interrupt comes in `_relay` alone: elsewhere it could leave a lock of the pool held, and all would wait for it.
    with deferred(), ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin_work, initargs=(sender, stopped)
    ) as pool:  # fmt: skip
        with _blocked_signals():
            futures = {number: pool.submit(_execute_in_worker, number, plan, project, options)
                       for number, plan in plans.items()}  # fmt: skip
        try:
            _relay(list(futures.values()), events, on_event, begun)
        except KeyboardInterrupt:
            stop.send_bytes(b"stop")  # for who is about to begin; the signal is for the runs that go on
            pool.shutdown(wait=False, cancel_futures=True)
            _end_all(list(futures.values()), events, on_event, begun)
            raise
        ended = {number: future for number, future in futures.items() if not _is_broken(future)}
        return {number: future.result() for number, future in ended.items()}


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Start processes for which a signal waits until they have said what they do with it (`_begin_work`)."""
    resource_tracker.ensure_running()  # starting it would end this
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_all(
    futures: list[Future[Manifest]],
    events: Connection[Any, tuple[int, Event]],
    on_event: Callable[[Event], None],
    begun: dict[int, str],
) -> None:
    """Interrupt all runs and wait for their ends; who is asked a second time kills them."""
    for number in (signal.SIGINT, signal.SIGKILL):
        for worker in multiprocessing.active_children():
            if worker.pid:
                os.kill(worker.pid, number)  # a scheduler's stop reaches this process alone
        with suppress(KeyboardInterrupt):
            return _relay(futures, events, on_event, begun)


def _is_broken(future: Future[Manifest]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


def _begin_work(events: Connection[tuple[int, Event], Any], stopped: Connection[Any, Any]) -> None:
    global _events, _stopped  # a worker serves one pool for its whole life
    _events, _stopped = events, stopped
    _be_idle()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the process above was killed, which can say nothing any more: first the run that goes on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGINT)
    with _working:
        os._exit(1)


def _execute_in_worker(number: int, plan: Plan, project: Path, options: Options) -> Manifest:
    with _working:
        signal.signal(signal.SIGINT, _interrupt_once)
        signal.signal(signal.SIGTERM, _interrupt_once)
        try:
            if _stopped.poll():  # looked at once signals are heard: who stops the pool says so before it sends them
                raise KeyboardInterrupt
            # So short a message is written whole, though all workers share the pipe and none waits for a lock.
            return execute(plan, project, lambda event: _events.send((number, event)), options)
        finally:
            _be_idle()


def _interrupt_once(*_signal: Any) -> None:
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)  # a second signal shall not break off the writing of the manifest
    raise KeyboardInterrupt


def _be_idle() -> None:
    """Ctrl-C reaches all processes; it is for the runs, not for idle workers. SIGTERM is the pool's own way to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _relay(
    futures: list[Future[Manifest]],
    events: Connection[Any, tuple[int, Event]],
    on_event: Callable[[Event], None],
    begun: dict[int, str],
) -> None:
    """Pass on events until all runs are done and no event is left."""
    done = False
    while not done:
        deliver()
        done = all(future.done() for future in futures)
        while events.poll(0 if done else 0.05):
            number, event = events.recv()
            if event.kind in ("run_started", "run_skipped"):
                begun[number] = event.run_id  # of one that was retried the last
            on_event(event)

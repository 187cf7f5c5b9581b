"""Runs several notebooks at once: each has a thread of this process that drives it, and a kernel here or elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from jupyter_core.utils import ensure_event_loop

from lepton_kit.runs.interrupts import deferred, deliver, stoppable_threads
from lepton_kit.runs.manifest import Manifest
from lepton_kit.runs.runner import DEFAULTS, Event, Options, Place, Plan, execute

LONGEST_WAIT_S = 0.1  # how late an interrupt may be noticed


def run_all(
    plans: list[Plan],
    project: Path,
    workers: int,
    on_event: Callable[[Event], None],
    options: Options = DEFAULTS,
    place: Place | None = None,
) -> list[Manifest]:
    """Execute checked plans, `workers` at once, and return their manifests in the plans' order.

    `place` executes them elsewhere than in kernels of this process.

    An interrupt ends the runs that go on, and no other begins; it is passed on once their manifests are written.
    """
    one_at_a_time = threading.Lock()

    def tell(event: Event) -> None:
        with one_at_a_time:
            on_event(event)

    def work(plan: Plan) -> Manifest:
        try:
            return execute(plan, project, tell, options, place)
        finally:
            ensure_event_loop().close()  # of this thread: left open, it complains at the end of an interrupted process

    # An interrupt comes in `deliver` alone: elsewhere it could leave a lock of the pool held for ever.
    with deferred(), stoppable_threads() as stop, ThreadPoolExecutor(workers) as pool:
        runs = [pool.submit(work, plan) for plan in plans]
        try:
            while wait(runs, LONGEST_WAIT_S).not_done:
                deliver()
        except KeyboardInterrupt:
            stop()
            pool.shutdown(cancel_futures=True)
            raise
        return [run.result() for run in runs]

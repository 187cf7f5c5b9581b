"""Starts workers while jobs wait, and ends them in good order."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.policy import Policy
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.project.settings import Watch

logger = logging.getLogger("lepton.watch")
LOOK_S = 0.5  # a job that another process queued is seen within this time
REPAIR_S = 5.0
FOLLOW_UP_S = 1.0
RETRY_S = 5.0  # after a worker that ended badly: a broken installation must not keep a core busy
CANCEL_S = 30.0  # for a kernel to end and a manifest to be written


class Dispatcher:
    """The thread that keeps as many workers as there is work for, `watch.workers` at once."""

    def __init__(self, queue: Queue, project: Path, watch: Watch, policy: Policy) -> None:
        self._queue, self._project, self._most, self._policy = queue, project, watch.workers, policy
        self._most_looks, self._look_again_s = watch.most_looks, watch.look_again_minutes * 60 / watch.time_scale
        self._workers: list[subprocess.Popen[bytes]] = []
        self._not_before = 0.0
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="dispatcher", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there may be work."""
        self._wake.set()

    def stop(self, seconds: float) -> None:
        """Take no further job; let runs go on for `seconds`, then cancel the rest."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        for told, patience in ((signal.SIGTERM, seconds), (signal.SIGINT, CANCEL_S), (signal.SIGKILL, CANCEL_S)):
            self._tell(told)
            deadline = time.monotonic() + patience
            try:
                while self._alive() and time.monotonic() < deadline:
                    time.sleep(0.05)
            except KeyboardInterrupt:
                continue  # asked to stop a second time: without more patience

    def _loop(self) -> None:
        repaired = followed = float("-inf")
        while not self._stopping.is_set():
            try:
                if time.monotonic() - repaired >= REPAIR_S:
                    for job in self._queue.requeue_abandoned():
                        logger.warning("%s: its worker was killed", job.key)
                    repaired = time.monotonic()
                if time.monotonic() - followed >= FOLLOW_UP_S:
                    self._queue.follow_up(self._policy.postmortem, self._policy.postmortem_when)
                    self._queue.look_again(self._look_again_s, self._most_looks)
                    followed = time.monotonic()
                self._start_workers()
            except InputError as error:  # such as a full disk: what is queued stays so
                logger.warning("%s", error)
            self._wake.wait(LOOK_S)
            self._wake.clear()

    def _start_workers(self) -> None:
        free = self._most - len(self._alive())
        if time.monotonic() < self._not_before:
            return
        for _ in range(min(free, self._queue.queued()) if free > 0 else 0):
            command = [sys.executable, "-m", "lepton_kit.ops.watch.worker", str(self._project)]
            # A session of its own: Ctrl-C is for the process above, which ends its workers in good order.
            self._workers.append(subprocess.Popen(command, cwd=self._project, start_new_session=True))

    def _alive(self) -> list[subprocess.Popen[bytes]]:
        ended = [worker for worker in self._workers if worker.poll() is not None]
        for worker in ended:
            self._workers.remove(worker)
            if worker.returncode != 0:
                logger.warning("worker %d ended with %d", worker.pid, worker.returncode)
                self._not_before = time.monotonic() + RETRY_S
        return self._workers

    def _tell(self, number: int) -> None:
        for worker in self._alive():
            worker.send_signal(number)

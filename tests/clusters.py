"""A scheduler of dask.distributed and its workers, as processes on loopback; each worker has a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client
from services import wait_for

SCHEDULER = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--no-dashboard"]
WORKER = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny", "--no-dashboard", "--nthreads", "1"]


class Cluster:
    """A running scheduler; `workers` are the processes of its workers, by address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        told = folder / "scheduler.json"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start([*SCHEDULER, "--port", "0", "--scheduler-file", str(told)])
        wait_for(told.exists)
        self.client = wait_for(lambda: self._client(told))
        self.address: str = self.client.scheduler.address

    def ensure(self, count: int) -> None:
        """Start workers until so many are alive."""
        self.workers = {address: process for address, process in self.workers.items() if process.poll() is None}
        started = {}
        for _ in range(count - len(self.workers)):
            place = self.folder / f"worker-{len(self._processes)}"
            place.mkdir()
            process = self._start([*WORKER, "--local-directory", str(place), self.address], place)
            started[process.pid] = process
        wait_for(lambda: len(self._pids()) == count)
        self.workers |= {address: started[pid] for address, pid in self._pids().items() if pid in started}

    def close(self) -> None:
        """End the processes."""
        self.client.close()
        for process in self._processes:
            process.kill()
            process.wait()

    def _pids(self) -> dict[str, int]:
        return self.client.run(os.getpid)

    def _start(self, command: list[str], folder: Path | None = None) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=folder or self.folder, env=environment, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def _client(self, told: Path) -> Client | None:
        try:
            return Client(scheduler_file=str(told), timeout=30, set_as_default=False)
        except ValueError:  # the file is half written
            return None


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run a scheduler, without a worker."""
    running = Cluster(folder)
    try:
        yield running
    finally:
        running.close()

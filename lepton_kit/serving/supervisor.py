"""The process above a service's workers: starts as many as the desired state says, and replaces each that is lost.

It writes what the service says of itself, so that all else cares for it as for anybody's service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import multiprocess
from uvicorn import _subprocess
from uvicorn.supervisors import multiprocess as workers_of_uvicorn

from lepton_kit.errors import InputError
from lepton_kit.files import locked, write_atomically
from lepton_kit.models.flavors import LoadedModel, Model
from lepton_kit.models.registry import Registry
from lepton_kit.models.tasks import PROBA
from lepton_kit.serving.control import (
    HUNG_SECONDS,
    DesiredState,
    ServiceConfig,
    begin,
    give_to_workers,
    hung_workers,
    note_deployment,
    read_deployments,
    read_desired_state,
)
from lepton_kit.serving.listening import address_of, listening
from lepton_kit.serving.requestlog import declared_rows, forget
from lepton_kit.telemetry.declaration import Columns, Declaration

READY_SECONDS = 60.0
"""Time in which a fresh worker must be ready to answer: seconds, unless other work takes the processors away."""

END_SECONDS = 10.0
"""Time that a worker has to answer what it holds, when another takes its place."""

LEAVE_SECONDS = 0.5
"""Time that a worker which ends leaves to clients that have a connection and are about to ask."""

LOOK_EVERY = 1.0
"""Seconds between two looks for workers that hang."""

FORGET_EVERY = 5.0
"""Seconds between two looks whether the request log holds too much."""

LEAST_URGENT = 19
"""The niceness of the thread that does so: the workers' answers come first."""

OF_MODELS = ("lepton_kit.models.forecasters", "skops.io", "onnxruntime")
"""What takes long to import, by the flavor of the model."""

logger = logging.getLogger("uvicorn.error")


class LeavingServer(uvicorn.Server):
    """uvicorn's server, which lets its clients go before it closes their connections.

    A connection that is closed the moment a request comes in on it loses that request, also where a fresh worker
    stands ready.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connection, ask each client that still asks for something to go, and then end as uvicorn does."""
        for server in self.servers:
            server.close()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                while self.server_state.connections:
                    await asyncio.sleep(0.02)
        await super().shutdown(sockets)


class LeavingProcess(workers_of_uvicorn.Process):
    """A worker with such a server."""

    @property
    def server(self) -> uvicorn.Server:
        """The server, which is made where it runs."""
        if self._server is None:
            self._server = LeavingServer(self.config)
        return self._server


class Supervisor(workers_of_uvicorn.Multiprocess):
    """uvicorn's own supervisor, which also follows the desired number of workers.

    With a `parent` (a process id) it stops when that process, which started it, is gone.
    """

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], service: ServiceConfig, parent: int | None
    ) -> None:
        super().__init__(config, sockets)
        self.service = service
        self.parent = parent
        self._known: set[int] = set()
        self._restarts = read_desired_state(service.folder).restarts

    def run(self) -> None:
        """Watch over the workers until told to stop."""
        threading.Thread(target=self._kill_hung_workers, daemon=True).start()
        threading.Thread(target=self._bound_log, daemon=True).start()
        super().run()

    def _kill_hung_workers(self) -> None:
        """Kill the workers that do not follow the desired state, so that they are replaced like lost ones.

        uvicorn's supervisor sees only that a process is stopped, one after the other, and not that its event loop is
        stuck. A thread, since the main one waits for each process' answer.
        """
        while not self.should_exit.wait(LOOK_EVERY):
            with contextlib.suppress(InputError, OSError):  # the next look may find the files whole
                hung = hung_workers(self.service.folder, time.time())
                for worker in [one for one in self.processes if one.pid in hung]:
                    logger.error("worker %d hangs: it is killed, and a fresh one takes its place", worker.pid)
                    worker.process.kill()

    def _bound_log(self) -> None:
        """Keep the request log within its bounds: here, where no request waits for the interpreter meanwhile."""
        with contextlib.suppress(OSError, AttributeError):  # not on every system; then it is as urgent as the rest
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEAST_URGENT)
        while not self.should_exit.wait(FORGET_EVERY):
            try:
                forget(self.service.folder / "requests", self.service.log_bytes, self.service.log_days)
            except sqlite3.Error as error:
                logger.error("the request log cannot be kept within its bounds: %s", error)

    def keep_subprocess_alive(self) -> None:
        """Replace lost workers, add or end some, and take those that are gone out of the metrics."""
        if self.parent is not None and os.getppid() != self.parent:
            self.should_exit.set()
        super().keep_subprocess_alive()
        if not self.should_exit.is_set():
            with contextlib.suppress(InputError):  # a damaged file: as many as before
                desired = read_desired_state(self.service.folder)
                self._scale(desired.workers)
                if desired.restarts != self._restarts:
                    self._restarts = desired.restarts
                    self.restart_all()  # one after the other, each old one when its successor is ready
        present = {process.pid for process in self.processes if process.pid is not None}
        for pid in self._known - present:
            multiprocess.mark_process_dead(pid, str(self.service.metrics_folder))  # its counters stay in the sums
        self._known = present

    def restart_all(self) -> None:
        """Replace each worker by a fresh one, which begins before the old one ends; one that hangs is killed."""
        for number, old in enumerate(self.processes):
            fresh = LeavingProcess(self.config, self.sockets)
            fresh.start()
            if not fresh.wait_until_ready(READY_SECONDS, self.should_exit):
                fresh.kill()
                fresh.join()
                logger.error("a fresh worker was not ready within %g s: the old ones stay", READY_SECONDS)
                return
            self.processes[number] = fresh
            _end(old)

    def _scale(self, wanted: int) -> None:
        while len(self.processes) < wanted:
            added = LeavingProcess(self.config, self.sockets)
            added.start()
            self.processes.append(added)
        while len(self.processes) > wanted:
            _end(self.processes.pop())


def _end(worker: workers_of_uvicorn.Process) -> None:
    """End a worker, which answers first what it holds; one that hangs is killed."""
    worker.terminate()
    worker.process.join(END_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def serve(
    service: ServiceConfig,
    host: str,
    port: int,
    workers: int,
    version: str,
    announce: Callable[[str], object],
    parent: int | None = None,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C; what is being answered then is finished first.

    Port 0 takes a free one; the address is written to `address` in the service's folder, and `announce` is called once
    with a line that says what is served, and where. Version `current` is the promoted one. With `parent`, the id of the
    process that started this one, it ends as well when that is gone.

    Raises InputError when the model or version is missing or damaged, the address is taken, or the service runs
    already.
    """
    registry = Registry(service.registry)
    model = registry.load(service.model, version)  # errors are reported here, not by each worker
    chosen = registry.folder(service.model, version).name
    busy = f"service {service.name!r}: runs already{_written_address(service.folder)}; stop it, or give another --name"
    with locked(service.folder / ".serving", busy), listening(host, port) as listener:
        begin(service.folder, DesiredState(chosen, workers=workers))
        write_atomically(service.folder / "service.json", service.model_dump_json(indent=1) + "\n")
        shutil.rmtree(service.metrics_folder, ignore_errors=True)
        service.metrics_folder.mkdir(parents=True)
        _note_start(service, chosen)
        give_to_workers(service)
        _fork_workers()
        listener.set_inheritable(True)  # the workers take requests from it
        address = address_of(listener)
        declare(service, address, model)
        write_atomically(service.folder / "address", address + "\n")
        config = uvicorn.Config(
            "lepton_kit.serving.app:create", factory=True, workers=workers, log_level="warning", access_log=False,
            server_header=False, timeout_graceful_shutdown=30, timeout_worker_healthcheck=int(HUNG_SECONDS),
        )  # fmt: skip
        announce(f"service {service.name}: {service.model} {chosen} at {address}, {workers} worker(s)")
        try:
            Supervisor(config, [listener], service, parent).run()
        finally:
            (service.folder / "address").unlink(missing_ok=True)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)


def _fork_workers() -> None:
    """Let workers be forked from a process that has imported everything: each would take seconds to do so itself."""
    workers_of_uvicorn.Process = LeavingProcess  # type: ignore[misc]  # also those that uvicorn starts by itself
    if sys.platform == "linux":  # elsewhere libraries do not bear a fork
        forks = multiprocessing.get_context("forkserver")
        of_model = [name for name in OF_MODELS if name in sys.modules]  # the model is loaded here already
        forks.set_forkserver_preload(["lepton_kit.cli", "lepton_kit.serving.app", __name__, *of_model])
        _subprocess.spawn = forks  # type: ignore[assignment]  # where uvicorn takes its workers from


def _note_start(service: ServiceConfig, version: str) -> None:
    """Note a start with another version than the last: it is a deployment too."""
    with contextlib.suppress(InputError):  # a damaged line is reported where it is needed
        if [one["version"] for one in read_deployments(service.folder)][-1:] != [version]:
            note_deployment(service.folder, version, "the service was started with it")


def _written_address(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return " at " + (folder / "address").read_text(encoding="utf-8").strip()
    return ""


def declare(service: ServiceConfig, address: str, model: Model) -> None:
    """Write `declaration.json` into a service's folder: where its evidence is, and what can be done to it."""
    project = service.folder.parents[1]
    act = ["lepton", "act", service.name]
    declaration = Declaration.model_validate(
        {
            "task": model.task.name,
            "time_series": model.task.name == "interval_forecast",
            "address": address,
            "signals": "lepton",
            "requests": declared_rows(service.folder / "requests", project),
            "logs": _shown(service.folder / "service*.jsonl", project),
            "deployments": _shown(service.folder / "deployments.jsonl", project),
            "columns": _columns(model),
            "model": service.model,
            "registry": _shown(service.registry, project),
            "actions": {
                "roll_back": ["lepton", "rollback", service.name],
                "deploy": [*act, "deploy", "--version", "{version}"],
                "scale": [*act, "scale", "--workers", "{workers}"],
                "restart": [*act, "restart"],
            },
        }
    )
    text = declaration.model_dump_json(indent=1, exclude_defaults=True)
    write_atomically(service.folder / "declaration.json", text + "\n")


def _shown(path: Path, project: Path) -> str:
    """Return a path for a declaration: relative to the project where it is inside."""
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else str(path)


def _columns(model: Model) -> Columns:
    """Return the roles of the columns of the request log: `features` and `answers` are objects in it."""
    answers: dict[str, dict[str, Any]] = {
        "interval_forecast": {
            **{name: f"answers.{name}" for name in ("lower", "upper", "mean", "std")},
            **({"prediction_probas": "answers.prob_up"} if not isinstance(model, LoadedModel) else {}),
        },
        "regression": {"prediction": "answers.prediction"},
        "ranking": {"prediction": "answers.prediction"},
        "text": {"prediction": "answers.*"},
        "classification_binary": {"prediction_probas": "answers.proba"},
        "classification_multiclass": {
            "prediction_labels": "answers.label",
            "prediction_probas": [f"answers.{PROBA}{one}" for one in getattr(model, "classes", ())],
        },
    }
    said = {
        "timestamp": "time_ms", "id": "request_id", "version": "version", "status": "status",
        "latency_ms": "latency_ms", "features": "features.*", "target": "actual", "rating": "rating",
        "feedback": "comment", "categorical": [f"features.{name}" for name in model.categorical],
    }  # fmt: skip
    return Columns.model_validate({**said, **answers[model.task.name]})

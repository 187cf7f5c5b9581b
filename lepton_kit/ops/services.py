"""Starts services as processes of their own, and stops them."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from lepton_kit.errors import InputError
from lepton_kit.serving.control import TOKEN, service_folder


@dataclass(frozen=True)
class Running:
    """A service that was started here."""

    address: str
    token: str
    folder: Path
    process: subprocess.Popen[bytes]

    def stop(self, seconds: float = 40.0) -> int:
        """End the service, which finishes what it holds, and return its exit code; a second call does nothing more."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start_service(
    project: Path,
    model: str,
    *,
    name: str | None = None,
    workers: int = 1,
    queue_limit: int = 64,
    fresh_for: float | None = None,
    seconds: float = 60.0,
) -> Running:
    """Run `lepton serve` on a free port, and return when it is ready.

    The service has a token of its own, and ends by itself when the process that started it is gone.

    Parameters
    ----------
    project
        The root of the project whose registry and services are meant.
    model
        A model of the registry, or MODEL@VERSION.
    name
        The service's name; the model's unless given.
    workers
        Worker processes.
    queue_limit
        Requests that may wait in a worker.
    fresh_for
        Seconds for which the newest data count as fresh; what `lepton serve` takes unless given.
    seconds
        How long it may take.

    Raises
    ------
    InputError
        When it ends at once, or is not ready in time; the message holds the last lines that it said.
    """
    folder = service_folder(project / "services", name or model.partition("@")[0])
    folder.mkdir(parents=True, exist_ok=True)
    token = secrets.token_urlsafe(32)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LEPTON_", "PROMETHEUS_"))}
    options = ["--name", folder.name, "--port", "0", "--workers", str(workers), "--parent", str(os.getpid())]
    options += ["--queue-limit", str(queue_limit)]
    options += ["--fresh-for", str(fresh_for)] if fresh_for else []
    began = time.time()
    with (folder / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lepton_kit.cli", "serve", model, *options],
            cwd=project,
            env={**kept, "LEPTON_PROJECT": str(project), TOKEN: token},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return Running(_await_address(process, folder, began, seconds), token, folder, process)


def _await_address(process: subprocess.Popen[bytes], folder: Path, began: float, seconds: float) -> str:
    """Return the address of a service once it is ready; end one that does not come to that."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if address := _ready_address(folder, began):
            return address
        time.sleep(0.05)
    process.kill()
    process.wait()
    said = (folder / "serve.log").read_text(encoding="utf-8", errors="replace").strip()
    raise InputError(
        f"service {folder.name!r}: was not ready within {seconds:g} s; it said: {said[-500:] or 'nothing'}"
    )


def _ready_address(folder: Path, began: float) -> str | None:
    """Return the address of the service that was started at a time (Unix, seconds), once it is ready."""
    with contextlib.suppress(OSError, httpx.TransportError):
        if (folder / "address").stat().st_mtime < began:  # of an earlier service, which may even run
            return None
        address = (folder / "address").read_text(encoding="utf-8").strip()
        if address and httpx.get(f"{address}/readyz", timeout=5, trust_env=False).status_code == 200:
            return address
    return None

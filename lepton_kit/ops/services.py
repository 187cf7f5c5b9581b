"""Starts services and other commands as processes of their own, and stops them."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from lepton_kit.errors import InputError
from lepton_kit.serving.control import TOKEN, service_folder
from lepton_kit.tls import trusted


@dataclass(frozen=True)
class Running:
    """A service that was started here."""

    address: str
    token: str
    folder: Path
    process: subprocess.Popen[bytes]

    def stop(self, seconds: float = 40.0) -> int:
        """End the service, which finishes what it holds, and return its exit code; a second call does nothing more."""
        return end(self.process, seconds)


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

    `model` is one of the registry, or MODEL@VERSION, and gives the service its name unless one is given. `queue_limit`
    is how many requests may wait in a worker, `fresh_for` for how many seconds the newest data count as fresh. Raises
    InputError when it ends at once, or is not ready in `seconds`; the message holds the last lines that it said.
    """
    folder = service_folder(project / "services", name or model.partition("@")[0])
    folder.mkdir(parents=True, exist_ok=True)
    token = secrets.token_urlsafe(32)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LEPTON_", "PROMETHEUS_"))}
    options = ["--name", folder.name, "--port", "0", "--workers", str(workers), "--parent", str(os.getpid())]
    options += ["--queue-limit", str(queue_limit)]
    options += ["--fresh-for", str(fresh_for)] if fresh_for else []
    began, address = time.time(), folder / "address"

    def ready() -> str | None:
        """Return the address of this service, not of an earlier one, which may even run."""
        with contextlib.suppress(OSError):
            written = address.read_text(encoding="utf-8").strip() if address.stat().st_mtime >= began else ""
            return written if written and is_ok(f"{written}/readyz") else None
        return None

    command = [sys.executable, "-m", "lepton_kit.cli", "serve", model, *options]
    environment = {**kept, "LEPTON_PROJECT": str(project), TOKEN: token}
    process = start(command, project, environment, folder / "serve.log")
    found = await_ready(process, ready, seconds, f"service {folder.name!r}", folder / "serve.log")
    return Running(found, token, folder, process)


def start(command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Run a command in a folder as a process of its own, whose output goes to the end of a file."""
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as said:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )


def end(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Ask a process to end, kill it where it takes longer, and return its exit code."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


Ready = TypeVar("Ready")


def await_ready(
    process: subprocess.Popen[bytes], ready: Callable[[], Ready | None], seconds: float, what: str, log: Path
) -> Ready:
    """Return what `ready` gives once that is something.

    Raises InputError when the process ends or time is up before: it is killed, and the message has its last words.
    """
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(0.05)
    end(process, 0)
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    raise InputError(f"{what}: was not ready within {seconds:g} s; it said: {said[-500:] or 'nothing'}")


def is_ok(address: str) -> bool:
    """Say whether something answers well at an address."""
    try:
        return httpx.get(address, timeout=5, trust_env=False, verify=trusted()).is_success
    except httpx.HTTPError:
        return False

"""A real MLflow server on loopback, from an environment of its own: it pins older packages than the kit needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
from helpers import PATIENCE_S, ROOT
from services import wait_for


def missing() -> str | None:
    """Say what is missing for a server; None where all is there."""
    return None if _command() is not None else "mlflow is not installed in .mlflow"


def _command() -> str | None:
    own = ROOT / ".mlflow" / "bin" / "mlflow"
    return str(own) if own.is_file() else shutil.which("mlflow")


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run a server with its files in a folder, and give its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address, command = f"http://127.0.0.1:{port}", _command()
    assert command is not None
    words = [command, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    told = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{Path(command).parent}:{os.environ['PATH']}",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, cwd=folder, env=told, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: _answers(address, process, folder / "log"))
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)


def _answers(address: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return httpx.get(f"{address}/health").is_success
    except httpx.HTTPError:
        return False

"""A real Jupyter server with the kit in it, as a process on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
from helpers import PATIENCE_S, ROOT
from services import wait_for

TOKEN = "jupyter-test-token"
LAB = ROOT / "lepton_kit" / "ops" / "lab"


@contextlib.contextmanager
def jupyter(project: Path, home: Path, base: str = "", **environment: str) -> Iterator[httpx.Client]:
    """Run JupyterLab in a project, with the settings that the wheel ships, and give a client that may do all.

    `base` is what its addresses begin with, such as `/user`.
    """
    import jupyter_scheduler

    shared = Path(jupyter_scheduler.__file__).parents[4] / "share" / "jupyter"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ours = home / "share" / "labextensions"
    ours.mkdir(parents=True)
    (ours / "lepton-kit").symlink_to(LAB / "labextension")
    extensions = dict.fromkeys(("jupyterlab", "jupyter_scheduler", "lepton_kit.ops.lab.extension"), True)
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={project}",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.base_url={base}/",
        f"--ServerApp.jpserver_extensions={extensions}", "--LabApp.news_url=", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LEPTON_", "JUPYTER_"))}
    folders = {name: str(home / name) for name in ("data", "config", "runtime")}
    told = {f"JUPYTER_{name.upper()}_DIR": folder for name, folder in folders.items()}
    told |= {"JUPYTER_CONFIG_PATH": str(LAB), "JUPYTER_PATH": f"{ours.parent}{os.pathsep}{shared}"}
    log = home / "jupyter.log"
    for folder in folders.values():
        Path(folder).mkdir(parents=True)  # jupyter-scheduler makes no folder for its database
    with log.open("w") as out:
        told = {**inherited, **told, **environment}
        process = subprocess.Popen(command, cwd=project, env=told, stdout=out, stderr=out, start_new_session=True)
    address = f"http://127.0.0.1:{port}{base}"
    try:
        with httpx.Client(base_url=address, headers={"Authorization": f"token {TOKEN}"}, timeout=60) as client:
            wait_for(lambda: _answers(client, process))
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
        process.kill()


def _answers(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "JupyterLab ended"
    with contextlib.suppress(httpx.TransportError):
        return client.get("/api/status").status_code == 200
    return False

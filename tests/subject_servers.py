"""A subject's own server as a process of its own, asked over HTTP; and its feed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
from helpers import ROOT
from monitors import free_port
from prometheus_client.parser import text_string_to_metric_families
from services import wait_for


@contextlib.contextmanager
def subject_server(name: str, folder: Path, alive: str = "/alive") -> Iterator[httpx.Client]:
    """Run `subjects.<name>.app` with its state in a folder, until the block ends."""
    port = free_port()
    command = [sys.executable, "-m", f"subjects.{name}.app", "--folder", str(folder), "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:

        def is_alive():
            try:
                return server.poll() is not None or client.get(alive).is_success
            except httpx.TransportError:
                return False

        try:
            wait_for(is_alive)
            yield client
        finally:
            server.terminate()
            server.wait()


@contextlib.contextmanager
def subject_feed(name: str, folder: Path, client: httpx.Client, *words: str) -> Iterator[None]:
    """Run `subjects.<name>.feed` towards a server, until the block ends."""
    command = [sys.executable, "-m", f"subjects.{name}.feed", str(client.base_url), "--folder", str(folder), *words]
    feed = subprocess.Popen(command, cwd=ROOT)
    try:
        yield
    finally:
        feed.terminate()
        feed.wait()


def samples(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Return what the server counts now, by the name and the labels' values."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def keep_versions(trained: Path, folder: Path) -> Path:
    """Copy the two versions of a simulation to where a server finds them, and return the folder."""
    for version, held in (("v1", "good"), ("v2", "bad")):
        shutil.copytree(trained / held, folder / "models" / version)
    return folder

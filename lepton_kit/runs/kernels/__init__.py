"""Kernels and commands in processes of their own: warm where it is safe, ended with whoever wanted them."""

from __future__ import annotations

import os
import time
from typing import Any

_warm_process = False  # set in a process that was forked from the fork server


def is_warm_process() -> bool:
    """Return whether this process was forked from the fork server, with the usual imports loaded."""
    return _warm_process


def server_status() -> dict[str, Any] | None:
    """Return what the fork server for this environment says of itself, or None where none runs.

    Its `stage` is `ready` when everything is loaded; `pid`, `modules` (how many), `preloaded`, `threads`, `socket`.
    """
    from lepton_kit.runs.kernels import rendezvous

    try:
        return rendezvous.ask(rendezvous.address_for(os.environ), "status")
    except rendezvous.NotWarm:
        return None


def start_server(wait_s: float = 0.0, stage: str = "ready") -> bool:
    """Start the fork server if none runs, and wait so many seconds for a stage; return whether it was reached."""
    from lepton_kit.runs.kernels import rendezvous

    try:
        address = rendezvous.address_for(os.environ)
        deadline = time.monotonic() + wait_s
        while True:
            status = rendezvous.ask(address, "status")
            if status and status["stage"] in (stage, "ready"):
                return True
            if status is None:
                rendezvous.start(address, os.environ)
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
    except rendezvous.NotWarm:
        return False


def stop_server(wait_s: float = 5.0) -> None:
    """End the fork server for this environment; kernels that it gave run on."""
    from lepton_kit.runs.kernels import rendezvous

    try:
        address = rendezvous.address_for(os.environ)
    except rendezvous.NotWarm:
        return
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if rendezvous.ask(address, "stop") is None and rendezvous.is_free(address):
            return
        time.sleep(0.02)

"""Starts kernels for this machine's own use: watched by a watchdog, and not over TCP."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir
from nbclient import NotebookClient
from traitlets import Bool

from lepton_kit.runs.beside import STARTUP

LONGEST_SOCKET_PATH = 100  # systems allow 104 to 108 bytes, and zmq needs a few for the channel's number
PROVISIONER = "lepton-provisioner"


class LocalClient(NotebookClient):
    """nbclient's client, whose kernel a watchdog watches and talks through sockets in the file system, where it can.

    So nothing of a kernel outlives its client, parallel runs never race for a free port, and no other user can listen.
    """

    warm = Bool(True, help="Whether the kernel may be forked from the fork server.").tag(config=True)

    def create_kernel_manager(self) -> Any:
        """Return a manager for a kernel that is still to be started."""
        manager = super().create_kernel_manager()
        spec: Any = manager.kernel_spec
        spec.metadata = {
            **spec.metadata,
            "kernel_provisioner": {"provisioner_name": PROVISIONER, "config": {"warm": self.warm}},
        }
        socket = Path(jupyter_runtime_dir()) / f"kernel-{secrets.token_hex(4)}-ipc"
        if os.name == "posix" and len(str(socket)) < LONGEST_SOCKET_PATH:
            socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            manager.transport, manager.ip = "ipc", str(socket)
        return manager

    def prepare_kernel(self) -> None:
        """Ask a Python kernel for what it does before the first cell; it comes to that before any other request."""
        manager: Any = self.km
        client: Any = self.kc
        if str(manager.kernel_spec.language).lower() == "python":
            client.execute(STARTUP, silent=True, store_history=False)

    async def async_start_new_kernel_client(self) -> Any:
        """Return a client of the manager's kernel, which is prepared."""
        client = await super().async_start_new_kernel_client()
        self.prepare_kernel()
        return client

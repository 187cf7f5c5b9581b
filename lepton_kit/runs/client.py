"""Starts kernels for this machine's own use: they talk through sockets in the file system, not over TCP."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir
from nbclient import NotebookClient

LONGEST_SOCKET_PATH = 100  # systems allow 104 to 108 bytes, and zmq needs a few for the channel's number


class LocalClient(NotebookClient):
    """nbclient's client, whose kernel talks through sockets in the file system, where the system has them.

    So parallel runs never race for a free port, and no other user can listen in.
    """

    def create_kernel_manager(self) -> Any:
        """Return a manager for a kernel that is still to be started."""
        manager = super().create_kernel_manager()
        socket = Path(jupyter_runtime_dir()) / f"kernel-{secrets.token_hex(4)}-ipc"
        if os.name == "posix" and len(str(socket)) < LONGEST_SOCKET_PATH:
            socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            manager.transport, manager.ip = "ipc", str(socket)
        return manager

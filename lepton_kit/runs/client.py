"""Starts kernels for this machine's own use: watched by a watchdog, and not over TCP."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir
from nbclient import NotebookClient
from traitlets import Bool

LONGEST_SOCKET_PATH = 100  # systems allow 104 to 108 bytes, and zmq needs a few for the channel's number
PROVISIONER = "lepton-provisioner"
STARTUP = """
def _lepton_startup():
    import os, sys
    beside, project = os.environ.get("LEPTON_NOTEBOOK_DIR"), os.environ.get("LEPTON_PROJECT")
    if not beside or not project:
        return
    if beside not in sys.path:
        sys.path.insert(1 if sys.path[:1] == [""] else 0, beside)
    if project not in sys.path:
        sys.path.append(project)  # its subjects
    try:
        from lepton_kit.runs.figures import in_more_forms
        in_more_forms(get_ipython())
    except ImportError:
        pass

    def with_advice(shell, kind, error, trace, tb_offset=None):
        # Not every library says which file it was, but in its words.
        names = [error.filename] if error.filename else str(error).replace("'", " ").split()
        for name in names:
            if not isinstance(name, str) or os.path.isabs(name) or not os.path.exists(os.path.join(beside, name)):
                continue
            path = os.path.relpath(os.path.join(beside, name), project)
            advice = (
                "a run works in a folder of its own, not beside its notebook: "
                f"write lk.input({path!r}), or lk.path({path!r}) for what is no input"
            )
            if error.filename:
                error.strerror = f"{error.strerror} ({advice})"
            else:
                error.args = (f"{error} ({advice})",)
            break
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    get_ipython().set_custom_exc((FileNotFoundError,), with_advice)

try:
    _lepton_startup()
finally:
    del _lepton_startup
"""
"""What a Python kernel of ours does first: it can import modules beside the notebook and the subjects, and keeps SVG.

A run works in a folder of its own, so that its files are its own. What JupyterLab finds in the notebook's folder is
found otherwise: modules by `import`, files by `lk.input` and `lk.path`, as a failed `open` says. It needs nothing of
the kit: the kernel may be another Python's.
"""


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

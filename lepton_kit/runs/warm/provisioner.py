"""Starts kernels that a watchdog watches, forked from a process with the usual imports where that is safe."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Bool

from lepton_kit.runs.warm.lease import Lease, is_safe_here, lease_from_server

WATCHDOG = (  # a bare interpreter: only the standard library, and then where this package lies
    "import sys; sys.path.append(sys.argv.pop(1)); from lepton_kit.runs.warm.watchdog import main; main()"
)
POLL_S = 0.005
STARTS_IN_S = 10.0  # a bare interpreter needs milliseconds

logger = logging.getLogger(__name__)


class GuardedProcess:
    """What `subprocess.Popen` is to an ordinary kernel; the watchdog, at the other end of a lease, does the work."""

    stdin = stdout = stderr = None

    def __init__(self, lease: Lease, watchdog_process: subprocess.Popen[bytes] | None = None) -> None:
        self.lease = lease
        self.watchdog_process = watchdog_process
        self.pid = lease.pid

    def poll(self) -> int | None:
        """Return the exit status, or None while the kernel runs."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the kernel and all its descendants are gone."""
        status = self.lease.wait(timeout)
        if status is not None:
            self.lease.close()
            if self.watchdog_process:
                self.watchdog_process.wait()
        return status

    def send_signal(self, number: int) -> None:
        """Signal the kernel's process group."""
        with suppress(ProcessLookupError):  # it has ended, and its watchdog is about to say so
            if self.poll() is None:
                os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill the kernel; its watchdog kills what descends from it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the kernel to end."""
        self.send_signal(signal.SIGTERM)


class LeptonProvisioner(LocalProvisioner):
    """Starts a kernel so that nothing of it is left when it ends, and within milliseconds where that is safe.

    On other systems than Linux it does what `LocalProvisioner` does.
    """

    process: Any = None
    warm = Bool(True, help="Whether a kernel may be forked from the fork server.").tag(config=True)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the kernel and return how to connect to it."""
        if not sys.platform.startswith("linux"):
            return await super().launch_kernel(cmd, **kwargs)
        options = LocalProvisioner._scrub_kwargs(kwargs)
        self.process = self._forked(cmd, options) or _started(cmd, options)
        self.pid = self.pgid = self.process.pid
        return self.connection_info

    async def wait(self) -> int | None:
        """Wait until the kernel has ended and everything of it is gone."""
        while (status := await self.poll()) is None:
            await asyncio.sleep(POLL_S)
        self.process = None
        return status

    def keep(self, seconds: float) -> None:
        """Let the kernel outlive this process, or this lease, for a time in seconds."""
        self.process.lease.send(keep=seconds)
        self.process.lease.close()

    def _forked(self, cmd: list[str], options: dict[str, Any]) -> GuardedProcess | None:
        environment, cwd = dict(options.get("env") or os.environ), str(options.get("cwd") or Path.cwd())
        if reason := self._no_fork_because(cmd, environment, cwd):
            if self.warm:
                logger.info("an ordinary kernel starts: %s", reason)
            return None
        request = {"kind": "kernel", "argv": cmd[2:], "env": environment, "cwd": cwd}
        with Path(os.devnull).open("r+b", buffering=0) as null:
            files = [_number(options.get(name), null.fileno() if number == 0 else number)
                     for number, name in enumerate(("stdin", "stdout", "stderr"))]  # fmt: skip
            lease = lease_from_server(request, files)
        if isinstance(lease, str):
            logger.info("an ordinary kernel starts: %s", lease)
            return None
        return GuardedProcess(lease)

    def _no_fork_because(self, cmd: list[str], environment: dict[str, str], cwd: str) -> str | None:
        if not self.warm:
            return "it was asked for"
        if not _is_our_ipykernel(cmd):
            return f"{cmd[0]} is not this Python's ipykernel"
        if (Path(cwd) / "matplotlibrc").exists():
            return f"{cwd} has a matplotlibrc of its own"
        return is_safe_here(environment)


def _started(cmd: list[str], options: dict[str, Any]) -> GuardedProcess:
    """Start an ordinary kernel, in any language, under a watchdog of its own."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", WATCHDOG, str(Path(__file__).parents[3]), str(theirs.fileno()), *cmd],
            cwd=options.get("cwd"), env=options.get("env"), pass_fds=[theirs.fileno()], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=options.get("stdout"), stderr=options.get("stderr"),
        )  # fmt: skip
    lease = Lease(ours)
    if not lease.started(STARTS_IN_S):
        lease.close()
        raise RuntimeError(f"kernel {' '.join(cmd)} could not be started within {STARTS_IN_S:g} s")
    return GuardedProcess(lease, process)


def _is_our_ipykernel(cmd: list[str]) -> bool:
    python, *rest = cmd
    is_ours = Path(python).name.startswith("python") and (python == "python" or _same(python, sys.executable))
    return is_ours and rest[:2] == ["-m", "ipykernel_launcher"]


def _same(one: str, other: str) -> bool:
    return Path(one).parent.resolve() == Path(other).parent.resolve()


def _number(file: Any, default: int) -> int:
    if file is None:
        return default
    return int(file if isinstance(file, int) else file.fileno())

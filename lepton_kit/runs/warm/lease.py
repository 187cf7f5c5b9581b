"""Asks the fork server for processes, and starts the server when there is none.

The standard library alone: the `lepton` command asks before it imports anything else.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lepton_kit.runs.warm.watchdog import NAME, Lines, say

STARTS_IN_S = 60.0  # what a process may take that is being started; it is only waiting for a processor
PATIENCE_S = 0.3  # an ordinary start takes about as long, so waiting longer for a busy server gains nothing
DECIDES = (  # beginnings of the names of variables that libraries read while they are imported
    "PYTHON", "LC_", "LANG", "LD_", "OMP_", "MKL_", "OPENBLAS_", "CUDA_", "MPLCONFIGDIR", "MATPLOTLIBRC",
    "LEPTON_PRELOAD",
)  # fmt: skip
DEFAULT_PRELOAD = "pandas,pyarrow,matplotlib.pyplot,torch,scipy.stats"
IDLE_S = 600.0
LIMITING = ("memory.max", "memory.high", "cpu.max", "pids.max", "memory.limit_in_bytes", "cpu.cfs_quota_us")
UNLIMITED = ("max", "-1", "9223372036854771712")


class Lease:
    """A hold on a process that a watchdog watches: while this is open it may live."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.pid = 0
        self.exit_status: int | None = None
        self.refused: str | None = None  # why the server refuses to start a process
        self._offered = False
        self._lines = Lines(connection)

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the process' end; return its exit status, minus a signal's number, or None if it still runs."""
        while self.exit_status is None and self._readable(seconds):
            self._take_in()
        return self.exit_status

    def started(self, seconds: float | None = None) -> bool:
        """Wait until the process has been started; return whether it has."""
        while not self.pid and self.exit_status is None and self._readable(seconds):
            self._take_in()
        return bool(self.pid)

    def take_up(self, patience: float) -> bool:
        """Wait for the offer to start the process and accept it; return whether there was one in time.

        Only what was accepted is started, so a client that loses patience can do the work itself and it is done once.
        """
        deadline = time.monotonic() + patience
        while not self._offered and self.exit_status is None and self._readable(max(0.0, deadline - time.monotonic())):
            self._take_in()
        if self._offered:
            say(self.connection, go=1)
        return self._offered

    def send(self, **message: float) -> None:
        """Tell the watchdog something: `signal=number` or `keep=seconds`."""
        say(self.connection, **message)

    def close(self) -> None:
        """End the lease, and with it the process."""
        self.connection.close()

    def _readable(self, seconds: float | None) -> bool:
        poller = select.poll()
        poller.register(self.connection, select.POLLIN | select.POLLHUP)
        return bool(poller.poll(None if seconds is None else 1000 * seconds))

    def _take_in(self) -> None:
        for message in self._lines.receive():
            self._offered |= "offer" in message
            self.pid = message.get("pid", self.pid)
            self.refused = message.get("refused", self.refused)
            self.exit_status = message.get("exit", self.exit_status)
        if self._lines.ended and self.exit_status is None:
            self.exit_status = -9  # the watchdog itself was killed, and its child with it


def lease_from_server(request: Mapping[str, Any], files: Sequence[int]) -> Lease | str:
    """Return a lease on a process forked from the server, or why there is no server that could fork it now.

    The request has `kind` (`kernel` or `command`), `argv`, `env` and `cwd`; `files` are the descriptors of its streams.
    """
    environment = request["env"]
    path = socket_path(environment)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(PATIENCE_S)
    try:
        connection.connect(str(path))
        send_request(connection, {**request, "umask": umask(), "limits": limits()}, files)
    except OSError:
        connection.close()
        start_server(environment)
        return "the fork server is only starting"
    connection.settimeout(None)
    lease = Lease(connection)
    if lease.take_up(PATIENCE_S) and lease.started(STARTS_IN_S):
        return lease
    lease.close()
    if lease.refused is not None:
        return lease.refused
    if lease.exit_status is not None:  # the server has ended, such as one that was out of date
        start_server(environment)
        return "the fork server was out of date"
    return "the fork server is busy"


def send_request(connection: socket.socket, message: Mapping[str, Any], files: Sequence[int]) -> None:
    """Send a message of any length, and open files with it.

    Raises OSError when nobody listens any more.
    """
    content = json.dumps(message).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files).tobytes())]
    connection.sendmsg([len(content).to_bytes(4, "big")], rights)
    connection.sendall(content)


def umask() -> int:
    """Return which rights this process withholds from the files that it makes."""
    found = re.search(r"^Umask:\s*(\d+)", Path("/proc/self/status").read_text(errors="replace"), re.MULTILINE)
    return int(found[1], 8) if found else 0o077


def limits() -> dict[str, str]:
    """Return this process's system limits by name: a fork inherits those of the server."""
    status = Path("/proc/self/status").read_text(errors="replace").splitlines()
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    rows = [re.split(" {2,}", line.strip()) for line in Path("/proc/self/limits").read_text().splitlines()[1:]]
    found = {
        "nice": str(os.getpriority(os.PRIO_PROCESS, 0)),
        "scheduling policy": str(os.sched_getscheduler(0)),
        "cores": str(sorted(os.sched_getaffinity(0))),
        "control group": _control_groups(),
        "OOM score": Path("/proc/self/oom_score_adj").read_text().strip(),
        **{name: fields.get(name, "") for name in ("Uid", "Gid", "Groups", "CapEff", "NoNewPrivs", "Seccomp")},
        **{f"{row[0]} (ulimit)": " of ".join(row[1:3]) for row in rows},
    }
    namespaces = Path("/proc/self/ns")
    return found | {f"{name} namespace": str((namespaces / name).readlink()) for name in ("mnt", "net", "pid", "user")}


def _control_groups() -> str:
    """Return what limits this process among its control groups: those of two terminals differ, and limit nothing."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers.startswith("name="):  # it groups processes, and limits nothing
            continue
        root = Path("/sys/fs/cgroup", controllers)  # version 2 has one tree, without a name
        group = root / path.strip("/")
        if not group.is_dir():  # a container that sees the host's names: as good as can be told
            found.append(line)
            continue
        above = [group, *(each for each in group.parents if each.is_relative_to(root))]
        for file in (each / name for each in above for name in LIMITING):
            with suppress(OSError):
                if (limit := file.read_text()).partition(" ")[0].strip() not in UNLIMITED:
                    found.append(f"{file} {limit.strip()}")
    return ", ".join(found)


def start_server(environment: Mapping[str, str]) -> None:
    """Start a server in the background, unless one is starting already, or a watchdog would end it with a kernel."""
    if _is_under_watchdog():
        return
    path = socket_path(environment)
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # the one that is starting, or runs and is busy, holds it for as long as it lives
        os.close(lock)
        return
    its_own = ("LEPTON_PRELOAD", "LEPTON_FORKSERVER_IDLE")  # nothing of the run that misses it
    kept = {name: value for name, value in environment.items() if not name.startswith("LEPTON_") or name in its_own}
    subprocess.Popen(
        [sys.executable, "-m", "lepton_kit.runs.warm.forkserver", str(path), str(lock)],
        cwd="/", env=kept, pass_fds=[lock], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(lock)


def socket_path(environment: Mapping[str, str]) -> Path:
    """Return where the server for such processes listens.

    Whatever decides at its start how an interpreter works is part of the name: a process is only forked from a server
    that was started as the process itself would be. The name by which an interpreter was called is not (`python` and
    `python3` of an environment are one). The folder is its owner's alone.
    """
    decides = sorted((name, value) for name, value in environment.items() if name.startswith(DECIDES))
    interpreter = [str(Path(sys.prefix).resolve()), str(Path(sys.executable).resolve()), sys.flags]
    name = hashlib.sha256(json.dumps([*interpreter, decides]).encode()).hexdigest()[:16]
    return _folder(environment) / name


def _folder(environment: Mapping[str, str]) -> Path:
    above = environment.get("JUPYTER_RUNTIME_DIR") or environment.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    for parent in (above, tempfile.gettempdir()):
        folder = Path(parent) / f"lepton-{os.getuid()}"
        if len(str(folder)) < 80:  # a socket's path has to fit into 108 bytes
            break
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone: remove it")
    return folder


def is_safe_here(environment: Mapping[str, str]) -> str | None:
    """Return why no process may be forked from a server here, or None where it may."""
    if not sys.platform.startswith("linux"):
        return f"fork servers are used on Linux alone, this is {sys.platform}"
    if environment.get("LEPTON_WARM") == "0":
        return "LEPTON_WARM=0"
    if not hasattr(os, "pidfd_open"):
        return "this Python has no pidfd_open"
    return None


def _is_under_watchdog() -> bool:
    pid = os.getpid()
    while pid > 1:
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
        except OSError:
            return False
        if name.partition("(")[2] == NAME:
            return True
        pid = int(rest.split()[1])
    return False

"""Where the fork server is, and how to ask it for a process.

There is one server for each Python, user and environment in which imports would turn out alike. Its socket lies in a
folder that only this user can enter, and each side asks the system who the other is.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import socket
import stat
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_kit.runs.kernels import wire
from lepton_kit.runs.kernels.guardian import under_guardian

LONGEST_SOCKET_PATH = 100  # bytes; systems allow 104 to 108
PATIENCE_S = 2.0  # for the server's answer; it is never busy for long
FLAGS = ("-X", "frozen_modules=off")  # as debuggable kernels are started

# What libraries look at while they are imported, or while they are loaded: servers are told apart by these.
AT_IMPORT = (
    "HOME", "LANG", "LANGUAGE", "PYTHONPATH", "MATPLOTLIBRC", "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME",
    "GLIBC_TUNABLES", "LEPTON_PRELOAD", "LEPTON_FORKSERVER_IDLE",
)  # fmt: skip
AT_IMPORT_PREFIXES = (
    "LC_", "LD_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GOTO_", "BLIS_", "NUMEXPR_", "MALLOC_",
    "TORCH", "PYTORCH_", "ARROW_",
)  # fmt: skip
HARMLESS = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONSTARTUP", "PYTHONEXECUTABLE")
NEEDED = ("PATH", "USER", "LOGNAME", "TMPDIR")  # of the rest the server gets only this: other variables hold secrets
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user")


class NotWarm(Exception):  # noqa: N818 - it is a reason, and no error: an ordinary process starts instead
    """Why the fork server gives no process."""


@dataclass(frozen=True)
class Address:
    """The folder, the name of socket and lock in it, and all that tells this server from others."""

    folder: Path
    identity: dict[str, Any]

    @property
    def name(self) -> str:
        """A short name of the identity; the server itself compares the whole."""
        return f"{zlib.crc32(json.dumps(self.identity, sort_keys=True).encode(errors='surrogateescape')):08x}"

    @property
    def socket(self) -> str:
        """The path of the socket."""
        return str(self.folder / f"{self.name}.sock")

    @property
    def lock(self) -> str:
        """The path of the file that a server holds locked for as long as it lives."""
        return str(self.folder / f"{self.name}.lock")


def address_for(environment: Mapping[str, str]) -> Address:
    """Return where the server for processes with this environment is, whether it runs or not.

    Raises
    ------
    NotWarm
        When no server can serve this environment here.
    """
    if not sys.platform.startswith("linux"):
        raise NotWarm(f"warm processes need Linux, this is {sys.platform}")
    if environment.get("LEPTON_WARM") == "0":
        raise NotWarm("LEPTON_WARM=0")
    for name in environment:
        if name.startswith("PYTHON") and name not in HARMLESS:
            raise NotWarm(f"{name} is set, which only a new interpreter can obey")
    flags = [f"{name}={getattr(sys.flags, name)}" for name in ("optimize", "utf8_mode", "no_user_site", "dev_mode")]
    identity = {
        "python": sys.executable, "version": sys.version, "flags": flags, "uid": os.getuid(),
        "environment": {k: v for k, v in sorted(environment.items()) if _matters_at_import(k)},
        "confinement": _confinement(),
    }  # fmt: skip
    return Address(_folder(environment), identity)


def lease(request: dict[str, Any], environment: Mapping[str, str], files: Sequence[int], start: bool) -> socket.socket:
    """Ask for a process and return the connection that is its lease, from which the guardian's answer is still to come.

    Parameters
    ----------
    request
        `kind` (`kernel` or `command`), `argv`, `cwd`.
    environment
        The whole environment of the process.
    files
        Its standard input, output and error.
    start
        Whether to start a server, for the next time, where there is none.

    Raises
    ------
    NotWarm
        When there is no server, or it gives no process.
    """
    address = address_for(environment)
    try:
        connection = _connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotWarm(start(address, environment) if start else "no fork server is running") from None
    except OSError as error:
        raise NotWarm(f"the fork server at {address.socket} does not answer: {error}") from error
    try:
        whole = {**request, **_manners(), "env": dict(environment), "identity": address.identity}
        wire.send(connection, whole, files)
        answer, _ = wire.receive(connection)
    except (EOFError, OSError) as error:
        connection.close()
        raise NotWarm(f"the fork server ended or was too slow: {error}") from error
    if "refused" in answer:
        connection.close()
        if answer.get("gone") and start:
            start(address, environment)
        raise NotWarm(answer["refused"])
    return connection


def ask(address: Address, kind: str) -> dict[str, Any] | None:
    """Send `status` or `stop` to a server; return its answer, or None where none runs."""
    try:
        with _connect(address) as connection:
            wire.send(connection, {"kind": kind, "identity": address.identity})
            return wire.receive(connection)[0]
    except (EOFError, OSError):
        return None


def claim(address: Address) -> int | None:
    """Become the only server at an address; return the lock to hold, or None where there is one already."""
    lock = os.open(address.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def is_free(address: Address) -> bool:
    """Return whether no server lives at an address, not even one that is still starting or ending."""
    try:
        lock = claim(address)
    except FileNotFoundError:
        return True
    if lock is not None:
        os.close(lock)
    return lock is not None


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter.

    Raises
    ------
    NotWarm
        When there is one that others can enter, or that is another's.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise NotWarm(f"the folder {folder} for the fork server's socket cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise NotWarm(f"{folder} must be a folder of mode 0700 and this user's own")


def _connect(address: Address) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(PATIENCE_S)
        connection.connect(address.socket)
        if wire.peer_uid(connection) != os.getuid():
            raise PermissionError(f"the server at {address.socket} is another user's")
    except BaseException:
        connection.close()
        raise
    return connection


def start(address: Address, environment: Mapping[str, str]) -> str:
    """Start a server in the background where none runs, and say what was done.

    Raises
    ------
    NotWarm
        When there is no safe folder for its socket.
    """
    if under_guardian():
        return "no fork server is running, and one started here would end with this kernel"
    make_private(address.folder)
    lock = claim(address)
    if lock is None:
        return "the fork server is still starting"
    os.close(lock)
    given = {k: v for k, v in environment.items() if k in NEEDED or _matters_at_import(k)}
    program = [sys.executable, *FLAGS, "-m", "lepton_kit.runs.kernels.forkserver", str(address.folder)]
    # The shell takes the process off our hands: this process shall not have a child that it must wait for.
    shell = 'cd "$0" && "$@" </dev/null >/dev/null 2>>"$0/server.log" &'
    words = ["sh", "-c", shell, str(address.folder), *program]
    os.waitpid(os.posix_spawn("/bin/sh", words, given, setsid=True), 0)
    return "the fork server is starting; the next process will be warm"


def _matters_at_import(name: str) -> bool:
    return name in AT_IMPORT or name.startswith(AT_IMPORT_PREFIXES)


def _folder(environment: Mapping[str, str]) -> Path:
    """Return the folder for sockets: below Jupyter's or the system's runtime folder, if that leaves a short path."""
    base = environment.get("JUPYTER_RUNTIME_DIR") or environment.get("XDG_RUNTIME_DIR")
    if base and len(os.fsencode(base)) + len("/lepton-kit/01234567.sock") < LONGEST_SOCKET_PATH:
        return Path(base) / "lepton-kit"
    return Path("/tmp") / f"lepton-kit-{os.getuid()}-{zlib.crc32((base or '').encode(errors='surrogateescape')):08x}"


def _confinement() -> list[str]:
    """Return what a process cannot take on after its start: its control group (memory limits) and namespaces."""
    links = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES if os.path.exists(f"/proc/self/ns/{name}")]  # noqa: PTH110 - read at each start; Path is slower
    return [*links, Path("/proc/self/cgroup").read_text() if os.access("/proc/self/cgroup", os.R_OK) else ""]


def _manners() -> dict[str, Any]:
    """Return what a child inherits from its parent besides the environment."""
    mask = os.umask(0o077)
    os.umask(mask)
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}
    return {
        "umask": mask,
        "limits": limits,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": sorted(os.sched_getaffinity(0)),
    }

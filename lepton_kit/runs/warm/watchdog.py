"""A kernel's watchdog: its parent process, which leaves nothing of it behind.

The process that starts a kernel holds a lease, one end of a socket. When the lease ends (also because its holder was
killed), or when the kernel exits, the watchdog kills the kernel and every process that descends from it, however far
it went away.
The watchdog has a parent that does nothing but wait for it: where it is killed, that one kills what it leaves.

This file and those it imports use the standard library alone: a watchdog is a bare interpreter, there in milliseconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36  # of Linux' prctl(2)
NAME = "lepton-watchdog"  # 15 bytes at most
STOP_S = 10.0  # how long a command may take to end by itself after it was asked to


def guard(
    lease: socket.socket, run: Callable[[], int], ask_first: bool = False, clean_up: Callable[[], None] = lambda: None
) -> NoReturn:
    """Run something in a child process; end when it ends, or when the lease does, with all that descends from it.

    Over the lease, each message a line of JSON, go `{"pid": …}` and, when everything is gone, `{"exit": …}` (minus the
    signal's number where one killed it); `{"signal": …}` and `{"keep": seconds}` come back. After `keep` the child
    outlives its lease for that time.

    Parameters
    ----------
    lease
        This end of the lease.
    run
        What the child does; its return value is the exit status.
    ask_first
        At the end of the lease send SIGTERM and wait a little, before killing.
    clean_up
        Called when the child and all that descends from it are gone.
    """
    _become_watchdog(clean_up)
    child = _start(run, lease)
    _close_standard_streams()
    say(lease, pid=child)
    _watch(lease, child, ask_first)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _kill_descendants()
    clean_up()
    say(lease, exit=code)
    os._exit(0)


def may_start(lease: socket.socket) -> bool:
    """Offer to start what was asked for; return whether who asked accepts, because it has not lost patience."""
    say(lease, offer=1)
    lines = Lines(lease)
    while not lines.ended:
        if any("go" in line for line in lines.receive()):
            return True
    return False


def _become_watchdog(clean_up: Callable[[], None]) -> None:
    """Become a watchdog, in a fork of this process; this one waits for it, and does its work if it was killed."""
    _become_reaper()
    name_process(NAME)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if watchdog := os.fork():
        _close_standard_streams()
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        if os.waitpid(watchdog, 0)[1]:
            _kill_descendants()
            clean_up()
        os._exit(0)
    _become_reaper()


def _become_reaper() -> None:
    """Make orphans children of this process, wherever they went."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _start(run: Callable[[], int], lease: socket.socket) -> int:
    """Start a child and return its number once it has a group of its own and hears signals: none is lost or fails."""
    parent = os.getpid()
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        lease.close()
        os.close(readable)
        _become_child(parent)
        os.close(writable)
        os._exit(_status_of(run))
    os.close(writable)
    os.read(readable, 1)
    os.close(readable)
    return child


def name_process(name: str) -> None:
    """Set the name that the system shows for this process."""
    _prctl(PR_SET_NAME, name.encode())


def _become_child(parent: int) -> None:
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["JPY_PARENT_PID"] = str(parent)  # what ipykernel calls its parent


def _status_of(run: Callable[[], int]) -> int:
    try:
        return run()
    except SystemExit as left:
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()


def _watch(lease: socket.socket, child: int, ask_first: bool) -> None:
    """Wait for the child's end, and bring it about when the lease ends."""
    lines, process = Lines(lease), os.pidfd_open(child)
    poller = select.poll()
    poller.register(process, select.POLLIN)
    poller.register(lease, select.POLLIN | select.POLLHUP)
    above = os.pidfd_open(os.getppid())  # who does this work if this process is killed: without it nobody would
    poller.register(above, select.POLLIN)
    keep_s, end = 0.0, None
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        ready = {number for number, _ in poller.poll(None if left is None else 1000 * left)}
        if process in ready:
            os.close(process)
            return
        if lease.fileno() in ready:
            for message in lines.receive():
                keep_s = message.get("keep", keep_s)
                if number := message.get("signal"):
                    _signal(child, number)
            if lines.ended:
                poller.unregister(lease)
                end = time.monotonic() + (keep_s or (STOP_S if ask_first else 0.0))
                if ask_first:
                    _signal(child, signal.SIGTERM)
        if above in ready:
            poller.unregister(above)
            end = 0.0
        if end is not None and time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            end = None


def _signal(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child, number)


def _kill_descendants() -> None:
    """Kill until none is left: a killed process' children become ours, and are next."""
    while _has_children():
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.waitpid(-1, 0)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    me, found = str(os.getpid()), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "stat").read_text().rpartition(")")[2].split()[1] == me:
                    found.append(int(entry.name))
    return found


def _close_standard_streams() -> None:
    """Let go of the kernel's streams, so that who reads them sees their end when the kernel ends."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)


def _prctl(option: int, value: int | bytes) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def remove_connection(words: Sequence[str]) -> None:
    """Remove the connection file that a kernel's command names, and its sockets: its client may have been killed."""
    if "-f" not in words[:-1]:
        return
    file = Path(words[words.index("-f") + 1])
    try:
        connection = json.loads(file.read_bytes())
        if connection.get("transport") == "ipc":
            place = Path(connection["ip"])
            for left in place.parent.glob(f"{place.name}-*"):
                left.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
    except (OSError, ValueError, KeyError):  # it is gone, or none that a client wrote
        return


def say(connection: socket.socket, **message: Any) -> None:
    """Send a line of JSON, if anybody is there."""
    with suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


class Lines:
    """The lines of JSON that come over a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.ended = False
        self._held = b""

    def receive(self) -> list[dict[str, Any]]:
        """Wait for something to come; return the lines that are whole by then, and note when the other end closed."""
        try:
            received = self.connection.recv(65536)
        except OSError:
            received = b""
        self.ended = not received
        *lines, self._held = (self._held + received).split(b"\n")
        return [json.loads(line) for line in lines]


def main() -> NoReturn:
    """Start a command, whose words follow the number of the lease's file, and guard it."""
    lease = socket.socket(fileno=int(sys.argv[1]))
    lease.set_inheritable(False)
    words = sys.argv[2:]

    def run() -> int:
        try:
            os.execvp(words[0], words)
        except OSError as error:
            print(f"{words[0]}: {error.strerror}", file=sys.stderr)
            return 127

    guard(lease, run, clean_up=lambda: remove_connection(words))

"""A kernel's guardian: its parent process, which leaves nothing of it behind.

Whoever starts a kernel holds a lease, one end of a socket. When the lease ends (also because its holder was killed), or
when the kernel exits, the guardian kills the kernel and every process that descends from it, however far it went away.

This file uses the standard library alone: a guardian is a bare interpreter that is there in milliseconds.
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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36  # of Linux' prctl(2)
NAME = "lepton-guardian"  # 15 bytes at most
STOP_S = 10.0  # how long a command may take to end by itself after it was asked to


def guard(lease: socket.socket, run: Callable[[], int], ask_first: bool = False) -> NoReturn:
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
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # so orphans become children of this process, wherever they went
    name_process(NAME)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _become_child(lease, parent)
        os._exit(_status_of(run))
    _close_standard_streams()
    _send(lease, {"pid": child})
    _watch(lease, child, ask_first)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _kill_descendants()
    _send(lease, {"exit": code})
    os._exit(0)


def name_process(name: str) -> None:
    """Set the name that the system shows for this process."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def _become_child(lease: socket.socket, parent: int) -> None:
    lease.close()
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
    process = os.pidfd_open(child)
    poller = select.poll()
    poller.register(process, select.POLLIN)
    poller.register(lease, select.POLLIN | select.POLLHUP)
    keep_s, end, held = 0.0, None, b""
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        ready = {number for number, _ in poller.poll(None if left is None else 1000 * left)}
        if process in ready:
            os.close(process)
            return
        if lease.fileno() in ready:
            received = _receive(lease)
            *lines, held = (held + received).split(b"\n")
            for message in map(json.loads, lines):
                keep_s = message.get("keep", keep_s)
                if number := message.get("signal"):
                    _signal(child, number)
            if not received:
                poller.unregister(lease)
                end = time.monotonic() + (keep_s or (STOP_S if ask_first else 0.0))
                if ask_first:
                    _signal(child, signal.SIGTERM)
        if end is not None and time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            end = None


def _receive(lease: socket.socket) -> bytes:
    try:
        return lease.recv(65536)
    except OSError:
        return b""


def _send(lease: socket.socket, message: dict[str, int]) -> None:
    with suppress(OSError):  # nobody holds the lease any more
        lease.sendall(json.dumps(message).encode() + b"\n")


def _signal(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child, number)


def _kill_descendants() -> None:
    """Kill until none is left: a killed process' children become ours, and are next."""
    while True:
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


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


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def main() -> NoReturn:
    """Start a command, whose words follow the number of the lease's file, and guard it."""
    lease = socket.socket(fileno=int(sys.argv[1]))
    lease.set_inheritable(False)
    lease.set_inheritable(False)
    words = sys.argv[2:]

    def run() -> int:
        try:
            os.execvp(words[0], words)
        except OSError as error:
            print(f"{words[0]}: {error.strerror}", file=sys.stderr)
            return 127

    guard(lease, run)


if __name__ == "__main__":
    main()

"""Messages between a runner, the fork server and guardians: JSON with its length before it, over a unix socket.

Only the standard library is used here, and little of it: the command `lepton` imports this before anything else.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

LENGTH = struct.Struct(">I")
CREDENTIALS = struct.Struct("3i")  # Linux: pid, uid, gid
MOST_FILES = 8


def send(connection: socket.socket, message: dict[str, Any], files: Sequence[int] = ()) -> None:
    """Send a message, with open files.

    Raises
    ------
    OSError
        When the other end is gone.
    """
    content = json.dumps(message).encode("utf-8", "surrogateescape")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    connection.sendmsg([LENGTH.pack(len(content))], rights, socket.MSG_NOSIGNAL)
    connection.sendall(content, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for a message; return it and the files that came with it.

    Raises
    ------
    EOFError
        When the other end is gone.
    OSError
        When the connection broke, or the socket's timeout passed.
    """
    rights = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(LENGTH.size, socket.CMSG_LEN(MOST_FILES * rights.itemsize))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            rights.frombytes(data[: len(data) - len(data) % rights.itemsize])
    try:
        head += _exactly(connection, LENGTH.size - len(head))
        content = _exactly(connection, LENGTH.unpack(head)[0])
        message: dict[str, Any] = json.loads(content.decode("utf-8", "surrogateescape"))
    except BaseException:
        for descriptor in rights:
            os.close(descriptor)
        raise
    return message, list(rights)


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end of a unix socket, as the kernel knows it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return int(CREDENTIALS.unpack(credentials)[1])


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        chunk = connection.recv(count - len(received))
        if not chunk:
            raise EOFError("the other end closed the connection")
        received += chunk
    return received

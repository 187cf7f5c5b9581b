"""Messages between clients, the fork server and watchdogs: JSON, with open files beside it.

The standard library alone, as everything here that runs before the heavy imports.
"""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

MOST_FILES = 4


def send_request(connection: socket.socket, message: Mapping[str, Any], files: Sequence[int]) -> None:
    """Send a message of any length, and open files with it.

    Raises OSError when nobody listens any more.
    """
    content = json.dumps(message).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files).tobytes())]
    connection.sendmsg([len(content).to_bytes(4, "big")], rights)
    connection.sendall(content)


def receive_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive what `send_request` sent.

    Raises ConnectionError when the other end closed before the message was whole.
    """
    files = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_LEN(MOST_FILES * files.itemsize))
    for _, _, content in ancillary:
        files.frombytes(content[: len(content) - len(content) % files.itemsize])
    size, content = int.from_bytes(head, "big"), b""
    if not head:
        raise ConnectionError("closed without a request")
    while len(content) < size:
        if not (piece := connection.recv(min(65536, size - len(content)))):
            raise ConnectionError("the request breaks off")
        content += piece
    return json.loads(content), list(files)


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

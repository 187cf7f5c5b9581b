"""Listens at an address, for the servers of the kit."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from lepton_kit.errors import InputError


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen at a host's port, 0 for a free one, until the end of what stands below this.

    Raises InputError when the address is taken, or none of this machine's.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise InputError(f"address {host}:{port}: cannot listen there ({error})") from error
    with listener:
        listener.listen(2048)
        yield listener


def address_of(listener: socket.socket) -> str:
    """Return where a listener answers, such as `http://127.0.0.1:8000`."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"

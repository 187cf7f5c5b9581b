"""A real PostgreSQL on a socket in a folder of its own, for the ledgers of tests: each gets an empty schema."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from helpers import PATIENCE_S
from services import wait_for

PASSWORD = "not to be seen/@anywhere"
USER = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def missing() -> str | None:
    """Say what is missing for a server; None where all is there."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed"
    return None if _binaries() is not None else "postgres is not installed"


def _binaries() -> Path | None:
    """Return the newest folder with initdb: Debian puts it on nobody's path."""
    found = shutil.which("initdb")
    places = [Path(found)] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return places[0].resolve().parent if places else None


@dataclass
class Postgres:
    """A server that runs: `folder` holds its socket."""

    folder: Path
    process: subprocess.Popen[bytes]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def address(self, schema: str | None = None, user: str = "owner", password: str = PASSWORD) -> str:
        """Return the address of a schema, by default of the database's own."""
        who = f"{user}:{quote(password, safe='')}"
        path = f"&options=-csearch_path%3D{schema}" if schema else ""
        return f"postgresql+psycopg://{who}@/postgres?host={self.folder}{path}"

    def new_ledger(self) -> str:
        """Make an empty schema, and return its address."""
        name = f"ledger_{next(self._numbers)}"
        self.execute(f"CREATE SCHEMA {name}")
        return self.address(name)

    def execute(self, statement: str) -> None:
        """Do something as the owner of all."""
        import psycopg

        about = {"host": str(self.folder), "user": "owner", "password": PASSWORD, "dbname": "postgres"}
        with psycopg.connect(**about, autocommit=True) as connection:
            connection.execute(statement)


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server, and end it; it ends with this process too."""
    binaries = _binaries()
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path is short, and that user must get there
    secret = folder / "password"
    secret.write_text(PASSWORD)
    for path in (folder, secret):
        shutil.chown(path, USER or os.getuid())
    data, options = folder / "data", ["-A", "scram-sha-256", "--pwfile", str(secret), "-U", "owner", "-N"]
    made = [binaries / "initdb", "-D", str(data), "-E", "UTF8", "--locale", "C", *options]
    subprocess.run(made, user=USER, cwd=folder, check=True, capture_output=True)
    settings = {
        "listen_addresses": "", "unix_socket_directories": str(folder), "max_connections": "200", "fsync": "off",
        "shared_buffers": "16MB", "autovacuum": "off",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    libc = ctypes.CDLL(None)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binaries / "postgres", "-D", str(data), *words],
            user=USER,
            cwd=folder,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: libc.prctl(DIE_WITH_PARENT, signal.SIGINT),
        )
    try:
        server = Postgres(folder, process)
        wait_for(lambda: _answers(server))
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # without waiting for who is connected
        process.wait(PATIENCE_S)
        shutil.rmtree(folder)


def _answers(server: Postgres) -> bool:
    import psycopg

    assert server.process.poll() is None, (server.folder / "log").read_text()
    try:
        server.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True

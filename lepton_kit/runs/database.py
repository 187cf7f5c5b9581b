"""Opens the database of a ledger: the file `runs/ledger.sqlite`, or the PostgreSQL that lepton.toml names."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, select
from sqlalchemy.exc import DBAPIError

from lepton_kit.errors import InputError
from lepton_kit.runs.tables import NOTES, make_tables

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
ADVICE_FULL = "free some space on its disk and leave the file where it is: it holds the idempotency keys"
ADVICE_RIGHTS = "give this user the right to read and write it and its folder"
ADVICE_BUSY = "another process is using it; try again"
ADVICE_BROKEN = (
    "restore it from a backup; if there is none, move it away: the next run makes a new one, which knows no "
    "idempotency key, so that what was done for a key may be done again"
)
ADVICE: dict[object, str] = {
    sqlite3.SQLITE_FULL: ADVICE_FULL,
    sqlite3.SQLITE_IOERR: ADVICE_FULL,
    sqlite3.SQLITE_BUSY: ADVICE_BUSY,
    sqlite3.SQLITE_LOCKED: ADVICE_BUSY,
    sqlite3.SQLITE_CORRUPT: ADVICE_BROKEN,
    sqlite3.SQLITE_NOTADB: ADVICE_BROKEN,
}
"""What to do about a ledger that cannot be used, by the kind of the error."""

_MADE: set[URL] = set()
"""The databases whose tables this process has seen to."""


class Database:
    """The database of a ledger, in a file that is made when it is first needed.

    `path` is the file, and `busy_timeout` how long (s) to wait for another process that writes.
    """

    def __init__(self, path: Path, busy_timeout: float) -> None:
        self.path, self._busy_timeout = path, busy_timeout
        self._url = URL.create("sqlite", database=str(path))
        self._held: Connection | None = None

    def exists(self) -> bool:
        """Say whether there is a ledger that could hold anything."""
        return self.path.exists()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open the database for one change that no other process sees half of.

        Raises InputError, with advice, where it cannot be opened, read or written; nothing was changed then.
        """
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_known = self._url in _MADE and self.exists()
            with self._engine().begin() as ledger:
                if not is_known:
                    make_tables(ledger)
                yield ledger
            _MADE.add(self._url)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a database that exists for reading alone: this changes nothing, and waits for nobody."""
        file = URL.create("sqlite", database=self.path.resolve().as_uri(), query={"mode": "ro", "uri": "true"})
        with self._explained(), create_engine(file, poolclass=NullPool).connect() as ledger:
            yield ledger

    def hold_open(self) -> None:
        """Hold the file open, for a process that writes often: SQLite tidies up whenever the last connection closes.

        Each transaction then takes half as long.
        """
        self._held = self._engine().connect()
        with self._held.begin():
            self._held.execute(select(NOTES.c.name).limit(1))  # only now it takes part

    def close(self) -> None:
        """Let go of the file."""
        if self._held is not None:
            self._held.close()

    def _engine(self) -> Engine:
        return _engine(self._url, self._busy_timeout, os.getpid())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
            raise InputError(f"ledger {str(self.path)!r}: {cause} ({_advice(cause)})") from error


@lru_cache(maxsize=16)
def _engine(url: URL, busy_timeout: float, _process: int) -> Engine:
    """Return what opens connections; a forked process gets one of its own, as it must not use those of its parent."""
    about = {"timeout": busy_timeout, "isolation_level": None, "check_same_thread": False}
    engine = create_engine(url, poolclass=NullPool, connect_args=about)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.create_function("lepton_now", 0, lambda: time.time())  # the clock of `tables.now`
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a claim that was answered must outlive a power cut

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _advice(error: BaseException) -> str:
    """Say how to repair a ledger that cannot be used; it holds the idempotency keys, so giving it up comes last."""
    if isinstance(error, OSError):
        return ADVICE_FULL if error.errno in NO_SPACE else ADVICE_RIGHTS
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # beyond that are the kinds of a kind
    return ADVICE.get(code, ADVICE_RIGHTS)

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

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from lepton_kit.errors import InputError
from lepton_kit.runs.project import SETTINGS, setting
from lepton_kit.runs.tables import NOTES, make_tables
from lepton_kit.secrets import is_reference, resolve_secret

FILE = "ledger.sqlite"
DRIVER = "postgresql+psycopg"
ALLOWED = (
    f"must be {DRIVER}://USER@HOST/DATABASE, or where that is kept (env:NAME, file:PATH); without it the ledger is "
    f"runs/{FILE}"
)
LOCK = 0x6C6570746F6E  # "lepton": PostgreSQL's number of the lock that who changes the ledger alone holds
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
    None: "nothing was changed; see that the server runs, and that user, password and database are right",
    "42501": "nothing was changed; give this user the right to create and change tables in its schema",
    "53100": "nothing was changed; free some space on the server's disk",
    "55P03": ADVICE_BUSY,
}
"""What to do about a ledger that cannot be used, by SQLite's code or PostgreSQL's; by None without a connection."""

_MADE: set[URL] = set()
"""The databases whose tables this process has seen to."""


class Database:
    """The database of a project's ledger; its tables are made when they are first needed.

    `path` is SQLite's file, and `busy_timeout` how long (s) to wait for another process that writes.

    Raises InputError when lepton.toml names a database as it cannot be.
    """

    def __init__(self, project: Path, busy_timeout: float) -> None:
        self.path, self._busy_timeout = project / "runs" / FILE, busy_timeout
        server = _server(project)
        self._is_file = server is None
        self._url = server or URL.create("sqlite", database=str(self.path))
        self._held: Connection | None = None

    def exists(self) -> bool:
        """Say whether there is a ledger that could hold anything."""
        return not self._is_file or self.path.exists()

    @contextmanager
    def transaction(self, alone: bool = True) -> Iterator[Connection]:
        """Open the database for one change that no other process sees half of.

        Unless `alone` is false, no other one changes it meanwhile; in SQLite's file it never does. Raises InputError,
        with advice, where the database cannot be opened, read or written; nothing was changed then.
        """
        with self._explained():
            if self._is_file:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            is_known = self._url in _MADE and self.exists()
            with self._engine().begin() as ledger:
                if alone or not is_known:
                    be_alone(ledger)
                if not is_known:
                    make_tables(ledger)
                yield ledger
            _MADE.add(self._url)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a database that exists for reading alone: this waits for nobody, and changes nothing in a file."""
        if not self._is_file:
            with self.transaction(alone=False) as ledger:
                yield ledger
            return
        file = URL.create("sqlite", database=self.path.resolve().as_uri(), query={"mode": "ro", "uri": "true"})
        with self._explained(), create_engine(file, poolclass=NullPool).connect() as ledger:
            yield ledger

    def hold_open(self) -> None:
        """Hold a file open, for a process that writes often: SQLite tidies up whenever the last connection closes.

        Each transaction then takes half as long.
        """
        if self._is_file:
            self._held = self._engine().connect()
            with self._held.begin():
                self._held.execute(select(NOTES.c.name).limit(1))  # only now it takes part

    def close(self) -> None:
        """Let go of the file."""
        if self._held is not None:
            self._held.close()

    def __str__(self) -> str:
        """Return where the ledger is, without a password."""
        return str(self.path) if self._is_file else _shown(self._url)

    def _engine(self) -> Engine:
        return (_of_file if self._is_file else _of_server)(self._url, self._busy_timeout, os.getpid())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ModuleNotFoundError as error:
            raise InputError(f"ledger {str(self)!r}: {error} (pip install 'lepton-kit[postgres]')") from error
        except (DBAPIError, PoolTimeout, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
            words, password = " ".join(str(cause).split()), self._url.password
            words = words.replace(str(password), "***") if password else words
            raise InputError(f"ledger {str(self)!r}: {words} ({_advice(cause)})") from None if password else error


def be_alone(ledger: Connection) -> None:
    """Let no other process change the ledger until the end of the transaction; so it is in a file anyway."""
    if ledger.dialect.name == "postgresql":
        ledger.execute(select(func.pg_advisory_xact_lock(LOCK)))


def _server(project: Path) -> URL | None:
    """Return the address of the database that lepton.toml names as `ledger`; None where it names none."""
    path, given = project / SETTINGS, setting(project, "ledger")
    if given is None:
        return None
    try:
        url = make_url(resolve_secret(given, project).strip() if is_reference(given) else given)
    except (ArgumentError, ValueError, TypeError, AttributeError):
        raise InputError(f"{path}: ledger: is no address, and not shown here: {ALLOWED}") from None
    if url.drivername not in ("postgresql", DRIVER):
        raise InputError(f"{path}: ledger = {_shown(url)!r}: {ALLOWED}")
    return url.set(drivername=DRIVER)


def _shown(url: URL) -> str:
    where = {name: value for name, value in url.query.items() if name in ("host", "port")}
    return url.set(query=where).render_as_string(hide_password=True)


@lru_cache(maxsize=16)
def _of_file(url: URL, busy_timeout: float, _process: int) -> Engine:
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


@lru_cache(maxsize=16)
def _of_server(url: URL, busy_timeout: float, _process: int) -> Engine:
    about = {} if "connect_timeout" in url.query else {"connect_timeout": max(2, round(busy_timeout))}
    engine = create_engine(url, pool_size=2, pool_pre_ping=True, connect_args=about)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.execute(f"SET lock_timeout = {max(1, round(busy_timeout * 1000))}")
        connection.commit()

    return engine


def _advice(error: BaseException) -> str:
    """Say how to repair a ledger that cannot be used; it holds the idempotency keys, so giving it up comes last."""
    if isinstance(error, OSError):
        return ADVICE_FULL if error.errno in NO_SPACE else ADVICE_RIGHTS
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # beyond that are the kinds of a kind
        return ADVICE.get(code, ADVICE_RIGHTS)
    return ADVICE.get(getattr(error, "sqlstate", None), "nothing was changed; the server's log may say more")

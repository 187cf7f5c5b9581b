"""The ledger of a project: which process runs which run, holds which idempotency key, and which run answered it.

The manifests stay the truth about what a run did. The ledger knows states and claims alone.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from lepton_kit.errors import InputError

logger = logging.getLogger(__name__)

FILE = "ledger.sqlite"
LEASE_S = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY, run_id TEXT, done INTEGER NOT NULL,
    host TEXT NOT NULL, boot TEXT NOT NULL, pid INTEGER NOT NULL, born TEXT NOT NULL, lease REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, status TEXT NOT NULL,
    host TEXT NOT NULL, boot TEXT NOT NULL, pid INTEGER NOT NULL, born TEXT NOT NULL, lease REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS running ON runs (status) WHERE status = 'running';
"""
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
ADVICE_FULL = "free some space on its disk and leave the file where it is: it holds the idempotency keys"
ADVICE_RIGHTS = "give this user the right to read and write it and its folder"
ADVICE_BROKEN = (
    "restore it from a backup; if there is none, move it away: the next run makes a new one, which knows no "
    "idempotency key, so that what was done for a key may be done again"
)
ADVICE = {
    sqlite3.SQLITE_FULL: ADVICE_FULL,
    sqlite3.SQLITE_IOERR: ADVICE_FULL,
    sqlite3.SQLITE_BUSY: "another process is using it; try again",
    sqlite3.SQLITE_LOCKED: "another process is using it; try again",
    sqlite3.SQLITE_CORRUPT: ADVICE_BROKEN,
    sqlite3.SQLITE_NOTADB: ADVICE_BROKEN,
}
_OWNED = " AND host = ? AND boot = ? AND pid = ? AND born = ?"


@dataclass(frozen=True)
class Owner:
    """A process, distinguished by its start from a later one with the same id; `boot` names the boot of the machine.

    `born` counts clock ticks since the boot; it is empty where there is no `/proc`.
    """

    host: str
    boot: str
    pid: int
    born: str

    @classmethod
    def me(cls) -> Owner:
        """Return the present process."""
        return cls(platform.node(), _boot_id(), os.getpid(), _born(os.getpid()))

    def is_dead(self, lease: float) -> bool:
        """Say whether the process has ended; of one that cannot be looked at from here, whether its lease is over."""
        here = Owner.me()
        if not here.born or (self.host, self.boot) != (here.host, here.boot):
            return time.time() > lease
        return _born(self.pid) != self.born


@dataclass(frozen=True)
class Claim:
    """The answer to a claim: `mine` (run it), `done` (`run_id` is the answer) or `busy` (`owner` is running it).

    A claim that was taken over from a dead owner names the run that it had come to.
    """

    state: Literal["mine", "done", "busy"]
    run_id: str | None
    owner: Owner


class Ledger:
    """The file `runs/ledger.sqlite` of a project; it is made when it is first needed.

    Raises
    ------
    InputError
        From every method, when the file cannot be opened, read or written.
    """

    def __init__(self, project: Path, busy_timeout: float = 10.0) -> None:
        self.path = project / "runs" / FILE
        self.busy_timeout = busy_timeout

    def claim(self, key: str) -> Claim:
        """Claim the right to run what `key` stands for; of concurrent callers, exactly one gets `mine`."""
        me = Owner.me()
        with self._transaction() as ledger:
            row = ledger.execute("SELECT run_id, done, host, boot, pid, born, lease FROM claims WHERE key = ?", [key])
            if (found := row.fetchone()) is not None:
                owner = Owner(*found[2:6])
                if found[1]:
                    return Claim("done", found[0], owner)
                if not owner.is_dead(found[6]):
                    return Claim("busy", found[0], owner)
            ledger.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, 0, ?, ?, ?, ?, ?)",
                [key, found and found[0], me.host, me.boot, me.pid, me.born, time.time() + LEASE_S],
            )
        return Claim("mine", found and found[0], me)

    def renew(self, key: str) -> None:
        """Lengthen the lease of a claim of this process to `LEASE_S` seconds from now."""
        self._change_mine("UPDATE claims SET lease = ? WHERE key = ? AND done = 0", time.time() + LEASE_S, key)

    def finish(self, key: str, run_id: str) -> None:
        """Note the run that answers a key for good."""
        self._change_mine("UPDATE claims SET done = 1, run_id = ? WHERE key = ? AND done = 0", run_id, key)

    def release(self, key: str) -> None:
        """Give up a claim of this process, so that the key can be run again."""
        self._change_mine("DELETE FROM claims WHERE key = ? AND done = 0", key)

    def started(self, run_id: str, key: str | None = None) -> None:
        """Note that this process is running a run, and that its claim of a key has come to it; it may yet be retried.

        The row comes before the run's folder: so whatever is found there belongs to somebody who can be looked at.
        """
        me = Owner.me()
        with self._transaction() as ledger:
            ledger.execute(
                "INSERT INTO runs VALUES (?, 'running', ?, ?, ?, ?, ?)",
                [run_id, me.host, me.boot, me.pid, me.born, time.time() + LEASE_S],
            )
            if key is not None:
                mine = [run_id, key, me.host, me.boot, me.pid, me.born]
                ledger.execute(f"UPDATE claims SET run_id = ? WHERE key = ? AND done = 0{_OWNED}", mine)

    def never_began(self, run_id: str) -> None:
        """Forget a run of this process of which there are no files."""
        self._change_mine("DELETE FROM runs WHERE run_id = ?", run_id)

    def hand_back(self, run_id: str, owner: Owner) -> None:
        """Undo that a run was taken over, so that it is tried again."""
        values = (owner.host, owner.boot, owner.pid, owner.born, 0.0, run_id)
        self._change_mine("UPDATE runs SET host = ?, boot = ?, pid = ?, born = ?, lease = ? WHERE run_id = ?", *values)

    def still_runs(self, run_id: str) -> None:
        """Lengthen the lease of a run of this process to `LEASE_S` seconds from now."""
        self._change_mine("UPDATE runs SET lease = ? WHERE run_id = ?", time.time() + LEASE_S, run_id)

    def ended(self, run_id: str, status: str) -> None:
        """Note how a run of this process ended."""
        self._change_mine("UPDATE runs SET status = ? WHERE run_id = ?", status, run_id)

    def sequence(self) -> dict[str, int]:
        """Return the number of each run in order of start, independent of the clock.

        It only reads, and waits for nobody.
        """
        if not self.path.exists():
            return {}
        try:
            with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as ledger:
                return dict(ledger.execute("SELECT run_id, rowid FROM runs").fetchall())
        except sqlite3.Error as error:
            raise InputError(f"ledger {str(self.path)!r}: {error}") from error

    def take_over_abandoned(self) -> list[tuple[str, Owner]]:
        """Make this process the owner of the runs whose own has died; return their ids and who that was.

        Of several processes that ask at once, one gets each run.
        """
        if not self.path.exists():
            return []
        me = Owner.me()
        with self._transaction() as ledger:
            running = ledger.execute("SELECT run_id, host, boot, pid, born, lease FROM runs WHERE status = 'running'")
            dead = [(row[0], owner) for row in running.fetchall() if (owner := Owner(*row[1:5])).is_dead(row[5])]
            for run_id, _ in dead:
                ledger.execute(
                    "UPDATE runs SET host = ?, boot = ?, pid = ?, born = ?, lease = ? WHERE run_id = ?",
                    [me.host, me.boot, me.pid, me.born, time.time() + LEASE_S, run_id],
                )
        return dead

    def _change_mine(self, statement: str, *values: object) -> None:
        """Change a claim, unless another process has taken it over."""
        me = Owner.me()
        with self._transaction() as ledger:
            ledger.execute(statement + _OWNED, [*values, me.host, me.boot, me.pid, me.born])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Open the ledger for one change that no other process sees half of."""
        connection = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=self.busy_timeout, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # a claim that was answered must outlive a power cut
            connection.executescript(_SCHEMA)
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"ledger {str(self.path)!r}: {error} ({_advice(error)})") from error
        finally:
            if connection is not None:
                connection.close()  # what was not committed is rolled back


@contextmanager
def heartbeat(renew: Callable[[], None]) -> Iterator[None]:
    """Renew a lease until the end of what stands below this; who cannot look at this process goes by it."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(LEASE_S / 4):
            try:
                renew()
            except InputError as error:  # the work goes on; the next beat may find the ledger free again
                logger.warning("%s", error)

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()


def _advice(error: sqlite3.Error | OSError) -> str:
    """Say how to repair a ledger that cannot be used; it holds the idempotency keys, so giving it up comes last."""
    if isinstance(error, OSError):
        return ADVICE_FULL if error.errno in NO_SPACE else ADVICE_RIGHTS
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # beyond that are the kinds of a kind
    return ADVICE.get(code, ADVICE_RIGHTS)


def _born(pid: int) -> str:
    """Return when a process started, in clock ticks since the boot; empty when it has ended or is a zombie."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in "ZX" else words[19]


@cache
def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""

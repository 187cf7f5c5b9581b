"""The ledger of a project: which process runs which run, holds which idempotency key, and which run answered it.

The manifests stay the truth about what a run did. The ledger knows states and claims alone.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import ColumnElement, Delete, Update, and_, delete, insert, select, update

from lepton_kit.errors import InputError
from lepton_kit.runs.database import Database
from lepton_kit.runs.tables import CLAIMS, RUNS, now, replace

logger = logging.getLogger(__name__)

LEASE_S = 60.0


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

    def is_dead(self, is_lease_over: bool) -> bool:
        """Say whether the process has ended; of one that cannot be looked at from here, whether its lease is over."""
        here = Owner.me()
        if not here.born or (self.host, self.boot) != (here.host, here.boot):
            return is_lease_over
        return _born(self.pid) != self.born


@dataclass(frozen=True)
class Claim:
    """The answer to a claim: `mine` (run it), `done` (`run_id` is the answer) or `busy` (`owner` is running it).

    A claim that was taken over from a dead owner names the run that it had come to.
    """

    state: Literal["mine", "done", "busy"]
    run_id: str | None
    owner: Owner


class Ledger(Database):
    """The ledger of a project: the file `runs/ledger.sqlite`, or the PostgreSQL that lepton.toml names.

    Leases end by the database's clock.

    Raises
    ------
    InputError
        From every method, when the database cannot be opened, read or written.
    """

    def __init__(self, project: Path, busy_timeout: float = 10.0) -> None:
        super().__init__(project, busy_timeout)

    def claim(self, key: str) -> Claim:
        """Claim the right to run what `key` stands for; of concurrent callers, exactly one gets `mine`."""
        with self.transaction() as ledger:
            chosen = select(CLAIMS.c.run_id, *owner_columns(CLAIMS), CLAIMS.c.done).where(CLAIMS.c.key == key)
            found = ledger.execute(chosen).one_or_none()
            if found is not None:
                owner = Owner(*found[1:5])
                if found.done:
                    return Claim("done", found.run_id, owner)
                if not owner.is_dead(found.is_lease_over):
                    return Claim("busy", found.run_id, owner)
            run_id = found.run_id if found is not None else None
            replace(ledger, CLAIMS, key=key, run_id=run_id, done=False, **my_lease())
        return Claim("mine", run_id, Owner.me())

    def renew(self, key: str) -> None:
        """Lengthen the lease of a claim of this process to `LEASE_S` seconds from now."""
        self._change_mine(update(CLAIMS).where(_is_open(key)).values(lease=now() + LEASE_S))

    def finish(self, key: str, run_id: str) -> None:
        """Note the run that answers a key for good."""
        self._change_mine(update(CLAIMS).where(_is_open(key)).values(done=True, run_id=run_id))

    def release(self, key: str) -> None:
        """Give up a claim of this process, so that the key can be run again."""
        self._change_mine(delete(CLAIMS).where(_is_open(key)))

    def started(self, run_id: str, key: str | None = None) -> None:
        """Note that this process is running a run, and that its claim of a key has come to it; it may yet be retried.

        The row comes before the run's folder: so whatever is found there belongs to somebody who can be looked at.
        """
        with self.transaction(alone=False) as ledger:
            ledger.execute(insert(RUNS).values(run_id=run_id, status="running", **my_lease()))
            if key is not None:
                ledger.execute(update(CLAIMS).where(_is_open(key), is_mine(CLAIMS)).values(run_id=run_id))

    def never_began(self, run_id: str) -> None:
        """Forget a run of this process of which there are no files."""
        self._change_mine(delete(RUNS).where(RUNS.c.run_id == run_id))

    def hand_back(self, run_id: str, owner: Owner) -> None:
        """Undo that a run was taken over, so that it is tried again."""
        self._change_mine(update(RUNS).where(RUNS.c.run_id == run_id).values(**vars(owner), lease=0.0))

    def still_runs(self, run_id: str) -> None:
        """Lengthen the lease of a run of this process to `LEASE_S` seconds from now."""
        self._change_mine(update(RUNS).where(RUNS.c.run_id == run_id).values(lease=now() + LEASE_S))

    def ended(self, run_id: str, status: str) -> None:
        """Note how a run of this process ended."""
        self._change_mine(update(RUNS).where(RUNS.c.run_id == run_id).values(status=status))

    def sequence(self) -> dict[str, int]:
        """Return the number of each run in order of start, independent of the clock.

        It only reads, and waits for nobody.
        """
        if not self.exists():
            return {}
        with self.reading() as ledger:
            return dict(ledger.execute(select(RUNS.c.run_id, RUNS.c.rowid)).all())

    def take_over_abandoned(self) -> list[tuple[str, Owner]]:
        """Make this process the owner of the runs whose own has died; return their ids and who that was.

        Of several processes that ask at once, one gets each run.
        """
        if not self.exists():
            return []
        running = select(*owner_columns(RUNS), RUNS.c.run_id).where(RUNS.c.status == "running")
        with self.transaction(alone=False) as ledger:
            rows = ledger.execute(running.with_for_update(skip_locked=True)).all()
            found = ((row.run_id, Owner(*row[:4]), row.is_lease_over) for row in rows)
            dead = [(run_id, owner) for run_id, owner, is_lease_over in found if owner.is_dead(is_lease_over)]
            for run_id, _ in dead:
                ledger.execute(update(RUNS).where(RUNS.c.run_id == run_id).values(my_lease()))
        return dead

    def _change_mine(self, change: Update | Delete) -> None:
        """Change rows of this process, but none that another has taken over."""
        with self.transaction(alone=False) as ledger:
            ledger.execute(change.where(is_mine(change.table)))


def owner_columns(table: Any) -> list[ColumnElement[Any]]:
    """Return the columns of an `Owner`, and whether its lease is over."""
    return [*(table.c[name] for name in Owner.__dataclass_fields__), (table.c.lease < now()).label("is_lease_over")]


def my_lease() -> dict[str, Any]:
    """Return the columns of a row that this process works on from now on."""
    return {**vars(Owner.me()), "lease": now() + LEASE_S}


def is_mine(table: Any) -> ColumnElement[bool]:
    """Return the condition that this process works on a row."""
    return and_(*(table.c[name] == value for name, value in vars(Owner.me()).items()))


def _is_open(key: str) -> ColumnElement[bool]:
    return and_(CLAIMS.c.key == key, ~CLAIMS.c.done)


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

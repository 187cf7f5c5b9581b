"""Jobs in the ledger: their states, and the only statements that bring one from a state to another.

Every function works within a transaction of the ledger, so that of many who ask at the same moment one changes a job.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lepton_kit.runs.ledger import LEASE_S, Owner

Kind = Literal["alert", "recovery", "schedule", "remedy", "postmortem"]
Event = Literal["take", "end", "give back", "give up", "refuse", "hold", "approve", "reject", "withdraw"]

STATES = ("queued", "waiting", "running", "ended", "refused")
MOVES: dict[Event, tuple[tuple[str, ...], str]] = {
    "take": (("queued",), "running"),  # a worker begins it
    "end": (("running",), "ended"),  # its run has ended, well or not
    "give back": (("running",), "queued"),  # its run was cancelled, or its worker has died: it is run later
    "give up": (("running",), "refused"),  # its workers have died too often
    "refuse": (("running",), "refused"),  # it cannot be run
    "hold": (("queued", "running", "waiting"), "waiting"),  # a repair must wait for a person
    "approve": (("waiting",), "queued"),
    "reject": (("waiting",), "refused"),
    "withdraw": (("queued", "running", "waiting"), "refused"),  # the alert has ended: there is nothing left to repair
}
"""What happens to a job: the states in which it can, and the state after it. A job is made `queued` or `waiting`."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
    incident TEXT, notebook TEXT NOT NULL, parameters TEXT NOT NULL, queued REAL NOT NULL, state TEXT NOT NULL,
    run_id TEXT, status TEXT, error TEXT, started REAL, ended REAL, attempts INTEGER NOT NULL DEFAULT 0,
    host TEXT, boot TEXT, pid INTEGER, born TEXT, lease REAL)""",
    "CREATE INDEX IF NOT EXISTS jobs_open ON jobs (state) WHERE state IN ('queued', 'running')",
    "CREATE INDEX IF NOT EXISTS jobs_waiting ON jobs (state) WHERE state = 'waiting'",
    "CREATE INDEX IF NOT EXISTS jobs_of_incident ON jobs (incident)",
)
LOOK = ":look-"
OWNED = "host = ? AND boot = ? AND pid = ? AND born = ?"


@dataclass(frozen=True)
class Start:
    """A notebook to run, with values for its parameters."""

    notebook: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A run that is asked for.

    `state` is one of `STATES`: `ended` where its run has (then `status` is the run's), `refused` where it never ran
    (then `error` says why). `key` is its idempotency key.
    """

    number: int
    key: str
    kind: Kind
    name: str
    incident: str | None
    notebook: str
    parameters: dict[str, Any]
    queued: float
    state: str
    run_id: str | None
    status: str | None
    error: str | None
    started: float | None
    ended: float | None
    attempts: int

    @property
    def look(self) -> int:
        """Return the attempt number of an alert's runbook for one incident, from 1 on."""
        return int(self.key.rpartition(LOOK)[2]) if LOOK in self.key else 1


COLUMNS = ", ".join(Job.__dataclass_fields__)


def add(
    ledger: sqlite3.Connection,
    kind: Kind,
    name: str,
    key: str,
    start: Start,
    incident: str | None = None,
    state: Literal["queued", "waiting"] = "queued",
) -> int | None:
    """Make a job and return its number; None where one with its key is known."""
    values = [key, kind, name, incident, start.notebook, json.dumps(start.parameters), time.time(), state]
    made = ledger.execute(
        "INSERT INTO jobs (key, kind, name, incident, notebook, parameters, queued, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING RETURNING number",
        values,
    ).fetchone()
    return made[0] if made else None


def move(
    ledger: sqlite3.Connection, event: Event, where: str, values: Sequence[object] = (), **columns: object
) -> list[Job]:
    """Bring those of the chosen jobs that are in a fitting state to the next one, and return them as they are then.

    The ledger is in a transaction; `where` and `values` choose the jobs (SQL), and `columns` are set beside the state.
    """
    before, after = MOVES[event]
    changes = {"state": after, **columns} | ({"ended": time.time()} if after in ("ended", "refused") else {})
    assigned = ", ".join(f"{name} = ?" for name in changes)
    states = ", ".join(f"'{state}'" for state in before)
    rows = ledger.execute(
        f"UPDATE jobs SET {assigned} WHERE state IN ({states}) AND {where} RETURNING {COLUMNS}",
        [*changes.values(), *values],
    )
    return [job_of(row) for row in rows.fetchall()]


def move_mine(ledger: sqlite3.Connection, event: Event, number: int, **columns: object) -> bool:
    """Do the same to a job that this process runs; say whether it is."""
    return bool(move(ledger, event, f"number = ? AND {OWNED}", [number, *mine()], **columns))


def mine() -> list[object]:
    """Return this process, as `OWNED` asks for it."""
    me = Owner.me()
    return [me.host, me.boot, me.pid, me.born]


def take(ledger: sqlite3.Connection, ready: str) -> Job | None:
    """Make this process the one that runs the oldest job that may start now (`ready`, SQL), and return that."""
    me, now = Owner.me(), time.time()
    oldest = ledger.execute(f"SELECT number, attempts FROM jobs WHERE {ready} ORDER BY number LIMIT 1").fetchone()
    if oldest is None:
        return None
    owner = {"host": me.host, "boot": me.boot, "pid": me.pid, "born": me.born, "lease": now + LEASE_S}
    [job] = move(ledger, "take", "number = ?", oldest[:1], started=now, attempts=oldest[1] + 1, **owner)
    return job


def abandoned(ledger: sqlite3.Connection) -> list[Job]:
    """Return the jobs whose process has died."""
    rows = ledger.execute(f"SELECT {COLUMNS}, host, boot, pid, born, lease FROM jobs WHERE state = 'running'")
    return [job_of(row[:-5]) for row in rows.fetchall() if Owner(*row[-5:-1]).is_dead(row[-1])]


def job_of(row: Sequence[Any]) -> Job:
    """Return a job by its `COLUMNS`."""
    held = dict(zip(Job.__dataclass_fields__, row, strict=True))
    return Job(**held | {"parameters": json.loads(held["parameters"])})

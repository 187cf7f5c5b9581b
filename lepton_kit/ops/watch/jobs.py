"""Jobs in the ledger, repairs among them: their states, and the only statements that bring one from state to state.

Every function works within a transaction of the ledger, so that of many who ask at the same moment one changes a job: a
repair is proposed, started, held or decided on once.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lepton_kit.errors import InputError
from lepton_kit.runs.ledger import LEASE_S, Owner

Kind = Literal["alert", "recovery", "schedule", "remedy", "postmortem"]
Event = Literal["take", "end", "give back", "give up", "refuse", "hold", "approve", "reject", "withdraw"]
Via = Literal["lepton approve", "status page"]

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

TABLES = (
    """CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
    incident TEXT, notebook TEXT NOT NULL, parameters TEXT NOT NULL, queued REAL NOT NULL, state TEXT NOT NULL,
    run_id TEXT, status TEXT, error TEXT, started REAL, ended REAL, attempts INTEGER NOT NULL DEFAULT 0,
    host TEXT, boot TEXT, pid INTEGER, born TEXT, lease REAL)""",
    """CREATE TABLE IF NOT EXISTS decisions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job INTEGER NOT NULL, is_approved INTEGER NOT NULL, at REAL NOT NULL,
    by TEXT NOT NULL, via TEXT NOT NULL, note TEXT NOT NULL)""",
)
ADDED = {
    "look": "INTEGER NOT NULL DEFAULT 1",
    "leaves_open": "INTEGER NOT NULL DEFAULT 0",
    "follows": "INTEGER",
    "is_automatic": "INTEGER NOT NULL DEFAULT 0",
    "why": "TEXT NOT NULL DEFAULT ''",
    "rehearsal": "TEXT",
}
"""Columns of `jobs` that a ledger of an earlier release gets: the attempt number of an incident's runbook, whether the
run left its incident as it was, and for a repair the job that it follows, whether it starts without a person, why not,
and the run that rehearsed it."""

INDEXES = (
    "CREATE INDEX IF NOT EXISTS jobs_open ON jobs (state) WHERE state IN ('queued', 'running')",
    "CREATE INDEX IF NOT EXISTS jobs_waiting ON jobs (state) WHERE state = 'waiting'",
    "CREATE INDEX IF NOT EXISTS jobs_of_incident ON jobs (incident)",
)
_NOW = "(julianday('now') - 2440587.5) * 86400.0"
FLAPS = f"""EXISTS (SELECT 1 FROM incidents WHERE incidents.id = jobs.incident AND jobs.kind = 'alert'
    AND {_NOW} >= held_from AND {_NOW} < held_until)"""
"""Whether a diagnosis waits until its alert has lasted; not where the clock was put back since."""

_SUCCEEDED = "(earlier.state = 'ended' AND earlier.status = 'succeeded')"
READY = f"""state = 'queued' AND NOT {FLAPS}
    AND NOT EXISTS (SELECT 1 FROM jobs AS earlier WHERE earlier.number = jobs.follows AND NOT {_SUCCEEDED})
    AND NOT (kind = 'remedy' AND EXISTS (
        SELECT 1 FROM jobs AS busy JOIN incidents AS theirs ON theirs.id = busy.incident
        WHERE busy.state = 'running' AND busy.kind = 'remedy'
        AND theirs.service = (SELECT service FROM incidents WHERE id = jobs.incident)))"""
"""Which jobs may start now.

The diagnosis of an alert that flaps not before its time (unless the clock was put back since), a repair not before the
one that it follows succeeded, nor beside one of its service.
"""

HOUR_S = 3600.0
WITHDRAWN = "withdrawn: the alert ended before a decision"
NOT_STARTED = "withdrawn: the alert ended before the first repair did"
TOO_LATE = "the alert had ended before its diagnosis did: no repair was proposed"
_OWNED = "host = ? AND boot = ? AND pid = ? AND born = ?"


@dataclass(frozen=True)
class Start:
    """A notebook to run, with values for its parameters."""

    notebook: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A run that is asked for.

    `state` is one of `STATES`: `ended` where its run has (then `status` is the run's), `refused` where it never ran
    (then `error` says why). `key` is its idempotency key, `look` the attempt number of an alert's runbook for one
    incident, from 1 on.
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
    look: int


COLUMNS = ", ".join(Job.__dataclass_fields__)


@dataclass(frozen=True)
class Proposal:
    """A repair that a diagnosis asks for; `why` says why it must wait for a person, and is empty where it need not.

    `rehearsal` is the run that rehearsed it on the incident's recording; None where none did.
    """

    cause: str
    notebook: str
    parameters: dict[str, Any]
    why: str
    rehearsal: str | None = None


@dataclass(frozen=True)
class Decision:
    """What a person decided on a repair, when (Unix seconds), who, and where."""

    is_approved: bool
    at: float
    by: str
    via: str
    note: str


@dataclass(frozen=True)
class Remedy:
    """A repair of an incident; `job` is the number of its job.

    `is_automatic` says that it starts, or started, without a person; `why` says why it waits, or did. `after` is the
    cause whose repair, in the job `follows`, comes before it: that of the more probable cause. `rehearsal` is the run
    that rehearsed it; None where none did.
    """

    job: int
    incident: str
    service: str
    cause: str
    follows: int | None
    is_automatic: bool
    why: str
    state: str
    error: str | None
    notebook: str
    queued: float
    after: str | None
    rehearsal: str | None
    decisions: tuple[Decision, ...]


# --- every job --------------------------------------------------------------------------------------------------------


def add(
    ledger: sqlite3.Connection,
    kind: Kind,
    name: str,
    key: str,
    start: Start,
    incident: str | None = None,
    state: Literal["queued", "waiting"] = "queued",
    **columns: object,
) -> int | None:
    """Make a job, with further columns, and return its number; None where one with its key is known."""
    values = {
        "key": key, "kind": kind, "name": name, "incident": incident, "notebook": start.notebook,
        "parameters": json.dumps(start.parameters), "queued": time.time(), "state": state, **columns,
    }  # fmt: skip
    made = ledger.execute(
        f"INSERT INTO jobs ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
        " ON CONFLICT (key) DO NOTHING RETURNING number",
        list(values.values()),
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
    mine = list(vars(Owner.me()).values())
    return bool(move(ledger, event, f"number = ? AND {_OWNED}", [number, *mine], **columns))


def take(ledger: sqlite3.Connection) -> Job | None:
    """Make this process the one that runs the oldest job that may start now, and return that."""
    oldest = ledger.execute(f"SELECT number, attempts FROM jobs WHERE {READY} ORDER BY number LIMIT 1").fetchone()
    if oldest is None:
        return None
    now = time.time()
    owner = {**vars(Owner.me()), "lease": now + LEASE_S}
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


# --- repairs ----------------------------------------------------------------------------------------------------------


def propose(ledger: sqlite3.Connection, incident: str, proposals: Sequence[Proposal], most_per_hour: int) -> None:
    """Queue the repairs that a diagnosis asks for, one after the other, or let them wait for a person.

    An incident and a cause have one repair for ever: who proposes it again changes nothing.
    """
    row = ledger.execute("SELECT service, status FROM incidents WHERE id = ?", [incident]).fetchone()
    if row is None or not proposals:
        return
    service, status = row
    if status != "firing":
        ledger.execute("UPDATE incidents SET note = ? WHERE id = ?", [TOO_LATE, incident])
        return
    earlier = None
    for one in proposals:
        why = one.why or over_limit(ledger, service, incident, most_per_hour)
        about = {"follows": earlier, "is_automatic": not why, "why": why, "rehearsal": one.rehearsal}
        start, key = Start(one.notebook, one.parameters), f"remedy:{incident}:{one.cause}"
        state: Literal["queued", "waiting"] = "waiting" if why else "queued"
        earlier = add(ledger, "remedy", one.cause, key, start, incident, state, **about) or earlier


def over_limit(ledger: sqlite3.Connection, service: str, incident: str, most_per_hour: int) -> str:
    """Say why no further repair of a service may start by itself now; empty where one may."""
    of_service = "FROM jobs JOIN incidents ON incidents.id = jobs.incident WHERE kind = 'remedy' AND service = ?"
    started = f"SELECT count(*) {of_service} AND is_automatic AND queued > ?"
    [recent] = ledger.execute(started, [service, time.time() - HOUR_S]).fetchone()
    if recent >= most_per_hour:
        return (
            f"{recent} repairs of {service!r} started by themselves within the hour (most_per_hour = {most_per_hour})"
        )
    busy = ledger.execute(
        f"SELECT jobs.incident {of_service} AND jobs.incident != ? AND state IN ('running', 'queued') LIMIT 1",
        [service, incident],
    ).fetchone()
    return f"another repair of {service!r} has not ended yet (incident {busy[0]})" if busy else ""


def hold(ledger: sqlite3.Connection, job: int, why: str) -> None:
    """Let a repair wait for a person, who then knows of what came before it; withdraw it where the alert has ended."""
    is_over = ledger.execute(
        "SELECT 1 FROM jobs JOIN incidents ON incidents.id = jobs.incident"
        " WHERE number = ? AND incidents.status = 'resolved'",
        [job],
    ).fetchone()
    if is_over:
        move(ledger, "withdraw", "number = ?", [job], error=f"{WITHDRAWN} ({why})")
    else:
        move(ledger, "hold", "number = ?", [job], error=None)
    ledger.execute("UPDATE jobs SET is_automatic = 0, follows = NULL, why = ? WHERE number = ?", [why, job])


def hold_followers(ledger: sqlite3.Connection) -> None:
    """Let repairs wait for a person whose earlier one was refused or failed: what that left is not known."""
    found = ledger.execute(
        "SELECT jobs.number, earlier.name FROM jobs JOIN jobs AS earlier ON earlier.number = jobs.follows"
        " WHERE jobs.state IN ('queued', 'waiting')"
        f" AND earlier.state IN ('refused', 'ended') AND NOT {_SUCCEEDED}"
    ).fetchall()
    for job, cause in found:
        hold(ledger, job, f"the repair of the first cause, {cause!r}, was refused or failed")


def withdraw(ledger: sqlite3.Connection, incident: str) -> None:
    """Refuse the repairs of an incident that wait for a person or for another one: they would repair what is over."""
    own = "incident = ? AND kind = 'remedy'"
    move(ledger, "withdraw", f"{own} AND state = 'waiting'", [incident], error=WITHDRAWN)
    move(ledger, "withdraw", f"{own} AND state = 'queued' AND follows IS NOT NULL", [incident], error=NOT_STARTED)


def decide(ledger: sqlite3.Connection, job: int, decision: Decision) -> str:
    """Start or refuse a repair that waits, keep who said so, and return its incident.

    Raises InputError when it does not wait: it was decided on already, was withdrawn, or there is none.
    """
    chosen = "number = ? AND kind = 'remedy'"
    if decision.is_approved:  # a run that was broken off is not taken for the one that is approved now
        moved = move(ledger, "approve", chosen, [job], run_id=None, attempts=0, is_automatic=False)
    else:
        error = f"rejected by {decision.by}" + (f": {decision.note}" if decision.note else "")
        moved = move(ledger, "reject", chosen, [job], error=error, is_automatic=False)
    if not moved:
        raise InputError(f"repair {job}: {_why_not_waiting(ledger, job)}")
    values = [job, *vars(decision).values()]
    ledger.execute("INSERT INTO decisions (job, is_approved, at, by, via, note) VALUES (?, ?, ?, ?, ?, ?)", values)
    return str(moved[0].incident)


def _why_not_waiting(ledger: sqlite3.Connection, job: int) -> str:
    if made := decisions(ledger, job):
        return f"{'approved' if made[-1].is_approved else 'rejected'} already, by {made[-1].by}"
    row = ledger.execute("SELECT state, error FROM jobs WHERE number = ? AND kind = 'remedy'", [job]).fetchone()
    return "there is none" if row is None else f"does not wait for a decision, it is {row[0]} ({row[1] or 'no error'})"


def repairs(ledger: sqlite3.Connection, condition: str, *values: object) -> list[Remedy]:
    """Return the repairs that meet a condition (SQL), oldest first, with what was decided on each."""
    rows = ledger.execute(
        "SELECT jobs.number, jobs.incident, service, jobs.name, follows, is_automatic, why, state, error, notebook,"
        " queued, (SELECT earlier.name FROM jobs AS earlier WHERE earlier.number = jobs.follows), rehearsal"
        " FROM jobs JOIN incidents ON incidents.id = jobs.incident"
        f" WHERE kind = 'remedy' AND {condition} ORDER BY number",
        values,
    ).fetchall()
    made = ({**dict(zip(Remedy.__dataclass_fields__, row, strict=False)), "is_automatic": bool(row[5])} for row in rows)
    return [Remedy(**one, decisions=decisions(ledger, one["job"])) for one in made]


def decisions(ledger: sqlite3.Connection, job: int) -> tuple[Decision, ...]:
    """Return what was decided on a repair, in order."""
    chosen = "SELECT is_approved, at, by, via, note FROM decisions WHERE job = ? ORDER BY number"
    return tuple(Decision(bool(row[0]), *row[1:]) for row in ledger.execute(chosen, [job]))

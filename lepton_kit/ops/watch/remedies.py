"""Repairs in the ledger: proposed after a diagnosis, started or held, decided on by a person. Tables and statements.

Every function works within a transaction of the ledger, so that a repair is proposed, started, held or decided on once,
even if two processes ask at the same moment.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lepton_kit.errors import InputError
from lepton_kit.ops.watch import jobs
from lepton_kit.ops.watch.flaps import WAITS
from lepton_kit.ops.watch.jobs import Start

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS remedies (
    job INTEGER PRIMARY KEY, incident TEXT NOT NULL, service TEXT NOT NULL, cause TEXT NOT NULL,
    follows INTEGER, automatic INTEGER NOT NULL, why TEXT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS remedies_of_incident ON remedies (incident)",
    """CREATE TABLE IF NOT EXISTS decisions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job INTEGER NOT NULL, is_approved INTEGER NOT NULL, at REAL NOT NULL,
    by TEXT NOT NULL, via TEXT NOT NULL, note TEXT NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS rehearsals (job INTEGER PRIMARY KEY, run_id TEXT NOT NULL)",
)
HOUR_S = 3600.0
WITHDRAWN = "withdrawn: the alert ended before a decision"
NOT_STARTED = "withdrawn: the alert ended before the first repair did"
TOO_LATE = "the alert had ended before its diagnosis did: no repair was proposed"
_EARLIER_FAILED = "(earlier.state = 'refused' OR earlier.state = 'ended' AND earlier.status != 'succeeded')"
READY = f"""state = 'queued' AND NOT {WAITS} AND NOT EXISTS (
    SELECT 1 FROM remedies AS mine LEFT JOIN jobs AS earlier ON earlier.number = mine.follows
    WHERE mine.job = jobs.number AND (
        earlier.state IN ('queued', 'waiting', 'running') OR {_EARLIER_FAILED}
        OR EXISTS (SELECT 1 FROM remedies AS other JOIN jobs AS busy ON busy.number = other.job
            WHERE other.service = mine.service AND busy.state = 'running')))"""
"""Which jobs may start now.

The diagnosis of an alert that flaps not before its time (unless the clock was put back since), a repair not before the
one that it follows succeeded, nor beside one of its service.
"""

Via = Literal["lepton approve", "status page"]


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
    for proposal in proposals:
        why = proposal.why or over_limit(ledger, service, incident, most_per_hour)
        earlier = _insert(ledger, incident, service, proposal, why, earlier) or earlier


def _insert(
    ledger: sqlite3.Connection, incident: str, service: str, proposal: Proposal, why: str, follows: int | None
) -> int | None:
    start, key = Start(proposal.notebook, proposal.parameters), f"remedy:{incident}:{proposal.cause}"
    made = jobs.add(ledger, "remedy", proposal.cause, key, start, incident, "waiting" if why else "queued")
    if made is None:
        return None
    values = [made, incident, service, proposal.cause, follows, not why, why]
    ledger.execute("INSERT INTO remedies VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    note_rehearsal(ledger, made, proposal.rehearsal)
    return made


def note_rehearsal(ledger: sqlite3.Connection, job: int, run_id: str | None) -> None:
    """Note the run that rehearsed a repair, if one did."""
    if run_id is not None:
        ledger.execute("INSERT OR REPLACE INTO rehearsals VALUES (?, ?)", [job, run_id])


def over_limit(ledger: sqlite3.Connection, service: str, incident: str, most_per_hour: int) -> str:
    """Say why no further repair of a service may start by itself now; empty where one may."""
    automatic = "SELECT count(*) FROM remedies JOIN jobs ON number = job WHERE automatic AND service = ?"
    [recent] = ledger.execute(f"{automatic} AND queued > ?", [service, time.time() - HOUR_S]).fetchone()
    if recent >= most_per_hour:
        return (
            f"{recent} repairs of {service!r} started by themselves within the hour (most_per_hour = {most_per_hour})"
        )
    busy = ledger.execute(
        "SELECT jobs.incident FROM remedies JOIN jobs ON number = job WHERE service = ? AND jobs.incident != ?"
        " AND (state = 'running' OR state = 'queued') LIMIT 1",
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
        jobs.move(ledger, "withdraw", "number = ?", [job], error=f"{WITHDRAWN} ({why})")
    else:
        jobs.move(ledger, "hold", "number = ?", [job], error=None)
    ledger.execute("UPDATE remedies SET automatic = 0, follows = NULL, why = ? WHERE job = ?", [why, job])


def follows_run(ledger: sqlite3.Connection, job: int) -> tuple[str, str] | None:
    """Return the cause and the run of the repair that a repair follows; None where it follows none that has run."""
    row = ledger.execute(
        "SELECT earlier.name, earlier.run_id FROM remedies AS mine"
        " JOIN jobs AS earlier ON earlier.number = mine.follows WHERE mine.job = ? AND earlier.run_id IS NOT NULL",
        [job],
    ).fetchone()
    return None if row is None else (str(row[0]), str(row[1]))


def hold_followers(ledger: sqlite3.Connection) -> None:
    """Let repairs wait for a person whose earlier one was refused or failed: what that left is not known."""
    found = ledger.execute(
        "SELECT jobs.number, earlier.name FROM jobs JOIN remedies AS mine ON mine.job = jobs.number"
        " JOIN jobs AS earlier ON earlier.number = mine.follows"
        f" WHERE jobs.state IN ('queued', 'waiting') AND {_EARLIER_FAILED}"
    ).fetchall()
    for job, cause in found:
        hold(ledger, job, f"the repair of the first cause, {cause!r}, was refused or failed")


def withdraw(ledger: sqlite3.Connection, incident: str) -> None:
    """Refuse the repairs of an incident that wait for a person or for another one: they would repair what is over."""
    own, follows = "incident = ? AND kind = 'remedy'", "number IN (SELECT job FROM remedies WHERE follows IS NOT NULL)"
    jobs.move(ledger, "withdraw", f"{own} AND state = 'waiting'", [incident], error=WITHDRAWN)
    jobs.move(ledger, "withdraw", f"{own} AND state = 'queued' AND {follows}", [incident], error=NOT_STARTED)


def decide(ledger: sqlite3.Connection, job: int, decision: Decision) -> str:
    """Start or refuse a repair that waits, keep who said so, and return its incident.

    Raises
    ------
    InputError
        When it does not wait: it was decided on already, was withdrawn, or there is none.
    """
    chosen = "number = ? AND kind = 'remedy'"
    if decision.is_approved:  # a run that was broken off is not taken for the one that is approved now
        moved = jobs.move(ledger, "approve", chosen, [job], run_id=None, attempts=0)
    else:
        error = f"rejected by {decision.by}" + (f": {decision.note}" if decision.note else "")
        moved = jobs.move(ledger, "reject", chosen, [job], error=error)
    if not moved:
        raise InputError(f"repair {job}: {_why_not_waiting(ledger, job)}")
    ledger.execute("UPDATE remedies SET automatic = 0 WHERE job = ?", [job])
    values = [job, decision.is_approved, decision.at, decision.by, decision.via, decision.note]
    ledger.execute("INSERT INTO decisions (job, is_approved, at, by, via, note) VALUES (?, ?, ?, ?, ?, ?)", values)
    return str(moved[0].incident)


def _why_not_waiting(ledger: sqlite3.Connection, job: int) -> str:
    last = ledger.execute("SELECT is_approved, by FROM decisions WHERE job = ? ORDER BY number DESC", [job]).fetchone()
    if last is not None:
        return f"{'approved' if last[0] else 'rejected'} already, by {last[1]}"
    row = ledger.execute("SELECT state, error FROM jobs WHERE number = ? AND kind = 'remedy'", [job]).fetchone()
    return "there is none" if row is None else f"does not wait for a decision, it is {row[0]} ({row[1] or 'no error'})"


def read(ledger: sqlite3.Connection, condition: str, *values: object) -> list[Remedy]:
    """Return the repairs that meet a condition (SQL), oldest first, with what was decided on each."""
    columns = {
        "job": "job", "incident": "remedies.incident", "service": "service", "cause": "cause", "follows": "follows",
        "is_automatic": "automatic", "why": "why", "state": "state", "error": "error", "notebook": "notebook",
        "queued": "queued", "after": "(SELECT earlier.name FROM jobs AS earlier WHERE earlier.number = follows)",
        "rehearsal": "(SELECT rehearsals.run_id FROM rehearsals WHERE rehearsals.job = remedies.job)",
    }  # fmt: skip
    rows = ledger.execute(
        f"SELECT {', '.join(columns.values())} FROM remedies JOIN jobs ON number = job WHERE {condition} ORDER BY job",
        values,
    ).fetchall()
    held = (dict(zip(columns, row, strict=True)) for row in rows)
    return [
        Remedy(**one | {"is_automatic": bool(one["is_automatic"]), "decisions": decisions(ledger, one["job"])})
        for one in held
    ]


def approved_by(ledger: sqlite3.Connection, run_id: str) -> str | None:
    """Return who let a repair's run: the policy, or the person who approved it; None of a run that is no repair."""
    chosen = "SELECT job, automatic FROM remedies JOIN jobs ON number = job WHERE run_id = ?"
    if (row := ledger.execute(chosen, [run_id]).fetchone()) is None:
        return None
    approved = [one for one in decisions(ledger, row[0]) if one.is_approved]
    return f"{approved[-1].by} ({approved[-1].via})" if approved else "policy: auto"


def decisions(ledger: sqlite3.Connection, job: int) -> tuple[Decision, ...]:
    """Return what was decided on a repair, in order."""
    chosen = "SELECT is_approved, at, by, via, note FROM decisions WHERE job = ? ORDER BY number"
    return tuple(Decision(bool(row[0]), *row[1:]) for row in ledger.execute(chosen, [job]))


def due_postmortems(ledger: sqlite3.Connection, when: str) -> list[str]:
    """Return the incidents with a repair that has run, nothing left to run or to decide, and no postmortem yet."""
    over = "AND incidents.status = 'resolved'" if when == "resolved" else ""
    rows = ledger.execute(
        "SELECT DISTINCT remedies.incident FROM remedies JOIN incidents ON incidents.id = remedies.incident"
        " JOIN jobs AS repair ON repair.number = remedies.job AND repair.state = 'ended'"
        " WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.incident = incidents.id AND (jobs.kind = 'postmortem'"
        f" OR jobs.state IN ('queued', 'waiting', 'running'))) {over}"
    )
    return [row[0] for row in rows]

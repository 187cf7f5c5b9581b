"""Incidents and queued runs, in tables of their own in the ledger's file: what was answered for outlives any crash."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from lepton_kit.ops.watch import jobs
from lepton_kit.ops.watch.jobs import Decision, Job, Kind, Proposal, Remedy, Start
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.runs.ids import the_one
from lepton_kit.runs.ledger import LEASE_S, Ledger

MOST_ATTEMPTS = 5
REPORT = "report"  # the note of what went wrong with the report site
CLOCK_STEP_S = 600.0
"""A clock that is put back by no more is waited for, so that no schedule is run twice for that."""
_TABLES = (
    """CREATE TABLE IF NOT EXISTS incidents (
    id TEXT PRIMARY KEY, subject TEXT NOT NULL, fingerprint TEXT NOT NULL, starts_at TEXT NOT NULL,
    name TEXT NOT NULL, service TEXT NOT NULL,
    severity TEXT NOT NULL, status TEXT NOT NULL, ends_at TEXT, origin TEXT NOT NULL, alert TEXT NOT NULL,
    received REAL NOT NULL, seen INTEGER NOT NULL, note TEXT NOT NULL, recording TEXT,
    UNIQUE (fingerprint, starts_at))""",
    "CREATE TABLE IF NOT EXISTS schedules (name TEXT PRIMARY KEY, handled REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS watch_notes (name TEXT PRIMARY KEY, text TEXT NOT NULL, at REAL NOT NULL)",
    *jobs.TABLES,
)
_ADDED = {
    "incidents": {"main": "TEXT", "flaps_after": "TEXT", "held_from": "REAL", "held_until": "REAL"},
    "jobs": jobs.ADDED,
}
"""Columns that a ledger of an earlier release gets. Of an incident: the one whose diagnosis stands for it, the one
after whose diagnosis its alert flaps, and from when until when (Unix seconds) its own diagnosis waits for that."""

_INDEXES = (
    "CREATE INDEX IF NOT EXISTS incidents_firing ON incidents (origin) WHERE status = 'firing'",
    "CREATE INDEX IF NOT EXISTS incidents_received ON incidents (received)",
    "CREATE INDEX IF NOT EXISTS incidents_subject ON incidents (subject) WHERE status = 'firing'",
    "CREATE INDEX IF NOT EXISTS incidents_flaps ON incidents (flaps_after)",
    *jobs.INDEXES,
)
RANKS = {"page": 4, "critical": 4, "error": 3, "major": 3, "high": 3, "warning": 2, "ticket": 2, "minor": 2, "info": 1}
"""How grave a severity is, by the words that rules of alerts use; other words are the least grave."""
SAME_S = 600.0  # what burns a budget fast burns it slowly too: two alerts, and one thing to find out


_DUE = """SELECT DISTINCT incidents.id FROM incidents
    JOIN jobs AS repair ON repair.incident = incidents.id AND repair.kind = 'remedy' AND repair.state = 'ended'
    WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.incident = incidents.id
        AND (jobs.kind = 'postmortem' OR jobs.state IN ('queued', 'waiting', 'running')))"""
"""The incidents with a repair that has run, nothing left to run or to decide, and no postmortem yet."""


class Router(Protocol):
    """Says what an alert starts: a notebook; or why none (text); or nothing (None)."""

    def on_firing(self, alert: Alert) -> Start | str:
        """Say what an alert that has begun starts."""

    def on_resolved(self, alert: Alert) -> Start | str | None:
        """Say what an alert that has ended starts."""


@dataclass(frozen=True)
class Incident:
    """An alert and what is known of it; `note` says why nothing was run, or what went wrong.

    `severity` is the highest seen: also that of the same alert in another severity, which runs nothing of its own.
    """

    id: str
    fingerprint: str
    starts_at: str
    name: str
    service: str
    severity: str
    status: str
    ends_at: str | None
    origin: str
    alert: dict[str, Any]
    received: float
    seen: int
    note: str
    recording: str | None


_INCIDENT = ", ".join(Incident.__dataclass_fields__)


class Queue(Ledger):
    """The ledger's file with the tables of `lepton watch`.

    Parameters
    ----------
    project
        The project's root.
    busy_timeout
        Seconds to wait for another process that writes.
    flap_s
        An alert that begins again this soon (s) after its last diagnosis is not diagnosed at once, but when they
        are over, if it still fires then.

    Raises
    ------
    InputError
        From every method, when the file cannot be opened, read or written; nothing was changed then.
    """

    def __init__(self, project: Path, busy_timeout: float = 10.0, flap_s: float = 0.0) -> None:
        super().__init__(project, busy_timeout)
        self._flap_s = flap_s
        with self._transaction() as ledger:
            for statement in _TABLES:
                ledger.execute(statement)
            for table, columns in _ADDED.items():
                known = {row[1] for row in ledger.execute(f"PRAGMA table_info({table})")}
                for name in columns.keys() - known:
                    ledger.execute(f"ALTER TABLE {table} ADD COLUMN {name} {columns[name]}")
            for statement in _INDEXES:
                ledger.execute(statement)
        self._held: sqlite3.Connection | None = None

    def hold_open(self) -> None:
        """Hold the file open, for a process that writes often: SQLite tidies up whenever the last connection closes.

        Each transaction then takes half as long.
        """
        self._held = sqlite3.connect(self.path, check_same_thread=False)
        self._held.execute("SELECT count(*) FROM watch_notes").fetchall()  # only now it takes part

    def close(self) -> None:
        """Let go of the file."""
        if self._held is not None:
            self._held.close()

    # --- alerts ---

    def receive(self, alerts: Sequence[Alert], origin: str, router: Router) -> None:
        """Record alerts, and queue what they start: all of it durably, or nothing."""
        self.receive_all([(alerts, origin)], router)

    def receive_all(self, posts: Sequence[tuple[Sequence[Alert], str]], router: Router) -> None:
        """Record the alerts of several posts, each with its origin, in one commit."""
        with self._transaction() as ledger:
            for alerts, origin in posts:
                for alert in alerts:
                    _receive(ledger, alert, origin, router, self._flap_s)

    def incidents(self, most: int = 50, **having: str) -> list[Incident]:
        """Return the incidents, newest first: all, or those `having` a status, an alert's name or an origin."""
        chosen = " AND ".join(f"{name} = ?" for name in having) or "TRUE"
        ordered = f"SELECT {_INCIDENT} FROM incidents WHERE {chosen} ORDER BY starts_at DESC, received DESC LIMIT ?"
        return [_incident(row) for row in self._read(ordered, *having.values(), most)]

    def over(self, most: int) -> list[Incident]:
        """Return the incidents that are resolved, newest first, but for those that another one stands for.

        An alert that flaps, or has two severities, would else push the incident that was diagnosed and repaired out.
        """
        ordered = (
            f"SELECT {_INCIDENT} FROM incidents WHERE status = 'resolved'"
            " AND main IS NULL AND (flaps_after IS NULL OR id IN (SELECT incident FROM jobs))"
            " ORDER BY starts_at DESC, received DESC LIMIT ?"
        )
        return [_incident(row) for row in self._read(ordered, most)]

    def open_incidents(self) -> int:
        """Return how many incidents have an alert that still fires."""
        return int(self._read("SELECT count(*) FROM incidents WHERE status = 'firing'")[0][0])

    def incident(self, id: str) -> Incident | None:
        """Return an incident by its id."""
        rows = self._read(f"SELECT {_INCIDENT} FROM incidents WHERE id = ?", id)
        return _incident(rows[0]) if rows else None

    def flaps(self, incident: str) -> int:
        """Return how often the alert of an incident began again so soon that it was not diagnosed at once."""
        return int(self._read("SELECT count(*) FROM incidents WHERE flaps_after = ?", incident)[0][0])

    def find(self, given: str) -> Incident:
        """Return the incident that a person means by its id, or the end or the beginning of it.

        Raises InputError when none or several are meant.
        """
        ids = [str(row[0]) for row in self._read("SELECT id FROM incidents")]
        found = self.incident(the_one(given, ids, "incident", "lepton incidents"))
        assert found is not None  # its id was read a moment ago, and none is ever removed
        return found

    def main_incident(self, id: str) -> Incident | None:
        """Return the incident whose diagnosis stands for that of another severity of the same alert; None of others."""
        rows = self._read("SELECT main FROM incidents WHERE id = ? AND main IS NOT NULL", id)
        return self.incident(rows[0][0]) if rows else None

    def note(self, incident: str, text: str, recording: str | None = None) -> None:
        """Note what became of an incident, and where its recording is."""
        with self._transaction() as ledger:
            changed = "UPDATE incidents SET note = ?, recording = coalesce(?, recording) WHERE id = ?"
            ledger.execute(changed, [text, recording, incident])

    # --- jobs ---

    def add(self, kind: Kind, name: str, key: str, start: Start) -> None:
        """Queue a run, unless one with its key is known."""
        with self._transaction() as ledger:
            jobs.add(ledger, kind, name, key, start)

    def take(self) -> Job | None:
        """Make this process the one that runs the oldest queued job that may start now, and return that."""
        with self._transaction() as ledger:
            return jobs.take(ledger)

    def still_running(self, job: Job) -> None:
        """Lengthen this process' lease of a job."""
        self._change_mine("UPDATE jobs SET lease = ? WHERE number = ?", time.time() + LEASE_S, job.number)

    def comes_to_run(self, job: Job, run_id: str) -> None:
        """Note the run that a job has come to."""
        self._change_mine("UPDATE jobs SET run_id = ? WHERE number = ?", run_id, job.number)

    def end(
        self,
        job: Job,
        run_id: str,
        status: str,
        proposals: Sequence[Proposal] = (),
        most_per_hour: int = 0,
        leaves_open: bool = False,
    ) -> None:
        """Note how a job's run ended, and in the same commit the repairs that it asks for.

        `most_per_hour` of them may start by themselves within an hour, for each service. `leaves_open` says that the
        run left its incident as it was: a diagnosis that found no cause, a repair that did not help.
        """
        with self._transaction() as ledger:
            ended = {"run_id": run_id, "status": status, "error": None, "leaves_open": leaves_open}
            is_mine = jobs.move_mine(ledger, "end", job.number, **ended)
            if is_mine and job.incident is not None:
                jobs.propose(ledger, job.incident, proposals, most_per_hour)

    def leave(self, job: Job, event: Literal["refuse", "give back"], error: str) -> None:
        """Note why a job of this process is not run, or not now."""
        with self._transaction() as ledger:
            jobs.move_mine(ledger, event, job.number, error=error)

    def requeue_abandoned(self) -> list[Job]:
        """Queue the jobs again whose process has died; refuse one that has outlived too many. Return them."""
        with self._transaction() as ledger:
            dead = jobs.abandoned(ledger)
            for job in dead:
                if job.attempts >= MOST_ATTEMPTS:
                    error = f"given up: the process that ran it was killed {job.attempts} times"
                    jobs.move(ledger, "give up", "number = ?", [job.number], error=error)
                else:
                    jobs.move(ledger, "give back", "number = ?", [job.number])
        return dead

    def jobs(self, most: int = 50, **having: str) -> list[Job]:
        """Return jobs, newest first: all, or those `having` an incident, a kind or a state."""
        chosen = " AND ".join(f"{name} = ?" for name in having) or "TRUE"
        ordered = f"SELECT {jobs.COLUMNS} FROM jobs WHERE {chosen} ORDER BY number DESC LIMIT ?"
        return [jobs.job_of(row) for row in self._read(ordered, *having.values(), most)]

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        found = dict(self._read("SELECT state, count(*) FROM jobs GROUP BY state"))
        return {state: found.get(state, 0) for state in jobs.STATES}

    def queued(self) -> int:
        """Return how many jobs may start now."""
        return int(self._read(f"SELECT count(*) FROM jobs WHERE {jobs.READY}")[0][0])

    # --- repairs ---

    def hold(self, job: Job, why: str, rehearsal: str | None = None) -> None:
        """Let a repair of this process wait for a person; `rehearsal` is the run that rehearsed it, where one did."""
        with self._transaction() as ledger:
            changed = "UPDATE jobs SET rehearsal = coalesce(?, rehearsal) WHERE number = ?"
            ledger.execute(changed, [rehearsal, job.number])
            jobs.hold(ledger, job.number, why)

    def over_limit(self, service: str, incident: str, most_per_hour: int) -> bool:
        """Say whether no further repair of a service may start by itself now."""
        with self._transaction() as ledger:
            return bool(jobs.over_limit(ledger, service, incident, most_per_hour))

    def follows_run(self, job: Job) -> tuple[str, str] | None:
        """Return the cause and the run of the repair that a repair follows; None where it follows none that has run."""
        rows = self._read(
            "SELECT earlier.name, earlier.run_id FROM jobs JOIN jobs AS earlier ON earlier.number = jobs.follows"
            " WHERE jobs.number = ? AND earlier.run_id IS NOT NULL",
            job.number,
        )
        return (str(rows[0][0]), str(rows[0][1])) if rows else None

    def approved_by(self, run_id: str) -> str | None:
        """Return who let the run of a repair: the policy, or a person; None of a run that is no repair."""
        with self._transaction() as ledger:
            found = jobs.repairs(ledger, "run_id = ?", run_id)
        if not found:
            return None
        approved = [one for one in found[0].decisions if one.is_approved]
        return f"{approved[-1].by} ({approved[-1].via})" if approved else "policy: auto"

    def decide(self, number: int, decision: Decision) -> str:
        """Start or refuse a repair that waits for a person, given its job's number; return its incident.

        Raises InputError when it does not wait.
        """
        with self._transaction() as ledger:
            return jobs.decide(ledger, number, decision)

    def waiting(self) -> list[Remedy]:
        """Return the repairs that wait for a person, oldest first."""
        with self._transaction() as ledger:
            return jobs.repairs(ledger, "state = 'waiting'")

    def remedies(self, incident: str) -> list[Remedy]:
        """Return the repairs of an incident, with what was decided on them."""
        with self._transaction() as ledger:
            return jobs.repairs(ledger, "incidents.id = ?", incident)

    def follow_up(self, postmortem: Start | None, when: str) -> None:
        """Queue the postmortems that are due, and let repairs wait whose first part failed; safe to ask again."""
        with self._transaction() as ledger:
            jobs.hold_followers(ledger)
            if postmortem is not None:
                is_over = " AND incidents.status = 'resolved'" if when == "resolved" else ""
                for [incident] in ledger.execute(_DUE + is_over).fetchall():
                    jobs.add(ledger, "postmortem", incident, f"postmortem:{incident}", postmortem, incident)

    def look_again(self, pause: float, most: int) -> None:
        """Queue the alert's runbook once more for incidents that were left open; safe to ask again.

        `pause` seconds after its last run there is more evidence; it runs `most` times in all.
        """
        with self._transaction() as ledger:
            due = ledger.execute(
                "SELECT incidents.id, sum(kind = 'alert') AS looks FROM incidents"
                " JOIN jobs ON jobs.incident = incidents.id"
                " WHERE incidents.status = 'firing' GROUP BY incidents.id"
                " HAVING max(number) = max(number * leaves_open)"
                " AND max(state != 'ended') = 0 AND max(ended) < ? AND looks BETWEEN 1 AND ?",
                [time.time() - pause, most - 1],
            ).fetchall()
            for incident, looks in due:
                first = f"SELECT {jobs.COLUMNS} FROM jobs WHERE incident = ? AND kind = 'alert' ORDER BY number LIMIT 1"
                job, look = jobs.job_of(ledger.execute(first, [incident]).fetchone()), looks + 1
                start = Start(job.notebook, job.parameters)
                jobs.add(ledger, "alert", job.name, f"{job.key}:look-{look}", start, incident, look=look)

    # --- schedules and notes ---

    def handle_schedule(self, name: str, start: Start, latest_due: Any) -> float | None:
        """Queue the run that a schedule is due for, if any; of several processes that ask at once, one does.

        `latest_due` is called with the last time that was handled (Unix seconds), and returns the latest due time after
        it, or None. A schedule that is new here is handled up to now; so is one that was handled while the clock was
        ahead.
        """
        now = time.time()
        with self._transaction() as ledger:
            row = ledger.execute("SELECT handled FROM schedules WHERE name = ?", [name]).fetchone()
            is_known = row is not None and row[0] <= now + CLOCK_STEP_S
            due: float | None = latest_due(row[0]) if is_known else None
            if not is_known or due is not None:
                handled = due if due is not None else now
                ledger.execute("INSERT OR REPLACE INTO schedules VALUES (?, ?)", [name, handled])
            if due is not None:
                key = f"schedule:{name}:{due:.0f}"
                while ledger.execute("SELECT 1 FROM jobs WHERE key = ?", [key]).fetchone():
                    key = f"schedule:{name}:{secrets.token_hex(4)}:{due:.0f}"  # it was due while the clock was ahead
                jobs.add(ledger, "schedule", name, key, start)
        return due

    def set_note(self, name: str, text: str) -> None:
        """Keep a line for the status page under a name; an empty one says that all is well."""
        with self._transaction() as ledger:
            ledger.execute("INSERT OR REPLACE INTO watch_notes VALUES (?, ?, ?)", [name, text, time.time()])

    def notes(self) -> dict[str, tuple[str, float]]:
        """Return the lines that were kept, and when (Unix seconds)."""
        return {name: (text, at) for name, text, at in self._read("SELECT name, text, at FROM watch_notes")}

    def _read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._transaction() as ledger:
            return ledger.execute(statement, values).fetchall()


def _receive(ledger: sqlite3.Connection, alert: Alert, origin: str, router: Router, flap_s: float) -> None:
    found = ledger.execute(
        "SELECT status, note FROM incidents WHERE fingerprint = ? AND starts_at = ?", [alert.fingerprint, alert.since]
    ).fetchone()
    if found is None:
        found = ("firing", _begin(ledger, alert, origin, router, flap_s))
    else:
        ledger.execute(
            "UPDATE incidents SET seen = seen + 1 WHERE fingerprint = ? AND starts_at = ?",
            [alert.fingerprint, alert.since],
        )
    if alert.status == "resolved" and found[0] == "firing":
        _resolve(ledger, alert, router, found[1])


def _begin(ledger: sqlite3.Connection, alert: Alert, origin: str, router: Router, flap_s: float) -> str:
    start = router.on_firing(alert) if alert.status == "firing" else "only its end was seen"
    note, about = start if isinstance(start, str) else "", dict[str, Any]()
    severity = alert.labels.get("severity", "")
    if isinstance(start, Start) and (main := _being_diagnosed(ledger, alert)) is not None:
        note, about = f"runs nothing of its own, being the same as {main}", {"main": main}
        _raise_severity(ledger, main, severity)
    elif isinstance(start, Start) and (about := _flap(ledger, alert, flap_s)):
        when = f"{datetime.fromtimestamp(about['held_until'], UTC):%Y-%m-%d %H:%M:%S} UTC"
        diagnosed = f"it was diagnosed as {about['flaps_after']}"
        note = f"the alert flaps: {diagnosed}, and is again after {when} if it fires then"
    values = {
        "subject": alert.subject, "id": alert.incident, "fingerprint": alert.fingerprint, "starts_at": alert.since,
        "name": alert.name, "service": alert.labels.get("service", ""), "severity": severity, "status": "firing",
        "origin": origin, "alert": json.dumps(alert.as_posted()), "received": time.time(), "seen": 1, "note": note,
        **about,
    }  # fmt: skip
    inserted = f"INSERT INTO incidents ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
    ledger.execute(inserted, list(values.values()))
    if isinstance(start, Start) and "main" not in about:
        jobs.add(ledger, "alert", alert.name, f"alert:{alert.fingerprint}:{alert.since}", start, alert.incident)
    return note


def _flap(ledger: sqlite3.Connection, alert: Alert, seconds: float) -> dict[str, Any]:
    """Return what an alert that flaps has beside others; nothing unless `seconds` ago or less it was diagnosed.

    A diagnosis that still waits since the alert began before is given up for that of the new start.
    """
    now = time.time()
    last = ledger.execute(
        "SELECT incidents.id, starts_at, coalesce(held_until - held_from, 0) FROM incidents"
        " JOIN jobs ON jobs.incident = incidents.id AND jobs.kind = 'alert'"
        f" WHERE fingerprint = ? AND NOT (jobs.state = 'queued' AND {jobs.FLAPS}) ORDER BY jobs.number DESC LIMIT 1",
        [alert.fingerprint],
    ).fetchone()
    if last is None:
        return {}
    since_start = (alert.starts_at - datetime.fromisoformat(last[1])).total_seconds()
    wait = last[2] + seconds - since_start
    if wait <= 0 or since_start < -seconds:
        return {}
    _give_up_held(ledger, "incident IN (SELECT id FROM incidents WHERE fingerprint = ?)", alert.fingerprint)
    return {"flaps_after": last[0], "held_from": now, "held_until": now + min(wait, seconds)}


def _give_up_held(ledger: sqlite3.Connection, where: str, value: str) -> bool:
    """Give up diagnoses that wait until their alert has lasted; say whether there was one."""
    held = f"DELETE FROM jobs WHERE kind = 'alert' AND state = 'queued' AND {jobs.FLAPS} AND {where} RETURNING number"
    return bool(ledger.execute(held, [value]).fetchall())


def _being_diagnosed(ledger: sqlite3.Connection, alert: Alert) -> str | None:
    """Return the incident that began a moment ago with the same alert in another severity, if its runbook runs."""
    row = ledger.execute(
        "SELECT id FROM incidents WHERE subject = ? AND status = 'firing' AND received > ?"
        " AND coalesce(json_extract(alert, '$.labels.severity'), '') != ?"
        " AND EXISTS (SELECT 1 FROM jobs WHERE jobs.incident = incidents.id) LIMIT 1",
        [alert.subject, time.time() - SAME_S, alert.labels.get("severity", "")],
    ).fetchone()
    return row[0] if row else None


def _raise_severity(ledger: sqlite3.Connection, incident: str, severity: str) -> None:
    [held] = ledger.execute("SELECT severity FROM incidents WHERE id = ?", [incident]).fetchone()
    if RANKS.get(severity, 0) > RANKS.get(held, 0):
        ledger.execute("UPDATE incidents SET severity = ? WHERE id = ?", [severity, incident])


def _resolve(ledger: sqlite3.Connection, alert: Alert, router: Router, note: str) -> None:
    chosen = "SELECT 1 FROM incidents WHERE id = ? AND main IS NOT NULL"
    is_companion = ledger.execute(chosen, [alert.incident]).fetchone()
    runs_nothing = _give_up_held(ledger, "incident = ?", alert.incident) or is_companion
    start = None if runs_nothing else router.on_resolved(alert)
    if isinstance(start, str):
        note = f"{note}; recovery check: {start}" if note else f"recovery check: {start}"
    ledger.execute(
        "UPDATE incidents SET status = 'resolved', ends_at = ?, note = ? WHERE fingerprint = ? AND starts_at = ?",
        [alert.ends_at and alert.ends_at.isoformat(timespec="microseconds"), note, alert.fingerprint, alert.since],
    )
    jobs.withdraw(ledger, alert.incident)
    if isinstance(start, Start):
        jobs.add(ledger, "recovery", alert.name, f"recovery:{alert.fingerprint}:{alert.since}", start, alert.incident)


def _incident(row: tuple[Any, ...]) -> Incident:
    held = dict(zip(Incident.__dataclass_fields__, row, strict=True))
    return Incident(**held | {"alert": json.loads(held["alert"])})

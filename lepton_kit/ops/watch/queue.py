"""Incidents and queued runs, in tables of their own in the ledger's file: what was answered for outlives any crash."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lepton_kit.ops.watch import flaps, jobs, remedies
from lepton_kit.ops.watch.jobs import Job, Kind, Start
from lepton_kit.ops.watch.remedies import Decision, Proposal, Remedy
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.runs.ids import the_one
from lepton_kit.runs.ledger import LEASE_S, Ledger

MOST_ATTEMPTS = 5
REPORT = "report"  # the note of what went wrong with the report site
CLOCK_STEP_S = 600.0
"""A clock that is put back by no more is waited for, so that no schedule is run twice for that."""
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS incidents (
    id TEXT PRIMARY KEY, subject TEXT NOT NULL, fingerprint TEXT NOT NULL, starts_at TEXT NOT NULL,
    name TEXT NOT NULL, service TEXT NOT NULL,
    severity TEXT NOT NULL, status TEXT NOT NULL, ends_at TEXT, origin TEXT NOT NULL, alert TEXT NOT NULL,
    received REAL NOT NULL, seen INTEGER NOT NULL, note TEXT NOT NULL, recording TEXT,
    UNIQUE (fingerprint, starts_at))""",
    "CREATE INDEX IF NOT EXISTS incidents_firing ON incidents (origin) WHERE status = 'firing'",
    "CREATE INDEX IF NOT EXISTS incidents_received ON incidents (received)",
    "CREATE INDEX IF NOT EXISTS incidents_subject ON incidents (subject) WHERE status = 'firing'",
    *jobs.SCHEMA,
    "CREATE TABLE IF NOT EXISTS schedules (name TEXT PRIMARY KEY, handled REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS watch_notes (name TEXT PRIMARY KEY, text TEXT NOT NULL, at REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS left_open (job INTEGER PRIMARY KEY)",
    *flaps.SCHEMA,
    "CREATE TABLE IF NOT EXISTS companions (incident TEXT PRIMARY KEY, main TEXT NOT NULL)",
    *remedies.SCHEMA,  # tables of their own: a ledger of an earlier release gets them, and its tables stay as they are
)
SAME_AS = "runs nothing of its own, being the same as "
RANKS = {"page": 4, "critical": 4, "error": 3, "major": 3, "high": 3, "warning": 2, "ticket": 2, "minor": 2, "info": 1}
"""How grave a severity is, by the words that rules of alerts use; other words are the least grave."""
SAME_S = 600.0  # what burns a budget fast burns it slowly too: two alerts, and one thing to find out


class Router(Protocol):
    """Says what an alert starts: a notebook; or why none (text); or nothing (None)."""

    def on_firing(self, alert: Alert) -> Start | str:
        """Say what an alert that has begun starts."""
        ...

    def on_resolved(self, alert: Alert) -> Start | str | None:
        """Say what an alert that has ended starts."""
        ...


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
            for statement in _SCHEMA:
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

    def firing(self, origin: str) -> list[Incident]:
        """Return the incidents from an origin whose alert still fires."""
        chosen = f"SELECT {_INCIDENT} FROM incidents WHERE status = 'firing' AND origin = ?"
        return [_incident(row) for row in self._read(chosen, origin)]

    def incidents(self, most: int = 50, status: str | None = None, name: str | None = None) -> list[Incident]:
        """Return the incidents, newest first: all, those that are `firing` or `resolved`, those of an alert's name."""
        given = {key: value for key, value in {"status": status, "name": name}.items() if value is not None}
        chosen = "WHERE " + " AND ".join(f"{key} = ?" for key in given) if given else ""
        ordered = f"SELECT {_INCIDENT} FROM incidents {chosen} ORDER BY starts_at DESC, received DESC LIMIT ?"
        return [_incident(row) for row in self._read(ordered, *given.values(), most)]

    def over(self, most: int) -> list[Incident]:
        """Return the incidents that are resolved, newest first, but for those that another one stands for.

        An alert that flaps, or has two severities, would else push the incident that was diagnosed and repaired out.
        """
        ordered = (
            f"SELECT {_INCIDENT} FROM incidents WHERE status = 'resolved'"
            " AND id NOT IN (SELECT incident FROM companions)"
            " AND (id IN (SELECT incident FROM jobs) OR id NOT IN (SELECT incident FROM flaps))"
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
        with self._transaction() as ledger:
            return flaps.count(ledger, incident)

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
        rows = self._read("SELECT main FROM companions WHERE incident = ?", id)
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
            return jobs.take(ledger, remedies.READY)

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
            is_mine = jobs.move_mine(ledger, "end", job.number, run_id=run_id, status=status, error=None)
            if is_mine and job.incident is not None:
                remedies.propose(ledger, job.incident, proposals, most_per_hour)
                if leaves_open:
                    ledger.execute("INSERT OR IGNORE INTO left_open VALUES (?)", [job.number])

    def refuse(self, job: Job, error: str) -> None:
        """Note why a job is not run."""
        with self._transaction() as ledger:
            jobs.move_mine(ledger, "refuse", job.number, error=error)

    def give_back(self, job: Job, error: str) -> None:
        """Queue a job of this process again: its run was cancelled and is repeated later."""
        with self._transaction() as ledger:
            jobs.move_mine(ledger, "give back", job.number, error=error)

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

    def jobs(self, most: int = 50, incident: str | None = None, state: str | None = None) -> list[Job]:
        """Return jobs, newest first: all, those of an incident, or those in a state."""
        conditions = {"incident": incident, "state": state}
        given = {name: value for name, value in conditions.items() if value is not None}
        where = "WHERE " + " AND ".join(f"{name} = ?" for name in given) if given else ""
        rows = self._read(
            f"SELECT {jobs.COLUMNS} FROM jobs {where} ORDER BY number DESC LIMIT ?", *given.values(), most
        )
        return [jobs.job_of(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        found = dict(self._read("SELECT state, count(*) FROM jobs GROUP BY state"))
        return {state: found.get(state, 0) for state in jobs.STATES}

    def queued(self) -> int:
        """Return how many jobs may start now."""
        return int(self._read(f"SELECT count(*) FROM jobs WHERE {remedies.READY}")[0][0])

    # --- repairs ---

    def hold(self, job: Job, why: str, rehearsal: str | None = None) -> None:
        """Let a repair of this process wait for a person; `rehearsal` is the run that rehearsed it, where one did."""
        with self._transaction() as ledger:
            remedies.note_rehearsal(ledger, job.number, rehearsal)
            remedies.hold(ledger, job.number, why)

    def over_limit(self, service: str, incident: str, most_per_hour: int) -> bool:
        """Say whether no further repair of a service may start by itself now."""
        with self._transaction() as ledger:
            return bool(remedies.over_limit(ledger, service, incident, most_per_hour))

    def follows_run(self, job: Job) -> tuple[str, str] | None:
        """Return the cause and the run of the repair that a repair follows; None where it follows none that has run."""
        with self._transaction() as ledger:
            return remedies.follows_run(ledger, job.number)

    def approved_by(self, run_id: str) -> str | None:
        """Return who let the run of a repair: the policy, or a person; None of a run that is no repair."""
        with self._transaction() as ledger:
            return remedies.approved_by(ledger, run_id)

    def decide(self, number: int, decision: Decision) -> str:
        """Start or refuse a repair that waits for a person, given its job's number; return its incident.

        Raises InputError when it does not wait.
        """
        with self._transaction() as ledger:
            return remedies.decide(ledger, number, decision)

    def waiting(self) -> list[Remedy]:
        """Return the repairs that wait for a person, oldest first."""
        with self._transaction() as ledger:
            return remedies.read(ledger, "state = 'waiting'")

    def remedies(self, incident: str) -> list[Remedy]:
        """Return the repairs of an incident, with what was decided on them."""
        with self._transaction() as ledger:
            return remedies.read(ledger, "remedies.incident = ?", incident)

    def follow_up(self, postmortem: Start | None, when: str) -> None:
        """Queue the postmortems that are due, and let repairs wait whose first part failed; safe to ask again."""
        with self._transaction() as ledger:
            remedies.hold_followers(ledger)
            if postmortem is not None:
                for incident in remedies.due_postmortems(ledger, when):
                    jobs.add(ledger, "postmortem", incident, f"postmortem:{incident}", postmortem, incident)

    def look_again(self, pause: float, most: int) -> None:
        """Queue the alert's runbook once more for incidents that were left open; safe to ask again.

        `pause` seconds after its last run there is more evidence; it runs `most` times in all.
        """
        with self._transaction() as ledger:
            due = ledger.execute(
                "SELECT incidents.id, sum(jobs.kind = 'alert') AS looks FROM incidents"
                " JOIN jobs ON jobs.incident = incidents.id LEFT JOIN left_open ON left_open.job = jobs.number"
                " WHERE incidents.status = 'firing' GROUP BY incidents.id"
                " HAVING max(jobs.number) = max(left_open.job)"
                " AND max(jobs.state != 'ended') = 0 AND max(jobs.ended) < ? AND looks BETWEEN 1 AND ?",
                [time.time() - pause, most - 1],
            ).fetchall()
            for incident, looks in due:
                first = f"SELECT {jobs.COLUMNS} FROM jobs WHERE incident = ? AND kind = 'alert' ORDER BY number LIMIT 1"
                job = jobs.job_of(ledger.execute(first, [incident]).fetchone())
                start = Start(job.notebook, job.parameters)
                jobs.add(ledger, "alert", job.name, f"{job.key}{jobs.LOOK}{looks + 1}", start, incident)

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
    start: Start | str = "only its end was seen"
    if alert.status == "firing":
        start = router.on_firing(alert)
    labels = alert.labels
    if isinstance(start, Start) and (main := _being_diagnosed(ledger, alert)) is not None:
        start = f"{SAME_AS}{main}"
        ledger.execute("INSERT INTO companions VALUES (?, ?)", [alert.incident, main])
        _raise_severity(ledger, main, labels.get("severity", ""))
    flap = flaps.find(ledger, alert, flap_s) if isinstance(start, Start) else None
    note = start if isinstance(start, str) else "" if flap is None else flap.words
    ledger.execute(
        f"INSERT INTO incidents (subject, {_INCIDENT})"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 'firing', NULL, ?, ?, ?, 1, ?, NULL)",
        [
            alert.subject, alert.incident, alert.fingerprint, alert.since, alert.name, labels.get("service", ""),
            labels.get("severity", ""), origin, json.dumps(alert.as_posted()), time.time(), note,
        ],
    )  # fmt: skip
    if isinstance(start, Start):
        jobs.add(ledger, "alert", alert.name, f"alert:{alert.fingerprint}:{alert.since}", start, alert.incident)
    if flap is not None:
        flaps.hold(ledger, alert.incident, flap)
    return note


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
    is_companion = ledger.execute("SELECT 1 FROM companions WHERE incident = ?", [alert.incident]).fetchone()
    runs_nothing = flaps.withdraw(ledger, alert.incident) or is_companion
    start = None if runs_nothing else router.on_resolved(alert)
    if isinstance(start, str):
        note = f"{note}; recovery check: {start}" if note else f"recovery check: {start}"
    ledger.execute(
        "UPDATE incidents SET status = 'resolved', ends_at = ?, note = ? WHERE fingerprint = ? AND starts_at = ?",
        [alert.ends_at and alert.ends_at.isoformat(timespec="microseconds"), note, alert.fingerprint, alert.since],
    )
    remedies.withdraw(ledger, alert.incident)
    if isinstance(start, Start):
        jobs.add(ledger, "recovery", alert.name, f"recovery:{alert.fingerprint}:{alert.since}", start, alert.incident)


def _incident(row: tuple[Any, ...]) -> Incident:
    held = dict(zip(Incident.__dataclass_fields__, row, strict=True))
    return Incident(**held | {"alert": json.loads(held["alert"])})

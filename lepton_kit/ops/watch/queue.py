"""Incidents and queued runs, in tables of their own in the ledger's file: what was answered for outlives any crash."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)  # fmt: skip

from lepton_kit.errors import InputError
from lepton_kit.ops.watch import jobs
from lepton_kit.ops.watch.jobs import Decision, Job, Kind, Proposal, Remedy, Start
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.runs.ids import the_one
from lepton_kit.runs.ledger import LEASE_S, Ledger
from lepton_kit.runs.tables import INCIDENTS, JOBS, NOTES, SILENCES, now, replace

MOST_ATTEMPTS = 5
EMBEDDED, WEBHOOK = "embedded", "webhook"  # where an alert came from: evaluated here, or posted
REPORT = "report"  # the note of what went wrong with the report site
RANKS = {"page": 4, "critical": 4, "error": 3, "major": 3, "high": 3, "warning": 2, "ticket": 2, "minor": 2, "info": 1}
"""How grave a severity is, by the words that rules of alerts use; other words are the least grave."""
MOST_OPEN = 10**6  # open incidents that are looked through at once: all there are
SAME_S = 600.0  # what burns a budget fast burns it slowly too: two alerts, and one thing to find out


_done, _open = JOBS.alias("done"), JOBS.alias("open")
_DUE = select(INCIDENTS.c.id).where(
    exists().where(_done.c.incident == INCIDENTS.c.id, _done.c.kind == "remedy", _done.c.state == "ended"),
    ~exists().where(
        _open.c.incident == INCIDENTS.c.id,
        or_(_open.c.kind == "postmortem", _open.c.state.in_(["queued", "waiting", "running"])),
    ),
)
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
    `acknowledged_by` sees to it since `acknowledged` (Unix seconds). `silenced` says who silenced the alert, until when
    (`silenced_until`) and why, if anybody did.
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
    acknowledged: float | None
    acknowledged_by: str
    silenced: str
    silenced_until: float | None

    @property
    def silence(self) -> str:
        """Who silences the alert now: nobody once the time is over, also where Alertmanager does not answer then."""
        return self.silenced if (self.silenced_until or 0.0) > time.time() else ""


def is_silenced() -> ColumnElement[bool]:
    """Return the condition on an incident's row that its alert is silenced now."""
    return and_(INCIDENTS.c.silenced != "", INCIDENTS.c.silenced_until > now())


_COLUMNS = [INCIDENTS.c[name] for name in Incident.__dataclass_fields__]


class Queue(Ledger):
    """The ledger of a project as `lepton watch` uses it.

    `busy_timeout` is how long (s) to wait for another process that writes. An alert that begins again within `flap_s`
    of its last diagnosis is not diagnosed at once, but when they are over, if it still fires then. Every method raises
    InputError when the file cannot be opened, read or written; nothing was changed then.
    """

    def __init__(self, project: Path, busy_timeout: float = 10.0, flap_s: float = 0.0) -> None:
        super().__init__(project, busy_timeout)
        self._flap_s = flap_s
        with self.transaction():
            pass  # the tables are there from now on

    # --- alerts ---

    def receive(self, alerts: Sequence[Alert], origin: str, router: Router) -> None:
        """Record alerts, and queue what they start: all of it durably, or nothing."""
        self.receive_all([(alerts, origin)], router)

    def receive_all(self, posts: Sequence[tuple[Sequence[Alert], str]], router: Router) -> None:
        """Record the alerts of several posts, each with its origin, in one commit."""
        with self.transaction() as ledger:
            for alerts, origin in posts:
                for alert in alerts:
                    _receive(ledger, alert, origin, router, self._flap_s)

    def incidents(self, most: int = 50, **having: str) -> list[Incident]:
        """Return the incidents, newest first: all, or those `having` a status, an alert's name or an origin."""
        return self._newest(most, *(INCIDENTS.c[name] == value for name, value in having.items()))

    def over(self, most: int) -> list[Incident]:
        """Return the incidents that are resolved, newest first, but for those that another one stands for.

        An alert that flaps, or has two severities, would else push the incident that was diagnosed and repaired out.
        """
        has_job = exists().where(JOBS.c.incident == INCIDENTS.c.id)
        is_own = and_(INCIDENTS.c.main.is_(None), or_(INCIDENTS.c.flaps_after.is_(None), has_job))
        return self._newest(most, INCIDENTS.c.status == "resolved", is_own)

    def current(self, most: int, since: float) -> list[Incident]:
        """Return the incidents that fire or have ended since a time (Unix seconds), newest first.

        Those that another one stands for are left out, and those of an alert that flaps until they are diagnosed.
        """
        ended = INCIDENTS.c.ends_at >= datetime.fromtimestamp(since, UTC).isoformat(timespec="microseconds")
        has_begun = exists().where(JOBS.c.incident == INCIDENTS.c.id, JOBS.c.state != "queued")
        is_own = and_(INCIDENTS.c.main.is_(None), or_(INCIDENTS.c.flaps_after.is_(None), has_begun))
        return self._newest(most, or_(INCIDENTS.c.status == "firing", ended), is_own)

    def _newest(self, most: int, *conditions: ColumnElement[bool]) -> list[Incident]:
        ordered = select(*_COLUMNS).order_by(INCIDENTS.c.starts_at.desc(), INCIDENTS.c.received.desc())
        return [Incident(*row) for row in self._read(ordered.where(*conditions).limit(most))]

    def open_incidents(self) -> int:
        """Return how many incidents have an alert that still fires."""
        return self._count(INCIDENTS.c.status == "firing")

    def incident(self, id: str) -> Incident | None:
        """Return an incident by its id."""
        return next(iter(self._newest(1, INCIDENTS.c.id == id)), None)

    def flaps(self, incident: str) -> int:
        """Return how often the alert of an incident began again so soon that it was not diagnosed at once."""
        return self._count(INCIDENTS.c.flaps_after == incident)

    def find(self, given: str) -> Incident:
        """Return the incident that a person means by its id, or the end or the beginning of it.

        Raises InputError when none or several are meant.
        """
        ids = [str(row.id) for row in self._read(select(INCIDENTS.c.id))]
        found = self.incident(the_one(given, ids, "incident", "lepton incidents"))
        assert found is not None  # its id was read a moment ago, and none is ever removed
        return found

    def main_incident(self, id: str) -> Incident | None:
        """Return the incident whose diagnosis stands for that of another severity of the same alert; None of others."""
        main = select(INCIDENTS.c.main).where(INCIDENTS.c.id == id).scalar_subquery()
        return next(iter(self._newest(1, INCIDENTS.c.id == main)), None)

    def note(self, incident: str, text: str, recording: str | None = None) -> None:
        """Note what became of an incident, and where its recording is."""
        changes = {"note": text} | ({} if recording is None else {"recording": recording})
        with self.transaction() as ledger:
            ledger.execute(update(INCIDENTS).where(INCIDENTS.c.id == incident).values(changes))

    def acknowledge(self, incident: str, by: str) -> str:
        """Note who sees to an incident from now on; return who did before, empty where nobody did.

        Raises InputError when its alert has ended.
        """
        chosen = INCIDENTS.c.id == incident
        with self.transaction() as ledger:
            row = ledger.execute(select(INCIDENTS.c.status, INCIDENTS.c.acknowledged_by).where(chosen)).one()
            if row.status != "firing":
                raise InputError(f"incident {incident}: its alert has ended, there is nothing to acknowledge")
            if row.acknowledged_by != by:
                ledger.execute(update(INCIDENTS).where(chosen).values(acknowledged=now(), acknowledged_by=by))
        return str(row.acknowledged_by)

    def note_silences(self, silenced: Mapping[str, tuple[str, float]]) -> None:
        """Note which open incidents of posted alerts are silenced, and until when (Unix seconds); no others are."""
        for incident in self.incidents(MOST_OPEN, status="firing", origin=WEBHOOK):
            why, until = silenced.get(incident.id, ("", None))
            if (why, until) != (incident.silenced, incident.silenced_until):
                values = {"silenced": why, "silenced_until": until}
                with self.transaction() as ledger:
                    ledger.execute(update(INCIDENTS).where(INCIDENTS.c.id == incident.id).values(values))

    def silence(self, service: str, words: str, until: float) -> None:
        """Silence the alerts of a service that are evaluated here until a time (Unix seconds); a past one ends that."""
        own = and_(INCIDENTS.c.service == service, INCIDENTS.c.origin == EMBEDDED, INCIDENTS.c.status == "firing")
        with self.transaction() as ledger:
            replace(ledger, SILENCES, service=service, words=words, until=until)
            ledger.execute(update(INCIDENTS).where(own).values(silenced=words, silenced_until=until))

    # --- jobs ---

    def add(self, kind: Kind, name: str, key: str, start: Start) -> None:
        """Queue a run, unless one with its key is known."""
        with self.transaction() as ledger:
            jobs.add(ledger, kind, name, key, start)

    def take(self) -> Job | None:
        """Make this process the one that runs the oldest queued job that may start now, and return that."""
        with self.transaction(alone=False) as ledger:
            return jobs.take(ledger)

    def still_running(self, job: Job) -> None:
        """Lengthen this process' lease of a job."""
        self._change_mine(update(JOBS).where(JOBS.c.number == job.number).values(lease=now() + LEASE_S))

    def comes_to_run(self, job: Job, run_id: str) -> None:
        """Note the run that a job has come to."""
        self._change_mine(update(JOBS).where(JOBS.c.number == job.number).values(run_id=run_id))

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
        run left its incident as it was, such as a repair that did not help.
        """
        with self.transaction() as ledger:
            ended = {"run_id": run_id, "status": status, "error": None, "leaves_open": leaves_open}
            is_mine = jobs.move_mine(ledger, "end", job.number, **ended)
            if is_mine and job.incident is not None:
                jobs.propose(ledger, job.incident, proposals, most_per_hour)

    def leave(self, job: Job, event: Literal["refuse", "give back"], error: str) -> None:
        """Note why a job of this process is not run, or not now."""
        with self.transaction() as ledger:
            jobs.move_mine(ledger, event, job.number, error=error)

    def requeue_abandoned(self) -> list[Job]:
        """Queue the jobs again whose process has died; refuse one that has outlived too many. Return them."""
        with self.transaction(alone=False) as ledger:
            dead = jobs.abandoned(ledger)
            for job in dead:
                if job.attempts >= MOST_ATTEMPTS:
                    error = f"given up: the process that ran it was killed {job.attempts} times"
                    jobs.move(ledger, "give up", JOBS.c.number == job.number, error=error)
                else:
                    jobs.move(ledger, "give back", JOBS.c.number == job.number)
        return dead

    def jobs(self, most: int = 50, **having: str) -> list[Job]:
        """Return jobs, newest first: all, or those `having` an incident, a kind or a state."""
        conditions = [JOBS.c[name] == value for name, value in having.items()]
        ordered = select(*jobs.COLUMNS).where(*conditions).order_by(JOBS.c.number.desc()).limit(most)
        return [Job(*row) for row in self._read(ordered)]

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        by_state = select(JOBS.c.state, func.count()).group_by(JOBS.c.state)
        return dict.fromkeys(jobs.STATES, 0) | dict(self._read(by_state))

    def queued(self) -> int:
        """Return how many jobs may start now."""
        return self._count(jobs.READY)

    # --- repairs ---

    def hold(self, job: Job, why: str, rehearsal: str | None = None) -> None:
        """Let a repair of this process wait for a person; `rehearsal` is the run that rehearsed it, where one did."""
        with self.transaction() as ledger:
            if rehearsal is not None:
                ledger.execute(update(JOBS).where(JOBS.c.number == job.number).values(rehearsal=rehearsal))
            jobs.hold(ledger, job.number, why)

    def over_limit(self, service: str, incident: str, most_per_hour: int) -> bool:
        """Say whether no further repair of a service may start by itself now."""
        with self.transaction() as ledger:
            return bool(jobs.over_limit(ledger, service, incident, most_per_hour))

    def follows_run(self, job: Job) -> tuple[str, str] | None:
        """Return the cause and the run of the repair that a repair follows; None where it follows none that has run."""
        earlier, own = JOBS.alias(), select(JOBS.c.follows).where(JOBS.c.number == job.number).scalar_subquery()
        chosen = select(earlier.c.name, earlier.c.run_id).where(earlier.c.number == own, earlier.c.run_id.is_not(None))
        return next(((name, run_id) for name, run_id in self._read(chosen)), None)

    def approved_by(self, run_id: str) -> str | None:
        """Return who let the run of a repair: the policy, or a person; None of a run that is no repair."""
        found = self._repairs(JOBS.c.run_id == run_id)
        if not found:
            return None
        approved = [one for one in found[0].decisions if one.is_approved]
        return f"{approved[-1].by} ({approved[-1].via})" if approved else "policy: auto"

    def decide(self, number: int, decision: Decision) -> str:
        """Start or refuse a repair that waits for a person, given its job's number; return its incident.

        Raises InputError when it does not wait.
        """
        with self.transaction() as ledger:
            return jobs.decide(ledger, number, decision)

    def waiting(self) -> list[Remedy]:
        """Return the repairs that wait for a person, oldest first."""
        return self._repairs(JOBS.c.state == "waiting")

    def remedies(self, incident: str) -> list[Remedy]:
        """Return the repairs of an incident, with what was decided on them."""
        return self._repairs(INCIDENTS.c.id == incident)

    def _repairs(self, condition: ColumnElement[bool]) -> list[Remedy]:
        with self.transaction(alone=False) as ledger:
            return jobs.repairs(ledger, condition)

    def follow_up(self, postmortem: Start | None, when: str) -> None:
        """Queue the postmortems that are due, and let repairs wait whose first part failed; safe to ask again."""
        with self.transaction() as ledger:
            jobs.hold_followers(ledger)
            if postmortem is not None:
                due = _DUE.where(INCIDENTS.c.status == "resolved") if when == "resolved" else _DUE
                for incident in ledger.scalars(due).all():
                    jobs.add(ledger, "postmortem", incident, f"postmortem:{incident}", postmortem, incident)

    def look_again(self, pause: float, most: int) -> None:
        """Queue the alert's runbook once more for incidents that were left open; safe to ask again.

        `pause` seconds after its last run there is more evidence; it runs `most` times in all.
        """
        with self.transaction() as ledger:
            jobs.look_again(ledger, pause, most)

    # --- schedules and notes ---

    def handle_schedule(
        self, name: str, start: Start, latest_due: Callable[[float, float], float | None]
    ) -> float | None:
        """Queue the run that a schedule is due for, if any; of several processes that ask at once, one does.

        `latest_due` is called with the last time that was handled and the present one (Unix seconds, by the clock of
        this machine), and returns the latest due time in between, or None. A schedule that is new here is handled up to
        now; so is one that was handled while the clock was ahead.
        """
        with self.transaction() as ledger:
            return jobs.handle_schedule(ledger, name, start, latest_due)

    def set_note(self, name: str, text: str) -> None:
        """Keep a line for the status page under a name; an empty one says that all is well."""
        with self.transaction() as ledger:
            replace(ledger, NOTES, name=name, text=text, at=now())

    def notes(self) -> dict[str, tuple[str, float]]:
        """Return the lines that were kept, and when (Unix seconds)."""
        return {row.name: (row.text, row.at) for row in self._read(select(NOTES))}

    def _count(self, condition: ColumnElement[bool]) -> int:
        return int(self._read(select(func.count()).where(condition))[0][0])

    def _read(self, chosen: Select[Any]) -> list[Any]:
        with self.transaction(alone=False) as ledger:
            return list(ledger.execute(chosen))


# What each alert of a storm asks for: statements that are made once cost half of what they would.
_HELD = and_(JOBS.c.state == "queued", jobs.FLAPS)
_own = and_(INCIDENTS.c.fingerprint == bindparam("of_fingerprint"), INCIDENTS.c.starts_at == bindparam("since"))
_KNOWN = select(INCIDENTS.c.status, INCIDENTS.c.note).where(_own)
_SEEN = update(INCIDENTS).where(_own).values(seen=INCIDENTS.c.seen + 1)
_NEW = insert(INCIDENTS).values(received=now())
_waited = func.coalesce(INCIDENTS.c.held_until - INCIDENTS.c.held_from, 0.0)
_LAST = (
    select(INCIDENTS.c.id, INCIDENTS.c.starts_at, _waited, now())
    .join(JOBS, and_(JOBS.c.incident == INCIDENTS.c.id, JOBS.c.kind == "alert"))
    .where(INCIDENTS.c.fingerprint == bindparam("of_fingerprint"), ~_HELD)
    .order_by(JOBS.c.number.desc())
    .limit(1)
)
"""The last diagnosis of an alert that did not only wait for its time: when that began, how long it waited; and now."""

_SAME = (
    select(INCIDENTS.c.id)
    .where(INCIDENTS.c.subject == bindparam("of_subject"), INCIDENTS.c.status == "firing")
    .where(func.coalesce(INCIDENTS.c.alert["labels"]["severity"].as_string(), "") != bindparam("of_severity"))
    .where(INCIDENTS.c.received > now() - SAME_S, exists().where(JOBS.c.incident == INCIDENTS.c.id))
    .limit(1)
)
"""An incident that began a moment ago with the same alert in another severity, if its runbook runs."""


def _receive(ledger: Connection, alert: Alert, origin: str, router: Router, flap_s: float) -> None:
    chosen = {"of_fingerprint": alert.fingerprint, "since": alert.since}
    found = ledger.execute(_KNOWN, chosen).one_or_none()
    if found is None:
        status, note = "firing", _begin(ledger, alert, origin, router, flap_s)
    else:
        status, note = found
        ledger.execute(_SEEN, chosen)
    if alert.status == "resolved" and status == "firing":
        _resolve(ledger, alert, router, note)


def _begin(ledger: Connection, alert: Alert, origin: str, router: Router, flap_s: float) -> str:
    start = router.on_firing(alert) if alert.status == "firing" else "only its end was seen"
    note, about = start if isinstance(start, str) else "", dict[str, Any]()
    severity = alert.labels.get("severity", "")
    same = {"of_subject": alert.subject, "of_severity": severity}
    if isinstance(start, Start) and (main := ledger.scalar(_SAME, same)) is not None:
        note, about = f"runs nothing of its own, being the same as {main}", {"main": main}
        _raise_severity(ledger, main, severity)
    elif isinstance(start, Start) and (about := _flap(ledger, alert, flap_s)):
        when = f"{datetime.fromtimestamp(about['held_until'], UTC):%Y-%m-%d %H:%M:%S} UTC"
        diagnosed = f"it was diagnosed as {about['flaps_after']}"
        note = f"the alert flaps: {diagnosed}, and is again after {when} if it fires then"
    values = {
        "subject": alert.subject, "id": alert.incident, "fingerprint": alert.fingerprint, "starts_at": alert.since,
        "name": alert.name, "service": alert.labels.get("service", ""), "severity": severity, "status": "firing",
        "origin": origin, "alert": alert.as_posted(), "seen": 1, "note": note,
        **about, **_silence(ledger, alert, origin),
    }  # fmt: skip
    ledger.execute(_NEW, values)
    if isinstance(start, Start) and "main" not in about:
        jobs.add(ledger, "alert", alert.name, f"alert:{alert.fingerprint}:{alert.since}", start, alert.incident)
    return note


def _silence(ledger: Connection, alert: Alert, origin: str) -> Mapping[str, Any]:
    words, until = SILENCES.c.words.label("silenced"), SILENCES.c.until.label("silenced_until")
    chosen = select(words, until).where(SILENCES.c.service == alert.labels.get("service", ""), until > now())
    return dict(ledger.execute(chosen).mappings().first() or {}) if origin == EMBEDDED else {}


def _flap(ledger: Connection, alert: Alert, seconds: float) -> dict[str, Any]:
    """Return what an alert that flaps has beside others; nothing unless `seconds` ago or less it was diagnosed.

    A diagnosis that still waits since the alert began before is given up for that of the new start.
    """
    last = ledger.execute(_LAST, {"of_fingerprint": alert.fingerprint}).one_or_none()
    if last is None:
        return {}
    diagnosed, starts_at, held_s, time_now = last
    since_start = (alert.starts_at - datetime.fromisoformat(starts_at)).total_seconds()
    wait = held_s + seconds - since_start
    if wait <= 0 or since_start < -seconds:
        return {}
    of_alert = select(INCIDENTS.c.id).where(INCIDENTS.c.fingerprint == alert.fingerprint)
    _give_up_held(ledger, JOBS.c.incident.in_(of_alert))
    return {"flaps_after": diagnosed, "held_from": time_now, "held_until": time_now + min(wait, seconds)}


def _give_up_held(ledger: Connection, condition: ColumnElement[bool]) -> bool:
    """Give up diagnoses that wait until their alert has lasted; say whether there was one."""
    return ledger.execute(delete(JOBS).where(JOBS.c.kind == "alert", _HELD, condition)).rowcount > 0


def _raise_severity(ledger: Connection, incident: str, severity: str) -> None:
    chosen = INCIDENTS.c.id == incident
    if RANKS.get(severity, 0) > RANKS.get(ledger.scalar(select(INCIDENTS.c.severity).where(chosen)) or "", 0):
        ledger.execute(update(INCIDENTS).where(chosen).values(severity=severity))


def _resolve(ledger: Connection, alert: Alert, router: Router, note: str) -> None:
    chosen = INCIDENTS.c.id == alert.incident
    is_companion = ledger.scalar(select(INCIDENTS.c.main).where(chosen)) is not None
    runs_nothing = _give_up_held(ledger, JOBS.c.incident == alert.incident) or is_companion
    start = None if runs_nothing else router.on_resolved(alert)
    if isinstance(start, str):
        note = f"{note}; recovery check: {start}" if note else f"recovery check: {start}"
    ends_at = alert.ends_at and alert.ends_at.isoformat(timespec="microseconds")
    ledger.execute(update(INCIDENTS).where(chosen).values(status="resolved", ends_at=ends_at, note=note))
    jobs.withdraw(ledger, alert.incident)
    if isinstance(start, Start):
        jobs.add(ledger, "recovery", alert.name, f"recovery:{alert.fingerprint}:{alert.since}", start, alert.incident)

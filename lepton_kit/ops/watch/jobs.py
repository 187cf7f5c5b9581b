"""Jobs in the ledger, repairs among them: their states, and the only statements that bring one from state to state.

Every function works within a transaction of the ledger, so that of many who ask at the same moment one changes a job: a
repair is proposed, started, held or decided on once.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, exists, func, insert, or_, select, update

from lepton_kit.errors import InputError
from lepton_kit.runs.database import be_alone
from lepton_kit.runs.ledger import Owner, is_mine, my_lease, owner_columns
from lepton_kit.runs.tables import DECISIONS, INCIDENTS, JOBS, SCHEDULES, count, now, replace

Kind = Literal["alert", "recovery", "schedule", "remedy", "postmortem"]
Event = Literal["take", "end", "give back", "give up", "refuse", "hold", "approve", "reject", "withdraw"]
Via = Literal["lepton approve", "status page", "signed link"]

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

_held = INCIDENTS.alias("held")
FLAPS = exists().where(
    _held.c.id == JOBS.c.incident, JOBS.c.kind == "alert", now() >= _held.c.held_from, now() < _held.c.held_until
)
"""Whether a diagnosis waits until its alert has lasted; not where the clock was put back since."""

_earlier, _busy = JOBS.alias("earlier"), JOBS.alias("busy")
_own, _theirs = INCIDENTS.alias("own"), INCIDENTS.alias("theirs")
_succeeded = and_(_earlier.c.state == "ended", _earlier.c.status == "succeeded")
READY = and_(
    JOBS.c.state == "queued",
    ~FLAPS,
    ~exists().where(_earlier.c.number == JOBS.c.follows, ~_succeeded),
    or_(
        JOBS.c.kind != "remedy",
        ~exists().where(
            *(_own.c.id == JOBS.c.incident, _theirs.c.service == _own.c.service, _theirs.c.id == _busy.c.incident),
            *(_busy.c.state == "running", _busy.c.kind == "remedy"),
        ),
    ),
)
"""Which jobs may start now.

The diagnosis of an alert that flaps not before its time (unless the clock was put back since), a repair not before the
one that it follows succeeded, nor beside one of its service.
"""

HOUR_S = 3600.0
CLOCK_STEP_S = 600.0
"""A clock that is put back by no more is waited for, so that no schedule is run twice for that."""
WITHDRAWN = "withdrawn: the alert ended before a decision"
NOT_STARTED = "withdrawn: the alert ended before the first repair did"
TOO_LATE = "the alert had ended before its diagnosis did: no repair was proposed"


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


COLUMNS = [JOBS.c[name] for name in Job.__dataclass_fields__]


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


_KNOWN = select(JOBS.c.number).where(JOBS.c.key == bindparam("of_key"))
_NEW = insert(JOBS).values(queued=now()).returning(JOBS.c.number)


def add(
    ledger: Connection,
    kind: Kind,
    name: str,
    key: str,
    start: Start,
    incident: str | None = None,
    state: Literal["queued", "waiting"] = "queued",
    **columns: Any,
) -> int | None:
    """Make a job, with further columns, and return its number; None where one with its key is known."""
    if ledger.scalar(_KNOWN, {"of_key": key}) is not None:
        return None
    about = {"key": key, "kind": kind, "name": name, "incident": incident, "state": state}
    number: int | None = ledger.scalar(_NEW, {**about, **vars(start), **columns})
    return number


def move(ledger: Connection, event: Event, *chosen: ColumnElement[bool], **columns: Any) -> list[Job]:
    """Bring those of the chosen jobs that are in a fitting state to the next one, and return them as they are then.

    The ledger is in a transaction; `columns` are set beside the state.
    """
    before, after = MOVES[event]
    changes = {"state": after, **columns} | ({"ended": now()} if after in ("ended", "refused") else {})
    moved = update(JOBS).where(JOBS.c.state.in_(before), *chosen).values(changes).returning(*COLUMNS)
    return [Job(*row) for row in ledger.execute(moved)]


def move_mine(ledger: Connection, event: Event, number: int, **columns: Any) -> bool:
    """Do the same to a job that this process runs; say whether it is."""
    return bool(move(ledger, event, JOBS.c.number == number, is_mine(JOBS), **columns))


def take(ledger: Connection) -> Job | None:
    """Make this process the one that runs the oldest job that may start now, and return that."""
    ready = select(JOBS.c.number).where(READY).order_by(JOBS.c.number).limit(1)
    if ledger.scalar(ready.where(JOBS.c.kind == "remedy")) is None:
        ready = ready.where(JOBS.c.kind != "remedy")
    else:
        be_alone(ledger)  # who takes another repair of the service at this moment would not see this one
    oldest = ledger.scalar(ready.with_for_update(of=JOBS, skip_locked=True))
    if oldest is None:
        return None
    begun = {"started": now(), "attempts": JOBS.c.attempts + 1, **my_lease()}
    [job] = move(ledger, "take", JOBS.c.number == oldest, **begun)
    return job


def abandoned(ledger: Connection) -> list[Job]:
    """Return the jobs whose process has died, but for those that another process is seeing to."""
    running = select(*owner_columns(JOBS), *COLUMNS).where(JOBS.c.state == "running").with_for_update(skip_locked=True)
    return [Job(*row[5:]) for row in ledger.execute(running) if Owner(*row[:4]).is_dead(row.is_lease_over)]


def look_again(ledger: Connection, pause: float, most: int) -> None:
    """Queue the alert's runbook once more for incidents that were left open, `pause` seconds after the last run."""
    looks = count(JOBS.c.kind == "alert")
    last_open = func.max(case((JOBS.c.leaves_open, JOBS.c.number), else_=0))
    due = (
        select(INCIDENTS.c.id, looks, func.min(case((JOBS.c.kind == "alert", JOBS.c.number))))
        .join(JOBS, JOBS.c.incident == INCIDENTS.c.id)
        .where(INCIDENTS.c.status == "firing")
        .group_by(INCIDENTS.c.id)
        .having(func.max(JOBS.c.number) == last_open, count(JOBS.c.state != "ended") == 0)
        .having(func.max(JOBS.c.ended) <= now() - pause, looks.between(1, most - 1))
    )
    for incident, made, first in ledger.execute(due).all():
        job = Job(*ledger.execute(select(*COLUMNS).where(JOBS.c.number == first)).one())
        start, key = Start(job.notebook, job.parameters), f"{job.key}:look-{made + 1}"
        add(ledger, "alert", job.name, key, start, incident, look=made + 1)


def handle_schedule(
    ledger: Connection, name: str, start: Start, latest_due: Callable[[float, float], float | None]
) -> float | None:
    """Queue the run that a schedule is due for, if any, and return when it was due; see `Queue.handle_schedule`."""
    time_here = time.time()
    handled = ledger.scalar(select(SCHEDULES.c.handled).where(SCHEDULES.c.name == name))
    is_known = handled is not None and handled <= time_here + CLOCK_STEP_S
    due = latest_due(handled, time_here) if handled is not None and is_known else None
    if not is_known or due is not None:
        replace(ledger, SCHEDULES, name=name, handled=due if due is not None else time_here)
    if due is not None:
        key = f"schedule:{name}:{due:.0f}"
        if add(ledger, "schedule", name, key, start) is None:  # it was due while the clock was ahead
            add(ledger, "schedule", name, f"schedule:{name}:{secrets.token_hex(4)}:{due:.0f}", start)
    return due


# --- repairs ----------------------------------------------------------------------------------------------------------


def propose(ledger: Connection, incident: str, proposals: Sequence[Proposal], most_per_hour: int) -> None:
    """Queue the repairs that a diagnosis asks for, one after the other, or let them wait for a person.

    An incident and a cause have one repair for ever: who proposes it again changes nothing.
    """
    chosen = INCIDENTS.c.id == incident
    row = ledger.execute(select(INCIDENTS.c.service, INCIDENTS.c.status).where(chosen)).one_or_none()
    if row is None or not proposals:
        return
    if row.status != "firing":
        ledger.execute(update(INCIDENTS).where(chosen).values(note=TOO_LATE))
        return
    earlier = None
    for one in proposals:
        why = one.why or over_limit(ledger, row.service, incident, most_per_hour)
        about = {"follows": earlier, "is_automatic": not why, "why": why, "rehearsal": one.rehearsal}
        start, key = Start(one.notebook, one.parameters), f"remedy:{incident}:{one.cause}"
        state: Literal["queued", "waiting"] = "waiting" if why else "queued"
        earlier = add(ledger, "remedy", one.cause, key, start, incident, state, **about) or earlier


def over_limit(ledger: Connection, service: str, incident: str, most_per_hour: int) -> str:
    """Say why no further repair of a service may start by itself now; empty where one may."""
    repairs = select(JOBS.c.incident).join(INCIDENTS, INCIDENTS.c.id == JOBS.c.incident)
    of_service = repairs.where(JOBS.c.kind == "remedy", INCIDENTS.c.service == service)
    started = of_service.where(JOBS.c.is_automatic, JOBS.c.queued > now() - HOUR_S)
    if (recent := len(ledger.execute(started).all())) >= most_per_hour:
        return (
            f"{recent} repairs of {service!r} started by themselves within the hour (most_per_hour = {most_per_hour})"
        )
    busy = of_service.where(JOBS.c.incident != incident, JOBS.c.state.in_(["running", "queued"])).limit(1)
    other = ledger.scalar(busy)
    return f"another repair of {service!r} has not ended yet (incident {other})" if other else ""


def hold(ledger: Connection, job: int, why: str) -> None:
    """Let a repair wait for a person, who then knows of what came before it; withdraw it where the alert has ended."""
    chosen = JOBS.c.number == job
    status = select(INCIDENTS.c.status).join(JOBS, JOBS.c.incident == INCIDENTS.c.id).where(chosen)
    if ledger.scalar(status) == "resolved":
        move(ledger, "withdraw", chosen, error=f"{WITHDRAWN} ({why})")
    else:
        move(ledger, "hold", chosen, error=None)
    ledger.execute(update(JOBS).where(chosen).values(is_automatic=False, follows=None, why=why))


def hold_followers(ledger: Connection) -> None:
    """Let repairs wait for a person whose earlier one was refused or failed: what that left is not known."""
    follow = select(JOBS.c.number, _earlier.c.name).join(_earlier, _earlier.c.number == JOBS.c.follows)
    left = and_(_earlier.c.state.in_(["refused", "ended"]), ~_succeeded)
    for job, cause in ledger.execute(follow.where(JOBS.c.state.in_(["queued", "waiting"]), left)).all():
        hold(ledger, job, f"the repair of the first cause, {cause!r}, was refused or failed")


def withdraw(ledger: Connection, incident: str) -> None:
    """Refuse the repairs of an incident that wait for a person or for another one: they would repair what is over."""
    own = and_(JOBS.c.incident == incident, JOBS.c.kind == "remedy")
    move(ledger, "withdraw", own, JOBS.c.state == "waiting", error=WITHDRAWN)
    move(ledger, "withdraw", own, JOBS.c.state == "queued", JOBS.c.follows.is_not(None), error=NOT_STARTED)


def decide(ledger: Connection, job: int, decision: Decision) -> str:
    """Start or refuse a repair that waits, keep who said so, and return its incident.

    Raises InputError when it does not wait: it was decided on already, was withdrawn, or there is none.
    """
    chosen = and_(JOBS.c.number == job, JOBS.c.kind == "remedy")
    if decision.is_approved:  # a run that was broken off is not taken for the one that is approved now
        moved = move(ledger, "approve", chosen, run_id=None, attempts=0, is_automatic=False)
    else:
        error = f"rejected by {decision.by}" + (f": {decision.note}" if decision.note else "")
        moved = move(ledger, "reject", chosen, error=error, is_automatic=False)
    if not moved:
        raise InputError(f"repair {job}: {_why_not_waiting(ledger, job)}")
    ledger.execute(insert(DECISIONS).values(job=job, **vars(decision)))
    return str(moved[0].incident)


def _why_not_waiting(ledger: Connection, job: int) -> str:
    if made := decisions(ledger, job):
        return f"{'approved' if made[-1].is_approved else 'rejected'} already, by {made[-1].by}"
    chosen = select(JOBS.c.state, JOBS.c.error).where(JOBS.c.number == job, JOBS.c.kind == "remedy")
    row = ledger.execute(chosen).one_or_none()
    return "there is none" if row is None else f"does not wait for a decision, it is {row[0]} ({row[1] or 'no error'})"


def repairs(ledger: Connection, condition: ColumnElement[bool]) -> list[Remedy]:
    """Return the repairs that meet a condition, oldest first, with what was decided on each."""
    named = {"job": JOBS.c.number, "service": INCIDENTS.c.service, "cause": JOBS.c.name, "after": _earlier.c.name}
    fields = [name for name in Remedy.__dataclass_fields__ if name != "decisions"]
    chosen = (
        select(*((named[name] if name in named else JOBS.c[name]).label(name) for name in fields))
        .join(INCIDENTS, INCIDENTS.c.id == JOBS.c.incident)
        .join(_earlier, _earlier.c.number == JOBS.c.follows, isouter=True)
        .where(JOBS.c.kind == "remedy", condition)
        .order_by(JOBS.c.number)
    )
    found = [row._asdict() for row in ledger.execute(chosen)]
    return [Remedy(**one, decisions=decisions(ledger, one["job"])) for one in found]


def decisions(ledger: Connection, job: int) -> tuple[Decision, ...]:
    """Return what was decided on a repair, in order."""
    columns = [DECISIONS.c[name] for name in Decision.__dataclass_fields__]
    made = ledger.execute(select(*columns).where(DECISIONS.c.job == job).order_by(DECISIONS.c.number))
    return tuple(Decision(*row) for row in made)

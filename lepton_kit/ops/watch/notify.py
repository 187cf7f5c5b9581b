"""Tells people of incidents, by whatever Apprise reaches, such as Slack, PagerDuty, e-mail or a webhook.

What is worth a notice follows from the ledger, so a crash loses none. Each notice has a row for each address, is sent
by one of the processes that share the ledger, and is tried again until it got through. It comes twice only where the
process dies between sending it and noting that. Of more than 500 incidents at once the newest are looked at.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, exists, func, insert, select, update

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.evidence import FOLDER
from lepton_kit.ops.watch.links import Links
from lepton_kit.ops.watch.policy import Routes
from lepton_kit.ops.watch.queue import Queue, is_silenced
from lepton_kit.ops.watch.status import incident_facts
from lepton_kit.project.settings import Notify
from lepton_kit.runs.tables import INCIDENTS, NOTICES, now
from lepton_kit.secrets import resolve_secret

logger = logging.getLogger("lepton.watch")
LOOK_S = 3.0
OLD_S = 3600.0
"""What happened longer ago is not told: people know of it, or the watch was down."""
AGAIN_S = 10.0
"""Seconds until a notice that did not get through is tried again; doubled each time."""
SENDING_S = 300.0
"""Seconds after which a notice whose sending was never noted is tried again; services time out far sooner."""
MOST_TRIES, MOST_INCIDENTS = 8, 500
LONGEST = 300
"""Characters of a line: its text comes from alerts and diagnoses."""

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Notice:
    """A message that people get once: by its `key`; `at` is when it happened (Unix seconds).

    `job` is that of the repair of an `incident` that it asks a decision on.
    """

    key: str
    event: str
    at: float
    title: str
    body: str
    incident: str
    job: int | None = None


def notices(facts: Facts, address: str) -> Iterator[Notice]:
    """Give the notices of an incident, by what `incident_facts` says of it; `address` is that of the watch, or empty.

    An incident that another one stands for has none, nor one that is silenced.
    """
    if facts["same_as"] or facts["silenced"]:
        return
    looks = [one["results"] for one in facts["runs"] if one["results"].get("cause", "unknown") != "unknown"]
    told: Facts = next(iter(looks), {})
    about = f"{facts['service']}: {facts['name']} ({facts['severity'] or 'no severity'})"
    probability = told.get("probability")
    likely = f" ({probability:.0%})" if isinstance(probability, float | int) else ""
    cause = f"Cause: {told['cause']}{likely}" if told else ""
    following = facts["next_action"] or {"what": "", "command": ""}
    link = f"{address}/incidents/{quote(facts['id'])}" if address else ""

    sees_to = facts["acknowledged_by"]
    people = [f"Owner: {facts['owner']}" * bool(facts["owner"]), f"Acknowledged by {sees_to}" * bool(sees_to)]

    def notice(event: str, mark: str, at: float, words: str, *lines: str, job: int | None = None) -> Notice:
        said = [facts["summary"], *lines, cause, *people, f"Next: {following['what']}", following["command"], link]
        body = "\n".join(_line(one) for one in said if one and one != "Next: ")
        return Notice(f"{facts['id']}:{event}:{mark}", event, at, _line(f"{words}: {about}"), body, facts["id"], job)

    yield notice("opened", "", facts["received"], "Opened")
    if sees_to:
        yield notice(
            "acknowledged",
            f"{facts['acknowledged']} {sees_to}",
            _unix(facts["acknowledged"]),
            f"Acknowledged by {sees_to}",
        )
    for one in facts["runs"]:
        if one["kind"] == "alert" and one["state"] == "ended" and one["results"].get("cause"):
            yield notice("diagnosed", one["results"]["cause"], one["ended"], f"Diagnosed as {one['results']['cause']}")
    for one in facts["remedies"]:
        repair = f"the {one['cause']} repair"
        ended = next((run["ended"] for run in facts["runs"] if run["number"] == one["job"]), None)
        if one["state"] == "waiting":  # however long ago it was queued: it may wait again after a decision
            mark = f"{one['job']}.{len(one['decisions'])}"
            yield notice("waiting", mark, time.time(), f"Waits for approval of {repair}", one["why"], job=one["job"])
        if one["state"] == "ended" and ended is not None:
            verdict = one["verdict"] or "no verdict"
            event, words = ("repaired", "Repaired") if verdict == "recovered" else ("not_repaired", "Not repaired")
            yield notice(event, str(one["job"]), ended, words, f"Outcome of {repair}: {verdict}")
    if facts["status"] == "resolved" and facts["ends_at"]:
        yield notice("resolved", "", _unix(facts["ends_at"]), "Resolved")


class Notifier:
    """The thread that finds what is worth a notice, and sends it.

    `on_trouble` is given what did not get through, and why. Raises InputError when Apprise is not installed, or an
    address is not one that it knows.
    """

    def __init__(
        self,
        settings: Notify,
        project: Path,
        queue: Queue,
        routes: Routes | None = None,
        on_trouble: Callable[[Mapping[str, str]], object] = lambda _: None,
    ) -> None:
        self._settings, self._project, self._queue, self._routes = settings, project, queue, routes
        self._on_trouble = on_trouble
        self._targets = open_targets(settings, project)
        self._links = links_of(settings, project)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="notify", daemon=True)

    def start(self) -> None:
        """Begin, if anybody is to be told."""
        if self._targets:
            self._thread.start()

    def stop(self) -> None:
        """Send nothing more; what is left waits for the next start."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def look(self) -> None:
        """Note what is new, and send what is due."""
        for one in self._queue.current(MOST_INCIDENTS, time.time() - OLD_S):
            is_over = one.status == "resolved" and one.ends_at
            if one.silenced and is_over and _unix(is_over) < (one.silenced_until or 0.0):
                continue  # planned work: it came and went within its silence
            facts = incident_facts(one, self._queue, self._project, self._routes)
            self._note([notice for notice in notices(facts, self._address()) if notice.event in self._settings.on])
        for target in self._targets:
            while not self._stopping.is_set() and self._send_next(target):
                pass
        self._on_trouble(self.troubles())

    def troubles(self) -> dict[str, str]:
        """Return what did not get through in the last day, by where it should have gone."""
        failed = select(NOTICES.c.target, NOTICES.c.error, func.count()).where(
            NOTICES.c.state != "sent", NOTICES.c.error != "", NOTICES.c.at > now() - 86400
        )
        with self._queue.transaction() as ledger:
            rows = ledger.execute(failed.group_by(NOTICES.c.target, NOTICES.c.error)).all()
        return {f"notices to {target}": f"{number} not sent: {error}" for target, error, number in rows}

    def _loop(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:  # whatever it is: the next look may find it gone, and the status page says so
                logger.warning("notices: %s: %s", type(error).__name__, error)
                self._on_trouble({"notices": f"{type(error).__name__}: {error}"})

    def _address(self) -> str:
        if self._settings.address:
            return self._settings.address.rstrip("/")
        with contextlib.suppress(OSError):
            return (self._project / FOLDER / "address").read_text(encoding="utf-8").strip()
        return ""

    def _link(self, job: int | None) -> str:
        """Return the line by which who gets a notice decides on a repair; it is signed as it is sent, and not kept."""
        repair = next((one for one in self._queue.waiting() if one.job == job), None)
        if self._links is None or repair is None or not (address := self._address()):
            return ""
        return f"\nDecide (once, within {self._links.minutes:g} minutes): {address}{self._links.path(repair)}"

    def _note(self, told: Sequence[Notice]) -> None:
        with self._queue.transaction() as ledger:
            own = select(NOTICES.c.key, NOTICES.c.target).where(NOTICES.c.key.in_([notice.key for notice in told]))
            known = {tuple(row) for row in ledger.execute(own)}
            oldest = ledger.execute(select(now())).scalar_one() - OLD_S
            rows = [
                {**vars(notice), "target": target, "due": notice.at, "tries": 0, "state": "waiting"}
                for notice in told
                for target in self._targets
                if (notice.key, target) not in known and notice.at > oldest
            ]
            if rows:
                ledger.execute(insert(NOTICES), rows)

    def _send_next(self, target: str) -> bool:
        """Send the oldest notice to an address that is due; say whether there may be another."""
        own = NOTICES.c.target == target, NOTICES.c.state == "waiting"
        with self._queue.transaction() as ledger:
            sent = NOTICES.c.target == target, NOTICES.c.state == "sent", NOTICES.c.due > now() - 3600
            if ledger.execute(select(func.count()).where(*sent)).scalar_one() >= self._settings.most_per_hour:
                over = {"error": f"more than most_per_hour = {self._settings.most_per_hour}"}
                ledger.execute(update(NOTICES).where(*own).values(over))
                ledger.execute(update(NOTICES).where(*own, NOTICES.c.at < now() - OLD_S).values(state="given up"))
                return False
            silenced = exists().where(INCIDENTS.c.id == NOTICES.c.incident, is_silenced())
            due = select(NOTICES).where(*own, NOTICES.c.due <= now(), ~silenced).order_by(NOTICES.c.at).limit(1)
            row = ledger.execute(due.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return False
            # Should this process die, another one takes it once nobody can be sending it any more.
            self._set(ledger, row, row.tries, tries=row.tries + 1, due=now() + SENDING_S)
        error = self._targets[target](row.title, row.body + self._link(row.job))
        tries = row.tries + 1
        with self._queue.transaction() as ledger:
            if not error:
                self._set(ledger, row, tries, state="sent", due=now(), error="")
            else:
                state = "waiting" if tries < MOST_TRIES else "given up"
                self._set(ledger, row, tries, error=error, state=state, due=now() + AGAIN_S * 2**row.tries)
        return True

    def _set(self, ledger: Connection, row: Any, made: int, **values: Any) -> None:
        """Change a notice that nobody else has taken since as many tries were made."""
        chosen = NOTICES.c.key == row.key, NOTICES.c.target == row.target, NOTICES.c.tries == made
        ledger.execute(update(NOTICES).where(*chosen, NOTICES.c.state == "waiting").values(values))


def links_of(settings: Notify, project: Path) -> Links | None:
    """Return what signs the links of notices; None where there are to be none.

    Raises InputError when the key cannot be resolved.
    """
    if settings.links is None:
        return None
    return Links(resolve_secret(settings.links, project).strip().encode(), settings.link_minutes)


def newest(queue: Queue, most: int) -> list[dict[str, Any]]:
    """Return the newest notices, and what became of each."""
    with queue.transaction() as ledger:
        rows = ledger.execute(select(NOTICES).order_by(NOTICES.c.at.desc()).limit(most))
        return [dict(row) for row in rows.mappings()]


Send = Callable[[str, str], str]
"""Sends a title and a body; returns why it did not get through, or an empty text."""


def open_targets(settings: Notify, project: Path) -> dict[str, Send]:
    """Return what sends to each address, by the reference to it.

    Raises InputError when Apprise is not installed, a reference has no value, or Apprise does not know an address.
    """
    if not settings.urls:
        return {}
    try:
        import apprise
    except ImportError as error:
        raise InputError("lepton.toml, [notify]: needs Apprise: pip install 'lepton-kit[notify]'") from error
    found: dict[str, Send] = {}
    for reference in settings.urls:
        service = apprise.Apprise.instantiate(resolve_secret(reference, project), suppress_exceptions=True)
        if service is None:
            raise InputError(
                f"lepton.toml, notify.urls: {reference!r} holds no address that Apprise knows, such as slack://… or "
                "mailto://… (https://github.com/caronc/apprise/wiki)"
            )

        def send(title: str, body: str, service: Any = service) -> str:
            try:
                got_through = service.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT)
            except Exception as error:  # Apprise has more than a hundred services, each with its own errors
                return type(error).__name__  # their text may hold the address with its secrets
            return "" if got_through else "the service did not take it, or cannot be reached"

        found[reference] = send
    return found


def _line(text: str) -> str:
    flat = " ".join(str(text).split())
    return flat if len(flat) <= LONGEST else flat[: LONGEST - 1] + "…"


def _unix(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()

"""Alerts that flap: one that begins again soon after its last diagnosis waits, and is diagnosed if it lasts."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from lepton_kit.ops.watch.webhook import Alert

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS flaps (incident TEXT PRIMARY KEY, diagnosed TEXT NOT NULL, job INTEGER NOT NULL,
    since REAL NOT NULL, until REAL NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS flaps_diagnosed ON flaps (diagnosed)",
    "CREATE INDEX IF NOT EXISTS flaps_job ON flaps (job)",
)
_NOW = "(julianday('now') - 2440587.5) * 86400.0"
WAITS = f"""EXISTS (SELECT 1 FROM flaps WHERE flaps.job = jobs.number AND {_NOW} >= since AND {_NOW} < until)"""
"""Whether a diagnosis waits until its alert has lasted; not where the clock was put back since."""


@dataclass(frozen=True)
class Flap:
    """An alert that began again soon after it was diagnosed as an incident; it waits from `since` to `until`."""

    diagnosed: str
    since: float
    until: float

    @property
    def words(self) -> str:
        """Return what is so, for people."""
        when = f"{datetime.fromtimestamp(self.until, UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"the alert flaps: it was diagnosed as {self.diagnosed}, and is again after {when} if it fires then"


def find(ledger: sqlite3.Connection, alert: Alert, seconds: float) -> Flap | None:
    """Report that an alert flaps; None where its last diagnosis was not within `seconds` before its start.

    A diagnosis that still waits since the alert began before is given up for that of the new start.
    """
    now = time.time()
    last = ledger.execute(
        "SELECT incidents.id, starts_at, coalesce(until - since, 0) FROM incidents"
        " JOIN jobs ON jobs.incident = incidents.id AND jobs.kind = 'alert'"
        " LEFT JOIN flaps ON flaps.incident = incidents.id"
        f" WHERE fingerprint = ? AND NOT (jobs.state = 'queued' AND {WAITS}) ORDER BY jobs.number DESC LIMIT 1",
        [alert.fingerprint],
    ).fetchone()
    if last is None:
        return None
    since_start = (alert.starts_at - datetime.fromisoformat(last[1])).total_seconds()
    wait = last[2] + seconds - since_start
    if wait <= 0 or since_start < -seconds:
        return None
    ledger.execute(
        f"DELETE FROM jobs WHERE kind = 'alert' AND state = 'queued' AND {WAITS}"
        " AND incident IN (SELECT id FROM incidents WHERE fingerprint = ?)",
        [alert.fingerprint],
    )
    return Flap(last[0], now, now + min(wait, seconds))


def hold(ledger: sqlite3.Connection, incident: str, flap: Flap) -> None:
    """Let the diagnosis of an incident wait."""
    ledger.execute(
        "INSERT INTO flaps SELECT ?, ?, number, ?, ? FROM jobs WHERE incident = ? AND kind = 'alert'",
        [incident, flap.diagnosed, flap.since, flap.until, incident],
    )


def withdraw(ledger: sqlite3.Connection, incident: str) -> bool:
    """Give up the diagnosis of an incident whose alert has ended before it was due; say whether there was one."""
    given_up = ledger.execute(
        f"DELETE FROM jobs WHERE incident = ? AND kind = 'alert' AND state = 'queued' AND {WAITS} RETURNING number",
        [incident],
    )
    return bool(given_up.fetchall())


def count(ledger: sqlite3.Connection, incident: str) -> int:
    """Return how often an incident's alert began again so soon that it was not diagnosed at once."""
    return int(ledger.execute("SELECT count(*) FROM flaps WHERE diagnosed = ?", [incident]).fetchone()[0])

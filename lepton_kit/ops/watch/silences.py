"""Which incidents are silenced, here or in Alertmanager, and which of those ended there without a word.

Alertmanager does not post the end of an alert that is silenced, so an incident would stay open for ever.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.intake import Intake
from lepton_kit.ops.watch.queue import MOST_OPEN, WEBHOOK, Incident, Queue
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.tls import client_of

GONE_S = 300.0
"""Seconds that Alertmanager must not know a silenced alert before it counts as over: one that was started anew knows
none until its Prometheus sends them again."""


class Silences:
    """Asks the Alertmanager at an address which of the open incidents are silenced.

    Raises InputError when the address is none.
    """

    def __init__(self, address: str, queue: Queue, intake: Intake, timeout: float = 5.0) -> None:
        self._client, self._address = client_of("Alertmanager", address, timeout)
        self._queue, self._intake = queue, intake
        self._missing: dict[str, float] = {}

    def look(self, at: float | None = None) -> None:
        """Note what Alertmanager says of the open incidents, and end those that ended while they were silenced.

        `at` is the present (Unix seconds). Raises InputError when it does not answer as Alertmanager does; what was
        noted stays as it was.
        """
        at = time.time() if at is None else at
        opened = self._queue.incidents(MOST_OPEN, status="firing", origin=WEBHOOK)
        if not opened:
            return
        known = {alert["fingerprint"]: alert["status"]["silencedBy"] for alert in self._ask("alerts")}
        silences = {one["id"]: one for one in self._ask("silences")} if any(known.values()) else {}
        told = {}
        for incident in opened:
            if incident.fingerprint not in known and incident.silenced:
                told[incident.id] = incident.silenced, incident.silenced_until or 0.0
            elif by := [silences[id] for id in known.get(incident.fingerprint, ()) if id in silences]:
                last = max(by, key=_until)
                told[incident.id] = _words(last), _until(last).timestamp()
        self._queue.note_silences(told)
        self._end_gone([one for one in opened if one.silenced and one.fingerprint not in known], at)

    def _end_gone(self, gone: list[Incident], at: float) -> None:
        self._missing = {one.id: self._missing.get(one.id, at) for one in gone}
        over = [one for one in gone if at - self._missing[one.id] >= GONE_S]
        if over:
            ends = {one.id: datetime.fromtimestamp(self._missing[one.id], UTC) for one in over}
            ended = [{**one.alert, "status": "resolved", "endsAt": ends[one.id]} for one in over]
            self._intake.submit([Alert.model_validate(alert) for alert in ended], WEBHOOK).result(timeout=30)

    def _ask(self, what: str) -> list[dict[str, Any]]:
        try:
            answer = self._client.get(f"/api/v2/{what}")
            answer.raise_for_status()
            found: list[dict[str, Any]] = answer.json()
            _check(what, found)
        except httpx.HTTPError as error:
            raise InputError(
                f"Alertmanager {self._address}: does not answer ({error or type(error).__name__})"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"Alertmanager {self._address}: /api/v2/{what} is not readable ({error!r})") from error
        return found


def _check(what: str, found: list[dict[str, Any]]) -> None:
    """Raise KeyError or TypeError where an answer lacks what is read of it."""
    if not isinstance(found, list):
        raise TypeError(f"a {type(found).__name__} is no list")
    for one in found:
        _ = (one["fingerprint"], list(one["status"]["silencedBy"])) if what == "alerts" else (one["id"], _words(one))


def silence(queue: Queue, service: str, seconds: float, by: str, why: str) -> str:
    """Silence the alerts of a service that are evaluated here, from now on; 0 s ends that. Return it in words."""
    until = time.time() + seconds
    told = {"endsAt": datetime.fromtimestamp(until, UTC).isoformat(), "createdBy": by, "comment": why}
    queue.silence(service, words := _words(told) if seconds else "", until)
    return words


def _words(silence: Mapping[str, Any]) -> str:
    """Say who silenced an alert, until when, and why.

    >>> _words({"endsAt": "2026-11-25T03:30:00.000Z", "createdBy": "Kim", "comment": "moving racks"})
    'by Kim until 2026-11-25 03:30 UTC: moving racks'
    """
    why = " ".join(silence["comment"].split())[:300]
    return f"by {silence['createdBy']} until {_until(silence):%Y-%m-%d %H:%M} UTC" + f": {why}" * bool(why)


def _until(silence: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(silence["endsAt"]).astimezone(UTC)

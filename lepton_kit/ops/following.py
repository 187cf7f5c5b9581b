"""Follows what a fault brings to a service, from its alert to its postmortem, by what `lepton watch` says of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx

from lepton_kit.errors import LeptonError
from lepton_kit.reports.values import sure

Facts = Mapping[str, Any]
Approve = Callable[[str, Facts], object]
"""Called with an incident's id and its repair that waits for a person, once each."""


def nobody(incident: str, repair: Facts) -> None:
    """Approve no repair."""


@dataclass
class Seen:
    """What has been seen of the incidents since the fault; times are those of the monotonic clock.

    `diagnosis` is what the diagnosis recorded before the repair ended, `repair` what the repair did: the first that
    recovered, or else the last. `incident` is the first whose postmortem, the run `postmortem`, has succeeded.
    `diagnoses` holds the diagnosis of each incident, by its id, until the first repair ended, and `repairs` the
    incident of each repair that has run, by its job's number.
    """

    injected: float | None = None
    alert: str = ""
    alerted: float | None = None
    diagnosis: Facts = field(default_factory=dict)
    diagnosed: float | None = None
    is_repair_proposed: bool = False
    repair: Facts = field(default_factory=dict)
    repaired: float | None = None
    repaired_by: str = ""
    diagnoses: dict[str, Facts] = field(default_factory=dict)
    repairs: dict[int, Facts] = field(default_factory=dict)
    incident: Facts = field(default_factory=dict)
    postmortem: str = ""
    firing: tuple[str, ...] = ()
    is_busy: bool = False

    @property
    def repaired_alone(self) -> Facts | None:
        """Return the incident of the one repair that ran, where its own diagnosis is the one recorded; else None."""
        if len(self.repairs) != 1:
            return None
        (incident,) = self.repairs.values()
        own, told = self.diagnoses.get(str(incident["id"]), {}), self.diagnosis
        named = [(one.get("cause"), list(one.get("also", ()))) for one in (own, told)]
        return incident if own and named[0] == named[1] else None


@dataclass(frozen=True)
class Step:
    """Something that is waited for, how many seconds after the step before it, and when it is there."""

    name: str
    within_s: float
    is_reached: Callable[[Seen], bool]


ALERTED = Step("alert", 120.0, lambda seen: seen.alerted is not None)
DIAGNOSED = Step("diagnosis", 240.0, lambda seen: seen.is_repair_proposed)
REPAIRED = Step("repair", 300.0, lambda seen: seen.repaired is not None)
RECOVERED = Step("recovery of all objectives", 240.0, lambda seen: not seen.firing)
LOOKED_BACK = Step("postmortem", 300.0, lambda seen: bool(seen.postmortem))
IDLE = Step("end of all runs", 600.0, lambda seen: not seen.is_busy)
HEALTHY_WITHIN_S = 600.0
POLL_S = 1.0  # between two looks: more often would take the services what they are watched for, a core


class StepMissedError(LeptonError):
    """A step did not come within its time."""

    def __init__(self, step: str, within_s: float, last: str) -> None:
        self.step = step
        super().__init__(f"step {step!r}: did not come within {within_s:g} s; last seen: {last}")


class Follower:
    """Follows the incidents of one service by `/status.json`.

    `tell` gets a line for each thing that is new, `approve` an incident's id and its repair that waits for a person,
    once each.
    """

    def __init__(
        self,
        client: httpx.Client,
        service: str,
        tell: Callable[[str], object],
        approve: Approve = nobody,
    ) -> None:
        self._client, self._service, self._tell_line, self._approve = client, service, tell, approve
        self.seen = Seen()
        self._began = float("inf")  # of the wall clock: an incident from before the fault is not its own
        self._asked: set[tuple[str, str]] = set()
        self._ended: set[int] = set()  # jobs whose results were seen: each counts once, when it came
        self._told: set[str] = set()
        self._last = "nothing"

    def inject(self, fault: Callable[[], object], healthy_s: float, within_s: float = HEALTHY_WITHIN_S) -> None:
        """Let a fault begin once no alert has fired for `healthy_s` seconds.

        Raises StepMissedError when an alert fires again and again for `within_s` seconds; nothing is harmed then.
        """
        began, healthy_since = time.monotonic(), float("inf")
        while True:
            status, now = self._status(), time.monotonic()
            firing = self._of(status["open_incidents"]) if status else []
            for one in firing:
                self._tell(f"alert {one['name']} fires before anything was done: the fault waits for its end")
            is_healthy = status is not None and not firing  # without an answer it is not known
            healthy_since = min(healthy_since, now) if is_healthy else float("inf")
            if now - healthy_since >= healthy_s:
                break
            if now - began > within_s:
                raise StepMissedError("a service without alerts", within_s, self._last)
            time.sleep(POLL_S)
        self.seen.injected, self._began = time.monotonic(), time.time()
        fault()

    def follow(self, *steps: Step) -> None:
        """Wait for one step after the other.

        Raises StepMissedError when one does not come within its time: that names it, and what was seen last.
        Raises LeptonError when a postmortem fails.
        """
        for step in steps:
            deadline = time.monotonic() + step.within_s
            while not (self._look() and step.is_reached(self.seen)):
                if time.monotonic() > deadline:
                    firing = f" (firing: {', '.join(self.seen.firing)})" if self.seen.firing else ""
                    raise StepMissedError(step.name, step.within_s, self._last + firing)
                time.sleep(POLL_S)

    def _status(self) -> Facts | None:
        """Return what `lepton watch` says; None where it has no answer now, and is asked again later."""
        try:
            answer = self._client.get("/status.json")
        except httpx.HTTPError as error:
            self._tell(f"lepton watch does not answer: {type(error).__name__}")
            return None
        if not answer.is_success:
            self._tell(f"lepton watch answers {answer.status_code}: {answer.text[:300]}")
            return None
        said: Facts = answer.json()
        return said

    def _look(self) -> bool:
        """See what is new; say whether there was an answer."""
        if (status := self._status()) is None:
            return False
        firing = self._of(status["open_incidents"])
        known = [*self._of(status["recent_incidents"]), *firing]
        own = sorted((one for one in known if _began(one) > self._began), key=_began)
        for incident in own:
            self._see(incident)
        self.seen.firing = tuple(sorted({str(one["name"]) for one in firing}))
        self.seen.is_busy = any(job["state"] in ("queued", "running") for one in own for job in one["runs"])
        return True

    def _of(self, incidents: Sequence[Facts]) -> list[Facts]:
        return [one for one in incidents if one["service"] == self._service]

    def _see(self, incident: Facts) -> None:
        seen, name = self.seen, f"alert {incident['name']} ({incident['severity']})"
        if seen.alerted is None:
            seen.alert, seen.alerted = str(incident["name"]), time.monotonic()
        self._tell(f"{name} fires: {incident['summary']}")
        for job in incident["runs"]:
            self._see_job(incident, job)
        for repair in incident["remedies"]:
            seen.is_repair_proposed = True
            asked = (str(incident["id"]), str(repair["cause"]))
            if repair["state"] == "waiting" and asked not in self._asked:
                self._asked.add(asked)
                self._tell(f"{repair['notebook']} waits for approval of incident {asked[0]}: {repair['why']}")
                self._approve(asked[0], repair)
        if incident["status"] == "resolved":
            self._tell(f"{name} has ended")

    def _see_job(self, incident: Facts, job: Facts) -> None:
        seen, results, now = self.seen, job["results"], time.monotonic()
        is_new = bool(results) and job["number"] not in self._ended
        if is_new:
            self._ended.add(job["number"])
        if job["error"]:
            self._tell(f"runbook {job['notebook']}: {job['error']}")
        if job["state"] == "running":
            self._tell(f"runbook {job['notebook']} runs")
        if job["kind"] == "alert" and "cause" in results:
            probability, advice = results.get("probability", 0), results.get("next_action", "")
            self._tell(f"diagnosis: cause {results['cause']} (probability {sure(probability)}); {advice}")
            if is_new and seen.repaired is None:
                seen.diagnosis, seen.diagnosed = results, now
                seen.diagnoses[str(incident["id"])] = results
        if job["kind"] == "remedy" and job["state"] in ("running", "ended"):
            seen.repairs[job["number"]] = incident
        if job["kind"] == "remedy" and "verdict" in results:
            if "action" in results:
                self._tell(f"done by {job['notebook']}: {results['action']}")
            self._tell(f"repair of the {job['name']}: {results['verdict']}")
            if is_new and seen.repair.get("verdict") != "recovered":
                seen.repair, seen.repaired, seen.repaired_by = results, now, str(job["notebook"])
        if job["kind"] == "postmortem" and job["state"] == "ended":
            if job["status"] != "succeeded":
                raise LeptonError(f"postmortem {job['run_id']}: {job['status']}")
            self._tell(f"postmortem: run {job['run_id']}")
            if not seen.incident or seen.incident["id"] == incident["id"]:
                seen.incident, seen.postmortem = incident, str(job["run_id"])

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._last = text
            self._tell_line(text)


def _began(incident: Facts) -> float:
    return datetime.fromisoformat(incident["starts_at"]).timestamp()

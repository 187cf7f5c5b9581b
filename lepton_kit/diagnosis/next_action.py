"""The one thing to do next about an incident: what, and the exact command for it.

It follows from where the incident's repairs stand. Light to import: `lepton watch` needs it for its pages.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class NextAction:
    """What to do, as a sentence, and the command that does it; empty where there is nothing to type."""

    what: str
    command: str = ""


@dataclass(frozen=True)
class RepairStage:
    """Where a repair stands: its runbook, its plan, and its outcome.

    `stage` is the state of its job: `waiting` (for a person), `queued`, `running`, `ended` or `refused`.
    """

    cause: str
    runbook: str
    stage: str
    plan: str = ""
    verdict: str = ""


def repair_command(runbook: str, recording: str, service: str, objectives: str | None = None) -> str:
    """Return the command that repairs a service by a runbook, from the recording of its incident.

    `objectives` is the folder of the service's objectives, where it is known.

    >>> repair_command("runbooks/repair-data.ipynb", "incidents/x/recording", "goog", "slo/goog")
    'lepton run runbooks/repair-data.ipynb -p recording incidents/x/recording -p service goog -p objectives slo/goog'
    """
    given = {"recording": recording, "service": service, "objectives": objectives}
    words = [f"-p {name} {shlex.quote(value)}" for name, value in given.items() if value]
    return " ".join([f"lepton run {shlex.quote(runbook)}", *words])


def of_incident(
    incident: str, repairs: Sequence[RepairStage], diagnosed: NextAction | None, diagnose: str
) -> NextAction:
    """Return what is to be done next about an open incident, whose repairs are in the order in which they come.

    `diagnosed` is what its diagnosis advises, None where none has succeeded; `diagnose` the command that does.
    """
    by_stage = {stage: [one for one in repairs if one.stage == stage] for stage in ("running", "waiting", "queued")}
    if by_stage["running"]:
        one = by_stage["running"][0]
        return NextAction(f"Wait: {one.runbook} is running{_of(one.plan)}.")
    if by_stage["waiting"]:
        one = by_stage["waiting"][0]
        only = f" --cause {one.cause}" if len(by_stage["waiting"]) > 1 else ""
        return NextAction(f"Decide on the {one.cause} repair{_of(one.plan)}.", f"lepton approve {incident}{only}")
    if by_stage["queued"]:
        return NextAction(f"Wait: {by_stage['queued'][0].runbook} starts next{_of(by_stage['queued'][0].plan)}.")
    ended = [one for one in repairs if one.stage == "ended"]
    if ended and ended[-1].verdict == "not repaired":
        return NextAction(f"Do by hand what no action of the service does{_of(ended[-1].plan)}.")
    if ended and ended[-1].verdict == "recovered":
        return NextAction(f"Wait: the {ended[-1].cause} repair helped; the alert ends when its windows have passed.")
    if ended:
        verdict = ended[-1].verdict or "no verdict"
        return NextAction(f"The {ended[-1].cause} repair did not help ({verdict}): diagnose again.", diagnose)
    return diagnosed or NextAction("Diagnose the incident.", diagnose)


def _of(plan: str) -> str:
    return f": {plan}" if plan else ""

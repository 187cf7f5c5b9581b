"""The repairs that follow on a diagnosis, in the order that the alert asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lepton_kit.diagnosis import repair_capacity, repair_data, repair_model  # noqa: F401 - each lists its own remedy
from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence import Cause
from lepton_kit.diagnosis.next_action import NextAction, repair_command
from lepton_kit.diagnosis.plans import REMEDIES
from lepton_kit.diagnosis.repair_capacity import is_hurt_by_refusals
from lepton_kit.errors import InputError
from lepton_kit.telemetry.signals import role_of
from lepton_kit.telemetry.slo import Objective


def runbook_of(cause: str) -> str:
    """Return the name of the runbook that repairs a cause; empty where nothing is to repair.

    >>> runbook_of("compute"), runbook_of("none")
    ('repair-capacity', '')
    """
    return next((one.runbook for repaired, one in REMEDIES.items() if repaired == cause), "")


def planned(cause: Cause, case: Case) -> str:
    """Return in words what the repair of a cause would do to the service, or why there is no such plan."""
    try:
        return REMEDIES[cause].plan(case.recording).action
    except InputError as error:
        return f"it has no plan: {error}"


CURES: Mapping[str, tuple[Cause, ...]] = {
    **dict.fromkeys(("newest_data", "watched_seconds", "stale_seconds", "input_problems", "invalid"), ("data",)),
    **dict.fromkeys(("targets_known", "interval_width"), ("data", "model")),
    **dict.fromkeys(("latency", "queue_time", "service_time", "queue_length", "saturation"), ("compute",)),
    **dict.fromkeys(("time_to_first_token", "time_per_output_token", "errors", "refusals", "up"), ("compute",)),
}
"""By the signal that an objective counts: the causes whose repair acts on it."""


def cures(objective: Objective) -> tuple[Cause, ...]:
    """Return the causes whose repair acts on an objective; none where that is not known of its metric.

    >>> from lepton_kit.telemetry.selectors import parse_selector
    >>> one = parse_selector("vllm:time_to_first_token_seconds_bucket"), parse_selector("vllm:request_success_total")
    >>> cures(Objective("a", "A", "demo", "", 0.99, 3600, "good", *one, 10))
    ('compute',)
    """
    return ("compute",) if is_hurt_by_refusals(objective) else CURES.get(role_of(objective.selector), ())


def in_order(causes: Sequence[str], objective: Objective | None) -> tuple[str, ...]:
    """Return causes in the order of their repairs: those that act on the objective that alerted come first.

    >>> in_order(["data", "compute"], None)
    ('data', 'compute')
    """
    first = cures(objective) if objective else ()
    return tuple(sorted(causes, key=lambda cause: bool(first) and cause not in first))


def after_diagnosis(
    causes: Sequence[str], objective: Objective | None, case: Case, recording: str = ""
) -> NextAction | None:
    """Return the repair that comes first, with its plan, and name those that follow; None where nothing is to repair.

    `causes` are as the diagnosis named them, the likeliest first; `recording` is where it lies, for the command.
    """
    repaired: list[Cause] = [cause for cause in REMEDIES if cause in causes]
    repaired.sort(key=in_order(causes, objective).index)
    if not repaired:
        return None
    first, *others = repaired
    said = f"Run the {first} repair: {planned(first, case)}."
    said += "".join(f" Then the {other} repair: {planned(other, case)}." for other in others)
    if objective and (acting := cures(objective)) and first not in acting:
        said += f" It does not act on the objective that alerted ({objective.title}): look at that again afterwards."
    runbook, incident = f"runbooks/{REMEDIES[first].runbook}.ipynb", case.recording.incident
    declared = incident.declaration
    folder = declared.objectives if "objectives" in declared.model_fields_set else None  # a recording of format 1
    return NextAction(said, repair_command(runbook, recording, incident.service, folder) if recording else "")

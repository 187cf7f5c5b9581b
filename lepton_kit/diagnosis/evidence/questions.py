"""The questions, in the order in which a reader wants their answers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence import compute, drift, inputs, logs, model, objective, timing
from lepton_kit.diagnosis.evidence.base import Evidence, not_checked
from lepton_kit.telemetry.recordings import printable

logger = logging.getLogger(__name__)

QUESTIONS: tuple[Callable[[Case], Evidence], ...] = (
    objective.objective,
    model.coverage,
    inputs.contract,
    inputs.missing_values,
    inputs.stale_values,
    inputs.duplicated_requests,
    inputs.units,
    inputs.relations,
    inputs.freshness,
    inputs.input_problems,
    drift.inputs_and_actuals,
    drift.drift,
    drift.joint_drift,
    drift.label_drift,
    drift.actuals,
    drift.concept_drift,
    model.error_decomposition,
    model.replay_of_last_good,
    model.replay_score,
    model.served_version,
    model.outputs,
    model.model_errors,
    model.checksums,
    model.answering_version,
    model.deployment,
    compute.latency,
    compute.queue,
    compute.queue_or_model,
    compute.errors,
    compute.refusals,
    compute.saturation,
    compute.memory,
    compute.restarts,
    compute.workers,
    compute.arrivals,
    logs.log_templates,
    timing.first_signal,
)


def gather(case: Case) -> tuple[Evidence, ...]:
    """Ask every question of a case; one that fails is not checked, and says why."""
    return tuple(_answer(question, case) for question in QUESTIONS)


def _answer(question: Callable[[Case], Evidence], case: Case) -> Evidence:
    try:
        return question(case)
    except Exception as error:  # recordings hold whatever clients sent: the other questions decide without this one
        name = question.__name__
        logger.warning("question %s of recording %s failed", name, case.recording.incident.id, exc_info=True)
        return not_checked(name, f"failed: {type(error).__name__}: {printable(str(error), 200)}")

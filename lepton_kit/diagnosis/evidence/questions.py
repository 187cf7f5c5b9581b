"""The questions, in the order in which a reader wants their answers."""

from __future__ import annotations

from collections.abc import Callable

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence import compute, inputs, model
from lepton_kit.diagnosis.evidence.base import Evidence

QUESTIONS: tuple[Callable[[Case], Evidence], ...] = (
    model.coverage,
    inputs.contract,
    inputs.inputs_and_actuals,
    inputs.actuals,
    model.replay_of_last_good,
    model.served_version,
    model.deployment,
    compute.latency,
    compute.queue,
    compute.errors,
)


def gather(case: Case) -> tuple[Evidence, ...]:
    """Ask every question of a case."""
    return tuple(question(case) for question in QUESTIONS)

"""The questions, in the order in which a reader wants their answers."""

from __future__ import annotations

import logging

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence import compute, drift, inputs, mix, model, promises, timing
from lepton_kit.diagnosis.evidence.base import NOT_CHECKED, REGISTERED, Evidence, Question
from lepton_kit.telemetry.recordings import printable

logger = logging.getLogger(__name__)

MODULES = [one.__name__ for one in (promises, inputs, drift, mix, model, compute, timing)]
QUESTIONS = tuple(sorted(REGISTERED, key=lambda question: MODULES.index(question.__module__)))


def gather(case: Case) -> tuple[Evidence, ...]:
    """Ask every question of a case; one that fails is not checked, and says why."""
    return tuple(_answer(question, case) for question in QUESTIONS)


def _answer(question: Question, case: Case) -> Evidence:
    try:
        return question(case)
    except Exception as error:  # recordings hold whatever clients sent: the other questions decide without this one
        name = question.__name__
        logger.warning("question %s of recording %s failed", name, case.recording.incident.id, exc_info=True)
        return Evidence(name, NOT_CHECKED, f"failed: {type(error).__name__}: {printable(str(error), 200)}")

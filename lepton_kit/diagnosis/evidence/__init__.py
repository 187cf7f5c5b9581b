"""Evidence: what a recording shows, one small pure function for each question.

Each function in `QUESTIONS` looks at one thing and answers with a finding from a short list, an effect size with its
unit, and since when. A question that cannot be answered says why, and its finding is `not checked`. Nothing here
decides: `lepton_kit.diagnosis.causes` does, by the table of likelihood ratios in `likelihoods.toml`.
"""

from lepton_kit.diagnosis.evidence.base import NOT_APPLICABLE, NOT_CHECKED, Cause, Evidence
from lepton_kit.diagnosis.evidence.drift import inputs_and_actuals, movement
from lepton_kit.diagnosis.evidence.inputs import contract
from lepton_kit.diagnosis.evidence.model import (
    deployment,
    in_its_unit,
    served_version,
)
from lepton_kit.diagnosis.evidence.promises import promise, ratings
from lepton_kit.diagnosis.evidence.questions import QUESTIONS, gather
from lepton_kit.diagnosis.evidence.timing import signal_order

__all__ = [
    "NOT_APPLICABLE",
    "NOT_CHECKED",
    "QUESTIONS",
    "Cause",
    "Evidence",
    "contract",
    "deployment",
    "gather",
    "in_its_unit",
    "inputs_and_actuals",
    "movement",
    "promise",
    "ratings",
    "served_version",
    "signal_order",
]

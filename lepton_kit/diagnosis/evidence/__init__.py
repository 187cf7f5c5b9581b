"""Evidence: what a recording shows, one small pure function for each question.

Each function in `QUESTIONS` looks at one thing and answers with a finding from a short list, an effect size with its
unit, and since when. A question that cannot be answered says why, and its finding is `not checked`. Nothing here
decides: `lepton_kit.diagnosis.causes` does, by the table of likelihood ratios in `likelihoods.toml`.
"""

from lepton_kit.diagnosis.evidence.base import NOT_CHECKED, Cause, Evidence
from lepton_kit.diagnosis.evidence.compute import errors, latency, queue
from lepton_kit.diagnosis.evidence.drift import actuals, inputs_and_actuals, movement
from lepton_kit.diagnosis.evidence.inputs import contract
from lepton_kit.diagnosis.evidence.model import (
    coverage,
    deployment,
    output_difference,
    replay_of_last_good,
    served_version,
)
from lepton_kit.diagnosis.evidence.questions import QUESTIONS, gather

__all__ = [
    "NOT_CHECKED",
    "QUESTIONS",
    "Cause",
    "Evidence",
    "actuals",
    "contract",
    "coverage",
    "deployment",
    "errors",
    "gather",
    "inputs_and_actuals",
    "latency",
    "movement",
    "output_difference",
    "queue",
    "replay_of_last_good",
    "served_version",
]

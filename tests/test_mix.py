"""Rows of other kinds: lost, grown beside the others, answered otherwise as well, or as before."""

from dataclasses import replace

import incident_variants as variants
import numpy as np
import pandas as pd
import pytest

from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.evidence.mix import lost_kinds, mix
from lepton_kit.telemetry.declaration import Declaration

ROWS = variants.ROWS
SINCE = np.arange(ROWS) >= variants.FAULT_FROM
RIGHT = {"news": 0.97, "forum": 0.9, "blog": 0.7}


def asked(shares=None, right=None, keeps=1.0, is_spelt=False):
    """A classifier whose answers are right by the source of a row; since the fault, sources come in other shares.

    `keeps` is the share of all rows that still come.
    """
    rng = np.random.default_rng(5)
    usual = [0.4, 0.4, 0.2]
    kind = np.where(SINCE, rng.choice([*RIGHT], ROWS, p=shares or usual), rng.choice([*RIGHT], ROWS, p=usual))
    rate = pd.Series(kind).map(RIGHT).mask(SINCE, pd.Series(kind).map(right or RIGHT))
    actual = pd.Series(rng.choice(["up", "down"], ROWS))
    label = actual.where(rng.random(ROWS) < rate, "flat")
    calm = variants.calm()
    kept = calm.requests.drop(columns=["lower", "upper", "mean", "std", "prob_up"], errors="ignore")
    source = pd.Series(kind).mask(SINCE & is_spelt, pd.Series(kind).str.upper())
    declared = Declaration(task="classification_multiclass")
    rows = kept.assign(label=label.to_numpy(), actual=actual.to_numpy(), feature_source=source.to_numpy())
    return replace(
        calm,
        incident=calm.incident.model_copy(update={"declaration": declared}),
        requests=rows[~SINCE | (rng.random(ROWS) < keeps)],
        models={},
    )


def case_of(recording):
    case = build_case(recording)
    return replace(case, dated=replace(case.dated, time=variants.calm().requests["time"][variants.FAULT_FROM]))


@pytest.mark.parametrize(
    ("made", "finding"),
    [
        ({}, "steady"),
        ({"shares": [0.05, 0.15, 0.8]}, "lost"),  # another source fills the place of two
        ({"shares": [0.02, 0.02, 0.96], "keeps": 0.5}, "lost"),  # or only in part
        ({"shares": [0.25, 0.25, 0.5]}, "grown"),  # none comes half as often
        ({"shares": [0.05, 0.15, 0.8], "right": dict.fromkeys(RIGHT, 0.2)}, "more"),
        ({"shares": [0.4, 0.4, 0.2], "is_spelt": True}, "more"),
    ],
)
def test_what_a_mix_explains_is_told_from_what_it_does_not(made, finding):
    found = mix(case_of(asked(**made)))
    assert found.finding == finding, found.summary


def test_lost_are_the_common_kinds_that_come_at_most_half_as_often():
    assert set(lost_kinds(case_of(asked(shares=[0.05, 0.15, 0.8])), "source")) == {"news", "forum"}
    assert lost_kinds(case_of(asked(shares=[0.25, 0.25, 0.5])), "source") == []
    assert lost_kinds(case_of(asked(is_spelt=True)), "source") == []


def test_a_service_without_categories_is_not_asked_and_too_few_rows_say_nothing():
    assert mix(build_case(variants.calm())).finding == "not applicable"
    rows = asked().requests
    few = replace(asked(), requests=pd.concat([rows[:5], rows[variants.FAULT_FROM :]]))
    assert mix(case_of(few)).finding == "not checked"

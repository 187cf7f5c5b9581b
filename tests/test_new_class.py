"""A class that nobody knew: new to the world, or a known one by another name."""

from dataclasses import replace
from types import SimpleNamespace

import incident_variants as variants
import numpy as np
import pandas as pd
import pytest

from lepton_kit.diagnosis import causes
from lepton_kit.diagnosis.capture import _Capture
from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.evidence import drift
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.private import Private

ROWS = variants.ROWS
SINCE = np.arange(ROWS) >= variants.FAULT_FROM
KNOWN = ["card", "refund", "parcel", "login"]
LEARNT = pd.DataFrame({"actual": KNOWN})


def classified(renamed=None, share=1.0, new_share=0.0, is_missed=False, is_like=False, new="recall", learnt=LEARNT):
    """A service that tells four classes apart by an input; since the fault, one is renamed, or a fifth one comes."""
    rng = np.random.default_rng(3)
    actual = pd.Series(rng.choice(KNOWN, ROWS))
    label = actual.where(rng.random(ROWS) < 0.95, "card")
    if is_missed:
        label = label.where(~SINCE | (rng.random(ROWS) < 0.5), "card")
    asked = actual.map(KNOWN.index) + rng.normal(0, 0.1, ROWS)
    is_new = SINCE & (rng.random(ROWS) < new_share)
    asked = asked if is_like else asked.mask(is_new, 9 + rng.normal(0, 0.1, ROWS))
    actual = actual.mask(is_new, new)
    actual = actual.mask(SINCE & (rng.random(ROWS) < share), actual.replace(renamed or {}))
    calm = variants.calm()
    kept = calm.requests.drop(columns=["lower", "upper", "mean", "std", "prob_up"], errors="ignore")
    declared = Declaration(task="classification_multiclass")
    return replace(
        calm,
        incident=calm.incident.model_copy(update={"declaration": declared}),
        requests=kept.assign(label=label.to_numpy(), actual=actual.to_numpy(), feature_return_0=asked.to_numpy()),
        reference=learnt,
        models={},
    )


TITLES = {one: one.title() for one in KNOWN}
CODES = {one: str(place) for place, one in enumerate(KNOWN)}


@pytest.mark.parametrize(
    ("made", "finding"),
    [
        ({}, "steady"),
        ({"new_share": 0.01}, "steady"),
        ({"new_share": 0.4}, "new class"),
        ({"renamed": {"refund": "17"}}, "in place of known"),
        ({"renamed": CODES}, "in place of known"),
        ({"new_share": 0.4, "is_missed": True}, "known ones missed"),
        ({"renamed": {"refund": " Re-Fund"}, "share": 0.4}, "in place of known"),
        ({"renamed": TITLES, "share": 0.4}, "in place of known"),
        ({"new_share": 0.4, "renamed": TITLES, "share": 0.4}, "in place of known"),
        ({"renamed": {"refund": "refnud"}, "share": 0.4}, "unclear"),
        ({"renamed": {"refund": "17"}, "share": 0.4}, "unclear"),
        ({"renamed": CODES, "share": 0.4}, "unclear"),
        ({"renamed": dict.fromkeys(KNOWN, "n/a"), "share": 0.4}, "unclear"),
        ({"new_share": 0.4, "is_like": True}, "unclear"),
        ({"new_share": 0.4, "new": "parcels"}, "unclear"),
        ({"new_share": 0.4, "learnt": pd.DataFrame()}, "unclear"),
        ({"new_share": 0.4, "learnt": pd.DataFrame({"topic": KNOWN})}, "unclear"),
    ],
)
def test_a_class_is_new_only_where_its_name_and_its_inputs_are_and_what_was_learnt_is_known(made, finding):
    case = build_case(classified(**made))
    began = case.requests["time"][variants.FAULT_FROM]
    found = drift.label_drift(replace(case, dated=replace(case.dated, time=began)))
    assert found.finding == finding, found.summary


def test_where_few_answers_can_be_judged_the_labels_alone_tell_as_they_do_elsewhere():
    recording = classified()
    answered = recording.requests["label"].where(np.arange(ROWS) % 20 == 0)
    few = replace(recording, requests=recording.requests.assign(label=answered))
    assert drift.label_drift(build_case(few)).finding == "steady"


def test_the_target_of_the_rows_that_a_version_learnt_from_is_captured_under_its_one_name():
    learnt = pd.DataFrame({"size": [1.0, 2.0], "topic": ["card", "refund"]})
    declared = Declaration(labels={"path": "labels.jsonl", "key": "id", "target": "topic"})
    asked = _Capture("x", declared, None, None, 0.0, 1.0, Private.of(declared, None))
    assert asked.reference(SimpleNamespace(reference=learnt))["actual"].tolist() == ["card", "refund"]


@pytest.mark.parametrize("finding", [("actuals", "reverting"), ("replay_of_last_good", "last good better"), None])
def test_a_change_of_the_world_other_than_a_new_class_asks_to_compare_the_actuals(finding):
    found = [SimpleNamespace(name=finding[0], finding=finding[1])] if finding else []
    weighed = pd.Series({"world": 0.9, "nothing": 0.1})
    assert causes._advice("none", weighed, tuple(found)) == causes.NEXT_ACTIONS["world"]
    new = SimpleNamespace(name="label_drift", finding="new class")
    assert causes._advice("none", weighed, (*found, new)) == causes.HINTS[causes.NEW_CLASS]

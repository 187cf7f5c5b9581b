"""Incidents of the two services that the kit did not make, with real processes and nothing forged.

The service runs itself and is asked by its own clients through a proxy; its `/metrics` are scraped, its own objectives
are evaluated, and what its declaration names is captured and diagnosed.
"""

from __future__ import annotations

import json

import pytest
from declared import course

from lepton_kit.diagnosis.causes import Diagnosis, diagnose
from lepton_kit.ops.actions import Values, run_action
from lepton_kit.ops.faults.base import Fault
from lepton_kit.ops.faults.compute import QueueSaturation
from lepton_kit.ops.faults.data import Scaled
from lepton_kit.ops.faults.model import BadVersion
from lepton_kit.telemetry.recordings import Recording


def findings(diagnosis: Diagnosis) -> dict[str, str]:
    return {one.name: one.finding for one in diagnosis.evidence}


def test_a_column_ten_times_too_large_is_data_and_the_restarted_feed_ends_it(tmp_path):
    with course(tmp_path, "scoring", Scaled(seed=3)) as one:  # smoothness
        one.healthy(80)
        one.strike()
        alert = one.alert("ScoringRightBudgetBurn")
        one.judged_since(50)
        recording = one.captured(alert)
        actions = one.stage.declaration.actions
        done = run_action("services.scoring.actions.restart_feed", actions["restart_feed"], Values(), one.stage.project)
        assert done.is_done, str(done)
    assert recording.requests["actual"].notna().sum() > 50
    assert "scoring_decisions_total" in set(recording.metrics["metric"])
    diagnosis = diagnose(recording)
    assert (diagnosis.cause, diagnosis.also) == ("data", ()), diagnosis.table().to_string()
    assert abs(diagnosis.onset.timestamp() - one.struck) < 5
    assert "smoothness" in next(item.summary for item in diagnosis.evidence if item.name == "units")


def test_a_queue_is_compute_with_queue_saturation_and_first_token_answered(tmp_path):
    with course(tmp_path, "chat", QueueSaturation()) as one:
        one.healthy(80)
        one.scrapes(25)
        one.strike()
        alert = one.alert("ChatFirstTokenBudgetBurn")
        one.scrapes(30)
        recording = one.captured(alert)
    diagnosis = diagnose(recording)
    assert diagnosis.cause == "compute", diagnosis.table().to_string()
    asked = [item for item in diagnosis.evidence if item.name in ("queue", "saturation", "time_to_first_token")]
    assert [item for item in asked if item.finding in ("not checked", "not applicable")] == []
    texts = json.dumps(recording.requests.drop(columns="time").astype(str).to_dict("records"))
    assert "question answer" not in texts  # descriptors alone


def test_ratings_that_fall_without_load_are_not_compute(tmp_path):
    with course(tmp_path, "chat", BadVersion()) as one:
        one.healthy(80)
        one.strike()
        alert = one.alert("ChatRatingsBudgetBurn")
        one.judged_since(50)
        recording = one.captured(alert)
    diagnosis = diagnose(recording)
    assert diagnosis.cause != "compute", diagnosis.table().to_string()
    assert abs(diagnosis.onset.timestamp() - one.struck) < 10


class SameVersion(BadVersion):
    """The files of the version in service, under another name."""

    name, cause, description = "same-version", "none", "the same version again"


@pytest.mark.parametrize(("fault", "is_bad"), [(BadVersion(), True), (SameVersion(), False)], ids=["bad", "identical"])
def test_a_bad_version_is_model_by_its_replay_and_an_identical_one_never(fault: Fault, is_bad: bool, tmp_path):
    with course(tmp_path, "scoring", fault) as one:
        models = one.stage.project / "services/scoring/models"
        if not is_bad:
            for name in ("model.skops", "reference.parquet"):
                (models / "v2" / name).write_bytes((models / "v1" / name).read_bytes())
        one.healthy(120)
        one.strike()
        alerts = [one.alert("ScoringRightBudgetBurn")] if is_bad else []
        one.judged_since(150)
        recording: Recording = one.captured(*alerts)
    assert (recording.incident.versions.current, recording.incident.versions.last_good) == ("v2", "v1")
    diagnosis = diagnose(recording)
    told = diagnosis.table().to_string()
    if is_bad:
        assert diagnosis.cause == "model" and diagnosis.probability >= 0.95, told
        assert findings(diagnosis)["replay_of_last_good"] not in ("not checked", "not applicable")
    else:
        assert "model" not in (diagnosis.cause, *diagnosis.also), told

"""One live drill from a healthy service to its postmortem; `make drills` goes through all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import copy_project, unhurried
from services import project_with_model

from lepton_kit.ops.drill_results import Drill
from lepton_kit.ops.faults import FAULTS
from lepton_kit.ops.live_drills import drill_live
from lepton_kit.runs.manifest import FILE, Manifest

pytestmark = pytest.mark.alone


def test_a_bad_version_is_noticed_found_rolled_back_and_looked_back_on(tmp_path):
    project = project_with_model(tmp_path / "project")
    copy_project(project, "notebooks", "runbooks", "reports", "slo", "subjects")
    unhurried(project / "slo/goog/latency.yaml")
    (project / "slo/goog/freshness.yaml").unlink()  # so that a machine whose load comes late breaks no other objective
    told: list[str] = []
    [made] = drill_live([Drill("nan-weights", None, 1)], project, FAULTS, told.append)
    assert (made.verdict, made.error) == ("recovered", ""), "\n".join(told)
    assert (made.cause, made.also, made.remedy) == ("model", (), "repair-model")
    assert made.detected_after is not None and made.recovered_after is not None
    assert made.extra["postmortem"], "\n".join(told)
    postmortem = Manifest.load(Path(made.extra["postmortem"]) / FILE)
    assert postmortem.results["cause"].value == "model"
    assert postmortem.results["time_to_recover_s"].value > 0

"""One live drill from a healthy service to its postmortem; `make drills` goes through all of them."""

from __future__ import annotations

from pathlib import Path

from lepton_kit.ops.drills import Drill
from lepton_kit.ops.faults import FAULTS
from lepton_kit.ops.live_drills import drill_live
from lepton_kit.runs.manifest import FILE, Manifest


def test_a_bad_version_is_noticed_found_rolled_back_and_looked_back_on(demo_project):
    told: list[str] = []
    [made] = drill_live([Drill("nan-weights", None, 1)], demo_project, FAULTS, told.append)
    assert (made.verdict, made.error) == ("recovered", ""), told
    assert (made.cause, made.also, made.remedy) == ("model", (), "repair-model")
    assert made.detected_after is not None and made.recovered_after is not None
    postmortem = Manifest.load(Path(made.extra["postmortem"]) / FILE)
    assert postmortem.results["cause"].value == "model"
    assert postmortem.results["time_to_recover_s"].value > 0

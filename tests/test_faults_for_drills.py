"""Faults: how severe they may be, files with faults of one's own, and what live ones do to processes and registries."""

from __future__ import annotations

import subprocess
import time

import numpy as np
import psutil
import pytest
from helpers import PATIENCE_S
from services import features, project_with_model, row

from lepton_kit.errors import InputError
from lepton_kit.models.registry import Registry
from lepton_kit.ops.faults import FAULTS, Pair, find_fault, injected, read_fault_file
from lepton_kit.ops.faults.compute import CpuTaken, LostWorker
from lepton_kit.ops.faults.model import SpoiltVersion
from lepton_kit.serving.control import (
    DesiredState,
    Report,
    ServiceConfig,
    begin,
    read_deployments,
    read_desired_state,
    write_report,
)
from lepton_kit.serving.replay import Item
from subjects.prices import DRILLED

OWN = """
from lepton_kit.ops.faults import Fault
class Mine(Fault):
    name, cause, description = "mine", "data", "my own"
"""


@pytest.mark.parametrize("name", [*FAULTS, *(name for name in DRILLED if "+" in name)])
def test_every_fault_has_a_cause_a_description_and_severities_that_may_be_drawn(name):
    fault = find_fault(name, 1)
    assert fault.causes <= {"data", "model", "compute", "none"}
    assert fault.description
    low, high = fault.severities
    assert 0 < low < high <= 1
    assert find_fault(name, 1, low).severity == low


@pytest.mark.parametrize("severity", [0.0, -1.0, 1.1, float("nan")])
def test_a_severity_out_of_range_is_refused(severity):
    with pytest.raises(InputError, match="severity"):
        find_fault("units", 0, severity)


@pytest.mark.parametrize("name", ["stale-feed", "units", "swapped-columns", "nulls", "duplicates"])
def test_severity_is_the_share_of_the_items_that_are_hit(name):
    fault, state = find_fault(name, 3, 0.3), {}
    rows = features().head(40).to_dict("records")
    items = [Item(rows[number % 40], float(number), 0.01) for number in range(600)]
    changed = np.mean([fault.apply(item, state) != item for item in items])
    assert changed == pytest.approx(0.3, abs=0.06)


def test_a_pair_applies_both_and_keeps_their_states_apart():
    pair = find_fault("stale-feed+label-shift", 1)
    assert isinstance(pair, Pair)
    state = {}
    pair.apply(Item(row(0), 0.0, 0.01), state)
    second = pair.apply(Item(row(5), 5.0, 0.02), state)
    assert second.row == row(0)
    assert second.actual == pytest.approx(0.08)


def test_a_file_gives_faults_of_ones_own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    assert read_fault_file(tmp_path / "own.py")["mine"]().description == "my own"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = (", "cannot be imported"),
        ("x = 1", "defines no class"),
        (OWN.replace('"mine"', '"units"'), "there already"),
        (OWN.replace('"mine"', '"a+b"'), "its name has a '\\+'"),
        (OWN.replace('"data"', '"gremlins"'), "must be data, model, compute or none"),
    ],
)
def test_a_file_that_gives_none_says_why(tmp_path, text, said):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(InputError, match=said):
        read_fault_file(tmp_path / "own.py")
    with pytest.raises(InputError, match="no such file"):
        read_fault_file(tmp_path / "absent.py")


def test_one_without_a_live_form_is_not_injected(tmp_path):
    with (
        pytest.raises(InputError, match="nothing that `lepton serve` runs"),
        injected(find_fault("memory-leak"), 0, tmp_path),
    ):
        pass


@pytest.fixture
def state(tmp_path):
    project = project_with_model(tmp_path)
    folder = project / "services/goog"
    begin(folder, DesiredState("v1", workers=2))
    config = ServiceConfig(name="goog", model="goog", registry=project / "models", folder=folder)
    (folder / "service.json").write_text(config.model_dump_json())
    return folder


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if issubclass(fault, SpoiltVersion)])
def test_a_bad_version_is_registered_whole_and_put_into_service(state, name):
    registry = Registry(state.parents[1] / "models")
    good = registry.load("goog", "v1").predict(features().tail(200))
    find_fault(name, 1).begin(state)
    desired = read_desired_state(state)
    assert desired.version not in ("v1", "v2")
    assert read_deployments(state)[-1]["version"] == desired.version
    bad = registry.load("goog", desired.version)  # its checksums hold
    assert registry.current("goog") == "v1"
    if name == "stale-scaler":  # this untrained model thinks in units of the recent volatility alone
        assert bad.scaler.level < 0.2 * registry.load("goog", "v1").scaler.level
    else:
        with np.errstate(over="ignore"):
            answered = bad.predict(features().tail(200))
        assert not np.allclose(answered[["lower", "upper"]], good[["lower", "upper"]], rtol=0.05)


@pytest.fixture
def sleepers(state):
    made = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    for one in made:
        write_report(state, Report(one.pid, 1, "v1", None))
    yield [psutil.Process(one.pid) for one in made]
    for one in made:
        one.kill()
        one.wait()


def statuses(processes):
    return [one.status() for one in processes]


def seen_stopped(processes, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and psutil.STATUS_STOPPED not in statuses(processes):
        time.sleep(0.01)
    return psutil.STATUS_STOPPED in statuses(processes)


def test_workers_whose_processor_is_taken_stand_still_at_times_and_run_again_at_the_end(state, sleepers):
    fault = CpuTaken(severity=0.9)
    fault.begin(state)
    assert seen_stopped(sleepers)
    fault.end(state)
    assert psutil.STATUS_STOPPED not in statuses(sleepers)


def test_a_lost_worker_stands_still_for_good_while_another_runs(state, sleepers):
    fault = LostWorker(severity=0.5)
    fault.begin(state)
    assert seen_stopped(sleepers)
    time.sleep(0.3)
    assert statuses(sleepers).count(psutil.STATUS_STOPPED) == 1
    fault.end(state)
    assert psutil.STATUS_STOPPED not in statuses(sleepers)

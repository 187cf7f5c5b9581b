"""The small recording for the scheduled runbooks: what ships, and that its script makes such a one."""

import json

import pytest
from helpers import ROOT, truth_of

from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.telemetry.recordings import read_recording
from subjects.prices.recorded_services import FIRST_DAY, main, record

SHIPPED = ROOT / "runbooks" / "recordings" / "stale-feed"
LARGEST = 320_000


def test_a_short_recording_of_a_real_service_holds_what_the_shipped_one_does(tmp_path):
    made = read_recording(record(tmp_path, seconds=10))
    shipped = read_recording(SHIPPED)
    assert set(made.requests.columns) == set(shipped.requests.columns)
    assert set(made.metrics["metric"]) >= set(shipped.metrics["metric"])  # a service may show more by now
    assert made.absent == shipped.absent == ("topology.csv",)
    assert made.incident.versions == shipped.incident.versions
    assert made.incident.provenance.constructed == shipped.incident.provenance.constructed


def test_the_shipped_recording_shows_what_it_was_made_for():
    requests = read_recording(SHIPPED).requests
    assert {200.0, 422.0, 429.0} == set(requests["status"])
    assert requests["rating"].between(1, 5).sum() > 50
    assert requests["actual"].notna().mean() > 0.7


def test_the_diagnosis_of_the_shipped_recording_agrees_with_the_truth():
    diagnosis, truth = diagnose(read_recording(SHIPPED)), truth_of(SHIPPED)
    assert diagnosis.cause == truth["cause"] == "data"
    since = read_recording(SHIPPED).requests["time"].min().tz_convert("UTC")
    assert since < diagnosis.onset
    assert abs((diagnosis.onset - type(diagnosis.onset)(truth["since"])).total_seconds()) < 10


def test_the_shipped_recording_is_small_and_names_no_machine():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST
    said = json.loads((SHIPPED / "incident.json").read_text())
    assert "/tmp" not in json.dumps(said) and FIRST_DAY > "2006"


@pytest.mark.parametrize("words", [[], ["a", "b", "c"]])
def test_a_wrong_call_shows_the_usage(words, capsys):
    assert main(words) == 2
    assert "usage" in capsys.readouterr().err


def test_seconds_that_are_no_number_are_one_plain_line(tmp_path, capsys):
    assert main([str(tmp_path), "soon"]) == 2
    assert "soon" in capsys.readouterr().err

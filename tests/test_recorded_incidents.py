import json

import incident_variants as variants
import numpy as np
import pandas as pd
import pytest
from helpers import truth_of

from lepton_kit.errors import LeptonError
from lepton_kit.telemetry.recordings import read_recording
from subjects.prices.recorded_incidents import alert_from, main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    assert main(["volatility-2008", str(folder)]) == 0
    return folder / "volatility-2008"


def test_the_script_makes_the_recording_that_ships_but_for_the_measured_latency(made):
    new, shipped = read_recording(made), read_recording(variants.SHIPPED)
    later = {"format", "declaration"}  # what format 2 has and the shipped one has not
    assert new.incident.model_dump(exclude=later) == shipped.incident.model_dump(exclude=later)
    pd.testing.assert_frame_equal(
        new.requests.drop(columns="latency_ms"), shipped.requests.drop(columns="latency_ms"), rtol=1e-3, atol=1e-6
    )
    pd.testing.assert_frame_equal(new.reference, shipped.reference)
    assert new.logs["message"].tolist() == shipped.logs["message"].tolist()
    files = {file.name for file in made.rglob("*")} - {"signals.json"}  # which format 1 has not
    assert files == {file.name for file in variants.SHIPPED.rglob("*")}


def test_the_recording_tells_on_which_months_it_was_trained_and_that_they_were_picked():
    incident = read_recording(variants.SHIPPED).incident
    assert [item.note for item in incident.deployments] == [
        "trained on May to October 2005",
        "trained on March to September 2006",
    ]
    constructed = " ".join(incident.provenance.constructed)
    assert "picked" in constructed and "on purpose" in constructed


def test_latency_is_measured(made):
    latency = read_recording(made).requests["latency_ms"]
    assert (latency > 0).all() and latency.nunique() > 50


def test_the_metrics_are_those_that_the_requests_give():
    recording = read_recording(variants.SHIPPED)
    judged = recording.requests.dropna(subset=["actual"]).tail(60)
    coverage = judged["actual"].between(judged["lower"], judged["upper"]).mean()
    metrics = recording.metrics
    last = metrics[metrics["metric"] == "forecast_interval_coverage_ratio"].iloc[-1]
    assert last["value"] == pytest.approx(coverage)
    assert json.loads(last["labels"]) == {"window": "60"}
    quantile = metrics[metrics["labels"].str.contains("0.95")].iloc[-1]["value"]
    assert quantile == pytest.approx(np.quantile(recording.requests["latency_ms"].tail(20), 0.95) / 1000)


def test_the_alert_starts_when_the_recorded_coverage_first_falls_below_the_objective():
    recording = read_recording(variants.SHIPPED)
    coverage = recording.metrics[recording.metrics["metric"] == "forecast_interval_coverage_ratio"]
    assert recording.incident.alerts[0].starts_at == coverage.loc[coverage["value"] < 0.85, "time"].iloc[0]


def test_no_incident_is_recorded_where_the_coverage_never_fell():
    with pytest.raises(LeptonError, match="no incident"):
        alert_from(pd.Series([0.9, 0.95], index=pd.date_range("2008-01-01", periods=2, tz="UTC")))


def test_the_truth_of_the_shipped_recording_is_no_fault():
    assert truth_of(variants.SHIPPED)["cause"] == "none"


@pytest.mark.parametrize("words", [[], ["no-such-incident", "."], ["volatility-2008"]])
def test_a_wrong_call_shows_the_usage(words, capsys):
    assert main(words) == 2
    assert "usage" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_one_plain_line(tmp_path, capsys):
    assert main(["volatility-2008", str(tmp_path / "no" / "such")]) == 2
    assert capsys.readouterr().err.count("\n") == 1

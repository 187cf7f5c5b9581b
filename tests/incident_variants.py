"""Incidents made from the calm months of the shipped recording, each with one thing gone wrong half-way through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from helpers import ROOT

from lepton_kit.models.forecasters import load_forecaster
from lepton_kit.telemetry.recordings import Recording, feature_columns, read_recording

SHIPPED = ROOT / "runbooks" / "recordings" / "volatility-2008"
ROWS, FAULT_FROM = 187, 120  # January to September 2007, before the market changed


def calm() -> Recording:
    """Nothing is wrong: the rows up to September 2007, and an alert that fires all the same."""
    shipped = read_recording(SHIPPED)
    requests = shipped.requests.head(ROWS)
    metrics = shipped.metrics[shipped.metrics["time"] <= requests["time"].iloc[-1]]
    window = shipped.incident.window.model_copy(update={"end": requests["time"].iloc[-1].to_pydatetime()})
    alert = shipped.incident.alerts[0].model_copy(update={"starts_at": fault_time(requests).to_pydatetime()})
    incident = shipped.incident.model_copy(update={"window": window, "alerts": (alert,)})
    return replace(shipped, incident=incident, requests=requests, metrics=metrics)


def fault_time(requests: pd.DataFrame) -> pd.Timestamp:
    return requests["time"].iloc[FAULT_FROM]


def answered(recording: Recording, requests: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The requests as the model in a folder answers them; rows that it refuses stay without an answer."""
    features = recording.features(requests).set_axis(requests.index)
    whole = features[np.isfinite(features).all(axis=1)]
    answers = load_forecaster(folder).predict(whole)
    return requests.drop(columns=answers.columns).join(answers)


def with_inputs(change) -> Recording:
    """A recording whose features are changed from the fault on, and answered by the same model."""
    recording = calm()
    requests = recording.requests.copy()
    names = feature_columns(requests)
    rows = requests.index >= FAULT_FROM
    requests.loc[rows, names] = change(requests.loc[rows, names])
    return replace(recording, requests=answered(recording, requests, recording.models["v2"]))


def stuck_feed() -> Recording:
    return with_inputs(lambda features: np.repeat(features.to_numpy()[:1], len(features), axis=0))


def wrong_unit(factor: float) -> Recording:
    return with_inputs(lambda features: factor * features)


def nulls() -> Recording:
    return with_inputs(lambda features: features[features.index % 3 > 0].reindex(features.index))


def repeated_requests() -> Recording:
    recording = calm()
    ids = recording.requests["request_id"].where(np.arange(ROWS) % 4 > 0)
    ids = ids.ffill().where(np.arange(ROWS) >= FAULT_FROM, recording.requests["request_id"])
    return replace(recording, requests=recording.requests.assign(request_id=ids))


def narrowed(source: Path, folder: Path) -> Path:
    """A model whose interval is three times too narrow."""
    forecaster = load_forecaster(source)
    with torch.no_grad():
        forecaster.network.log_std.bias -= float(np.log(3))
    forecaster.save(folder)
    return folder


def wrong_model(folder: Path) -> Recording:
    """Version v3, whose intervals are too narrow, goes into service."""
    recording = calm()
    model = narrowed(recording.models["v2"], folder / "v3")
    before, during = recording.requests.iloc[:FAULT_FROM], recording.requests.iloc[FAULT_FROM:]
    requests = pd.concat([before, answered(recording, during.assign(version="v3"), model)])
    deployed = recording.incident.deployments[-1].model_copy(
        update={"version": "v3", "time": (fault_time(requests) - pd.Timedelta("1h")).to_pydatetime()}
    )
    versions = recording.incident.versions.model_copy(update={"current": "v3", "last_good": "v2"})
    incident = recording.incident.model_copy(
        update={"versions": versions, "deployments": (*recording.incident.deployments, deployed)}
    )
    return replace(recording, incident=incident, requests=requests, models={"v3": model, "v2": recording.models["v2"]})


def damaged_in_service(folder: Path) -> Recording:
    """The files of v2 are right, but the process answers with damaged weights."""
    recording = calm()
    damaged = narrowed(recording.models["v2"], folder / "damaged")
    before, during = recording.requests.iloc[:FAULT_FROM], recording.requests.iloc[FAULT_FROM:]
    return replace(recording, requests=pd.concat([before, answered(recording, during, damaged)]))


def slow() -> Recording:
    """Ten times the latency, and a queue."""
    recording = calm()
    rows = recording.requests.index >= FAULT_FROM
    requests = recording.requests.copy()
    requests.loc[rows, "latency_ms"] *= 10
    queue = pd.DataFrame(
        {"time": requests["time"], "metric": "request_queue_depth", "labels": "{}", "value": np.where(rows, 12.0, 0.0)}
    )
    return replace(recording, requests=requests, metrics=pd.concat([recording.metrics, queue]))


def failing() -> Recording:
    """Every fifth request fails and has no answer."""
    recording = calm()
    rows = (recording.requests.index >= FAULT_FROM) & (recording.requests.index % 5 == 0)
    requests = recording.requests.copy()
    requests.loc[rows, "status"] = 503.0
    requests.loc[rows, ["mean", "std", "lower", "upper", "prob_up"]] = np.nan
    return replace(recording, requests=requests)


def stuck_and_slow() -> Recording:
    """Two causes at once."""
    stuck, late = stuck_feed(), slow()
    return replace(stuck, requests=stuck.requests.assign(latency_ms=late.requests["latency_ms"]))

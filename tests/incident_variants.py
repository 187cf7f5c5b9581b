"""Incidents made from the calm months of the shipped recording, each with one thing gone wrong half-way through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from helpers import ROOT

from lepton_kit.models.forecasters import load_forecaster
from lepton_kit.telemetry.recordings import Recording, feature_columns, read_recording
from subjects.prices.features import next_day_return, price_features
from subjects.prices.sources import read_prices

SHIPPED = ROOT / "runbooks" / "recordings" / "volatility-2008"
ROWS, FAULT_FROM = 187, 120  # January to September 2007, before the market changed


def calm() -> Recording:
    """Nothing is wrong: the rows up to September 2007, and an alert that fires all the same."""
    shipped = read_recording(SHIPPED)
    # The recorded answers took about a millisecond, which nobody waits for: these take about 25.
    requests = shipped.requests.head(ROWS).assign(latency_ms=lambda rows: 20 * rows["latency_ms"])
    metrics, logs = (table[table["time"] <= requests["time"].iloc[-1]] for table in (shipped.metrics, shipped.logs))
    window = shipped.incident.window.model_copy(update={"end": requests["time"].iloc[-1].to_pydatetime()})
    alert = shipped.incident.alerts[0].model_copy(update={"starts_at": fault_time(requests).to_pydatetime()})
    incident = shipped.incident.model_copy(update={"window": window, "alerts": (alert,)})
    return replace(shipped, incident=incident, requests=requests, metrics=metrics, logs=logs)


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


def widened(source: Path, folder: Path, factor: float) -> Path:
    """A model whose interval is that many times as wide."""
    forecaster = load_forecaster(source)
    with torch.no_grad():
        forecaster.network.log_std.bias += float(np.log(factor))
    forecaster.save(folder)
    return folder


def wrong_model(folder: Path, factor: float = 1 / 3) -> Recording:
    """Version v3, whose intervals are too narrow (or too wide), goes into service."""
    recording = calm()
    model = widened(recording.models["v2"], folder / "v3", factor)
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
    damaged = widened(recording.models["v2"], folder / "damaged", 1 / 3)
    before, during = recording.requests.iloc[:FAULT_FROM], recording.requests.iloc[FAULT_FROM:]
    return replace(recording, requests=pd.concat([before, answered(recording, during, damaged)]))


def too_wide_in_service() -> Recording:
    """The files of v2 are right, but the process answers with an interval ten times as wide."""
    recording = calm()
    requests = recording.requests.copy()
    rows, middle = requests.index >= FAULT_FROM, requests["mean"]
    for bound in ("lower", "upper"):
        requests.loc[rows, bound] = (middle + 10 * (requests[bound] - middle))[rows]
    return replace(recording, requests=requests)


def wide_last_good(folder: Path) -> Recording:
    """The shipped change of the world, without a deployment, beside a last good version twice as wide as it was."""
    shipped = read_recording(SHIPPED)
    return replace(shipped, models={**shipped.models, "v1": widened(shipped.models["v1"], folder / "v1", 2)})


def busier() -> Recording:
    """Three requests a day instead of one, each with an id of its own, on the same day's features."""
    recording = calm()
    late = recording.requests.iloc[FAULT_FROM:]
    more = [
        late.assign(
            time=late["time"] + pd.Timedelta(minutes=10 * number),
            request_id=late["request_id"].str.replace("-0001", f"-000{1 + number}"),
        )
        for number in (1, 2)
    ]
    requests = pd.concat([recording.requests, *more]).sort_values("time", ignore_index=True)
    return replace(recording, requests=requests)


def slower(share: float, factor: float, fault_from: int = FAULT_FROM) -> Recording:
    """A share of the requests takes that many times as long."""
    recording = calm()
    requests = recording.requests.copy()
    rows = (requests.index >= fault_from) & (requests.index % round(1 / share) == 0)
    requests.loc[rows, "latency_ms"] *= factor
    return replace(recording, requests=requests)


def from_prices(prices: pd.DataFrame) -> Recording:
    """The calm months with inputs and actuals made of other prices (`date`, `close`)."""
    recording = calm()
    features, actual = price_features(prices), next_day_return(prices)
    days = days_of(recording.requests)
    requests = recording.requests.assign(actual=actual.reindex(days).to_numpy())
    for column in feature_columns(requests):
        requests[column] = features[column.removeprefix("feature_")].reindex(days).to_numpy()
    return replace(recording, requests=answered(recording, requests, recording.models["v2"]))


def days_of(requests: pd.DataFrame) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(requests["time"]).tz_localize(None).normalize()


def faulty_prices(factors: Callable[[int], np.ndarray]) -> Recording:
    """The prices since the fault are multiplied, so that inputs and actuals are wrong alike."""
    prices = read_prices("sample:goog")[["date", "close"]]
    rows = prices["date"] >= days_of(calm().requests)[FAULT_FROM]
    prices.loc[rows, "close"] *= factors(int(rows.sum()))
    return from_prices(prices)


def world(factor: float, seed: int) -> Recording:
    """Simulated prices that become that many times as volatile: Student's t with 5 degrees of freedom, no fault."""
    dates = read_prices("sample:goog")["date"]
    changed = dates >= days_of(calm().requests)[FAULT_FROM]
    noise = np.random.default_rng(seed).standard_t(5, len(dates)) / np.sqrt(5 / 3)
    returns = 0.013 * noise * np.where(changed, factor, 1)
    return from_prices(pd.DataFrame({"date": dates, "close": 100 * np.exp(np.cumsum(returns))}))


def slow() -> Recording:
    """Ten times the latency, and a queue."""
    recording = calm()
    rows = recording.requests.index >= FAULT_FROM
    requests = recording.requests.copy()
    requests.loc[rows, "latency_ms"] *= 10
    queue = pd.DataFrame(
        {
            "time": requests["time"],
            "metric": "lepton_queue_requests",
            "labels": "{}",
            "value": np.where(rows, 12.0, 0.0),
        }
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

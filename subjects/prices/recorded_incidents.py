"""Makes the recorded incidents that ship with the kit: `python -m subjects.prices.recorded_incidents NAME FOLDER`.

`volatility-2008` is a real change of the world: a model trained on seven calm months of Google's price answers one
request per trading day, and in 2008 the market becomes twice as volatile as it was. Prices, actuals and answers are
real, and so is the latency, which is measured while the requests are answered. Everything but the latency is the same
each time. That the model meets the change badly is arranged: its months were picked between the jumps that earnings
caused, and it sees no volatility. `incident.json` says so under `constructed`. The other incidents are simulated
drills (`subjects.prices.recorded_drills`).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.forecasters import Forecaster
from lepton_kit.models.tasks import covered, task_of
from lepton_kit.models.training import TrainingSettings
from lepton_kit.telemetry.declaration import FORECASTER
from lepton_kit.telemetry.recordings import (
    FEATURE,
    FORMAT,
    Alert,
    Deployment,
    Incident,
    Provenance,
    Recording,
    Versions,
    Window,
    write_recording,
)
from subjects.prices.examples import train
from subjects.prices.features import next_day_return, price_features
from subjects.prices.recorded_drills import RECORDERS
from subjects.prices.sources import read_prices

HOUR_OF_REQUEST = pd.Timedelta(hours=21)
"""The market closes at 21:00 UTC in winter; the recording keeps this hour all year."""

COVERAGE_OBJECTIVE, COVERAGE_WINDOW = 0.85, 60
WARM_UP = 50


@dataclass(frozen=True)
class Cut:
    """The days a version learnt from: trained from `start`, validated from `validation`, and nothing from `end` on."""

    version: str
    start: str
    validation: str
    end: str


# Both learnt from calm months only, between the jumps that earnings caused in February 2005 and 2006.
LAST_GOOD = Cut("v1", start="2005-05-01", validation="2005-11-01", end="2006-01-01")
CURRENT = Cut("v2", start="2006-03-01", validation="2006-10-01", end="2007-01-01")
WINDOW = ("2007-01-03", "2008-10-14")


def volatility_2008(folder: Path) -> Path:
    """Record how forecasts learnt in calm months met 2008, into `folder/volatility-2008`, and return that."""
    prices = read_prices("sample:goog")[["date", "close"]]
    models = {cut.version: train_without_volatility(prices, cut) for cut in (CURRENT, LAST_GOOD)}
    requests = answer_requests(prices, models[CURRENT.version], CURRENT.version, *WINDOW)
    hits = 1 - task_of("interval_forecast").misses(requests)
    coverage = hits.rolling(COVERAGE_WINDOW).mean().set_axis(pd.DatetimeIndex(requests["actual_time"].dropna()))
    recording = Recording(
        incident=_incident(requests, alert_from(coverage)),
        requests=requests,
        metrics=service_metrics(requests, coverage),
        reference=_training_rows(prices, CURRENT),
        logs=service_log(requests),
    )
    truth = {"cause": "none", "what": "real prices: volatility rose from late 2007; nothing was injected"}
    with tempfile.TemporaryDirectory() as scratch:
        for version, forecaster in models.items():
            forecaster.save(Path(scratch) / version)
        held = {version: Path(scratch) / version for version in models}
        return write_recording(replace(recording, models=held), folder / "volatility-2008", truth)


INCIDENTS: dict[str, Callable[[Path], Path]] = {"volatility-2008": volatility_2008, **RECORDERS}


def train_without_volatility(prices: pd.DataFrame, cut: Cut) -> Forecaster:
    """Train a linear model that sees past returns only and has learnt one width of the interval for all days."""
    date = prices["date"]
    labels = np.select(
        [date < cut.start, date < cut.validation, date < cut.end], ["unused", "train", "validation"], "unused"
    )
    settings = TrainingSettings(model="linear", volatility="constant")
    return train(prices.assign(split=labels), settings).forecaster


def answer_requests(prices: pd.DataFrame, forecaster: Forecaster, version: str, start: str, end: str) -> pd.DataFrame:
    """Answer one request per trading day, measuring the time of each, and add the actual that came a day later.

    Returns
    -------
    DataFrame
        `requests.parquet` as `lepton_kit.telemetry.recordings` describes it.
    """
    features = price_features(prices).loc[start:end, list(forecaster.architecture.columns)]
    actual = next_day_return(prices).reindex(features.index)
    for _ in range(WARM_UP):
        forecaster.predict(features.iloc[:1])
    answers, latency = zip(*(_timed(forecaster, features.iloc[[row]]) for row in range(len(features))), strict=True)
    times = (pd.DatetimeIndex(features.index) + HOUR_OF_REQUEST).tz_localize("UTC")
    head = {
        "time": times,
        "request_id": [f"{day:%Y%m%d}-0001" for day in features.index],
        "version": version,
        "status": 200,
        "latency_ms": latency,
    }
    known = pd.Series(times, index=features.index).shift(-1).where(actual.notna())
    tail = pd.concat([pd.concat(answers), actual.rename("actual"), known.rename("actual_time")], axis=1)
    parts = [pd.DataFrame(head, index=features.index), features.add_prefix(FEATURE), tail]
    table: pd.DataFrame = pd.concat(parts, axis=1)
    return table.reset_index(drop=True)


def alert_from(coverage: pd.Series) -> pd.Timestamp:
    """Return when the rolling coverage first lay below the objective."""
    low = coverage[coverage < COVERAGE_OBJECTIVE]
    if low.empty:
        raise LeptonError(f"coverage never fell below {COVERAGE_OBJECTIVE}: there is no incident to record")
    return pd.Timestamp(low.index[0])


def service_metrics(requests: pd.DataFrame, coverage: pd.Series) -> pd.DataFrame:
    """Return the metrics that the requests give: rolling coverage, latency quantiles of the last 20, errors so far."""
    by_request = requests.set_index("time")
    latency = by_request["latency_ms"].div(1000).rolling(20)
    series = [
        ("forecast_interval_coverage_ratio", {"window": str(COVERAGE_WINDOW)}, coverage),
        ("http_request_duration_seconds", {"quantile": "0.5"}, latency.quantile(0.5)),
        ("http_request_duration_seconds", {"quantile": "0.95"}, latency.quantile(0.95)),
        ("http_request_errors_total", {}, by_request["status"].ge(500).cumsum()),
    ]
    return pd.concat([_metric(*item) for item in series], ignore_index=True).sort_values("time", kind="stable")


def service_log(requests: pd.DataFrame) -> pd.DataFrame:
    """Return what the service would have written: its start, and each actual that its interval missed."""
    first = requests.iloc[0]
    start = {"time": first["time"] - pd.Timedelta(hours=1), "level": "INFO", "message": "model loaded"}
    rows = [{**start, "fields": json.dumps({"version": first["version"]})}]
    judged = requests.dropna(subset=["actual"])
    for item in judged[~covered(judged, judged["actual"])].to_dict("records"):
        fields = {name: round(float(item[name]), 5) for name in ("actual", "lower", "upper")}
        text = json.dumps({"request_id": item["request_id"], **fields})
        rows.append(
            {"time": item["actual_time"], "level": "WARNING", "message": "actual outside interval", "fields": text}
        )
    return pd.DataFrame(rows)


def _incident(requests: pd.DataFrame, alert: pd.Timestamp) -> Incident:
    summary = f"90 % interval held less than {COVERAGE_OBJECTIVE:.0%} of the last {COVERAGE_WINDOW} actuals"
    return Incident(
        format=FORMAT,
        id="volatility-2008",
        service="goog",
        declaration=FORECASTER,
        window=Window(start=requests["time"].iloc[0], end=requests["time"].iloc[-1]),
        versions=Versions(current=CURRENT.version, last_good=LAST_GOOD.version),
        alerts=(
            Alert(
                name="IntervalCoverageLow",
                starts_at=alert,
                labels={"service": "goog", "sli": "interval_coverage", "severity": "page"},
                annotations={"summary": summary},
            ),
        ),
        deployments=(
            _deployment("2006-01-03T12:00Z", LAST_GOOD, "trained on May to October 2005"),
            _deployment("2007-01-02T12:00Z", CURRENT, "trained on March to September 2006"),
        ),
        provenance=Provenance(
            measured=(
                "prices and actuals (sample:goog)",
                "latency_ms, while the requests were answered for this recording",
            ),
            derived=("features and answers", "status (every answer was computed)", "metrics", "start of the alert"),
            constructed=(
                "the service, its deployments and its log lines",
                "the hour of each request and the request ids",
                "the training months, picked as calm ones: between the jumps of earnings in February 2005 and 2006",
                "models denied any volatility, on purpose: past returns only, one interval width for all days",
            ),
        ),
    )


def _deployment(time: str, cut: Cut, note: str) -> Deployment:
    return Deployment(time=pd.Timestamp(time), version=cut.version, note=note)


def _timed(forecaster: Forecaster, features: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    start = time.perf_counter()
    answer = forecaster.predict(features)
    return answer, round(1000 * (time.perf_counter() - start), 4)


def _training_rows(prices: pd.DataFrame, cut: Cut) -> pd.DataFrame:
    features = price_features(prices).filter(like="return_")
    rows = features.assign(actual=next_day_return(prices).reindex(features.index))
    days = (rows.index >= pd.Timestamp(cut.start)) & (rows.index < pd.Timestamp(cut.validation))
    return rows[days].reset_index(drop=True)


def _metric(name: str, labels: Mapping[str, str], values: pd.Series) -> pd.DataFrame:
    known = values.dropna()
    return pd.DataFrame(
        {"time": known.index, "metric": name, "labels": json.dumps(labels), "value": known.to_numpy(float)}
    )


def main(arguments: list[str]) -> int:
    """Record the incident named in the first argument into the folder named in the second."""
    if len(arguments) != 2 or arguments[0] not in INCIDENTS:
        print(f"usage: python -m subjects.prices.recorded_incidents {'|'.join(INCIDENTS)} FOLDER", file=sys.stderr)
        return InputError.exit_code
    try:
        print(INCIDENTS[arguments[0]](Path(arguments[1])))
    except LeptonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

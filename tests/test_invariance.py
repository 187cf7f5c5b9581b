"""What must not change a verdict: the order of rows, the day, names of series and requests.

With less evidence a verdict may become `unknown`, and never that of another cause.
"""

import json
from dataclasses import replace
from functools import cache

import incident_variants as variants
import numpy as np
import pandas as pd
import pytest

from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.telemetry.recordings import read_recording, write_recording

LATER = pd.Timedelta(days=400, hours=7)


def in_another_order(recording, folder):
    """Return what is read of files whose rows are in another order."""
    rng = np.random.default_rng(3)

    def shuffled(table):
        return table.iloc[rng.permutation(len(table))].reset_index(drop=True)

    tables = {name: shuffled(getattr(recording, name)) for name in ("requests", "metrics", "logs")}
    write_recording(replace(recording, **tables), folder / "recording")
    return read_recording(folder / "recording")


def on_another_day(recording, _):
    def moved(table):
        times = table.select_dtypes(include=["datetime", "datetimetz"])
        return table.assign(**{name: table[name] + LATER for name in times})

    def later(model, *names):
        return model.model_copy(update={name: getattr(model, name) + LATER for name in names})

    incident = recording.incident
    changed = {
        "window": later(incident.window, "start", "end"),
        "alerts": tuple(later(one, "starts_at") for one in incident.alerts),
        "deployments": tuple(later(one, "time") for one in incident.deployments),
    }
    tables = {name: moved(getattr(recording, name)) for name in ("requests", "metrics", "logs")}
    return replace(recording, incident=incident.model_copy(update=changed), **tables)


def with_other_names(recording, _):
    metrics, requests = recording.metrics, recording.requests
    labels = {text: json.dumps(json.loads(text) | {"pod": "p-7", "zone": "eu"}) for text in metrics["labels"].unique()}
    ids = [f"{number:x}" for number in np.random.default_rng(5).permutation(len(requests))]
    return replace(
        recording,
        metrics=metrics.assign(labels=metrics["labels"].map(labels)),
        requests=requests.assign(request_id=ids),
    )


def without(part):
    return lambda recording: replace(recording, **{part: getattr(recording, part).head(0)})


def without_deployments(recording):
    return replace(recording, incident=recording.incident.model_copy(update={"deployments": ()}))


def without_last_good(recording):
    versions = recording.incident.versions.model_copy(update={"last_good": None})
    return replace(recording, incident=recording.incident.model_copy(update={"versions": versions}))


def without_column(name):
    return lambda recording: replace(recording, requests=recording.requests.assign(**{name: np.nan}))


def half_of_the_requests(recording):
    kept = np.random.default_rng(4).random(len(recording.requests)) < 0.5
    return replace(recording, requests=recording.requests[kept])


def seen_for_a_quarter_of_the_time(recording):
    incident, onset = recording.incident, diagnose(recording).onset
    end = onset + (pd.Timestamp(incident.window.end) - onset) / 4
    window = incident.window.model_copy(update={"end": end.to_pydatetime()})
    tables = {name: getattr(recording, name) for name in ("requests", "metrics", "logs")}
    cut = {name: table[table["time"] <= end] for name, table in tables.items()}
    return replace(recording, incident=incident.model_copy(update={"window": window}), **cut)


INCIDENTS = {
    "stuck feed": (lambda _: variants.stuck_feed(), "data"),
    "wrong unit": (lambda _: variants.wrong_unit(100), "data"),
    "wrong model": (variants.wrong_model, "model"),
    "slow": (lambda _: variants.slow(), "compute"),
    "another world": (lambda _: variants.world(3, 0), "none"),
}
SAME = [in_another_order, on_another_day, with_other_names]
LESS = {
    "no metrics": without("metrics"),
    "no log": without("logs"),
    "no deployments": without_deployments,
    "no last good version": without_last_good,
    "no actuals": without_column("actual"),
    "no latencies": without_column("latency_ms"),
    "half of the requests": half_of_the_requests,
    "a quarter of the time": seen_for_a_quarter_of_the_time,
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return cache(lambda name: INCIDENTS[name][0](tmp_path_factory.mktemp("models")))


@pytest.mark.parametrize("change", SAME, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", INCIDENTS)
def test_a_verdict_depends_on_no_order_day_or_name(name, change, recorded, tmp_path):
    found = diagnose(change(recorded(name), tmp_path))
    assert (found.cause, found.also) == (INCIDENTS[name][1], ())
    assert found.probability == pytest.approx(diagnose(recorded(name)).probability, rel=1e-6)


@pytest.mark.parametrize("change", LESS)
@pytest.mark.parametrize("name", INCIDENTS)
def test_with_less_evidence_no_other_cause_is_named(name, change, recorded):
    found = diagnose(LESS[change](recorded(name)))
    assert found.cause in (INCIDENTS[name][1], "unknown")
    assert found.also == ()

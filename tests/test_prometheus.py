"""A real Prometheus as a source of samples: the same answers as the store's on the same samples."""

import subprocess
import threading
import time

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from monitors import metrics_target, needs_prometheus, prometheus
from services import wait_for

from lepton_kit.errors import InputError
from lepton_kit.telemetry.burn_rates import evaluate
from lepton_kit.telemetry.prometheus import Prometheus
from lepton_kit.telemetry.scrape import Scraper
from lepton_kit.telemetry.slo import read_objectives
from lepton_kit.telemetry.store import Sample, Store

START, STEP, COUNT = 1_760_000_000.0, 60.0, 4000  # nearly three days
METRIC = "http_server_request_duration_seconds_count"
LIVE = r"""# HELP ticks_total Some \\ text
# TYPE ticks_total counter
ticks_total{part="a",job="theirs",instance="elsewhere"} 7
ticks_total{part="b"} 1e3
odd_total{path="C:\\dir\"x\"\n",name="ünd",empty=""} +Inf
# TYPE seconds histogram
seconds_bucket{le="0.5"} 1
seconds_bucket{le="+Inf"} 2
seconds_sum 0.75
seconds_count 2
# TYPE quantiles summary
quantiles{quantile="0.9"} NaN
quantiles_sum 3
quantiles_count 4
plain -2.5
dated 3 NOW
"""
SELECTORS = [
    METRIC,
    METRIC + '{http_response_status_code=~"5..|429"}',
    METRIC + '{http_response_status_code!~"5.."}',
    METRIC + '{http_route="/v1/predict",note!=""}',
    METRIC + '{note="says \\"a\\\\b\\" ünd mehr"}',
    "absent_metric",
]


def samples():
    times = START + STEP * np.arange(COUNT)
    for status, pace, note in (("200", 60, ""), ("503", 2, 'says "a\\b" ünd mehr'), ("429", 1, "x")):
        labels = {"http_route": "/v1/predict", "http_response_status_code": status, "note": note}
        values = pace * np.arange(COUNT) % 100_000  # restarts now and then
        yield from (Sample(METRIC, labels, at, float(value)) for at, value in zip(times, values, strict=True))


def openmetrics(path):
    """Write the samples as promtool takes them in."""

    def text(labels):
        escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in labels.items() if value}
        return ",".join(f'{name}="{value}"' for name, value in escaped.items())

    lines = [f"{one.metric}{{{text(one.labels)}}} {one.value} {one.time}" for one in samples()]
    path.write_text("\n".join([f"# TYPE {METRIC} unknown", *lines, "# EOF", ""]))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A store and a Prometheus with the same samples."""
    folder = tmp_path_factory.mktemp("prometheus")
    openmetrics(folder / "samples.txt")
    words = ["promtool", "tsdb", "create-blocks-from", "openmetrics", folder / "samples.txt", folder / "data"]
    made = subprocess.run(words, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    with Store(folder / "telemetry") as store, prometheus(folder, {"global": {}}) as address:
        store.append(samples())
        store.flush()
        yield store, Prometheus(address)


@needs_prometheus
@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize(
    ("begin", "end"),
    [(0, 3600), (30, 3599.5), (STEP * 10, STEP * 10), (-1e5, 1e6), (86400 - STEP, 2 * 86400), (1e6, 2e6)],
)
def test_prometheus_and_the_store_give_the_same_samples(both, selector, begin, end):
    ours, theirs = (source.query(selector, START + begin, START + end) for source in both)
    pd.testing.assert_frame_equal(theirs, ours)


@needs_prometheus
def test_an_objective_stands_the_same_from_prometheus_and_from_the_store(both):
    one = next(one for one in read_objectives(ROOT / "slo/goog") if one.name == "goog-availability")
    ours, theirs = (evaluate(one, source, START + STEP * COUNT) for source in both)
    assert ours == theirs
    assert ours.firing == ("page", "ticket")


@needs_prometheus
def test_what_a_live_prometheus_scraped_is_what_the_kit_scrapes(tmp_path):
    names = ["ticks_total", "odd_total", "seconds_bucket", "seconds_sum", "quantiles", "plain", "up", "dated"]
    with metrics_target() as target, Store(tmp_path / "telemetry") as store:
        target.text = LIVE.replace("NOW", f"{time.time() - 5:.3f}".replace(".", ""))
        scrape = {"job_name": "goog", "static_configs": [{"targets": [target.instance]}]}
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
        with prometheus(tmp_path, config) as address:
            source = Prometheus(address + "/")
            wait_for(lambda: len(source.query("ticks_total", 0, 4e9)))
            Scraper(store, {"goog": target.address}).scrape_once()
            for name in names:
                ours, theirs = (
                    one.query(name, 0, 4e9).drop_duplicates(["metric", "labels"], keep="last", ignore_index=True)
                    for one in (store, source)
                )
                assert len(ours) > 0
                pd.testing.assert_frame_equal(ours.drop(columns="time"), theirs.drop(columns="time"))
                if name == "dated":
                    assert ours["time"].tolist() == theirs["time"].tolist()


@needs_prometheus
def test_what_prometheus_refuses_is_told_with_its_address_and_words(both):
    _, source = both
    with pytest.raises(InputError, match=r"Prometheus http://127\.0\.0\.1:\d+: answered 400 .*: bad_data: ") as refused:
        source.query("requests_total", 0, 1e18)  # no such time is known to it
    assert "requests_total" in str(refused.value)
    with pytest.raises(InputError, match="is not the end of the selector"):
        source.query("requests_total[5m]", 0, 1)


def test_a_server_that_is_not_there_or_not_prometheus_is_told_without_its_password():
    with metrics_target() as target:
        address = target.address.replace("http://", "http://me:secret@")
        with pytest.raises(InputError, match="answered 501") as refused:
            Prometheus(address).query("up", 0, 1)
        assert "secret" not in str(refused.value)
        assert target.instance in str(refused.value)
    with pytest.raises(InputError, match="does not answer"):
        Prometheus(target.address).query("up", 0, 1)


def test_a_slow_server_is_given_up():
    with metrics_target() as target:
        target.server.RequestHandlerClass.do_POST = lambda self: threading.Event().wait(1)
        with pytest.raises(InputError, match="does not answer"):
            Prometheus(target.address, timeout=0.2).query("up", 0, 1)


@pytest.mark.parametrize("address", ["127.0.0.1:9090", "http://", "http://127.0.0.1:port"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(InputError, match="Prometheus address"):
        Prometheus(address)

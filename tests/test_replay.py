"""Load: arrival times, an open loop at a real service, and actual values told later."""

import itertools
import json
import math
import re
import threading
import time
from http.server import BaseHTTPRequestHandler

import pandas as pd
import pytest
from helpers import lepton, listening
from services import log_of, project_with_model, serving, wait_for

from lepton_kit.cli import app
from lepton_kit.errors import InputError
from lepton_kit.ops.load import find_arrivals
from lepton_kit.serving.replay import (
    TRACE,
    Arrivals,
    Item,
    Plan,
    check_address,
    feed,
    generated,
    needed_features,
    replay,
    traced,
)
from subjects.prices import asked


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(project_with_model(tmp_path_factory.mktemp("replay"))) as running:
        yield running


def every(seconds):
    return Arrivals("evenly", 1 / seconds, itertools.repeat(seconds))


def run(service, *words):
    made = lepton("replay", *words, "--json", project=service.folder.parents[1])
    assert made.returncode == 0, made.stdout + made.stderr
    return json.loads(made.stdout)


def test_a_service_by_its_name_gets_its_requests_their_actual_values_and_ratings(service):
    start = pd.Timestamp.now(tz="UTC")
    made = run(
        service, "goog", "--rate", "60", "--for", "3", "--seed", "1", "--ratings", "0.5", "--feedback-after", "1"
    )
    assert made["by_status"] == {"200": made["sent"]}
    assert made["answered"] == made["sent"] > 100
    assert made["by_version"] == {"v1": made["sent"]}
    assert 0 < made["latency_p50"] <= made["latency_p95"] <= made["latency_p99"]
    assert made["feedback"]["accepted"] == made["sent"]
    assert made["feedback"]["ratings"] == pytest.approx(made["sent"] / 2, rel=0.4)

    def told():
        held = log_of(service)
        held = held[held["request_id"].str.startswith("replay-") & (held["time"] >= start)]
        return [held] if len(held) == made["sent"] else None

    (held,) = wait_for(told)
    held = held.iloc[held["request_id"].str.rpartition("-")[2].astype(int).argsort()]
    assert held["actual"].notna().all()
    assert held["feature_return_0"].iloc[1:].to_numpy() == pytest.approx(held["actual"].iloc[:-1].to_numpy())
    assert service.sample("lepton_newest_data_timestamp_seconds") == pytest.approx(time.time(), abs=30)


def test_a_second_replay_asks_the_same_under_other_ids_and_requests_are_bounded(service):
    def sent(name):
        rows = feed(asked(needed_features(address)))
        made = replay(address, rows, Plan(every(0.01), requests=7, name=name))
        assert made.sent == 7
        wait_for(lambda: log_of(service)["request_id"].str.startswith(f"replay-{name}-").sum() == 7)
        held = log_of(service)
        return sorted(held[held["request_id"].str.startswith(f"replay-{name}-")]["feature_return_0"])

    address = str(service.client.base_url)
    assert sent("a") == sent("b")
    assert Plan(every(1)).name != Plan(every(1)).name


def test_latency_counts_from_the_time_a_request_was_due_and_arrivals_do_not_wait_for_answers():
    class Slow(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        one = threading.Lock()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with self.one:  # one at a time, 50 ms each: half of what is asked for
                time.sleep(0.05)
            answer = json.dumps(
                {"version": "v1", "forecasts": [{"lower": -1, "upper": 1}], "row": body["row"]}
            ).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    rows = itertools.repeat(({"return_0": 0.1}, math.nan))
    with listening(Slow) as address:
        made = replay(address, rows, Plan(every(0.025), seconds=1.0))
    assert made.sent == pytest.approx(39, abs=2)
    assert made.answered == made.sent
    assert made.latency_p95 > 700  # the queue grows by 25 ms with every request; a closed loop would say 50 ms


def test_a_service_that_is_gone_gives_connection_errors_and_not_an_exception():
    rows = itertools.repeat(({"return_0": 0.1}, math.nan))
    made = replay("http://127.0.0.1:9", rows, Plan(every(0.01), requests=5))
    assert made.by_status == {"connection": 5}
    assert made.answered == 0
    json.dumps(made.plain(), allow_nan=False)


def test_a_generator_that_falls_behind_says_so():
    def slow(item: Item, seconds: float) -> Item:
        time.sleep(0.03)
        return item

    rows = itertools.repeat(({"return_0": 0.1}, math.nan))
    made = replay("http://127.0.0.1:9", rows, Plan(every(0.01), requests=20), slow)
    assert "the generator itself fell behind" in made.warning


def test_rows_are_those_of_the_price_table_and_begin_again_at_the_end():
    found = list(itertools.islice(feed(asked(["return_0", "return_1"])), 1200))
    assert found[1][0]["return_0"] == pytest.approx(found[0][1])
    assert found[1][0]["return_1"] == found[0][0]["return_0"]
    assert found[0][0] in [row for row, _ in found[900:]]
    with pytest.raises(InputError, match="gives no moon"):
        asked(["return_0", "moon"])


def test_real_arrivals_are_used_where_they_are_and_the_generator_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_DATA", str(tmp_path))
    assert find_arrivals(tmp_path, 3).source == "a generator (Poisson process with a daily cycle, seed 3)"
    (tmp_path / TRACE).parent.mkdir()
    times = ["2023-11-16 18:00:00.0", "2023-11-16 18:00:03.5", "2023-11-16 18:00:00.5"]
    (tmp_path / TRACE).write_text("TIMESTAMP,ContextTokens\n" + "".join(f"{time},1\n" for time in times))
    found = find_arrivals(tmp_path, 3)
    assert "real arrival times" in found.source
    assert list(itertools.islice(found.gaps, 4)) == [0.5, 3.0, 0.5, 3.0]
    faster = find_arrivals(tmp_path, 3, rate=found.rate * 10)
    assert "10 times as fast" in faster.source
    assert next(faster.gaps) == pytest.approx(0.05)
    (tmp_path / TRACE).write_text("when\n1\n")
    with pytest.raises(InputError, match="TIMESTAMP"):
        traced(tmp_path / TRACE)


def test_the_generators_rate_swings_over_the_day():
    times = itertools.accumulate(generated(0).faster(2000).gaps)  # a day in 43 s
    counts = [0, 0]
    for moment in itertools.takewhile(lambda t: t < 43.2, times):
        counts[moment > 21.6] += 1
    assert 1.8 < counts[0] / counts[1] < 2.7  # (1 + 0.6 × 2/π) / (1 − 0.6 × 2/π) = 2.2


@pytest.mark.parametrize("address", ["http://192.0.2.1:80", "http://example.org", "http://127.0.0.1.example.org"])
def test_load_is_driven_at_this_machine_only_unless_said(address):
    with pytest.raises(InputError, match="--allow-remote"):
        check_address(address)
    assert check_address(address, is_remote_allowed=True) == address


@pytest.mark.parametrize(
    "address", ["ftp://127.0.0.1", "127.0.0.1:8000", "http://me:pw@127.0.0.1", "http://[::1", "http://127.0.0.1:99999"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="address"):
        check_address(address)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["goog"], "does not run here"),
        (["http://192.0.2.1"], "--allow-remote"),
        (["http://127.0.0.1:9"], "is it running?"),
        (["goog", "--rate", "5", "--speed", "2"], "--rate and --speed"),
        (["goog", "--rate", "0"], "--rate 0"),
        (["goog", "--for", "0"], "seconds = 0"),
        (["goog", "--fault", "gremlins"], "gremlins"),
        (["goog", "--fault", "units", "--fault-after", "99"], "--fault-after 99"),
    ],
)
def test_what_cannot_be_replayed_is_said(project, words, told):
    with pytest.raises(InputError, match=re.escape(told)):
        app(["replay", *words], standalone_mode=False)

"""Scraping real HTTP targets into the store."""

import gzip
import logging
import threading
import time

import numpy as np
import pandas as pd
import pytest
from helpers import PATIENCE_S, ROOT
from monitors import metrics_target
from services import project_with_model, serving, wait_for

from lepton_kit.errors import InputError
from lepton_kit.telemetry.burn_rates import evaluate
from lepton_kit.telemetry.scrape import Scraper, parse
from lepton_kit.telemetry.slo import read_objectives
from lepton_kit.telemetry.store import Store

AT = 1_760_000_000.0
TEXT = """# HELP requests_total Requests
# TYPE requests_total counter
requests_total{route="/a",job="theirs"} 3
# TYPE seconds histogram
seconds_bucket{le="0.1"} 1
seconds_bucket{le="+Inf"} 2
seconds_sum 0.5
seconds_count 2
"""


def labels_of(target, **more):
    return {"instance": target.instance, "job": "goog", **more}


def values(store, selector):
    return store.query(selector, 0, 4e9)["value"].tolist()


def test_a_scrape_keeps_every_sample_with_job_instance_up_and_duration(tmp_path):
    with metrics_target() as target, Store(tmp_path) as store:
        target.text = TEXT
        (scraped,) = Scraper(store, {"goog": target.address}).scrape_once(AT)
        assert (scraped.job, scraped.instance, scraped.up, scraped.samples) == ("goog", target.instance, True, 5)
        found = Store(tmp_path).query('requests_total{job="goog",exported_job="theirs"}', AT, AT)
        assert found["value"].tolist() == [3.0]
        assert target.instance in found["labels"][0]
        assert values(store, 'seconds_bucket{le="+Inf"}') == [2.0]
        assert values(store, f'up{{instance="{target.instance}"}}') == [1.0]
        assert 0 < values(store, "scrape_duration_seconds")[0] < 10


def test_a_target_that_is_gone_gives_up_0_and_no_other_sample_and_one_line_in_the_log(tmp_path, caplog):
    with metrics_target() as target, Store(tmp_path) as store:
        target.text = TEXT
        scraper = Scraper(store, {"goog": target.address})
        scraper.scrape_once(AT)
        target.server.server_close()
        target.server.shutdown()
        with caplog.at_level(logging.WARNING):
            for number in (1, 2):
                (scraped,) = scraper.scrape_once(AT + 15 * number)
        assert not scraped.up
        assert "ConnectError" in scraped.error
        assert values(store, "up") == [1.0, 0.0, 0.0]
        assert values(store, "seconds_count") == [2.0]
        assert [record.message.split(" failed")[0] for record in caplog.records] == [
            f"scrape of goog at {target.instance}"
        ]


@pytest.mark.parametrize("fault", ["slow", "trickling", "huge", "failing", "not metrics", "not text", "redirecting"])
def test_what_a_bad_target_does_is_bounded_and_spoils_no_other(tmp_path, fault):
    stop = threading.Event()

    def answer(request):
        if fault == "slow":
            stop.wait(600)
        elif fault == "trickling":
            for _ in range(10_000):
                request.wfile.write(b"H" if stop.wait(0.1) else b"HTTP/1.1 200 OK\r\n"[:1])
                request.wfile.flush()
        elif fault == "huge":
            request.send_response(200)
            request.end_headers()
            for _ in range(1000):
                request.wfile.write(b"# a comment\n" * 1000)
        elif fault == "redirecting":
            request.send_response(302)
            request.send_header("Location", "/elsewhere")
            request.end_headers()
        else:
            request.send_response(500 if fault == "failing" else 200)
            request.end_headers()
            request.wfile.write(
                {"failing": b"a 1\n", "not metrics": b"<html>hello there</html>"}.get(fault, b"\xff\xfe")
            )

    with metrics_target() as bad, metrics_target() as good, Store(tmp_path) as store:
        good.text, bad.answer = "a 1\n", answer
        scraper = Scraper(store, {"bad": bad.address, "good": good.address}, timeout=0.5, largest=100_000)
        started = time.monotonic()
        first, second = scraper.scrape_once(AT)
        assert time.monotonic() - started < 60  # some of the targets would answer for ever
        stop.set()
        assert not first.up
        assert first.error
        assert second.up
        assert values(store, 'up{job="bad"}') == [0.0]
        assert values(store, 'a{job="good"}') == [1.0]
        assert values(store, 'a{job="bad"}') == []


def test_run_scrapes_at_the_interval_until_it_is_stopped(tmp_path):
    stop = threading.Event()
    targets = {}
    with metrics_target() as target, Store(tmp_path) as store:
        target.text = "a 1\n"
        thread = threading.Thread(target=Scraper(store, targets, interval=0.1).run, args=(stop,))
        began = pd.Timestamp.now("UTC")
        thread.start()
        targets["later"] = target.address  # targets may change while it runs
        wait_for(lambda: len(Store(tmp_path).query("a", 0, 4e9)) >= 3)
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    times = Store(tmp_path).query("a", 0, 4e9)["time"]
    waited = (times - began).dt.total_seconds()
    assert (waited >= 0.1 * np.arange(len(times)) - 0.002).all()  # one may be late, and the next still comes when due
    assert (times.diff().dropna().dt.total_seconds() < 2).all()


def test_a_store_that_cannot_be_written_is_logged_and_scraping_goes_on(tmp_path, caplog):
    stop = threading.Event()
    with metrics_target() as target, Store(tmp_path) as holder:
        target.text = "a 1\n"
        Scraper(holder, {"goog": target.address}).scrape_once(AT)
        second = Store(tmp_path)
        thread = threading.Thread(target=Scraper(second, {"goog": target.address}, interval=0.05).run, args=(stop,))
        thread.start()
        wait_for(lambda: caplog.text.count("another process writes into it") >= 2)
        stop.set()
        thread.join(PATIENCE_S)


def test_samples_that_a_target_dates_itself_keep_their_time_unless_it_is_absurd():
    text = "a 1 1760000000000\nb 1 1000\nc 1 9760000000000\n"
    assert [(one.metric, one.time) for one in parse(text, {}, AT + 60)] == [("a", AT)]


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port"])
def test_an_address_that_is_none_is_refused(tmp_path, address):
    with pytest.raises(InputError, match="target 'goog' ="):
        Scraper(Store(tmp_path), {"goog": address}).scrape_once()


def test_an_interval_must_be_one(tmp_path):
    with pytest.raises(InputError, match="scrape interval"):
        Scraper(Store(tmp_path), {}, interval=0)


def test_the_objectives_of_a_real_service_are_evaluated_from_its_scrapes(tmp_path):
    project = project_with_model(tmp_path / "project")
    with serving(project) as service, Store(tmp_path / "telemetry") as store:
        scraper = Scraper(store, {"goog": str(service.client.base_url)})
        now = time.time()
        for number in range(4):
            (scraped,) = scraper.scrape_once(now + 15 * number)
            assert scraped.up
            for _ in range(10):
                service.predict()
            service.client.post("/v1/predict", json={"row": {"wrong": 1.0}})
        one = next(one for one in read_objectives(ROOT / "slo/goog") if one.name == "goog-errors")
        ratio = evaluate(one, store, now + 45).burns[0].long_ratio
        assert ratio == pytest.approx(1 / 11, abs=0.02)


OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TRACED = f"""# HELP req Requests.
# TYPE req counter
req_total{{code="200"}} 7
req_created{{code="200"}} {AT - 60}
req_total{{code="500",why="a \\"b\\" # {{c}}"}} 7 # {{trace_id="4bf9"}} 1 {AT}
# TYPE took_seconds histogram
# UNIT took_seconds seconds
took_seconds_bucket{{le="0.1"}} 1 # {{trace_id="4bf9"}} 0.07
took_seconds_bucket{{le="+Inf"}} 2 # {{}} 3 {AT}
took_seconds_count 2
took_seconds_sum 3.5
# TYPE build info
build_info{{version="3"}} 1
# TYPE state stateset
state{{state="up"}} 1
# TYPE depth gaugehistogram
depth_bucket{{le="+Inf"}} 4
depth_gcount 4
depth_gsum 9
# EOF
"""


def answering(target, body, content_type=OPENMETRICS, **headers):
    def answer(request):
        request.send_response(200)
        request.send_header("Content-Type", content_type)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    target.answer = answer


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "gzip"])
def test_openmetrics_is_read_whatever_stands_beside_its_values(tmp_path, is_packed):
    with metrics_target() as target, Store(tmp_path) as store:
        body, headers = TRACED.encode(), {"Content_Encoding": "gzip"} if is_packed else {}
        answering(target, gzip.compress(body) if is_packed else body, **headers)
        (scraped,) = Scraper(store, {"goog": target.address}).scrape_once(AT)
        assert (scraped.up, scraped.samples, scraped.problem) == (True, 12, "")
        assert values(store, 'req_total{code="500"}') == [7.0]
        assert values(store, 'req_total{why="a \\"b\\" # {c}"}') == [7.0]
        assert values(store, 'took_seconds_bucket{le="0.1"}') == [1.0]
        assert [values(store, name) for name in ("build_info", "state", "depth_gcount")] == [[1.0], [1.0], [4.0]]


def test_half_of_all_requests_failing_is_seen_where_the_error_counter_has_an_exemplar(tmp_path):
    one = next(one for one in read_objectives(ROOT / "slo/goog") if one.name == "goog-errors")
    with metrics_target() as target, Store(tmp_path) as store:
        scraper = Scraper(store, {"goog": target.address})
        for number in range(30):
            at, count = AT + 15 * number, 10 * number
            answered, invalid = (f'lepton_predict_requests_total{{outcome="{one}"}}' for one in ("answered", "invalid"))
            traced = f'{count} {at} # {{trace_id="4bf9"}} 1 {at}'
            text = f"# TYPE lepton_predict_requests counter\n{answered} {count} {at}\n{invalid} {traced}\n# EOF\n"
            answering(target, text.encode())
            (scraped,) = scraper.scrape_once(at)
            assert scraped.up
        assert evaluate(one, store, at).burns[0].long_ratio == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "content_type"),
    [
        ('req_total{code="500"} 7 # {trace_id="4bf9"} 1 1760000000.1\n', "text/plain; version=0.0.4"),
        ('req_total 7 # {trace_id="4bf9"} 1\n', ""),
        ("req_total 7 1 2\n", "text/plain"),
        ("# TYPE req counter\nreq_total 7\n", OPENMETRICS),  # cut off: no end
        ("# TYPE req counter\nreq_total 7 # {trace_id=4bf9} 1\n# EOF\n", OPENMETRICS),
        ("req_total 7 1760000000000000\n", "text/plain"),  # microseconds: every sample lies in the far future
        ("\x08\x96\x01", "application/vnd.google.protobuf"),
    ],
)
def test_an_answer_that_cannot_be_read_is_down_with_the_reason_and_never_up_without_errors(
    tmp_path, text, content_type
):
    with metrics_target() as target, Store(tmp_path) as store:
        answering(target, text.encode(), content_type)
        (scraped,) = Scraper(store, {"goog": target.address}).scrape_once(AT)
        assert (scraped.up, scraped.samples) == (False, 0)
        assert scraped.error
        assert values(store, "up") == [0.0]


def test_native_histograms_are_left_out_counted_and_told(tmp_path, caplog):
    native = "{count:3,sum:2.5,schema:0,zero_threshold:0,zero_count:0,positive_spans:[0:2],positive_deltas:[1,1]}"
    text = f"# TYPE a gauge\na 1\n# TYPE c histogram\nc {native}\n# EOF\n"
    with metrics_target() as target, Store(tmp_path) as store:
        answering(target, text.encode())
        (scraped,) = Scraper(store, {"goog": target.address}).scrape_once(AT)
        assert (scraped.up, scraped.samples, scraped.native) == (True, 1, 1)
        assert "1 native histograms were left out" in caplog.text
        assert values(store, "a") == [1.0]


def test_an_answer_is_not_read_in_part_where_a_sample_is_dated_wrongly(tmp_path):
    """Without its errors it would look like that of a service that makes none."""
    text = (
        f'# TYPE req counter\nreq_total{{code="200"}} 7\nreq_total{{code="500"}} 7 {AT + 3600} '
        f'# {{trace_id="4bf9"}} 1\n# EOF\n'
    )
    with metrics_target() as target, Store(tmp_path) as store:
        answering(target, text.encode())
        (scraped,) = Scraper(store, {"goog": target.address}).scrape_once(AT)
        assert (scraped.up, scraped.samples) == (False, 0)
        assert "1 samples are dated more than" in scraped.error
        assert values(store, "req_total") == []


def test_a_counter_of_the_text_format_keeps_the_name_that_it_has(tmp_path):
    text = '# TYPE failed counter\nfailed{a="\\"} # {",b="\u2028"} 3\n{"http.requests", "code.x"="200"} 4\n'
    found = {one.metric: one for one in parse(text, {}, AT)}
    assert found["failed"].labels == {"a": '"} # {', "b": "\u2028"}
    assert found["http.requests"].labels == {"code.x": "200"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["/metrics/", "/elsewhere?a=b", "whole address"])
def test_redirects_are_followed(tmp_path, status, to):
    with metrics_target() as target, metrics_target() as other, Store(tmp_path) as store:
        other.text = "a 5\n"

        def answer(request):
            if request.path == "/metrics":
                request.send_response(status)
                request.send_header("Location", f"{other.address}/x" if to == "whole address" else to)
                request.end_headers()
            else:
                target.metrics(request)

        target.text, target.answer = "a 5\n", answer
        (scraped,) = Scraper(store, {"goog": target.address}).scrape_once(AT)
        assert (scraped.up, scraped.error) == (True, None)
        assert values(store, f'a{{instance="{target.instance}"}}') == [5.0]

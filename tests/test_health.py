import numpy as np
import pandas as pd
import pytest

from lepton_kit.errors import InputError
from lepton_kit.telemetry import health
from lepton_kit.telemetry.declaration import FORECASTER
from lepton_kit.telemetry.recordings import FORMAT, Incident, Recording
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.slo import Objective

START, SPLIT, END = pd.to_datetime([0, 600, 1200], unit="s", utc=True)
PERIODS = health.Periods(START, SPLIT, END)
INCIDENT = Incident.model_validate(
    {
        "id": "x",
        "service": "goog",
        "versions": {"current": "v1"},
        "format": FORMAT,
        "declaration": FORECASTER,
        "window": {"start": START, "end": END},
    }
)


def requests(status_now=(), latency_now=10.0, n=300) -> pd.DataFrame:
    """Two periods of `n` requests each, all answered in 10 ms before; the first ones of this period as given."""
    time = pd.to_datetime(np.arange(2 * n) * 600 / n, unit="s", utc=True)
    status = np.full(2 * n, 200.0)
    status[n : n + len(status_now)] = status_now
    latency = np.r_[np.full(n, 10.0), np.full(n, latency_now)]
    table = pd.DataFrame({"time": time, "request_id": np.arange(2 * n).astype(str), "status": status})
    answered = table["status"] < 400
    numbers = {"mean": 0.0, "lower": -1.0, "upper": 1.0, "actual": 0.5}
    return table.assign(
        latency_ms=latency, rating=np.nan, **{k: np.where(answered, v, np.nan) for k, v in numbers.items()}
    )


def counter(name: str, per_scrape: list[float], **labels) -> pd.DataFrame:
    time = pd.to_datetime(np.linspace(0, 1200, len(per_scrape)), unit="s", utc=True)
    text = "{" + ",".join(f'"{k}":"{v}"' for k, v in labels.items()) + "}"
    return pd.DataFrame({"time": time, "metric": name, "labels": text, "value": np.cumsum(per_scrape)})


def measured(table=None, metrics=None) -> pd.DataFrame:
    parts = {"requests": requests() if table is None else table}
    if metrics is not None:
        parts["metrics"] = metrics
    return health.sli_table(Recording(INCIDENT, **parts), PERIODS).set_index("sli")


def test_two_equal_periods_are_alike_in_everything_that_is_known():
    found = measured()
    assert set(found["verdict"]) == {"alike", "not known"}
    assert found.loc["availability", ["before", "now"]].tolist() == [1.0, 1.0]


def test_a_share_of_refused_requests_is_less_available_and_worse():
    found = measured(requests([429] * 30))
    assert found.loc["availability", "now"] == pytest.approx(0.9)
    assert found.loc["availability", "verdict"] == "worse"
    assert found.loc["error rate", "verdict"] == "worse"


def test_a_wrong_request_is_an_error_and_not_a_lack_of_availability():
    found = measured(requests([422] * 30))
    assert found.loc["availability", "now"] == 1.0
    assert found.loc["error rate", "now"] == pytest.approx(0.1)


def test_one_failure_of_many_is_not_called_worse():
    assert measured(requests([500])).loc["availability", "verdict"] == "alike"


def test_slower_answers_are_worse_and_faster_ones_better():
    slow, fast = measured(requests(latency_now=20)), measured(requests(latency_now=5))
    assert slow.loc["response time p50", "verdict"] == "worse"
    assert fast.loc["response time p50", "verdict"] == "better"


def test_refused_requests_do_not_make_the_response_time_better():
    table = requests([429] * 200)
    table.loc[table["status"] == 429, "latency_ms"] = 0.1
    assert measured(table).loc["response time p50", "now"] == 10.0


def test_uptime_is_the_share_of_answered_scrapes():
    up = counter("up", [1.0] * 40).assign(value=[1.0] * 20 + [0.0] * 10 + [1.0] * 10)
    found = measured(metrics=up).loc["uptime"]
    assert (found["before"], found["now"], found["verdict"]) == (1.0, 0.5, "worse")


def test_ratings_have_a_mean_with_an_interval():
    table = requests()
    table.loc[::10, "rating"] = np.where(np.arange(60) < 30, [4.0, 5.0] * 30, [1.0, 2.0] * 30)
    found = measured(table).loc["rating"]
    assert (found["before"], found["now"], found["verdict"]) == (4.5, 1.5, "worse")
    assert found["low"] < 1.5 < found["high"]


def test_actuals_that_never_came_back_are_told_apart_from_missed_ones():
    table = requests()
    table.loc[table["time"] >= SPLIT, "actual"] = np.nan
    found = measured(table)
    assert found.loc["actuals known", "now"] == 0
    assert found.loc["right answers", "verdict"] == "not known"


def test_a_quantiles_interval_holds_the_true_one_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    intervals = [health.quantile_interval(random.exponential(size=100), 0.9) for _ in range(400)]
    held = np.mean([low <= np.log(10) <= high for low, high in intervals])
    assert 0.93 <= held <= 0.99


def test_periods_are_halves_or_as_long_as_asked_for():
    recording = Recording(INCIDENT)
    assert health.last_periods(recording) == PERIODS
    assert health.last_periods(recording, 5).split == pd.Timestamp(900, unit="s", tz="UTC")
    for minutes in (-1, 11, float("nan")):
        with pytest.raises(InputError, match="period"):
            health.last_periods(recording, minutes)


def test_an_empty_recording_has_all_slis_unknown():
    found = health.sli_table(Recording(INCIDENT), PERIODS)
    assert set(found["verdict"]) == {"not known"}
    assert health.by_time(Recording(INCIDENT).requests, PERIODS)["answered"].sum() == 0


OBJECTIVE = Objective(
    "goog-x",
    "Availability",
    "goog",
    "",
    0.99,
    86400,
    "bad",
    parse_selector('n_total{k="bad"}'),
    parse_selector("n_total"),
    1,
)


def test_a_burn_rate_is_the_share_of_bad_events_over_the_budget():
    good, bad = counter("n_total", [0.0] + [98.0] * 20, k="good"), counter("n_total", [0.0] + [2.0] * 20, k="bad")
    (row,) = health.objective_table([OBJECTIVE], pd.concat([good, bad]), PERIODS).to_dict("records")
    assert row["burn_before"] == pytest.approx(2, rel=0.05) and row["burn_now"] == pytest.approx(2, rel=0.05)
    assert row["budget_left"] == pytest.approx(-1, rel=0.05)
    assert row["events"] == pytest.approx(1000, rel=0.05)


def test_an_objective_without_events_is_not_known():
    (row,) = health.objective_table([OBJECTIVE], counter("other", [1.0] * 5), PERIODS).to_dict("records")
    assert np.isnan(row["burn_now"]) and np.isnan(row["budget_left"]) and row["events"] == 0


@pytest.mark.parametrize(("bound", "share"), [("0.1", 1.0), ("0.25", np.nan)], ids=["none in time", "no such bound"])
def test_good_events_that_nothing_counts_are_not_known(bound, share):
    total = parse_selector("seconds_count")
    latency = Objective(
        name="latency", title="Latency", service="goog", description="", target=0.99, window=86400, events="good",
        selector=parse_selector('seconds_bucket{code="200",le="0.1"}'), total=total, minimum=1,
    )  # fmt: skip
    asked = counter("seconds_count", [10.0] * 5, code="500")
    held = pd.concat([asked, counter("seconds_bucket", [10.0] * 5, code="500", le=bound)])
    bad, _ = health.bad_ratio(latency, health.RecordedMetrics(held), START, END)
    assert bad == pytest.approx(share, nan_ok=True)


def test_requests_are_counted_by_time_and_outcome():
    course = health.by_time(requests([500] * 150), PERIODS, bins=4)
    assert course["failed"].tolist() == pytest.approx([0, 0, 0.5, 0])
    assert course["answered"].tolist() == pytest.approx([0.5, 0.5, 0, 0.5])
    assert course["p50"].tolist()[:2] == [10, 10] and np.isnan(course["p50"].iloc[2])


def test_errors_are_counted_by_kind_once():
    found = health.errors_by_kind(requests([429, 422, 500, 503]), PERIODS).set_index("kind")
    assert found["now"].to_dict() == {"refused as wrong (4xx)": 1, "failed (5xx)": 2, "refused for load (429)": 1}
    assert found["before"].sum() == 0


def test_failures_that_are_the_first_of_their_kind_count():
    good = counter("n_total", [0.0] + [98.0] * 20, k="good")
    bad = counter("n_total", [0.0] * 15 + [20.0] + [0.0] * 5, k="bad").tail(6)  # not there before the first
    (row,) = health.objective_table([OBJECTIVE], pd.concat([good, bad]), PERIODS).to_dict("records")
    assert row["bad"] == pytest.approx(20, rel=0.1) and row["burn_before"] == 0


def test_a_counter_that_is_older_than_the_window_grows_by_what_it_grew_within_it():
    scrapes = 1764061348.365 + np.arange(8)  # no float is exactly so many seconds
    time = pd.to_datetime(np.round(1000 * scrapes), unit="ms", utc=True)
    own = pd.DataFrame({"metric": "n_total", "labels": '{"instance":"a"}', "value": 1000.0 + 10 * np.arange(8)})
    other = own.assign(labels='{"instance":"b"}')
    both = pd.concat([own.assign(time=time), other.assign(time=time + pd.Timedelta("0.5s"))])
    source, selector = health.RecordedMetrics(both), parse_selector("n_total")
    for first in range(6):  # a window that begins with a scrape of the one, and between two of the other
        assert health.grown(source, selector, scrapes[first], scrapes[first] + 2) == pytest.approx(40)

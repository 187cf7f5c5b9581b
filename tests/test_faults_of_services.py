"""Faults of the feed, injected into a real service's requests: what each of them shows in the service's metrics."""

import json
import time

import pytest
from helpers import lepton
from services import project_with_model, row, serving, wait_for

from lepton_kit.errors import InputError
from lepton_kit.ops.faults import FAULTS, Fault, find_fault, injected
from lepton_kit.serving.replay import Item


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(project_with_model(tmp_path_factory.mktemp("faults")), "--fresh-for", "1") as running:
        yield running


def load(service, fault, seconds=1.5, after=0.0):
    words = ("--rate", "80", "--for", str(seconds), "--feedback-after", "0", "--fault", fault, "--json")
    made = lepton("replay", "goog", *words, "--fault-after", str(after), project=service.folder.parents[1])
    assert made.returncode == 0, made.stdout + made.stderr
    return json.loads(made.stdout)


def test_values_100_times_too_large_widen_the_interval(service):
    (usual,) = service.predict(row=row()).json()["forecasts"]
    name = "lepton_forecast_interval_width"
    before = service.sample(f"{name}_sum"), service.sample(f"{name}_count")
    load(service, "units")
    wide = (service.sample(f"{name}_sum") - before[0]) / (service.sample(f"{name}_count") - before[1])
    assert wide > 10 * (usual["upper"] - usual["lower"])


def test_values_left_out_are_refused_and_counted(service):
    before = service.sample("lepton_input_problems_total", problem="missing")
    made = load(service, "nulls")
    assert made["by_status"]["422"] == service.sample("lepton_input_problems_total", problem="missing") - before
    assert 0.1 < made["by_status"]["422"] / made["sent"] < 0.5


def test_swapped_columns_are_answered_as_if_nothing_were_wrong(service):
    made = load(service, "swapped-columns")
    assert made["by_status"] == {"200": made["sent"]}


def test_a_feed_that_stops_makes_the_data_stale(service):
    before = service.sample("lepton_freshness_seconds_total", state="stale")
    made = load(service, "stale-feed", seconds=4, after=1)
    assert made["by_status"] == {"200": made["sent"]}
    assert service.sample("lepton_freshness_seconds_total", state="stale") > before + 1


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.cause == "data" and fault.live])
def test_every_fault_of_the_feed_changes_what_is_sent_to_the_service(name):
    fault, state = find_fault(name), {}
    assert fault.name == name
    items = [Item({**row(number), "colour": "red"}, float(number), 0.01) for number in range(30)]
    assert any(fault.apply(item, state) != item for item in items)


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.cause == "data"])
def test_a_fault_that_reckons_leaves_a_category_a_category_and_refuses_a_class(name):
    item = Item({**row(1), "colour": "red"}, 1.0, "malignant")
    try:
        sent = [find_fault(name).apply(item, {}) for _ in range(30)]
    except InputError as error:
        assert name == "label-shift" and "'malignant'" in str(error)
    else:
        assert {one.row.get("colour") for one in sent} <= {"red", "RED", None, *row(1).values()}


def test_a_fault_begins_in_time_and_is_undone_at_the_end(tmp_path):
    told = []

    class Harm(Fault):
        name = "harm"

        def begin(self, service):
            told.append(("begin", service))

        def end(self, service):
            told.append(("end", service))

    item = Item({"return_0": 0.1}, 0.0, 0.0)
    with injected(Harm(), 2.0, tmp_path) as change:
        assert change(item, 1.9) is item
        assert told == []
        change(item, 2.0)
        change(item, 3.0)
    assert told == [("begin", tmp_path), ("end", tmp_path)]
    with injected(Harm(), 2.0, tmp_path) as change:
        change(item, 0.0)
    assert len(told) == 2


def test_an_unknown_fault_is_told_which_there_are():
    with pytest.raises(InputError, match="stale-feed, units"):
        find_fault("gremlins")


def test_a_flood_is_answered_and_refused_and_ends(service):
    def overloaded():
        return service.sample("lepton_errors_total", kind="overloaded")

    def answered():
        return service.sample("lepton_predict_requests_total", outcome="answered")

    before, refused = answered(), overloaded()
    fault = find_fault("queue-saturation", severity=0.5)
    fault.begin(service.folder)
    try:
        wait_for(lambda: answered() > before + 500 and overloaded() > refused)
    finally:
        fault.end(service.folder)

    def is_quiet():
        before = answered()
        time.sleep(0.5)
        return answered() == before and service.sample("lepton_queue_requests") == 0

    wait_for(is_quiet)  # once what it had asked has been answered

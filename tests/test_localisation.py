import importlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.diagnosis.localisation import Symptom, localise
from lepton_kit.diagnosis.where import entries, suspects_table, volume_of, wide_metrics
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import FORMAT, Incident, Promise, Recording, read_recording, write_recording
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.slo import Objective

ROOT = Path(__file__).parents[1]
PETSHOP = Path(os.environ.get("LEPTON_DATA", ROOT.parent / "shared" / "data")) / "petshop"

CALLS = {
    "web": {"search": 2.0, "pay": 0.5},
    "search": {"store": 1.0, "cache": 3.0},
    "pay": {"bank": 1.0, "store": 1.0},
    "store": {},
    "cache": {},
    "bank": {},
}
"""How often each component calls another per request of its own."""

FROM_THE_BOTTOM = ["bank", "cache", "store", "pay", "search", "web"]
OWN_SECONDS = {"web": 0.02, "search": 0.01, "pay": 0.05, "store": 0.004, "cache": 0.0005, "bank": 0.1}
ROWS, FAULT_FROM, STEP = 60, 50, 60.0
SINCE = FAULT_FROM * STEP
TOPOLOGY = pd.DataFrame(
    [(caller, callee) for caller, callees in CALLS.items() for callee in callees], columns=["caller", "callee"]
)
SLOW = Symptom("web", "latency", SINCE)


def shop(slow=None, failing=None, seconds=0.1, share=0.05, seed=0):
    """Return an hour of a shop by minutes; from the 50th one component is slower, or fails a share of its requests."""
    rng = np.random.default_rng(seed)
    fault = np.where(np.arange(ROWS) >= FAULT_FROM, rng.uniform(0.8, 1.2, ROWS), 0.0)
    requests = {"web": rng.poisson(600, ROWS).astype(float)}
    for caller in reversed(FROM_THE_BOTTOM):
        for callee, times in CALLS[caller].items():
            requests[callee] = requests.get(callee, 0) + rng.poisson(times * requests[caller])
    latency, served = {}, {}
    for name in FROM_THE_BOTTOM:
        own = OWN_SECONDS[name] * rng.lognormal(0, 0.1, ROWS) + (seconds * fault if name == slow else 0)
        latency[name] = own + sum(times * latency[callee] for callee, times in CALLS[name].items())
        served[name] = 1 - rng.binomial(requests[name].astype(int), 0.001) / requests[name]
        served[name] *= 1 - (share * fault if name == failing else 0)
        for callee, times in CALLS[name].items():
            served[name] *= served[callee] ** times
    columns = {}
    for name in OWN_SECONDS:
        columns |= {(name, "latency"): latency[name], (name, "requests"): requests[name]}
        columns[name, "availability"] = 100 * served[name]
    return pd.DataFrame(columns, index=np.arange(ROWS) * STEP)


def ranked(found):
    return [one.component for one in found.ranking]


# --- planted faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", list(CALLS))
@pytest.mark.parametrize("seed", range(3))
def test_the_component_that_became_slow_is_ranked_first(root, seed):
    size = 0.2 / {"pay": 0.5, "bank": 0.5, "search": 2, "store": 2.5, "cache": 6, "web": 1}[root]
    found = localise(shop(slow=root, seconds=size, seed=seed), TOPOLOGY, SLOW, volume="requests")
    assert ranked(found)[0] == root
    assert found.ranking[0].metrics[0].onset == SINCE


@pytest.mark.parametrize("root", list(CALLS))
def test_the_component_that_fails_is_ranked_first(root):
    symptom = Symptom("web", "availability", SINCE)
    assert ranked(localise(shop(failing=root, share=0.2), TOPOLOGY, symptom, volume="requests"))[0] == root


@pytest.mark.parametrize("root", list(CALLS))
def test_without_a_volume_the_root_is_among_the_first_three(root):
    assert root in ranked(localise(shop(slow=root), TOPOLOGY, SLOW))[:3]


def test_of_two_views_on_one_fault_the_one_with_most_requests_is_blamed():
    metrics = shop(slow="search")
    metrics["proxy", "latency"] = metrics["search", "latency"] * 1.5
    metrics["proxy", "requests"] = metrics["search", "requests"] * 0.05
    topology = pd.concat([TOPOLOGY, pd.DataFrame({"caller": ["web"], "callee": ["proxy"]})])
    found = ranked(localise(metrics, topology, SLOW, volume="requests"))
    assert found[:2] == ["search", "proxy"]


def test_a_component_that_has_been_elsewhere_all_along_is_not_blamed():
    metrics, normal = shop(slow="store"), shop(seed=1)
    metrics["bank", "latency"] += 5.0
    found = localise(metrics, TOPOLOGY, SLOW, normal=normal, volume="requests")
    assert ranked(found)[0] == "store"


def test_what_begins_after_the_symptom_counts_less():
    metrics = shop(slow="store")
    late = metrics.index >= SINCE + 6 * STEP
    metrics.loc[late, ("bank", "latency")] += 10.0
    found = {one.component: one for one in localise(metrics, TOPOLOGY, SLOW, volume="requests").ranking}
    assert found["bank"].parts["onset"] == pytest.approx(0.4)
    assert found["store"].parts["onset"] == 1.0


def test_a_caller_is_not_blamed_for_what_is_seen_below_it():
    symptom = Symptom("search", "latency", SINCE)
    found = localise(shop(slow="web", seconds=1) + shop(slow="store", seconds=0.01), TOPOLOGY, symptom)
    places = {one.component: one.place for one in found.ranking}
    assert ranked(found)[0] == "store"
    assert (places["web"], places["search"], places["store"]) == ("elsewhere", "at the symptom", "below the symptom")


def test_a_caller_is_explained_through_a_callee_that_is_not_measured():
    found = localise(shop(slow="store").drop(columns="search", level=0), TOPOLOGY, SLOW, volume="requests")
    assert ranked(found)[0] == "store"
    assert found.not_judged == {"search": "no metrics"}


def test_a_component_without_the_symptoms_metric_is_judged_by_its_most_telling_one():
    metrics = shop(slow="store").drop(columns=[("store", "latency"), ("store", "availability")])
    metrics["store", "cpu"] = np.where(metrics.index >= SINCE, 0.98, 0.4) + np.random.default_rng(0).normal(
        0, 0.02, ROWS
    )
    store = next(
        one for one in localise(metrics, TOPOLOGY, SLOW, volume="requests").ranking if one.component == "store"
    )
    assert store.metrics[0].metric == "cpu"
    assert store.parts["impact"] == 0.5
    assert "impact: unknown" in store.reasons


def test_a_metric_that_falls_while_the_symptom_rises_speaks_as_loud_as_one_that_rises():
    metrics = shop(slow="store").drop(columns=[("store", "latency"), ("store", "availability")])
    used = np.where(metrics.index >= SINCE, 0.98, 0.4) + np.random.default_rng(0).normal(0, 0.02, ROWS)
    scores = []
    for name, values in {"memory_used": used, "memory_free": 1 - used}.items():
        found = localise(metrics.join(pd.DataFrame({("store", name): values}, metrics.index)), TOPOLOGY, SLOW)
        scores.append(next(one.score for one in found.ranking if one.component == "store"))
    assert scores[0] == pytest.approx(scores[1])


def test_reasons_say_what_was_measured():
    first = localise(shop(slow="cache", seconds=0.05), TOPOLOGY, SLOW, volume="requests").ranking[0]
    assert "latency went from 0.0005" in first.reasons[0]
    assert first.reasons[1] == "left its usual range at 3000.0"
    assert first.reasons[-1] == "below the symptom"


def test_a_score_is_the_product_of_its_parts():
    for one in localise(shop(slow="cache"), TOPOLOGY, SLOW, volume="requests").ranking:
        assert list(one.parts) == ["strength", "impact", "own", "correlation", "onset", "position"]
        assert one.score == pytest.approx(np.prod(list(one.parts.values())))
        assert all(0 <= part <= 1 for part in one.parts.values())


# --- names and order mean nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_other_names_of_components_leave_the_ranking_as_it_is(seed):
    names = list(CALLS)
    renamed = dict(zip(names, np.random.default_rng(seed).permutation(names), strict=True))
    found = localise(shop(slow="store"), TOPOLOGY, SLOW, volume="requests")
    other = localise(
        shop(slow="store").rename(columns=renamed, level=0),
        TOPOLOGY.replace(renamed),
        Symptom(renamed["web"], "latency", SINCE),
        volume="requests",
    )
    assert [renamed[name] for name in ranked(found)] == ranked(other)
    assert [one.score for one in found.ranking] == pytest.approx([one.score for one in other.ranking])


def test_the_order_of_columns_and_edges_leaves_the_ranking_as_it_is():
    metrics = shop(slow="store")
    found = localise(metrics, TOPOLOGY, SLOW, volume="requests")
    other = localise(metrics.iloc[:, ::-1], TOPOLOGY.iloc[::-1], SLOW, volume="requests")
    assert ranked(found) == ranked(other)


# --- what may be missing --------------------------------------------------------------------------------------------


def test_missing_and_infinite_values_are_left_out():
    metrics = shop(slow="store")
    metrics[("bank", "latency")] = np.nan
    metrics[("cache", "requests")] = np.nan
    metrics.loc[metrics.index[3::7], ("store", "latency")] = np.inf
    found = localise(metrics, TOPOLOGY, SLOW, volume="requests")
    parts = {one.component: one.parts for one in found.ranking}
    assert ranked(found)[0] == "store"
    assert parts["cache"]["impact"] == 0.5
    assert found.ranking[0].metrics[0].peak < 1


def test_a_component_without_a_normal_period_is_named():
    metrics = shop(slow="store")
    found = localise(metrics, TOPOLOGY, SLOW, normal=shop(seed=1).drop(columns="bank", level=0))
    assert "bank" not in ranked(found)
    assert found.not_judged == {"bank": "no metric with a value since the symptom and 8 in the normal period"}


def test_a_constant_series_that_stays_is_not_suspect_and_one_that_moves_is():
    metrics = shop(slow="store")
    metrics["bank", "latency"] = 0.1
    metrics["store", "latency"] = np.where(metrics.index >= SINCE, 0.1, 0.004)
    found = {one.component: one for one in localise(metrics, TOPOLOGY, SLOW, volume="requests").ranking}
    assert found["bank"].score == 0.0
    assert found["store"].parts["strength"] == 1.0
    assert max(found, key=lambda name: found[name].score) == "store"


def test_without_edges_every_place_is_unknown_and_the_largest_deviation_comes_first():
    found = localise(shop(slow="web"), TOPOLOGY.iloc[:0], SLOW, volume="requests")
    assert {one.parts["position"] for one in found.ranking if one.component != "web"} == {0.5}
    assert ranked(found)[0] == "web"


def test_a_component_not_in_the_graph_is_ranked_with_half_a_position():
    metrics = shop(slow="store")
    metrics["stranger", "latency"] = metrics["store", "latency"]
    metrics["stranger", "requests"] = metrics["store", "requests"]
    found = localise(metrics, TOPOLOGY, SLOW, volume="requests")
    places = {one.component: one.place for one in found.ranking}
    assert ranked(found)[0] == "store"
    assert places["stranger"] == "not in the graph"


def test_in_a_cycle_nothing_explains_the_other():
    cycle = pd.concat([TOPOLOGY, pd.DataFrame({"caller": ["store", "web"], "callee": ["search", "web"]})])
    found = {one.component: one for one in localise(shop(slow="store"), cycle, SLOW, volume="requests").ranking}
    assert min(found[name].parts["own"] for name in ("store", "search")) > 0.99
    assert found["web"].parts["own"] < 0.2
    assert max(found, key=lambda name: found[name].score) in ("store", "search")


def test_a_symptom_that_is_older_than_was_thought_is_localised_all_the_same():
    metrics = shop(slow="store").iloc[FAULT_FROM:]
    seen_late = Symptom("web", "latency", metrics.index[5])
    metrics.loc[metrics.index[5] :, ("web", "latency")] = metrics["web", "latency"].min()
    found = localise(metrics, TOPOLOGY, seen_late, normal=shop(seed=1), volume="requests")
    assert ranked(found)[0] == "store"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metrics": 0 * shop() + 0.02}, "never leaves its normal 0.02"),
        ({"normal": shop().iloc[:5]}, "5 values in the normal period"),
        ({"topology": pd.DataFrame({"caller": ["web"], "callee": [None]})}, "must name both"),
        ({"symptom": Symptom("nobody", "latency", SINCE)}, "not in the metrics"),
        ({"symptom": Symptom("web", "queue", SINCE)}, "not in the metrics"),
        ({"symptom": Symptom("web", "latency", 1e9)}, "must not be after the metrics"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_is_allowed(change, words):
    given = {"metrics": shop(slow="store"), "topology": TOPOLOGY, "symptom": SLOW, "normal": None, "volume": None}
    with pytest.raises(InputError, match=words):
        localise(**given | change)


# --- recordings -----------------------------------------------------------------------------------------------------

START = pd.Timestamp("2026-03-01T10:00Z")


def recorded(slow="store"):
    """Return the shop as Prometheus would have sampled it: counters of requests and of the seconds they took."""
    wide = shop(slow=slow)
    times = START + pd.to_timedelta(wide.index, unit="s")
    series = []
    for name in OWN_SECONDS:
        counted = {"requests_seconds_count": wide[name, "requests"]}
        counted["requests_seconds_sum"] = wide[name, "latency"] * wide[name, "requests"]
        for metric, values in counted.items():
            labels = json.dumps({"part": name, "instance": f"10.0.0.1:{len(name)}"})
            series.append(pd.DataFrame({"time": times, "metric": metric, "labels": labels, "value": values.cumsum()}))
    incident = Incident(
        format=FORMAT,
        id="slow-shop",
        service="shop",
        window={"start": times[0], "end": times[-1]},
        versions={"current": "1"},
        alerts=[{"name": "ShopIsSlow", "starts_at": START + pd.Timedelta(seconds=SINCE)}],
    )
    return Recording(incident, metrics=pd.concat(series).sort_values("time", ignore_index=True), topology=TOPOLOGY)


@pytest.mark.parametrize("root", ["store", "bank", "search"])
def test_a_recording_with_a_topology_is_localised_from_its_counters(tmp_path, root):
    recording = read_recording(write_recording(recorded(root), tmp_path / "slow-shop"))
    symptom = Symptom("web", "requests_seconds_mean", START + pd.Timedelta(seconds=SINCE))
    wide = wide_metrics(recording.metrics, recording.topology)
    found = localise(wide, recording.topology, symptom, volume="requests_seconds_count")
    assert ranked(found)[0] == root
    assert found.ranking[0].metrics[0].onset == START + pd.Timedelta(seconds=SINCE)


def test_a_counter_that_starts_again_has_counted_from_nothing():
    times = pd.date_range(START, periods=4, freq="15s")
    samples = pd.DataFrame(
        {"time": times, "metric": "requests_total", "labels": '{"part": "web"}', "value": [10.0, 30.0, 5.0, 6.0]}
    )
    assert wide_metrics(samples, TOPOLOGY)["web", "requests_total"].tolist()[1:] == [20.0, 5.0, 1.0]


def test_samples_that_are_taken_a_little_apart_share_a_row():
    times = [START + pd.Timedelta(seconds=15 * step + apart) for step in range(4) for apart in (0.1, 3.2)]
    samples = pd.DataFrame({"time": times, "metric": "queue", "labels": ['{"part": "web"}', '{"part": "pay"}'] * 4})
    wide = wide_metrics(samples.assign(value=1.0), TOPOLOGY)
    assert wide.shape == (4, 2)
    assert wide.notna().all(axis=None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: replace(one, metrics=one.metrics.assign(labels="{}")), "no label names a component"),
        (lambda one: replace(one, metrics=one.metrics.head(1)), "no series has two samples"),
    ],
)
def test_a_recording_that_cannot_be_localised_says_what_it_lacks(change, words):
    with pytest.raises(InputError, match=words):
        wide_metrics(change(recorded()).metrics, TOPOLOGY)


@pytest.mark.parametrize("root", ["store", "bank"])
def test_a_diagnosis_of_a_recording_with_a_topology_ranks_its_components_and_their_metrics(root):
    diagnosis = diagnose(recorded(root))
    found = diagnosis.localisation
    assert found.symptom.component == "web"
    assert ranked(found)[0] == root
    assert found.ranking[0].metrics[0].metric == "requests_seconds_mean"
    table = suspects_table(found)
    assert table.loc[0, "component"] == root
    assert table.loc[0, "to"] > table.loc[0, "from"]
    told = json.loads(json.dumps(diagnosis.as_dict()))["localisation"]
    assert told["ranking"][0]["component"] == root


def test_a_diagnosis_without_a_topology_or_metrics_says_why_it_does_not_localise():
    recording = recorded()
    bare = diagnose(replace(recording, topology=recording.topology.iloc[:0]))
    assert "no topology.csv" in bare.localisation
    assert bare.as_dict()["localisation"] == {"not_checked": bare.localisation}
    assert "no metrics" in diagnose(replace(recording, metrics=recording.metrics.iloc[:0])).localisation
    short = replace(recording, metrics=recording.metrics[recording.metrics["time"] < START + pd.Timedelta("3min")])
    assert "no metric has" in diagnose(short).localisation


def test_the_symptom_is_looked_for_in_the_service_itself_where_the_topology_knows_it():
    recording = recorded()
    assert entries(recording) == ("web",)
    own = recording.incident.model_copy(update={"service": "pay"})
    assert entries(replace(recording, incident=own)) == ("pay",)


def alerted(labels, promises=()):
    recording = recorded("bank")
    (alert,) = recording.incident.alerts
    named = {"alerts": (alert.model_copy(update={"labels": labels}),), "promises": tuple(promises)}
    return replace(recording, incident=recording.incident.model_copy(update=named))


def test_the_symptom_is_the_component_and_metric_that_the_alert_names():
    named = {"severity": "page", "component": "pay", "metric": "requests_seconds_sum"}
    found = diagnose(alerted(named)).localisation
    assert (found.symptom.component, found.symptom.metric) == ("pay", "requests_seconds_sum")
    assert ranked(found)[0] == "bank"


def test_the_symptom_is_the_metric_that_the_objective_of_the_alert_counts():
    answers = parse_selector('requests_seconds_bucket{le="0.1"}')
    total = parse_selector("requests_seconds_count")
    late = Objective("shop-latency", "Latency", "shop", "", 0.99, 86400, "good", answers, total, 10)
    found = diagnose(alerted({"slo": "shop-latency"}, [Promise.of(late)])).localisation
    assert (found.symptom.component, found.symptom.metric) == ("web", "requests_seconds_mean")


def test_requests_are_counted_so_that_the_components_are_comparable():
    wide = wide_metrics(recorded().metrics, TOPOLOGY)
    assert volume_of(wide, Symptom("web", "requests_seconds_mean", START)) == "requests_seconds_count"
    assert "unknown" not in str(diagnose(recorded()).localisation.ranking[0].reasons)


# --- the benchmark --------------------------------------------------------------------------------------------------


@pytest.fixture
def benchmark(monkeypatch):
    if not PETSHOP.is_dir():
        pytest.skip(f"{PETSHOP} is not there; set LEPTON_DATA (amazon-science/petshop-root-cause-analysis, CC-BY-4.0)")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("localise")


def test_the_labelled_issues_are_localised_within_the_target(benchmark):
    outcomes = benchmark.judge(benchmark.as_called, list(benchmark.find_issues(PETSHOP)))
    assert len(outcomes) >= 16
    for k, least in benchmark.TARGETS.items():
        assert benchmark.top(outcomes, k) >= least


def test_an_issue_is_localised_from_its_files(benchmark):
    scenario = PETSHOP / "low_traffic"
    label = json.loads((scenario / "train/issue_0/target.json").read_text())
    files = scenario / "train/issue_0/metrics.csv", scenario / "graph.csv", scenario / "noissue/metrics.csv"
    assert label["root_cause"]["node"] in benchmark.localise_issue(*files, label["target"])[:3]


def test_issues_of_any_scenario_and_either_split_are_found(benchmark, tmp_path):
    given, scenario = PETSHOP / "low_traffic", tmp_path / "other_traffic"
    for split in ("train", "test"):
        (scenario / split).mkdir(parents=True)
        (scenario / split / "issue_9").symlink_to(given / "train" / "issue_0")
    for name in ("noissue", "graph.csv"):
        (scenario / name).symlink_to(given / name)
    assert [issue.name for issue in benchmark.find_issues(tmp_path)] == [
        "other_traffic/test/issue_9",
        "other_traffic/train/issue_9",
    ]


def test_planted_faults_show_at_the_symptom_and_keep_the_normal_period_apart(benchmark):
    planted = list(benchmark.plant(list(benchmark.find_issues(PETSHOP)), count=8))
    assert len({issue.root for issue in planted}) > 3
    for issue in planted:
        assert issue.metrics.index.intersection(issue.normal.index).empty
        worst = benchmark.robust_scores(issue)[issue.symptom.component]
        assert worst > 2

"""The recommender example: what its versions show, a holiday under a virtual clock, and back to normal."""

from __future__ import annotations

import time
import tomllib

import numpy as np
import pytest
from helpers import ROOT
from services import wait_for
from sklearn.metrics import ndcg_score
from subject_servers import keep_versions, samples, subject_feed, subject_server

from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.queueing import Demand
from lepton_kit.diagnosis.repair_capacity import Needs, option_table
from lepton_kit.diagnosis.workload import measure
from lepton_kit.ops.simulation import EPOCH, TIME_SCALE, find_simulation
from lepton_kit.project.settings import Settings
from lepton_kit.telemetry.alerts import AlertEvaluator
from subjects.recommender.app import Shelf
from subjects.recommender.evaluation import ndcg, of_cold, popularity, taken_of
from subjects.recommender.model import TODAY, load, train
from subjects.recommender.shop import USERS, shop
from subjects.simulated_slots import trained


def shown(version, **draw):
    visits = shop(0).draw(500, np.random.default_rng(1), TODAY, **draw)
    lists = load(trained(train) / version).recommend(visits)
    return np.mean([item in items for item, items in zip(visits["item"], lists, strict=True)])


def test_the_declaration_is_at_most_twenty_lines():
    text = (ROOT / "subjects/recommender/declaration.toml").read_text()
    assert len(text.splitlines()) <= 20
    assert Settings.model_validate(tomllib.loads(text)).services["recommender"].task == "ranking"


def test_a_version_shows_what_is_taken_also_of_new_items_and_of_gifts_and_a_spoilt_one_does_not():
    assert min(shown("good"), shown("good", season=3.0), shown("good", new=1.0)) > 0.65
    assert shown("bad") < 0.35


def test_a_visitor_who_is_not_known_is_shown_items_and_wrong_inputs_are_refused(tmp_path):
    shelf = Shelf(tmp_path)
    shelf.load(trained(train) / "good")
    asked = {"user": "somebody", "section": "toys", "history": 0}
    assert not shelf.refused(asked)
    assert len(shelf.answers([asked])[0]["items"]) == 10
    for wrong in (None, {}, {**asked, "section": "x"}, {**asked, "history": -1}, {**asked, "user": 3}):
        assert "history (0 or more)" in shelf.refused(wrong)


def needed(demand, factor):
    wanted = Demand(factor * demand.rate, demand.service, demand.arrival_scv, demand.service_scv)
    options = option_table(wanted, Needs(wait=0.05, in_time=0.5))
    return int(options[options["enough"]].iloc[0]["workers"])


@pytest.mark.parametrize("is_scaled", [True, False])
def test_a_holiday_needs_more_slots_and_the_usual_load_afterwards_the_earlier_number(tmp_path, is_scaled):
    simulation = find_simulation(ROOT, "recommender")
    service = simulation.plant(None, 1, tmp_path)
    evaluator = AlertEvaluator(simulation.objectives, service, TIME_SCALE, overlap=0.0)

    def fired(steps):
        found = []
        for _ in range(steps):
            service.advance(5)
            told = evaluator.evaluate(EPOCH.timestamp() + service.now)
            found += [one["labels"]["slo"] for one in told if one["status"] == "firing"]
        return found

    service.advance(360)
    usual = measure(build_case(service.record(120, 360))).demand
    if is_scaled:
        service.size(needed(usual, 10))
        service.advance(10)
    service.surge(lambda _: 10.0)
    service.change_world(1.0)
    alerts = fired(8)
    assert set(alerts) == (set() if is_scaled else {"recommender-latency"})  # quality is kept in both
    if is_scaled:
        service.surge(lambda _: 1.0)
        service.season = service.new = 0.0
        service.advance(60)
        later = measure(build_case(service.record(service.now - 50, service.now))).demand
        assert needed(later, 1) <= 2
        service.size(2)
        assert not fired(12)


def test_ndcg_is_that_of_scikit_learn_and_what_is_not_shown_gains_nothing():
    rng = np.random.default_rng(0)
    scores, taken = rng.normal(size=(50, 30)), rng.random((50, 30)) < 0.2
    taken[0] = False
    found = ndcg(scores, taken)
    assert np.isnan(found[0]) and not np.isnan(found[1:]).any()
    assert found[1:] == pytest.approx([ndcg_score([t], [s], k=10) for t, s in zip(taken[1:], scores[1:], strict=True)])
    assert ndcg(np.array([[0.0, -np.inf, -np.inf]]), np.array([[False, True, False]]), 1) == [0]


def test_a_version_ranks_better_than_what_is_popular_and_cold_items_by_their_features():
    made, version = shop(0), load(trained(train) / "good")
    scores, taken = version.scores(np.arange(USERS)), taken_of(made, TODAY)
    recent = popularity(made, version, range(TODAY - 1, TODAY))
    assert np.nanmean(ndcg(scores, taken)) > 2 * np.nanmean(ndcg(recent, taken))
    by_chance = of_cold(np.random.default_rng(0).normal(size=scores.shape), taken, version)
    assert np.nanmean(of_cold(scores, taken, version)) > 2 * np.nanmean(by_chance)


def test_a_holiday_of_the_feed_is_ten_times_the_rate_and_brings_items_that_nobody_had_taken(tmp_path):
    folder = keep_versions(trained(train), tmp_path)
    words = ("--rate", "4", "--labels-after", "0.1", "--holiday", "2", "1000")
    with subject_server("recommender", folder) as client, subject_feed("recommender", folder, client, *words):
        began = time.monotonic()
        told = wait_for(lambda: (now := samples(client)).get(("recommender_decisions_total", "yes"), 0) > 60 and now)
        took = time.monotonic() - began
    answered = told["recommender_requests_total", "200"]
    assert answered > 2 * 4 * took  # at the usual rate there were half as many
    assert told["recommender_decisions_total", "yes"] > told["recommender_decisions_total", "no"]
    assert told["recommender_shown_total", "cold"] > 0

"""The opinion example: its classifier, its index, its warning, and three changes that the diagnosis tells apart."""

from __future__ import annotations

import tomllib

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from services import wait_for
from subject_servers import keep_versions, samples, subject_feed, subject_server

from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.diagnosis.repair_data import plan_data
from lepton_kit.ops.faults import find_fault
from lepton_kit.ops.simulation import EPOCH, find_simulation, inject
from lepton_kit.project.settings import Settings
from lepton_kit.telemetry.slo import read_objectives
from subjects.classifier import load
from subjects.opinion.app import Opinion
from subjects.opinion.index import Rule, over_time, usual, warnings
from subjects.opinion.model import train
from subjects.opinion.posts import IRONY, rows
from subjects.simulated_slots import trained

FOLDER = ROOT / "subjects" / "opinion"


def test_the_declaration_is_at_most_twenty_lines_and_its_objectives_are_read():
    text = (FOLDER / "declaration.toml").read_text()
    assert len(text.splitlines()) <= 20
    declared = Settings.model_validate(tomllib.loads(text)).services["opinion"]
    assert {one.name for one in read_objectives(ROOT / declared.objectives)} == {
        "opinion-answered", "opinion-latency", "opinion-right",
    }  # fmt: skip


def test_a_version_is_right_on_posts_that_are_meant_as_they_are_worded_and_a_spoilt_one_is_not():
    held_out = rows(800, seed=77)
    texts = held_out["text"].tolist()
    right = load(trained(train) / "good").predict(texts)["label"] == held_out["sentiment"]
    assert right.mean() > 0.9
    share = right.groupby(held_out["source"]).mean()
    assert share[["news", "forum"]].min() > 0.93
    assert share["microblog"] < 1 - IRONY["microblog"] / 2  # irony is not in the words
    spoilt = load(trained(train) / "bad").predict(texts)["label"] == held_out["sentiment"]
    assert spoilt.mean() < 0.6


def test_the_server_answers_with_a_sentiment_and_refuses_a_post_without_its_source(tmp_path):
    server = Opinion(tmp_path)
    server.load(trained(train) / "good")
    posts = ["i do not trust the harbour bank any more", "good news about the crown on monday"]
    asked = [{"text": text, "topic": "bank", "source": "forum"} for text in posts]
    answers = server.answers(asked)
    assert [one["sentiment"] for one in answers] == ["negative", "positive"]
    assert all(isinstance(one["score"], float) for one in answers)
    assert server.refused(asked[0]) == ""
    assert "topic and source" in server.refused({"text": posts[0], "topic": "bank"})


# --- the index and its warning ---


def hourly(hours, seed=0, **given):
    """Return posts of some hours, as people read them: 100 an hour."""
    made = rows(100 * hours, seed, **given)
    return made.assign(time=EPOCH + pd.to_timedelta(np.arange(len(made)) // 100, unit="h"))


@pytest.fixture(scope="module")
def known():
    return usual(hourly(40), "1h")


def test_the_interval_of_the_index_holds_the_usual_one_as_often_as_it_says(known):
    index = over_time(hourly(40, seed=1), known)
    centre = (known.sources["share"] * known.sources["mean"]).groupby("topic").sum()
    true = index.index.get_level_values("topic").map(centre)
    assert 0.9 < ((index["low"] <= true) & (true <= index["high"])).mean() < 0.99


def test_a_change_of_the_sources_moves_the_raw_mean_and_not_the_index():
    quiet, crowded = (one.assign(topic="all") for one in (hourly(40), hourly(20, seed=2, crowded=0.9)))
    rule = Rule(limit=0.15)
    known = usual(quiet, "1h")
    index = over_time(crowded, known)
    assert warnings(index, known, rule).empty
    centre = (known.sources["share"] * known.sources["mean"]).sum()
    assert ((index["low"] <= centre) & (centre <= index["high"])).mean() > 0.8
    raw = usual(quiet.assign(source="any"), "1h")
    assert not warnings(over_time(crowded.assign(source="any"), raw), raw, rule).empty


def test_a_swing_of_one_topic_is_warned_of_once_and_of_no_other(known):
    posts, swung = hourly(48, seed=3), hourly(48, seed=4, swing=0.6)
    is_hit = (swung["topic"] == "bank") & (swung["time"] >= EPOCH + pd.Timedelta("24h"))
    made = pd.concat(
        [posts[~((posts["topic"] == "bank") & (posts["time"] >= EPOCH + pd.Timedelta("24h")))], swung[is_hit]]
    )
    found = warnings(over_time(made, known), known)
    assert found[["topic", "direction"]].to_numpy().tolist() == [["bank", -1]]
    assert EPOCH + pd.Timedelta("24h") <= found["time"].iloc[0] < EPOCH + pd.Timedelta("36h")


def test_where_nothing_was_posted_there_is_no_index_and_no_warning(known):
    index = over_time(hourly(1).head(2), known)
    assert index.empty
    assert warnings(index, known).empty


# --- three changes that are told apart ---


@pytest.fixture(scope="module")
def simulation():
    return find_simulation(ROOT, "opinion")


def injected(simulation, folder, fault, severity):
    """Return the drill of a fault, the index of all topics before it, and since: by what the version answered."""
    made = inject(find_fault(fault, 2, severity), 4, folder, simulation.objectives, simulation.plant)
    posts = made.service.rows.dropna(subset=["label"])
    posts = posts.assign(time=EPOCH + pd.to_timedelta(posts["time"], unit="s"), sentiment=posts["label"], topic="all")
    is_before = posts["time"] < EPOCH + pd.Timedelta(seconds=made.began)
    known = usual(posts[is_before], "30s")
    moved = warnings(over_time(posts[~is_before], known), known, Rule(periods=4, limit=0.15))
    return made, diagnose(made.record()), moved


def test_a_real_swing_moves_the_index_and_nothing_is_at_fault(simulation, tmp_path):
    made, found, moved = injected(simulation, tmp_path, "swing", 0.5)
    assert not made.alerts  # the answers are as right as before
    assert found.cause == "none"
    assert moved["direction"].tolist() == [-1]


def test_a_change_of_the_sources_is_a_fault_of_the_data_and_leaves_the_index(simulation, tmp_path):
    made, found, moved = injected(simulation, tmp_path, "one-source", 0.9)
    assert {alert["labels"]["slo"] for alert in made.alerts} == {"opinion-right"}
    assert found.cause == "data"
    assert {one.name: one.finding for one in found.evidence}["mix"] == "lost"
    assert moved.empty
    plan = plan_data(made.record())
    assert plan.restart_feed
    assert any("news and forum" in reason or "forum and news" in reason for reason in plan.reasons)


def test_a_broken_classifier_is_a_fault_of_the_model_whatever_the_index_does(simulation, tmp_path):
    made, found, _ = injected(simulation, tmp_path, "bad-version", 1.0)
    assert {alert["labels"]["slo"] for alert in made.alerts} == {"opinion-right"}
    assert found.cause == "model"
    assert {one.name: one.finding for one in found.evidence}["mix"] == "steady"


# --- its server and its feed, as processes ---


def test_posts_of_the_feed_are_answered_and_judged_by_the_server(tmp_path):
    folder = keep_versions(trained(train), tmp_path)
    with subject_server("opinion", folder) as client, subject_feed("opinion", folder, client, "--rate", "20"):
        right = wait_for(lambda: (told := samples(client)).get(("opinion_decisions_total", "yes"), 0) > 20 and told)
    assert right["opinion_decisions_total", "yes"] > 4 * right["opinion_decisions_total", "no"]
    assert right["opinion_requests_total", "200"] > 20

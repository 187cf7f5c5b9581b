"""The support example: its classifier, its server under real requests, and what people label when a topic is new."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, benchmark
from services import wait_for
from subject_servers import keep_versions, samples, subject_server

from lepton_kit.data.annotations import write_annotation_table
from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.diagnosis.queueing import Demand
from lepton_kit.diagnosis.repair_capacity import Needs, option_table
from lepton_kit.diagnosis.workload import measure
from lepton_kit.ops.faults import find_fault
from lepton_kit.ops.simulation import EPOCH, TIME_SCALE, find_simulation, inject
from lepton_kit.project.settings import Settings
from lepton_kit.telemetry.alerts import AlertEvaluator
from lepton_kit.telemetry.slo import read_objectives
from subjects.classifier import load
from subjects.manage import change
from subjects.simulated_slots import trained
from subjects.support import model
from subjects.support.model import asked_about, labelled, logged, train
from subjects.support.requests import NEW, OTHER, TOPICS, rows

FOLDER = ROOT / "subjects" / "support"


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    return keep_versions(trained(train), tmp_path_factory.mktemp("support"))


@pytest.fixture(scope="module")
def support(versions):
    with subject_server("support", versions) as client:
        yield client


def told(version, texts):
    made = load(version).predict(texts)
    return np.where(made["in_scope"], made["label"], OTHER)


def test_the_declaration_is_at_most_twenty_lines_and_its_objectives_are_read():
    text = (FOLDER / "declaration.toml").read_text()
    assert len(text.splitlines()) <= 20
    declared = Settings.model_validate(tomllib.loads(text)).services["support"]
    assert {one.name for one in read_objectives(ROOT / declared.objectives)} == {
        "support-answered", "support-latency", "support-right",
    }  # fmt: skip


def test_a_version_is_right_on_texts_that_it_has_not_seen_and_a_spoilt_one_is_not(versions):
    held_out = rows(400, seed=77, chatter=0)
    for version, least, most in (("v1", 0.9, 1.0), ("v2", 0.0, 0.4)):
        right = (told(versions / "models" / version, held_out["text"].tolist()) == held_out["topic"]).mean()
        assert least <= right <= most


def test_a_text_about_nothing_and_a_new_topic_are_out_of_scope(versions):
    made = rows(600, seed=78, new=0.4, chatter=0.2)
    answers = pd.Series(told(versions / "models" / "v1", made["text"].tolist()))
    outside = answers.eq(OTHER).groupby(made["topic"]).mean()
    assert outside[[NEW, OTHER]].min() > 0.8
    assert outside.drop([NEW, OTHER]).max() < 0.2


def test_a_saved_classifier_answers_as_it_did(versions, tmp_path):
    texts = rows(50, seed=79)["text"].tolist()
    one = load(versions / "models" / "v1")
    one.save(tmp_path)
    pd.testing.assert_frame_equal(one.predict(texts), load(tmp_path).predict(texts))


def test_the_same_seed_trains_the_same_version(versions, tmp_path):
    texts = rows(50, seed=80)["text"].tolist()
    train(tmp_path)
    assert np.allclose(load(tmp_path).logits(texts), load(versions / "models" / "v1").logits(texts), atol=1e-4)


@pytest.fixture
def log(tmp_path):
    """A server's log: one text out of scope, asked on two days."""
    inputs = {"text": "is my kettle safe", "channel": "web"}
    lines = [
        {"id": f"r{day}", "ts": f"2026-01-0{day}T12:00:00Z", "status": 200, "topic": OTHER, "score": 0.1 * day,
         "inputs": inputs} for day in (1, 2)
    ]  # fmt: skip
    (tmp_path / "log").mkdir()
    (tmp_path / "log/requests.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return tmp_path


@pytest.mark.parametrize("zone", ["", "Z", "+00:00"])
def test_a_queue_since_a_time_in_utc_can_be_answered_and_learnt(log, monkeypatch, zone):
    def run(*told):
        monkeypatch.setattr(sys, "argv", ["model", *map(str, told), "--folder", str(log)])
        model.main()

    learnt = []
    monkeypatch.setattr(model, "train", lambda folder, more: learnt.append(more))
    run("queue", log / "asked.csv", "--since", f"2026-01-02T00:00{zone}")
    asked = pd.read_csv(log / "asked.csv")
    assert asked["id"].tolist() == ["r2"]
    asked.assign(label=NEW, labeller="ana").to_csv(log / "asked.csv", index=False)
    run("train", log / "v3", "--labelled", log / "asked.csv")
    assert learnt[0]["topic"].to_dict() == {"r2": NEW}
    asked.assign(label="recal", labeller="ana").to_csv(log / "asked.csv", index=False)
    with pytest.raises(SystemExit, match="recal"):
        run("train", log / "v3", "--labelled", log / "asked.csv")


@pytest.mark.parametrize("method", ["machine", "regression"])
def test_a_table_of_two_intents_is_measured_too(method, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    intents = benchmark("intents")
    table = pd.DataFrame({"text": ["pay the bill", "where is it"] * 6, "intent": ["pay", "find"] * 6})
    parts = intents.Parts(table.assign(split=["train"] * 8 + ["val"] * 2 + ["test"] * 2), "oos")
    _, scores = getattr(intents, method)(parts)
    right, inside, _ = intents.judged(parts, "test", scores)
    assert right.all() and (inside > 0).all()


NO_TEXT = [None, {}, *({"text": text, "channel": "web"} for text in (" ", 3, None, "a" * 2001))]


@pytest.mark.parametrize("inputs", NO_TEXT)
def test_what_is_no_text_is_refused_with_what_is_allowed(support, inputs):
    answer = support.post("/classify", json={"inputs": inputs})
    assert answer.status_code == 422
    assert "1 to 2000 characters" in answer.json()["detail"]


def test_ten_times_the_requests_lose_none_once_slots_are_added(support, versions):
    """Sixty requests a second for two seconds, where two slots answer some thirty: four are enough (real HTTP)."""
    change(versions, workers=5)
    wait_for(lambda: samples(support)[("support_slots",)] == 5)
    texts = rows(120, seed=5, chatter=0).drop(columns="topic").to_dict("records")

    async def surge():
        async with httpx.AsyncClient(base_url=support.base_url, timeout=30, trust_env=False) as client:

            async def one(place):
                await asyncio.sleep(place / 60)
                return await client.post("/classify", json={"inputs": texts[place]})

            return await asyncio.gather(*(one(place) for place in range(len(texts))))

    answers = asyncio.run(surge())
    assert {answer.status_code for answer in answers} == {200}
    ids = {answer.json()["id"] for answer in answers}
    assert ids <= {json.loads(line)["id"] for line in (versions / "log/requests.jsonl").read_text().splitlines()}
    assert len(ids) == len(texts)


def test_texts_of_a_new_topic_are_labelled_learnt_and_then_answered(support, versions, tmp_path):
    """Real requests, a queue of those out of scope, what a person fills in, a version that has learnt it, deployed."""
    before = samples(support)[("support_routed_total", "people")]
    asked = rows(90, seed=6, new=0.6)
    bodies = [{"inputs": inputs} for inputs in asked.drop(columns="topic").to_dict("records")]
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda body: support.post("/classify", json=body), bodies))
    assert {answer.status_code for answer in answers} == {200}
    assert samples(support)[("support_routed_total", "people")] - before > 40
    queue = asked_about(logged(versions), 60)
    write_annotation_table(queue, tmp_path / "asked.csv")
    true = dict(zip(asked["text"], asked["topic"], strict=True))
    table = pd.read_csv(tmp_path / "asked.csv")
    answered = table.assign(label=table["text"].map(true).fillna(OTHER), labeller="ana")
    answered.to_csv(tmp_path / "asked.csv", index=False)
    more = labelled([tmp_path / "asked.csv"], queue, [*TOPICS, OTHER, NEW])
    assert more["topic"].eq(NEW).sum() > 30
    train(versions / "models" / "v3", more=more)
    later = rows(300, seed=8, new=0.5, chatter=0)
    known = later["topic"].eq(NEW)
    given = told(versions / "models" / "v3", later["text"].tolist())
    assert (given == later["topic"])[known].mean() > 0.8
    assert (given == later["topic"])[~known].mean() > 0.85
    change(versions, version="v3")
    wait_for(lambda: support.get("/alive").json()["version"] == "v3")
    answer = support.post(
        "/classify", json={"inputs": {"text": "is my kettle part of the safety recall", "channel": "web"}}
    )
    assert answer.json()["topic"] == NEW


# --- under a virtual clock ---


@pytest.fixture(scope="module")
def simulation():
    return find_simulation(ROOT, "support")


@pytest.mark.parametrize("is_scaled", [True, False])
def test_slots_by_the_queue_model_keep_the_objectives_through_ten_times_the_requests(simulation, tmp_path, is_scaled):
    service = simulation.plant(None, 1, tmp_path)
    evaluator = AlertEvaluator(simulation.objectives, service, TIME_SCALE, overlap=0.0)
    service.advance(360)
    if is_scaled:
        now = measure(build_case(service.record(120, 360))).demand
        wanted = Demand(10 * now.rate, now.service, now.arrival_scv, now.service_scv)
        options = option_table(wanted, Needs(wait=0.05, in_time=0.5))
        service.size(int(options[options["enough"]].iloc[0]["workers"]))
        service.advance(10)
    began = service.now
    service.surge(lambda _: 10.0)
    alerts = []
    for _ in range(12):
        service.advance(5)
        alerts += [one for one in evaluator.evaluate(EPOCH.timestamp() + service.now) if one["status"] == "firing"]
    asked = service.rows[service.rows["time"] > began]
    assert len(asked) > 3000
    assert asked["status"].eq(200).all()  # none is lost, with or without: what was not asked of it would wait
    assert bool(alerts) != is_scaled
    assert (asked["latency_ms"].max() < 500) == is_scaled


def test_a_new_topic_is_a_change_of_the_world_and_people_are_asked_to_label_it(simulation, tmp_path):
    made = inject(find_fault("new-topic", 2, 0.6), 2, tmp_path, simulation.objectives, simulation.plant)
    assert {alert["labels"]["slo"] for alert in made.alerts} == {"support-right"}
    recording = made.record()
    assert not {"feature_text", "text"} & set(recording.requests)  # no text is in a recording
    found = diagnose(recording)
    assert found.cause == "none"
    assert "06-labels" in found.advice
    rows_since = made.service.rows
    outside = rows_since.rename(columns={"request_id": "id", "label": "topic"}).assign(channel="web")
    queue = asked_about(outside[outside["time"] > made.began], 50)
    true = rows_since.set_index("request_id")["actual"]
    assert true[queue.index].eq(NEW).mean() > 0.7

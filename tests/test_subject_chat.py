"""The chat example's own server: OpenAI's endpoints, vLLM's metric names, and an engine whose time is a formula."""

from __future__ import annotations

import json
import tomllib
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import ROOT
from prometheus_client.parser import text_string_to_metric_families
from services import wait_for
from subject_servers import subject_server

from lepton_kit.project.settings import Settings
from lepton_kit.telemetry.slo import read_objectives

FOLDER = ROOT / "subjects" / "chat"
SECRET = "the model of xylophonist"


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    with subject_server("chat", folder, alive="/health") as client:
        yield client, folder


def samples(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    kept = [one for family in families for one in family.samples if "le" not in one.labels]
    reasons = [("finished_reason" in one.labels and (one.labels["finished_reason"],)) or () for one in kept]
    return {(one.name, *reason): one.value for one, reason in zip(kept, reasons, strict=True)}


def ask(client, text=SECRET, **more):
    body = {"model": "stand-in", "messages": [{"role": "user", "content": text}], **more}
    return client.post("/v1/chat/completions", json=body)


def test_the_declaration_is_at_most_twenty_lines_and_its_objectives_are_read():
    text = (FOLDER / "declaration.toml").read_text()
    assert len(text.splitlines()) <= 20
    declared = Settings.model_validate(tomllib.loads(text)).services["chat"]
    assert len(read_objectives(ROOT / declared.objectives)) == 3


def test_the_server_says_that_its_engine_is_a_stand_in(chat):
    client, _ = chat
    [model] = client.get("/v1/models").json()["data"]
    assert "no language model" in model["description"]


def test_an_answer_is_complete_or_streamed_token_by_token(chat):
    client, _ = chat
    whole = ask(client).json()
    assert whole["usage"]["completion_tokens"] == len(whole["choices"][0]["message"]["content"].split()) > 0
    events = [line[6:] for line in ask(client, stream=True).text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    told = [json.loads(event) for event in events[:-1]]
    assert told[-1]["choices"][0]["finish_reason"] == "stop"
    assert sum("content" in one["choices"][0]["delta"] for one in told) == whole["usage"]["completion_tokens"]
    assert ask(client, max_tokens=3).json()["choices"][0]["finish_reason"] == "length"


def test_a_body_that_is_no_chat_is_refused(chat):
    client, _ = chat
    assert client.post("/v1/chat/completions", json={"prompt": "x"}).status_code == 400


def test_what_is_beyond_the_batch_waits_and_more_replicas_end_that(chat):
    client, _ = chat
    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(ask, client) for _ in range(30)]
        wait_for(lambda: samples(client)[("vllm:num_requests_waiting",)] > 0)
        assert samples(client)[("vllm:num_requests_running",)] <= 8
        assert client.post("/admin/scale", json={"replicas": 4}).json()["replicas"] == 4
        assert all(one.result().is_success for one in asked)
    said = samples(client)
    assert said[("vllm:num_requests_waiting",)] == said[("vllm:kv_cache_usage_perc",)] == 0
    assert said[("vllm:time_to_first_token_seconds_count",)] == said[("vllm:e2e_request_latency_seconds_count",)] >= 30
    assert said["vllm:request_success_total", "stop"] >= 30


def test_logs_describe_texts_and_hold_none(chat):
    client, folder = chat
    number = ask(client).json()["id"]
    client.post("/ratings", json={"id": number, "rating": 5})
    logged = json.loads((folder / "log/requests.jsonl").read_text().splitlines()[-1])
    assert logged["prompt"] == {"tokens": 4, "length": len(SECRET), "language": "en"}
    assert set(logged["answer"]) == {"tokens", "length", "language", "out_of_vocabulary"}
    assert not any("xylophonist" in path.read_text() for path in folder.rglob("*.jsonl"))
    assert json.loads((folder / "ratings.jsonl").read_text().splitlines()[-1])["id"] == number


def test_a_worse_version_makes_up_words_until_it_is_rolled_back(chat):
    client, folder = chat
    assert client.post("/admin/deploy", json={"version": "../v1"}).status_code == 404
    client.post("/admin/deploy", json={"version": "v2"})
    ask(client)
    assert client.post("/admin/roll_back").json()["version"] == "v1"
    ask(client)
    worse, good = [json.loads(line) for line in (folder / "log/requests.jsonl").read_text().splitlines()[-2:]]
    assert (worse["model"], good["model"]) == ("v2", "v1")
    assert worse["answer"]["out_of_vocabulary"] > good["answer"]["out_of_vocabulary"]

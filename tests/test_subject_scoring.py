"""The scoring example's own server, its scripts and its feed, as a stranger would have written them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib

import pytest
from helpers import PATIENCE_S, ROOT
from services import wait_for
from subject_servers import samples, subject_server

from lepton_kit.project.settings import Settings
from lepton_kit.telemetry.slo import read_objectives
from subjects.scoring.model import rows, train

FOLDER = ROOT / "subjects" / "scoring"


def manage(folder, *words):
    command = [sys.executable, "-m", "subjects.manage", *words, "--folder", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def scoring(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring")
    train(folder / "models" / "v1")
    train(folder / "models" / "v2", spoilt=True)
    with subject_server("scoring", folder) as client:
        yield client, folder


def test_rows_are_the_same_for_a_seed_and_no_two_are_alike():
    made = rows(300, seed=3)
    assert made.equals(rows(300, seed=3))
    assert made["radius"].nunique() == 300
    assert set(made["size"]) == {"small", "middle", "large"}


def test_the_declaration_is_at_most_twenty_lines_and_its_objectives_are_read():
    text = (FOLDER / "declaration.toml").read_text()
    assert len(text.splitlines()) <= 20
    declared = Settings.model_validate(tomllib.loads(text)).services["scoring"]
    objectives = read_objectives(ROOT / declared.objectives)
    assert {one.name for one in objectives} == {"scoring-answered", "scoring-latency", "scoring-right"}


def test_a_decision_is_counted_logged_and_judged_once_its_label_is_known(scoring):
    client, folder = scoring
    row = rows(1, seed=1).iloc[0].to_dict()
    label = int(row.pop("malignant"))
    answer = client.post("/score", json={"inputs": row}).json()
    [logged] = [one for one in lines(folder / "log/requests.jsonl") if one["id"] == answer["id"]]
    assert (logged["status"], logged["inputs"], logged["y_pred_proba"]) == (200, row, answer["y_pred_proba"])
    right = "yes" if (answer["y_pred_proba"] >= 0.5) == label else "no"
    before = samples(client)["scoring_decisions_total", right]
    assert client.post("/outcome", json={"id": answer["id"], "malignant": label}).json() == {"known": True}
    assert samples(client)["scoring_decisions_total", right] == before + 1
    assert lines(folder / "labels.jsonl")[-1]["malignant"] == label


def test_a_missing_value_is_refused_and_counted(scoring):
    client, folder = scoring
    row = rows(1, seed=2).iloc[0].drop("malignant").to_dict()
    before = samples(client).get(("scoring_requests_total", "422"), 0)
    assert client.post("/score", json={"inputs": {**row, "radius": None}}).status_code == 422
    assert samples(client)["scoring_requests_total", "422"] == before + 1
    assert lines(folder / "log/requests.jsonl")[-1]["y_pred_proba"] is None


def test_a_version_is_deployed_rolled_back_and_slots_are_added_by_the_scripts(scoring):
    client, folder = scoring
    assert manage(folder, "deploy", "v9").returncode != 0
    assert manage(folder, "deploy", "v2").returncode == 0
    wait_for(lambda: client.get("/alive").json()["version"] == "v2")
    assert (folder / "models/current").resolve().name == "v2"
    assert (folder / "models/previous").resolve().name == "v1"
    assert manage(folder, "roll_back").returncode == 0
    wait_for(lambda: client.get("/alive").json()["version"] == "v1")
    assert [one["version"] for one in lines(folder / "deployments.jsonl")] == ["v1", "v2", "v1"]
    manage(folder, "scale", "3")
    wait_for(lambda: samples(client)[("scoring_slots",)] == 3)


def test_the_feed_sends_rows_and_labels_and_is_another_process_once_restarted(scoring):
    client, folder = scoring
    command = [sys.executable, "-m", "subjects.scoring.feed", str(client.base_url), "--labels-after", "0.1"]
    feed = subprocess.Popen([*command, "--folder", str(folder)], cwd=ROOT)
    judged = samples(client)
    wait_for(lambda: samples(client)["scoring_decisions_total", "yes"] > judged["scoring_decisions_total", "yes"] + 3)
    assert manage(folder, "restart_feed").returncode == 0
    feed.wait(PATIENCE_S)
    again = wait_for(lambda: json.loads((folder / "feed.json").read_text())["pid"])
    assert again != feed.pid
    os.kill(again, signal.SIGTERM)

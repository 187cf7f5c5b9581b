"""What is private is in nothing that is captured, and any service can be captured by its declaration alone."""

import json
import sqlite3

import numpy as np
import pandas as pd
import pytest

from lepton_kit.diagnosis.capture import capture, without_secrets
from lepton_kit.errors import InputError
from lepton_kit.project.declarations import declared
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.private import Private
from lepton_kit.telemetry.recordings import Promise, read_recording
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.slo import Objective

START = pd.Timestamp("2026-11-20T10:00Z")
END = START + pd.Timedelta("1h")
SECRETS = ["jane.doe@example.org", "Max Müller", "+49 171 5550123"]
SETTINGS = """
[services.scoring]
task = "classification_binary"
requests = { path = "log.jsonl" }
labels = { sql = "sqlite:///labels.db", query = "SELECT * FROM labels", key = "id", feedback = "said" }
logs = "app.log"
topology = "topology.csv"
columns = { timestamp = "ts", id = "id", version = "model", features = "inputs.*", prediction_probas = "p" }
model = { current = "models/v3", last_good = "models/v2" }
signals = { queue_length = "waiting" }
private = ["email", "name", "phone"]
actions = { stop_feed = { url = "http://127.0.0.1:1/stop", token = "env:STOP_TOKEN" } }
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "lepton.toml").write_text(SETTINGS)
    people = [
        dict(zip(("email", "name", "phone"), SECRETS, strict=True)),
        {"email": "x@y.de", "name": "Al", "phone": "1"},
    ]
    rows = [
        {"ts": (START + pd.Timedelta(minutes=n)).isoformat(), "id": f"r{n}", "model": "v3", "p": 0.5,
         "inputs": {"age": 40 + n, **people[n % 2]}}
        for n in range(60)
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = [
        {"time": START.isoformat(), "level": "ERROR", "message": f"login of {SECRETS[0].upper()}, failed"},
        {"time": START.isoformat(), "level": "INFO", "message": "ok", "email": SECRETS[0], "who": [SECRETS[1]]},
    ]
    plain = f"2026-11-20T10:05:00Z WARNING calling {SECRETS[2]} for 'Max  Müller'\n"
    (tmp_path / "app.log").write_text("".join(json.dumps(line) + "\n" for line in log) + plain)
    (tmp_path / "topology.csv").write_text("caller,callee\ngate,model\n")
    with sqlite3.connect(tmp_path / "labels.db") as database:
        told = pd.DataFrame({"id": ["r0", "r1"], "target": [1, 0], "said": [f"ask {SECRETS[1]} again", "fine"]})
        told.to_sql("labels", database, index=False)
    return tmp_path


class Source:
    """Samples of the service's series and of another's, by whatever selector."""

    def __init__(self):
        self.asked = []

    def query(self, selector, start, end):
        self.asked.append(selector)
        chosen = parse_selector(selector)
        labels = [{"job": job, "user": SECRETS[0]} for job in ("scoring", "other")]
        found = [json.dumps(one) for one in labels if chosen.matches(chosen.metric, one)]
        return pd.DataFrame({"time": [START] * len(found), "metric": chosen.metric, "labels": found, "value": 1.0})


def frozen(project, objectives=(), **changes):
    declaration = declared(project, "scoring").model_copy(update=changes)
    alert = {"labels": {"alertname": "LateBudgetBurn", "slo": "late"}, "startsAt": START.isoformat(),
             "annotations": {"summary": f"{SECRETS[0]} waits"}}  # fmt: skip
    source = Source()
    promises = [Promise.of(one) for one in objectives or map(objective, ("good", "late"))]
    window = START.timestamp(), END.timestamp()
    made = capture("scoring", declaration, project, source, *window, project / "r", [alert], promises)
    return made, source


def objective(name):
    selectors = parse_selector(f"{name}_bad_total"), parse_selector(f"{name}_total")
    return Objective(name, name, "scoring", "", 0.9, 3600, "bad", *selectors, 1)


def everything(folder):
    """Return what all files of a recording hold as one text."""
    held = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(held) >= 5
    tables = [pd.read_parquet(path).to_csv() for path in held if path.suffix == ".parquet"]
    texts = [*tables, *(path.read_text() for path in held if path.suffix != ".parquet")]
    return "\n".join(texts).casefold()


def test_a_service_is_captured_by_its_declaration_alone(project):
    made, source = frozen(project)
    counted = ("late_bad_total", "late_total", "good_bad_total", "good_total")
    assert source.asked[:4] == [f'{name}{{job="scoring"}}' for name in counted]
    assert {'waiting{job="scoring"}', 'up{job="scoring"}'} <= set(source.asked)
    assert {json.loads(text)["job"] for text in made.metrics["labels"]} == {"scoring"}
    assert made.requests["actual"].tolist()[:2] == [1.0, 0.0] and made.requests["actual"].notna().sum() == 2
    assert made.requests["feature_age"].tolist()[:2] == [40.0, 41.0] and len(made.logs) == 3
    assert made.topology.to_dict("records") == [{"caller": "gate", "callee": "model"}]
    assert made.incident.versions.current == "v3" and made.incident.versions.last_good is None  # no such folder
    assert made.incident.declaration.task == "classification_binary" and made.signals["queue_length"].selector
    assert made.absent == ("reference.parquet", "models/v3")
    assert read_recording(project / "r").incident == made.incident


def test_the_series_that_show_whether_good_events_are_counted_are_captured_too(project):
    selectors = parse_selector('late_bucket{code="200",le="0.1"}'), parse_selector("late_count")
    _, source = frozen(project, [Objective("late", "late", "scoring", "", 0.9, 3600, "good", *selectors, 1)])
    assert source.asked[:3] == [
        'late_bucket{code="200",le="0.1",job="scoring"}',
        'late_count{job="scoring"}',
        'late_bucket{le="0.1",job="scoring"}',
    ]


@pytest.mark.parametrize("key", [None, "env:PRIVATE_KEY"])
def test_no_private_value_is_in_any_file_of_a_recording(key, project, monkeypatch):
    monkeypatch.setenv("PRIVATE_KEY", "a long secret key")
    made, _ = frozen(project, private_key=key)
    text = everything(project / "r")
    assert "jane" in (project / "log.jsonl").read_text()
    for planted in ("jane", "example.org", "müller", "m\\u00fcller", "5550123", "a long secret key"):
        assert planted not in text, planted
    assert ("feature_email" in made.requests) == (key is not None)
    failed = made.logs["message"].iloc[0]
    assert failed.startswith("login of [private") and failed.endswith("], failed")
    if key is not None:
        assert made.requests["feature_email"].nunique() == 2 and made.requests["feature_email"].iloc[0] in failed
        assert made.incident.declaration.private_key is None


def test_no_private_value_is_on_the_page_or_in_the_words_of_a_problem(project):
    columns = declared(project, "scoring").columns.model_copy(update={"target": "inputs.name", "positive": "none"})
    made, _ = frozen(project, columns=columns, labels=None)
    assert made.problems and "jane" not in " ".join(made.problems).casefold()


def test_a_key_that_is_not_there_stops_the_capture_before_anything_is_written(project):
    with pytest.raises(InputError, match="PRIVATE_KEY_OF_NOBODY"):
        frozen(project, private_key="env:PRIVATE_KEY_OF_NOBODY")
    assert not (project / "r").exists()


def test_a_declaration_is_kept_without_secrets_and_folders_of_this_machine(project):
    given = declared(project, "scoring").model_copy(update={"logs": f"{project}/app.log"})
    sql = {"requests": {"sql": "postgresql://me:hunter2@db/x", "query": "SELECT 1"}, "private_key": "env:KEY"}
    kept = without_secrets(Declaration.model_validate({**given.model_dump(exclude_unset=True), **sql}), project)
    text = kept.model_dump_json()
    assert "hunter2" not in text and "STOP_TOKEN" not in text and "env:KEY" not in text and str(project) not in text
    assert kept.logs == "app.log" and "postgresql://me:***@db/x" in text


def test_where_no_request_tells_what_is_private_the_log_keeps_no_words(project):
    made, _ = frozen(project, requests=())
    assert set(made.logs["message"]) == {"[private]"} and made.logs["level"].tolist().count("ERROR") == 1
    assert "logs: messages are left out, because no request shows which values are private" in made.problems


def test_short_values_are_not_looked_for_in_other_texts():
    private = Private(("age",))
    private.cover(pd.DataFrame({"age": [40, 1234567, np.nan]}))
    assert private.scrub("40 rows of 1234567") == "40 rows of [private]"


def test_lepton_toml_stands_above_what_a_server_wrote_and_a_mistake_names_its_key(project):
    folder = project / "services" / "scoring"
    folder.mkdir(parents=True)
    written = {"task": "regression", "time_series": True, "actions": {"restart": ["lepton", "act"]}}
    (folder / "declaration.json").write_text(json.dumps(written))
    found = declared(project, "scoring")
    assert found.task == "classification_binary" and found.time_series
    assert set(found.actions) == {"restart", "stop_feed"}
    (folder / "declaration.json").write_text(json.dumps(written | {"columns": {"target": 3}}))
    (project / "lepton.toml").write_text("")
    with pytest.raises(InputError, match=r"services\.scoring\.columns\.target = 3: .*string"):
        declared(project, "scoring")
    with pytest.raises(InputError, match=r"service 'nobody': neither .* \(there are: scoring\)"):
        declared(project, "nobody")

"""`lepton doctor` holds a declaration against a real server, real files and a real model."""

import json
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler

import pytest
from helpers import lepton_here, listening
from sklearn.linear_model import LogisticRegression

from lepton_kit.errors import InputError
from lepton_kit.project.doctor import examine

METRICS = 'asked_total{status="200"} 9\nwaiting 0\n'
DECLARED = """
[services.shop]
task = "classification_binary"
address = "{address}"
ready = "/alive"
requests = "log/*.jsonl"
columns = {{ timestamp = "ts", id = "id", version = "v", features = "x.*", prediction_probas = "p", target = "y" }}
model = {{ current = "models/v1", last_good = "models/v0" }}
objectives = "slo/shop"
signals = {{ queue_length = "waiting", memory = "heap_bytes", errors = 'asked_total{{status="500"}}' }}
actions = {{ restart = ["true"], scale = ["no-such-command", "{{workers}}"], deploy = ["true", "{{other}}"] }}
"""


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = {"/alive": "ok", "/metrics": METRICS}
            self.send_response(200 if self.path in known else 404)
            self.end_headers()
            self.wfile.write(known.get(self.path, "").encode())

        def log_message(self, *words):
            pass

    with listening(Handler) as address:
        yield address


@pytest.fixture
def project(tmp_path, server):
    import skops.io

    model = LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    (tmp_path / "models/v1").mkdir(parents=True)
    skops.io.dump(model, tmp_path / "models/v1/model.skops")
    (tmp_path / "models/v1/model.json").write_text(json.dumps({"columns": ["age"], "classes": [0, 1]}))
    (tmp_path / "log").mkdir()
    rows = []
    for number in range(40):
        at = datetime.now(UTC) - timedelta(seconds=100 - number)
        age = float(number % 4)
        p = float(model.predict_proba([[age]])[0, 1])
        rows.append({"ts": at.isoformat(), "id": str(number), "v": "v1", "x": {"age": age}, "p": p, "y": int(age > 1)})
    (tmp_path / "log/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "lepton.toml").write_text(DECLARED.format(address=server))
    return tmp_path


def found(project):
    return {one.what.removeprefix("services.shop."): one for one in examine(project)}


def test_each_entry_is_held_against_what_is_there(project):
    told = found(project)
    states = {what: one.state for what, one in told.items()}
    for what in ("ready", "signals.queue_length", "requests", "columns.features", "columns.target", "model.current"):
        assert states[what] == "ok", told[what]
    assert states["model.replay"] == "ok" and "10 rows" in told["model.replay"].finding
    assert states["signals.memory"] == "wrong" and "heap_bytes" in told["signals.memory"].finding
    assert states["signals.errors"] == "absent" and "yet" in told["signals.errors"].finding
    assert (states["columns.status"], states["model.last_good"]) == ("absent", "absent")
    assert states["actions.restart"] == "ok"
    assert states["actions.scale"] == "wrong" and "no-such-command" in told["actions.scale"].finding
    assert states["actions.deploy"] == "wrong" and "other" in told["actions.deploy"].finding
    assert states["objectives"] == "wrong" and "slo/shop" in told["objectives"].finding


def test_a_model_that_answers_otherwise_than_the_log_says_so(project):
    log = project / "log/a.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps({**row, "p": 1 - row["p"]}) + "\n" for row in rows))
    told = found(project)["model.replay"]
    assert told.state == "wrong" and "of probability" in told.finding


def test_a_column_that_is_not_there_and_a_service_that_does_not_answer_are_told(project):
    text = (project / "lepton.toml").read_text().replace('"p"', '"score"').replace('"/alive"', '"/gone"')
    (project / "lepton.toml").write_text(text)
    told = found(project)
    assert told["ready"].state == "wrong" and "/gone 404" in told["ready"].finding
    assert told["columns.prediction"].state == "absent"
    assert any(one.state == "wrong" and "'score'" in one.finding for one in examine(project))


def test_the_command_ends_with_1_where_something_is_wrong_and_an_unknown_service_is_refused(project):
    made = lepton_here("doctor", "shop", project=project)
    assert made.returncode == 1
    assert "✗ services.shop.signals.memory: heap_bytes" in made.stdout
    with pytest.raises(InputError, match=r"service 'other'.*shop"):
        list(examine(project, ["other"]))

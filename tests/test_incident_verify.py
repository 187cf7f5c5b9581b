"""Whether what an incident's page says can be derived again from its recording."""

import dataclasses
import json

import nbformat
import pytest
from helpers import lepton_here
from repairs import Everything
from watching import alert

from lepton_kit.ops.incident_verify import holds, verify_incident
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.runs.runner import Request, execute, prepare

CELLS = (
    "import json, time\nfrom pathlib import Path\nimport lepton_kit as lk",
    "recording: Path = 'recording'  # the evidence",
    "told = json.loads((Path(lk.input(recording)) / 'incident.json').read_text())\n"
    "lk.record(cause=told['cause'], probability=told['probability'])\n"
    "lk.record('took', time.time(), compare=False)\n"
    "lk.record(limit=Path('{limit}').read_text())",
    "if Path('{limit}').with_name('more').exists():\n    lk.record(more=1)\n"
    "if Path('{limit}').with_name('crash').exists():\n    raise ValueError('half-way')\n"
    "lk.record(last=1)",
)


@pytest.fixture(scope="module")
def incident(tmp_path_factory):
    """An incident whose diagnosis, a notebook that reads the recording, has run."""
    project = tmp_path_factory.mktemp("verified")
    (project / "lepton.toml").write_text("")
    (project / "recording").mkdir()
    (project / "recording/incident.json").write_text(json.dumps({"cause": "data", "probability": 0.9}))
    limit = project / "limit.txt"  # no input of the run: nothing notices that it changes
    limit.write_text("0.8")
    cells = [nbformat.v4.new_code_cell(source.replace("{limit}", str(limit))) for source in CELLS]
    cells[1].metadata.tags = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), project / "diagnosis.ipynb")
    made = execute(prepare(Request(project / "diagnosis.ipynb", {}), project), project)
    assert made.status == "succeeded"
    queue = Queue(project)
    queue.receive([Alert.model_validate(alert(1, starts="2026-11-25T03:00:00Z"))], "webhook", Everything())
    queue.end(queue.take(), made.run_id, "succeeded")
    return queue.incidents(1)[0], queue, project, made.run_id


def verified(incident):
    found, queue, project, _ = incident
    return {one.name: one for one in verify_incident(found, queue, project)}


def test_each_statement_of_the_diagnosis_is_derived_again_and_names_its_source(incident):
    made = verified(incident)
    assert (made["cause"].verdict, made["cause"].recorded, made["cause"].derived) == ("same", "data", "data")
    assert made["probability"].verdict == "same"
    assert (made["cause"].source.run, made["cause"].source.key) == (incident[3], "cause")
    assert [len(sha256) for sha256 in made["cause"].source.files.values()] == [64]
    assert holds(list(made.values()))


def test_what_cannot_be_derived_says_why(incident):
    made = verified(incident)
    assert (made["took"].verdict, "differs from run to run" in made["took"].why) == ("not derivable", True)
    assert (made["alert begins"].verdict, made["alert begins"].derived) == ("not derivable", None)


def test_the_bytes_of_the_recording_are_checked_before_anything_is_derived(incident):
    file = incident[2] / "recording/incident.json"
    held = file.read_bytes()
    file.write_text(json.dumps({"cause": "model", "probability": 0.9}))
    try:
        made = verified(incident)
    finally:
        file.write_bytes(held)
    assert {one.verdict for one in made.values()} == {"not derivable"}
    assert "recording" in made["cause"].why
    assert not holds(list(made.values()))


def test_a_repetition_that_fails_half_way_does_not_hold_though_what_it_recorded_is_the_same(incident):
    (incident[2] / "crash").touch()
    try:
        made = verified(incident)
    finally:
        (incident[2] / "crash").unlink()
    assert (made["cause"].verdict, made["last"].verdict) == ("same", "not derivable")
    assert "did not succeed" in made["last"].why
    assert not holds(list(made.values()))


def test_a_result_that_only_the_repetition_has_is_no_statement_of_the_page(incident):
    (incident[2] / "more").touch()
    try:
        made = verified(incident)
    finally:
        (incident[2] / "more").unlink()
    assert "more" not in made
    assert holds(list(made.values()))


def test_the_postmortem_is_derived_again_without_a_published_page(incident, monkeypatch):
    found, queue, _, run_id = incident
    looked = Queue.jobs

    def with_postmortem(self, most=50, **having):
        wanted = {"incident": found.id, "kind": "postmortem", "state": "ended", "status": "succeeded"}
        if having == wanted:
            return [dataclasses.replace(looked(queue, incident=found.id)[0], kind="postmortem", run_id="looked-back")]
        return looked(self, most, **having)

    monkeypatch.setattr(Queue, "jobs", with_postmortem)
    made = verified(incident)
    assert (made["looked-back"].verdict, made["cause"].source.run) == ("not derivable", run_id)
    assert not holds(list(made.values()))  # that run is not there


def test_a_statement_that_is_derived_otherwise_is_different_with_both_values_and_the_exit_status_says_so(incident):
    found, _, project, _ = incident
    (project / "limit.txt").write_text("0.9")
    try:
        printed = lepton_here("verify", "--incident", found.id, "--json", project=project)
    finally:
        (project / "limit.txt").write_text("0.8")
    made = {one["name"]: one for one in json.loads(printed.stdout)}
    assert [made["limit"][name] for name in ("verdict", "recorded", "derived")] == ["different", "0.8", "0.9"]
    assert made["cause"]["verdict"] == "same"
    assert printed.returncode == 1
